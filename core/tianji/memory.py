"""The kernel's own `KV` and `Counters`: in memory, bounded, for one process."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from time import monotonic

ENTRIES = 10_000


class MemoryKV:
    """Least recently used keys go first when it is full."""

    def __init__(self, *, limit: int = ENTRIES, clock: Callable[[], float] = monotonic) -> None:
        self._data: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        self._limit = limit
        self._clock = clock
        self.evicted = 0

    async def get(self, key: str) -> bytes | None:
        entry = self._data.get(key)
        if entry is None:
            return None
        value, until = entry
        if until is not None and until <= self._clock():
            del self._data[key]
            return None
        self._data.move_to_end(key)
        return value

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._data[key] = (value, None if ttl is None else self._clock() + ttl)
        self._data.move_to_end(key)
        while len(self._data) > self._limit:
            self._data.popitem(last=False)
            self.evicted += 1

    async def delete(self, *keys: str) -> int:
        return sum(self._data.pop(key, None) is not None for key in keys)


class MemoryCounters:
    """One-second cells over the window: exact at whole seconds, and never more cells than the window has seconds."""

    def __init__(self, *, limit: int = ENTRIES, clock: Callable[[], float] = monotonic) -> None:
        self._cells: OrderedDict[str, deque[tuple[int, int]]] = OrderedDict()
        self._limit = limit
        self._clock = clock

    async def add(self, key: str, amount: int, window: float) -> int:
        now = int(self._clock())
        cells = self._cells.get(key)
        if cells is None:
            cells = self._cells[key] = deque()
            while len(self._cells) > self._limit:
                self._cells.popitem(last=False)
        else:
            self._cells.move_to_end(key)  # or a flood of new keys would set a busy one back to nothing
        if cells and cells[-1][0] == now:
            cells[-1] = (now, cells[-1][1] + amount)
        else:
            cells.append((now, amount))
        return self._sum(cells, now - window)

    async def read(self, key: str, window: float) -> int:
        cells = self._cells.get(key)
        if not cells:
            return 0
        self._cells.move_to_end(key)
        return self._sum(cells, int(self._clock()) - window)

    def _sum(self, cells: deque[tuple[int, int]], since: float) -> int:
        while cells and cells[0][0] <= since:
            cells.popleft()
        return sum(amount for _, amount in cells)
