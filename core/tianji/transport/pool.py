"""The connections of one origin, and the bounded queue of those who wait for one.

A slot is the right to one connection. It is taken before connecting, goes with the connection, and comes back exactly
once: when the connection closes, or when whoever held it without a connection gives up.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from tianji.errors import Failure, Overloaded, Unavailable
from tianji.transport.connection import CLOSED, RESERVED, Connection
from tianji.transport.dial import Names, connect_any
from tianji.transport.failures import closed, reason, timed_out

if TYPE_CHECKING:
    from tianji.transport.request import Target
    from tianji.transport.ticker import Ticker

LONGEST = 86_400.0
"""Seconds: event loops refuse timers that are infinitely far away."""


class Turn:
    """A place in the queue. Its future brings a connection, or None: a slot to open one with."""

    __slots__ = ("code", "deadline", "future")

    def __init__(self, future: asyncio.Future[Connection | None], deadline: float, code: str) -> None:
        self.future = future
        self.deadline = deadline
        self.code = code


class Pool:
    """At most `limit` connections to one origin; the most recently used one is lent first."""

    def __init__(
        self,
        target: Target,
        *,
        loop: asyncio.AbstractEventLoop,
        ticker: Ticker,
        names: Names,
        tls: Callable[[], ssl.SSLContext],
        limit: int,
        max_pending: int,
        keepalive: float,
        max_header_bytes: int,
    ) -> None:
        self.target = target
        self.loop = loop
        self.ticker = ticker
        self.limit = limit
        self.max_pending = max_pending
        self.keepalive = keepalive
        self.max_header_bytes = max_header_bytes
        self.slots = 0
        self.idle: list[Connection] = []
        self.pending: deque[Turn] = deque()
        self.unused_since = monotonic()
        self._names = names
        self._tls = tls

    def take(self) -> Connection | None:
        """An idle connection that is alive as far as this machine knows."""
        while self.idle:
            conn = self.idle.pop()
            conn.state = RESERVED
            if not conn.stale():
                return conn
            conn.drop()
            self.free()
        return None

    async def acquire(self, *, connect: float, headers_at: float, total_at: float) -> Connection:
        """A connection where none is idle: a new one, or a turn in the queue.

        `connect` seconds are allowed for the queue, and as many again for connecting.

        Raises:
            Overloaded: The queue is full, or no connection came free in time. Nothing was sent.
            Timeout: `connect_timeout`, or whichever of the later clocks ends first.
            Unavailable: `dns_error`, `connection_error` or `tls_error`; the `OSError` is the cause.
        """
        if self.slots < self.limit:
            self.slots += 1
        else:
            conn = await self._turn(_first(connect, headers_at, total_at, "overloaded"))
            if conn is not None:
                return conn
        try:
            return await self._open(_first(connect, headers_at, total_at, "connect_timeout"))
        except BaseException:
            self.free()
            raise

    async def _turn(self, limit: tuple[float, str]) -> Connection | None:
        if len(self.pending) >= self.max_pending:
            raise Overloaded(f"{self.target.label}: all {self.limit} connections and the queue for them are full")
        turn = Turn(self.loop.create_future(), *limit)
        self.pending.append(turn)
        if not self.ticker.fast:
            self.ticker.hurry()
        try:
            conn = await turn.future
        except BaseException:
            self._leave(turn)
            raise
        if conn is not None and conn.state == CLOSED:
            return None  # it died on the way here; its slot is ours
        return conn

    def _leave(self, turn: Turn) -> None:
        """Give up a place in the queue, and whatever was handed over in the same moment."""
        future = turn.future
        if future.cancelled() or not future.done():
            if turn in self.pending:
                self.pending.remove(turn)
        elif future.exception() is None:
            conn = future.result()
            if conn is None or conn.state == CLOSED:
                self.free()
            else:
                self.release(conn)

    async def _open(self, limit: tuple[float, str]) -> Connection:
        deadline, code = limit
        target = self.target
        try:
            async with asyncio.timeout(min(deadline - monotonic(), LONGEST)):
                conn = await self._connect()
        except TimeoutError:
            raise timed_out(target.label, code) from None
        if conn.state == CLOSED:
            raise Unavailable(f"{target.label} closed the connection at once", code="connection_error")
        return conn

    async def _connect(self) -> Connection:
        target = self.target
        try:
            addresses = await self._names.addresses(target.host, target.port)
        except (OSError, UnicodeError) as exc:
            raise Unavailable(f"{target.host} does not resolve ({reason(exc)})", code="dns_error") from exc
        try:
            sock = await connect_any(addresses)
        except OSError as exc:
            self._names.forget(target.host, target.port)
            raise Unavailable(f"{target.label} cannot be reached ({reason(exc)})", code="connection_error") from exc
        try:
            if target.tls:
                _, conn = await self.loop.create_connection(
                    self._connection, sock=sock, ssl=self._tls(), server_hostname=target.host
                )
            else:
                _, conn = await self.loop.create_connection(self._connection, sock=sock)
        except ssl.SSLError as exc:
            raise Unavailable(f"{target.label}: the TLS handshake failed ({reason(exc)})", code="tls_error") from exc
        except OSError as exc:
            raise Unavailable(
                f"{target.label} dropped the connection ({reason(exc)})", code="connection_error"
            ) from exc
        return conn

    def _connection(self) -> Connection:
        return Connection(self)

    def release(self, conn: Connection) -> None:
        """Lend a connection to the first in the queue, or keep it."""
        pending = self.pending
        while pending:
            turn = pending.popleft()
            if not turn.future.done():
                conn.state = RESERVED
                turn.future.set_result(conn)
                return
        conn.rest()
        self.idle.append(conn)

    def free(self) -> None:
        """Give back a slot that has no connection (any more)."""
        pending = self.pending
        while pending:
            turn = pending.popleft()
            if not turn.future.done():
                turn.future.set_result(None)
                return
        self.slots -= 1
        self.unused_since = monotonic()

    def expire(self, now: float) -> None:
        """End the waits in the queue that were too long."""
        label = self.target.label
        for turn in [turn for turn in self.pending if turn.deadline <= now]:
            self.pending.remove(turn)
            if not turn.future.done():
                failure: Failure
                if turn.code == "overloaded":
                    failure = Overloaded(f"{label}: none of {self.limit} connections came free in time")
                else:
                    failure = timed_out(label, turn.code)
                turn.future.set_exception(failure)

    def retire(self, now: float) -> None:
        """Close the connections that were idle for too long."""
        for conn in [conn for conn in self.idle if conn.idle_until <= now]:
            self._discard(conn)

    def close_idle(self) -> None:
        for conn in list(self.idle):
            self._discard(conn)

    def _discard(self, conn: Connection) -> None:
        self.idle.remove(conn)
        conn.drop()
        self.free()

    def close(self) -> None:
        """End every wait in the queue and every idle connection."""
        while self.pending:
            turn = self.pending.popleft()
            if not turn.future.done():
                turn.future.set_exception(closed())
        self.close_idle()

    def forgettable(self, now: float) -> bool:
        """Nobody has used this origin for as long as a connection would be kept."""
        return not self.slots and not self.pending and now - self.unused_since > self.keepalive

    def stats(self) -> dict[str, int]:
        idle = len(self.idle)
        return {"active": self.slots - idle, "idle": idle, "pending": len(self.pending)}


def _first(connect: float, headers_at: float, total_at: float, code: str) -> tuple[float, str]:
    """The clock that ends first, and the code it ends with."""
    return min((monotonic() + connect, code), (headers_at, "headers_timeout"), (total_at, "total_timeout"))
