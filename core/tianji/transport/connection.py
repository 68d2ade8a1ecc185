"""One socket: an asyncio protocol with httptools' parser (llhttp) behind it.

Wire format: https://www.rfc-editor.org/rfc/rfc9112. A connection carries one exchange at a time. It wakes its reader
with one Future per wait, and it has no task, lock or timer of its own: clocks are two floats that the ticker compares.

    RESERVED ── begin ──► BUSY ── message complete ──► IDLE ── take ──► RESERVED
        └──────────────────┴──── lost, failed ──► CLOSED ◄────┘
"""

from __future__ import annotations

import asyncio
import select
from time import monotonic
from typing import TYPE_CHECKING, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from tianji.errors import ProtocolError, Unavailable, UpstreamFailure
from tianji.transport.failures import timed_out

if TYPE_CHECKING:
    from tianji.transport.pool import Pool
    from tianji.transport.response import Response

RESERVED, BUSY, IDLE, CLOSED = range(4)

HIGH_WATER = 64 * 1024
"""Bytes that may lie unread before the upstream is made to wait."""
DRY_LIMIT = 64 * 1024
"""Bytes that a body may spend on framing (chunk extensions, trailers) before its next byte of content."""
OVERSIZED = "sent oversized headers"
PROBE_AFTER = 1.0
"""Seconds of rest after which the operating system is asked whether the peer has hung up."""

_names: dict[bytes, str] = {}
"""Header names as they were sent, to what we call them. Upstreams use a few hundred; bounded against the others."""


def _name(raw: bytes) -> str:
    name = raw.decode("latin-1").lower()
    if len(_names) < 2048 and len(raw) <= 64:
        _names[raw] = name
    return name


