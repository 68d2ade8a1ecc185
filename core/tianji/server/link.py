"""The way from a reply to the client's socket.

`SocketLink` writes head and body in one piece on uvicorn's own transport, which saves a system call and the checking of
headers that were checked when they were made. `ASGILink` says the same through ASGI messages, for every other server
and for tests. Both take headers as one block of `name: value` lines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

LINK = "tianji.link"
"""Where a request's scope carries its link, under our own server."""

LINGER = "tianji.linger"
"""Where it carries the function that lets the connection close in two steps."""

HEARTBEAT = 14.0
"""Seconds of silence in a stream before a comment goes out; proxies and clients give up on idle connections."""

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Link(Protocol):
    """One response to one client. `leave` is called, once, when the client goes before its end."""

    gone: bool
    leave: Callable[[], Any] | None

    async def whole(self, status: int, headers: bytes, body: bytes) -> None:
        """A complete response; its content-length is added."""

    async def begin(self, status: int, headers: bytes, heartbeat: bytes = b"") -> None:
        """The head of a streamed response. `heartbeat` may be sent between two pieces when there is a long pause."""

    async def more(self, data: bytes) -> None:
        """A piece of it; returns when the client keeps up."""

    async def end(self, data: bytes = b"") -> None:
        """The last piece, which may be empty."""


class SocketLink:
    """A link on uvicorn's connection. Relies on `RequestResponseCycle`'s attributes; a test watches them."""

    __slots__ = ("_cycle", "_head", "_heartbeat", "_wrote", "gone", "leave")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._head = b""
        self._heartbeat = b""
        self._wrote = 0.0
        self.gone = False
        self.leave: Callable[[], Any] | None = None

    def left(self) -> None:
        """The connection is lost."""
        self.gone = True
        if self.leave is not None:
            self.leave()

    async def whole(self, status: int, headers: bytes, body: bytes) -> None:
        cycle = self._cycle
        if cycle.flow.write_paused:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        head = self._start(status, headers, b"content-length: %d\r\n\r\n" % len(body))
        # A body after HEAD would be read as the beginning of the next response.
        cycle.transport.write(head if cycle.scope["method"] == "HEAD" else head + body)
        self._finish()

    def beat(self, now: float) -> None:
        """Send the heartbeat where the stream has been silent for too long. Called by the connection's sweep.

        A head that still waits for its first piece goes out with it. Where a reader is slow there is no silence, and
        bytes added to what waits for it would set the clock of a stalled one back.
        """
        cycle = self._cycle
        if not self._heartbeat or cycle.response_complete or cycle.disconnected or now - self._wrote < HEARTBEAT:
            return
        if cycle.transport.get_write_buffer_size():
            return
        self._wrote = now
        data = self._heartbeat
        if cycle.chunked_encoding:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        head, self._head = self._head, b""
        cycle.transport.write(head + data)

    async def begin(self, status: int, headers: bytes, heartbeat: bytes = b"") -> None:
        self._heartbeat = heartbeat
        # HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
        chunked = self._cycle.chunked_encoding = self._cycle.scope["http_version"] != "1.0"
        if not chunked:
            self._cycle.keep_alive = False
        self._head = self._start(status, headers, b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n")
        self._wrote = monotonic()

    async def more(self, data: bytes) -> None:
        cycle = self._cycle
        if cycle.flow.write_paused:
            await cycle.flow.drain()
        if cycle.disconnected or not data:
            return
        if cycle.chunked_encoding:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        cycle.transport.write(data)
        self._wrote = monotonic()

    async def end(self, data: bytes = b"") -> None:
        cycle = self._cycle
        if cycle.flow.write_paused:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        if cycle.chunked_encoding:
            data = (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n"
        if self._head or data:
            cycle.transport.write(self._head + data)
        self._finish()

    def _start(self, status: int, headers: bytes, rest: bytes) -> bytes:
        cycle = self._cycle
        line = STATUS_LINE[status]  # before the response counts as started: a fault here can still be answered
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        if cycle.more_body:
            cycle.keep_alive = False  # an answer before the request was read to its end
        always = b"".join(b"%b: %b\r\n" % pair for pair in cycle.default_headers)
        if not cycle.keep_alive:
            always += b"connection: close\r\n"
        return b"".join((line, always, headers, rest))

    def _finish(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        cycle.expected_content_length = 0
        cycle.message_event.set()
        if cycle.more_body:
            self._linger()
        elif not cycle.keep_alive:
            cycle.transport.close()
        # Scope, link and cycle would hold one another, and only the garbage collector could end that.
        scope: Any = cycle.scope
        scope.pop(LINK, None)
        scope.pop(LINGER, None)
        cycle.on_response()

    def _linger(self) -> None:
        """Close in two steps where the client is still sending: a reset at once would take the answer away from it.

        What still comes is read and thrown away, for a second; the connection's own limits bound it.
        """
        transport = self._cycle.transport
        if transport.can_write_eof():
            transport.write_eof()
        self._cycle.flow.resume_reading()
        self._cycle.scope[LINGER]()  # type: ignore[literal-required]


class ASGILink:
    """A link through ASGI's `send`."""

    __slots__ = ("_send", "gone", "leave")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.gone = False
        self.leave: Callable[[], Any] | None = None

    async def watch(self, receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        """Wait for the disconnect message; needs a task of its own."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self.leave is not None:
            self.leave()

    async def whole(self, status: int, headers: bytes, body: bytes) -> None:
        pairs = [*_pairs(headers), (b"content-length", b"%d" % len(body))]
        self.leave = None  # servers tell of a disconnect after every complete response
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, headers: bytes, heartbeat: bytes = b"") -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": _pairs(headers)})

    async def more(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        self.leave = None
        await self._send({"type": "http.response.body", "body": data})


def _pairs(block: bytes) -> list[tuple[bytes, bytes]]:
    pairs = []
    for line in block.split(b"\r\n"):
        name, colon, value = line.partition(b": ")
        if colon:
            pairs.append((name, value))
    return pairs
