"""The provider behind every measured gateway: OpenAI, Anthropic and Gemini over HTTP/1.1, in its own process.

`python -m bench.upstream` listens on a free loopback port and prints it. Answers are prebuilt (`bench.wire`); a frame
of a stream is one write in its own turn of the event loop, so that it leaves as a packet of its own, as a model's
tokens do. Paths outside the three dialects are answered `{}`: a sink for callbacks.

HTTP/1.1 message framing: https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import cast

import uvloop

from bench import wire

MAX_REQUEST = 4 * 1024 * 1024


class Stream:
    """Writes the frames of one answer, one a turn, on absolute times so that the pace does not drift."""

    __slots__ = ("_connection", "_frames", "_loop", "_next", "_pace", "_started")

    def __init__(self, connection: Provider, frames: Sequence[bytes], pace: float) -> None:
        self._connection = connection
        self._frames = frames
        self._pace = pace
        self._next = 0
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._schedule()

    def _schedule(self) -> None:
        if self._pace:
            self._loop.call_at(self._started + self._pace * (self._next + 1), self._write)
        else:
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        if not self._connection.send(self._frames[self._next]):
            return
        self._next += 1
        if self._next < len(self._frames):
            self._schedule()
        else:
            self._connection.finished()


class Provider(asyncio.Protocol):
    """One connection from a gateway: requests in order, one answer at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._serve()

    def send(self, data: bytes) -> bool:
        """Write; False when the gateway has hung up."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(data)
        return True

    def finished(self) -> None:
        """The answer is out; take the next request, if it is already here."""
        self._busy = False
        if self._buffer:
            self._serve()

    def _serve(self) -> None:
        request = _take_request(self._buffer)
        if request is None:
            if len(self._buffer) > MAX_REQUEST and self._transport is not None:
                self._transport.abort()
            return
        self._busy = True
        path, body = request
        ask = wire.directive(body)
        if ask.delay_ms:
            asyncio.get_running_loop().call_later(ask.delay_ms / 1000, self._answer, path, body, ask)
        else:
            self._answer(path, body, ask)

    def _answer(self, path: bytes, body: bytes, ask: wire.Directive) -> None:
        dialect = wire.dialect_of(path)
        if not dialect:
            self.send(wire.ACCEPTED)
        elif wire.wants_stream(path, body):
            self.send(wire.STREAM_HEAD)
            Stream(self, wire.frames(dialect, ask.chunks, b'"include_usage"' in body), ask.pace_us / 1_000_000)
            return
        else:
            self.send(wire.answer(dialect, ask.chunks))
        self.finished()


def _take_request(buffer: bytearray) -> tuple[bytes, bytes] | None:
    """Remove one whole request from the buffer: path and body. None: not all of it is here yet."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[:end])
    lower = head.lower()
    start = end + 4
    if b"\r\ntransfer-encoding: chunked" in lower:
        body_and_stop = _chunked(buffer, start)
        if body_and_stop is None:
            return None
        body, stop = body_and_stop
    else:
        at = lower.find(b"\r\ncontent-length:")
        length = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        stop = start + length
        if len(buffer) < stop:
            return None
        body = bytes(buffer[start:stop])
    del buffer[:stop]
    return head.split(b" ", 2)[1].partition(b"?")[0], body


def _chunked(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    """A chunked body and where it ends, for gateways that do not say the length; None: not all of it is here yet."""
    body = bytearray()
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(bytes(buffer[at:line]).split(b";", 1)[0], 16)
        at = line + 2 + size + 2
        if len(buffer) < at:
            return None
        if size == 0:
            return bytes(body), at
        body += buffer[line + 2 : line + 2 + size]


async def serve() -> asyncio.Server:
    """Listen on a free loopback port."""
    return await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=1024)


async def _main() -> None:
    server = await serve()
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        uvloop.run(_main())
    except KeyboardInterrupt:
        sys.exit(0)