class Connection(asyncio.Protocol):
    """See the module. `response` is the exchange that is under way; it alone is told of trouble."""

    __slots__ = (
        "bodiless", "clock", "deadline", "done", "dry", "fault", "got_head", "head", "headers", "idle_since",
        "idle_until", "interim", "loop", "parser", "parts", "paused", "pool", "response", "reusable", "size", "state",
        "ticker", "total_at", "transport", "waiter",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.loop = pool.loop
        self.ticker = pool.ticker
        self.state = RESERVED
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.parser = HttpResponseParser(self)
        self.response: Response | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.parts: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.clock = ""
        self.deadline = self.total_at = self.idle_since = self.idle_until = 0.0
        self.size = self.dry = self.head = 0
        self.bodiless = self.done = self.got_head = self.interim = self.paused = self.reusable = False
        self.fault: str | None = None

    # -- what the pool and the client do with it

    def begin(
        self, response: Response, payload: bytes, *, bodiless: bool, headers_at: float, total_at: float
    ) -> asyncio.Future[None]:
        """Send a request. The future is done when the head has arrived, or `response` has an error."""
        self.state = BUSY
        self.response = response
        response._conn = self
        self.parts = response._parts
        self.headers = {}
        self.size = self.dry = self.head = 0
        self.done = self.got_head = self.interim = False
        self.bodiless = bodiless
        self.total_at = total_at
        if headers_at < total_at:
            self.deadline, self.clock = headers_at, "headers_timeout"
        else:
            self.deadline, self.clock = total_at, "total_timeout"
        waiter = self.waiter = self.loop.create_future()
        ticker = self.ticker
        ticker.busy.add(self)
        if not ticker.fast:
            ticker.hurry()
        self.transport.write(payload)
        return waiter

    def expire(self, now: float) -> None:
        code = "total_timeout" if now >= self.total_at else self.clock
        self.fail(timed_out(self.pool.target.label, code))

    def fail(self, error: UpstreamFailure) -> None:
        """End the exchange and the connection. What was already received stays readable before the error."""
        response = self.response
        self._detach()
        if response is not None and not response.complete:
            response._error = error
        self.drop()
        self.pool.free()
        self._wake()

    def drop(self) -> None:
        """Close the socket at once. The slot is the caller's to give back."""
        self.state = CLOSED
        if self.transport is not None:
            self.transport.abort()

    def rest(self) -> None:
        """Become idle."""
        self.state = IDLE
        self.idle_since = now = monotonic()
        self.idle_until = now + self.pool.keepalive

    def stale(self) -> bool:
        """Whether the peer has hung up, or spoken out of turn, as far as can be known without sending."""
        if self.transport.is_closing():
            return True
        if monotonic() - self.idle_since < PROBE_AFTER or not hasattr(select, "poll"):
            return False
        probe = select.poll()
        probe.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(probe.poll(0))

    def resume(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    # -- what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.response is None:
            self._lost(None)  # nobody asked: whatever it is, it is not the answer to the next request
            return
        first = not self.dry and not self.got_head
        self.dry += len(data)
        try:
            if first and data[:1] != b"H":  # llhttp also takes RTSP and ICE
                raise HttpParserError("Expected HTTP/")
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            self.reusable = False
        except HttpParserError as exc:
            # Behind a complete message an error is only a reason not to use the connection again.
            self.reusable = False
            if not self.done and self.fault is None:
                self.fault = f"sent a malformed response: {exc}"
        self._settle()

    def _settle(self) -> None:
        """After a read: is the message done, broken, or too much at once? Wake the reader last."""
        if self.done and self.fault is None:
            self._finish()
        elif self.fault is None and self.dry > (DRY_LIMIT if self.got_head else self.pool.max_header_bytes):
            self.fault = "sent too much framing without content" if self.got_head else OVERSIZED
        if self.fault is not None:
            self.fail(ProtocolError(f"{self.pool.target.label} {self.fault}"))
        elif self.got_head:
            if self.waiter is not None:
                self._wake()
            elif self.size > HIGH_WATER and not self.paused and self.state == BUSY:
                self.paused = True
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    # -- what the parser tells. An exception here would come out as a parser error, so these set `fault` instead

    def on_message_begin(self) -> None:
        if self.done:
            self.reusable = False

    def on_header(self, raw_name: bytes, raw_value: bytes) -> None:
        if self.got_head:
            return  # a trailer
        self.head += len(raw_name) + len(raw_value) + 4
        if self.head > self.pool.max_header_bytes:
            self.fault = OVERSIZED
            return
        name = _names.get(raw_name) or _name(raw_name)
        value = raw_value.decode("latin-1").strip(" \t")
        headers = self.headers
        if name in headers:
            value = f"{headers[name]}, {value}"
        headers[name] = value

    def on_headers_complete(self) -> None:
        parser, headers, response = self.parser, self.headers, self.response
        if self.done or response is None:
            return
        status = parser.get_status_code()
        version = parser.get_http_version()
        coding = headers.get("transfer-encoding")
        if status < 200:
            self.interim = True
            self.headers = {}
            if status == 101:
                self.fault = "switched protocols without being asked"
            return
        if version not in ("1.1", "1.0"):
            self.fault = f"answered in HTTP/{version}"
        elif coding is not None and coding.lower() != "chunked":
            self.fault = "used a transfer coding that nobody asked for"
        self.got_head = True
        self.dry = 0
        self.reusable = parser.should_keep_alive()
        if self.bodiless:
            self.done = True
        response.accept(status, headers, version, body=not self.bodiless and status not in (204, 304))

    def on_body(self, data: bytes) -> None:
        if self.done:
            self.reusable = False  # a body behind the answer to HEAD
            return
        self.parts.append(data)
        self.size += len(data)
        self.dry = 0

    def on_message_complete(self) -> None:
        if self.interim:
            self.interim = False
        else:
            self.done = True

    # -- the ends

    def _detach(self) -> None:
        response = self.response
        if response is not None:
            response._conn = None
            self.response = None
        self.ticker.busy.discard(self)

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _finish(self) -> None:
        """The message is complete: hand it over and rest, or close."""
        response = self.response
        self._detach()
        if response is not None:
            response.complete = True
        # Unsent bytes: the answer came before the request was read, and the rest of it would be taken for the next.
        if self.reusable and not self.transport.get_write_buffer_size() and not self.transport.is_closing():
            if self.bodiless:
                self.parser = HttpResponseParser(self)  # llhttp still expects the body that HEAD does not have
            if self.paused:
                self.resume()
            self.pool.release(self)
        else:
            self.drop()
            self.pool.free()

    def _lost(self, exc: Exception | None) -> None:
        """The peer has hung up, or the socket broke. Idempotent: EOF is followed by `connection_lost`."""
        state = self.state
        if state == CLOSED:
            return
        if state == BUSY:
            self._broken(exc)
        elif state == IDLE:
            self.pool.idle.remove(self)
            self.drop()
            self.pool.free()
        else:
            self.drop()  # on its way to somebody, who notices and has the slot

    def _broken(self, exc: Exception | None) -> None:
        label = self.pool.target.label
        if exc is not None or not (self.dry or self.got_head):
            self.fail(
                Unavailable(f"{label} closed the connection before the end of its response", code="connection_error")
            )
        elif self.got_head and "content-length" not in self.headers and "transfer-encoding" not in self.headers:
            self.reusable = False
            self._finish()
            self._wake()
        else:
            self.fail(ProtocolError(f"{label} cut its response short"))
