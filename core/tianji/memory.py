"""The kernel's own `KV` and `Counters`: in memory, bounded, for one process."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import NamedTuple

ENTRIES = 10_000
BYTES = 64 * 1024 * 1024
CELLS = 60
"""Cells that a window is divided into. None is shorter than a second."""
AMOUNT = 2**53
"""The largest amount: a store that counts in floating point is exact up to here."""


class MemoryKV:
    """Least recently used keys go first when it is full. A value that is larger than all of it is not kept."""

    shared = False
    """Nobody else sees what is kept here."""

    def __init__(self, *, limit: int = ENTRIES, max_bytes: int = BYTES, clock: Callable[[], float] = monotonic) -> None:
        self._data: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        self._limit = limit
        self._max_bytes = max_bytes
        self._clock = clock
        self.bytes = 0
        """What the values take."""
        self.evicted = 0

    async def get(self, key: str) -> bytes | None:
        return self._get(key)

    async def many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._drop(key)
        if ttl is not None and not ttl > 0:
            return
        if len(value) > self._max_bytes:
            self.evicted += 1
            return
        self._data[key] = (value, None if ttl is None else self._clock() + ttl)
        self.bytes += len(value)
        while len(self._data) > self._limit or self.bytes > self._max_bytes:
            self._drop(next(iter(self._data)))
            self.evicted += 1

    async def delete(self, *keys: str) -> int:
        return sum(self._get(key) is not None and self._drop(key) for key in keys)

    def _get(self, key: str) -> bytes | None:
        entry = self._data.get(key)
        if entry is None:
            return None
        value, until = entry
        if until is not None and until <= self._clock():
            self._drop(key)
            return None
        self._data.move_to_end(key)
        return value

    def _drop(self, key: str) -> bool:
        entry = self._data.pop(key, None)
        if entry is None:
            return False
        self.bytes -= len(entry[0])
        return True


class MemoryCounters:
    """A counter that was neither added to nor read for longest goes first when there are too many."""

    def __init__(self, *, limit: int = ENTRIES, clock: Callable[[], float] = monotonic) -> None:
        self._cells: OrderedDict[str, Cells] = OrderedDict()
        self._limit = limit
        self._clock = clock

    async def add(self, key: str, amount: int, window: float) -> int:
        check(amount, window)
        cells = self._cells.get(key)
        if cells is None:
            if amount <= 0:
                return 0
            cells = self._cells[key] = Cells()
            while len(self._cells) > self._limit:
                self._cells.popitem(last=False)
        else:
            self._cells.move_to_end(key)  # or a flood of new keys would set a busy one back to nothing
        return cells.add(amount, window, self._clock())

    async def read(self, key: str, window: float) -> int:
        check(0, window)
        cells = self._cells.get(key)
        if cells is None:
            return 0
        self._cells.move_to_end(key)
        return cells.sum(window, self._clock())


class Cell(NamedTuple):
    """What was added in one stretch of time."""

    number: int
    """Which stretch: the time over the length of a cell."""
    amount: int
    """More than 0."""
    last: float
    """When it was last added to, in seconds. It counts until that is a whole window ago."""


class Cells:
    """One counter: at most `CELLS` and one cells, the oldest first. Exact at whole seconds."""

    __slots__ = ("cells",)

    def __init__(self, cells: Iterable[Cell] = ()) -> None:
        self.cells = deque(cells)

    def add(self, amount: int, window: float, now: float) -> int:
        """Add, drop what is too old, and return the sum."""
        cells = self.cells
        if cells and cells[-1].last > now:  # the clock was set back: what is there was added now at the latest
            cells = self.cells = deque(cell._replace(last=min(cell.last, now)) for cell in cells)
        while cells and cells[0].last <= now - window:
            cells.popleft()
        if amount > 0:
            number = int(now // length(window))
            if cells and cells[-1].number == number:
                amount += cells.pop().amount
            cells.append(Cell(number, amount, now))
        while amount < 0 and cells:
            oldest = cells.popleft()
            amount += oldest.amount
            if amount > 0:
                cells.appendleft(oldest._replace(amount=amount))
        return sum(cell.amount for cell in cells)

    def sum(self, window: float, now: float) -> int:
        return sum(cell.amount for cell in self.cells if cell.last > now - window)


def length(window: float) -> float:
    """Seconds that one cell covers."""
    return max(1.0, window / CELLS)


def check(amount: int, window: float) -> None:
    """Raise `ValueError` for what no counter can do."""
    if not (0 < window < math.inf):
        raise ValueError(f"a window is a finite number of seconds above 0, not {window!r}")
    if abs(amount) > AMOUNT:
        raise ValueError(f"an amount is at most 2**53, not {amount!r}")
