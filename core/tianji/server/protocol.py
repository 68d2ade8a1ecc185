"""uvicorn's HTTP protocol with what it lacks: notice of a client that leaves, and clocks for slow ones.

uvicorn tells an application of a disconnect only through `receive`, which would cost a task per request; here the
connection calls back. One sweep a second over the open connections serves all clocks, so a request costs no timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tianji.server.link import LINGER, LINK, SocketLink

HEADER_TIME = 10.0
"""Seconds from a request's first byte to the end of its headers, and from connecting to the first byte."""
BODY_TIME = 30.0
"""Seconds without a byte of a request's body."""
LINGER_BYTES = 256 * 1024
"""What a client may still send after it was answered early."""
STALL_TIME = 30.0
"""Seconds in which a reader takes nothing of what is waiting for it."""


class TianjiProtocol(HttpToolsProtocol):
    """One client connection."""

    _waiting = 0.0
    """Since when the connection owes us headers; 0 when it does not."""
    _last = 0.0
    _unread = 0
    _stalled = 0.0
    _lingering = -1
    """Bytes that may still come on a connection that is being closed; negative while it is not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._cycles: deque[RequestResponseCycle] = deque()  # unanswered, in order: the first one runs, others queue
        self._waiting = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self._last = self.loop.time()
        if self._lingering >= 0:
            self._lingering -= len(data)
            if self._lingering < 0:
                self.transport.abort()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._waiting = self._last

    def on_headers_complete(self) -> None:
        self._waiting = 0.0
        super().on_headers_complete()
        # The application's task exists by now and has not run yet.
        self.scope[LINK] = SocketLink(self.cycle)  # type: ignore[literal-required]
        self._running()
        self._cycles.append(self.cycle)
        self.scope[LINGER] = self._linger  # type: ignore[literal-required]

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells only the newest request, which on a pipelining connection is not the one that runs.
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
        while self._cycles:
            cycle = self._cycles.popleft()
            if not cycle.response_complete:
                link: SocketLink = cycle.scope[LINK]  # type: ignore[literal-required]
                link.left()
        self.pipeline.clear()

    def _running(self) -> RequestResponseCycle | None:
        """The request that is being answered."""
        cycles = self._cycles
        while cycles and cycles[0].response_complete:
            cycles.popleft()
        return cycles[0] if cycles else None

    def _linger(self) -> None:
        self._lingering = LINGER_BYTES
        self.loop.call_later(1.0, self.transport.close)

    def sweep(self, now: float) -> None:
        """Close the connection if one of its clocks ran out."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._waiting and now - self._waiting > HEADER_TIME:
            transport.abort()
            return
        cycle = self.cycle
        if cycle is not None and cycle.more_body and not cycle.response_complete and now - self._last > BODY_TIME:
            transport.abort()
            return
        running = self._running()
        if running is not None:
            link: SocketLink = running.scope[LINK]  # type: ignore[literal-required]
            link.beat(now)
        unread = transport.get_write_buffer_size()
        if unread and unread == self._unread:
            if now - self._stalled > STALL_TIME:
                transport.abort()
        else:
            self._unread, self._stalled = unread, now


async def sweep(connections: Iterable[Any]) -> None:
    """Check every connection's clocks, once a second, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1.0)
        now = loop.time()
        for connection in list(connections):
            if isinstance(connection, TianjiProtocol):
                connection.sweep(now)
