"""One coarse timer for every clock of a transport.

A timer per request costs more than the request's own bookkeeping, so each connection carries the moment at which its
present wait ends, and a tick every 100 ms compares. A clock fires at its time or up to 100 ms later, never before it.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tianji.transport.connection import Connection
    from tianji.transport.pool import Pool

FAST = 0.1
"""Seconds between ticks while somebody waits."""
SLOW = 1.0
"""Seconds between ticks while there are only idle connections to retire."""


class Ticker:
    """Ends waits that are too long, retires idle connections, and forgets origins that nobody uses."""

    __slots__ = ("_loop", "_swept", "_timer", "busy", "fast", "pools")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._swept = monotonic()
        self.busy: set[Connection] = set()
        self.pools: dict[str, Pool] = {}
        self.fast = False

    def hurry(self) -> None:
        """Tick fast from now on. Called when `fast` is false and a wait begins."""
        if self._timer is not None:
            self._timer.cancel()
        self.fast = True
        self._timer = self._loop.call_later(FAST, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.fast = False

    def _tick(self) -> None:
        now = monotonic()
        late = [c for c in self.busy if (c.total_at if c.waiter is None else c.deadline) <= now]
        for conn in late:
            conn.expire(now)
        waiting = False
        for pool in self.pools.values():
            if pool.pending:
                pool.expire(now)
                waiting = waiting or bool(pool.pending)
        if now - self._swept >= SLOW:
            self._swept = now
            self._sweep(now)
        self.fast = waiting or bool(self.busy)
        if self.fast:
            self._timer = self._loop.call_later(FAST, self._tick)
        elif self.pools:
            self._timer = self._loop.call_later(SLOW, self._tick)
        else:
            self._timer = None

    def _sweep(self, now: float) -> None:
        for pool in list(self.pools.values()):
            pool.retire(now)
            if pool.forgettable(now):
                del self.pools[pool.target.key]
