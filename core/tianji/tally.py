"""`Tally`: what was counted in the last minute, here at once and in other processes about a second later.

Routing asks for counts on every call, so it cannot wait for a store: each process counts for itself, and once a second
the sums are exchanged through the `Counters` service. Where nobody else counts, or the service is out of order, the
process's own counts are what there is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic

from tianji.services import Counters, GatewayAPI

logger = logging.getLogger("tianji.tally")

CELLS = 10
"""Cells a second. Counts of one cell leave the window together, the last of them a cell's length early."""
PAUSE = 1.0
"""Seconds between two exchanges."""


class Count:
    """One key: what was counted here, what of it the others know, and what they counted."""

    __slots__ = ("cells", "others", "others_at", "own", "pending", "sent", "told")

    def __init__(self) -> None:
        self.cells: deque[tuple[float, int]] = deque()
        self.own = 0
        """The sum of `cells`."""
        self.pending = 0
        """Counted, and not told yet."""
        self.sent: deque[tuple[float, int]] = deque()
        """What was told, and when."""
        self.told = 0
        """The sum of `sent`."""
        self.others = 0
        self.others_at = 0.0


class Tally:
    """Counts by key over a sliding window of seconds. `name` keeps different tallies' keys apart in the store.

    `await exchange()` once a second, or let `start()` see to that.
    """

    def __init__(
        self, gateway: GatewayAPI, name: str, *, window: float = 60.0, clock: Callable[[], float] | None = None
    ) -> None:
        self.gateway = gateway
        self.name = name
        self.window = window
        self.clock = clock or monotonic
        self.counts: dict[str, Count] = {}
        """Only keys that were counted in the last window, or a little longer."""
        self.closed = False
        self._failing = False

    def start(self) -> None:
        """Exchange counts every second from now on. For `startup`."""
        self.gateway.every(PAUSE, self.exchange, name=f"exchange the counts of {self.name}")

    async def stop(self) -> None:
        """Tell the others what they do not know yet, and no more. For `shutdown`."""
        await self.exchange()
        self.closed = True

    def add(self, key: str, amount: int) -> int:
        """Count, and return the sum over the window."""
        count = self.counts.get(key)
        if count is None:
            count = self.counts[key] = Count()
        at = int(self.clock() * CELLS) / CELLS
        if count.cells and count.cells[-1][0] == at:
            count.cells[-1] = (at, count.cells[-1][1] + amount)
        else:
            count.cells.append((at, amount))
        count.own += amount
        count.pending += amount
        return self.sum(key)

    def sum(self, key: str) -> int:
        """What was counted in the last `window` seconds, here and elsewhere."""
        count = self.counts.get(key)
        if count is None:
            return 0
        now = self.clock()
        if count.cells and count.cells[0][0] <= now - self.window:
            count.own -= _leave(count.cells, now - self.window)
        return count.own + (count.others if now - count.others_at < self.window else 0)

    def frees(self, key: str, amount: int) -> float:
        """Seconds until at least `amount` of the sum has left the window; the whole window where that is not known."""
        count = self.counts.get(key)
        if amount <= 0:
            return 0.0
        for at, part in count.cells if count is not None else ():
            amount -= part
            if amount <= 0:
                return max(0.0, at + self.window - self.clock())
        return self.window

    async def exchange(self) -> None:
        """Tell the store what was counted here, and learn what was counted elsewhere. Unused keys are forgotten.

        While the store is out of order nothing is lost: what could not be told is told later.
        """
        if self.closed or not self.counts:
            return
        counters = self.gateway.need(Counters)  # type: ignore[type-abstract]  # anew: a reload may have replaced it
        try:
            await asyncio.gather(*(self._tell(counters, key, count) for key, count in list(self.counts.items())))
        except Exception:
            if not self._failing:
                logger.exception("the counts of %s cannot be exchanged; this process goes by its own", self.name)
            self._failing = True
        else:
            self._failing = False

    async def _tell(self, counters: Counters, key: str, count: Count) -> None:
        place = f"{self.name}:{key}"
        pending, count.pending = count.pending, 0
        try:
            total = await (counters.add(place, pending, self.window) if pending else counters.read(place, self.window))
        except BaseException:
            count.pending += pending
            raise
        now = self.clock()
        if pending:
            count.sent.append((now, pending))
            count.told += pending
        # A second longer than they count in the store, so that one's own counts never look like another's.
        count.told -= _leave(count.sent, now - self.window - PAUSE)
        count.others, count.others_at = max(0, total - count.told), now
        if not (count.sent or count.pending or self.sum(key)):
            self.counts.pop(key, None)


def _leave(parts: deque[tuple[float, int]], until: float) -> int:
    """Take out what is as old as that; its sum."""
    gone = 0
    while parts and parts[0][0] <= until:
        gone += parts.popleft()[1]
    return gone
