"""One answer, as its reader sees it: status and headers at once, the body as it comes.

Wire format: https://www.rfc-editor.org/rfc/rfc9112#section-6 (message body).
"""

from __future__ import annotations

import asyncio
import zlib
from time import monotonic
from typing import TYPE_CHECKING, Self

from tianji.errors import ProtocolError, Unavailable, UpstreamFailure
from tianji.transport.decode import CODINGS, Inflater

if TYPE_CHECKING:
    from tianji.transport.connection import Connection

MAX_BODY = 64 * 1024 * 1024
MAX_CHUNK = 1024 * 1024
"""Most bytes that one `chunk` of a compressed body may inflate to."""


class Response:
    """The answer to one request. One reader; close it, or use it as `async with`, unless it was read to its end.

    Once the message is complete the connection is already back in its pool, and what is left to read is in memory.
    A reader that is cancelled while it waits closes the response. One that is forgotten costs its connection until
    the total clock runs out.
    """

    __slots__ = ("_conn", "_error", "_inflater", "_label", "_parts", "complete", "headers", "http_version", "status")

    def __init__(self, label: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """Names in lower case, repeated ones joined with ", ". Where gzip or deflate is decoded here,
        `content-encoding` and `content-length` are left out: they would not be true of what is read."""
        self.http_version = ""
        """`1.1` or `1.0`."""
        self.complete = False
        """The whole message has arrived, though not all of it may have been read."""
        self._label = label
        self._parts: list[bytes] = []
        self._conn: Connection | None = None
        self._error: UpstreamFailure | None = None
        self._inflater: Inflater | None = None

    def accept(self, status: int, headers: dict[str, str], version: str, *, body: bool) -> None:
        """The head is here. Called by the connection."""
        self.status = status
        self.headers = headers
        self.http_version = version
        coding = headers.get("content-encoding")
        if coding is not None and body and coding.lower() in CODINGS:
            self._inflater = Inflater(coding.lower())
            del headers["content-encoding"]
            headers.pop("content-length", None)

    async def chunk(self, timeout: float) -> bytes:
        """Everything that arrived since the last call, at least one byte; b"" exactly at a clean end of message.

        Args:
            timeout: Seconds without a byte until `Timeout` with code `idle_timeout`.

        Raises:
            Timeout: `idle_timeout`, or `total_timeout` for the clock that runs since `send`.
            Unavailable: The connection was lost.
            ProtocolError: The body is cut short, wrongly framed or wrongly compressed.
        """
        parts, inflater = self._parts, self._inflater
        while True:
            if inflater is not None and not inflater.starved:
                data = self._inflate(inflater)
                if data:
                    return data
            elif parts:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                parts.clear()
                if inflater is None:
                    return data
                inflater.feed(data)
            elif self.complete:
                if inflater is not None and not inflater.whole:
                    raise ProtocolError(f"{self._label} cut its compressed body short")
                return b""
            elif self._error is not None:
                raise self._error
            else:
                waiter = self._wait(timeout)
                try:
                    await waiter
                except BaseException:
                    self.close()
                    raise

    def _wait(self, timeout: float) -> asyncio.Future[None]:
        """A future for when the connection has something new: bytes, the end or an error."""
        conn = self._conn
        if conn is None or conn.waiter is not None:
            raise RuntimeError("a response has one reader")
        conn.clock = "idle_timeout"
        until = monotonic() + timeout
        conn.deadline = until if until < conn.total_at else conn.total_at
        conn.size = 0
        if conn.paused:
            conn.resume()
        waiter = conn.waiter = conn.loop.create_future()
        return waiter

    def _inflate(self, inflater: Inflater) -> bytes:
        try:
            return inflater.take(MAX_CHUNK)
        except zlib.error:
            self.close()
            self.complete = False
            self._error = ProtocolError(f"{self._label} sent a compressed body that cannot be decoded")
            raise self._error from None

    async def read(self, limit: int = MAX_BODY, timeout: float = 600.0) -> bytes:
        """The whole rest of the body, decoded. `timeout` is `chunk`'s: seconds without a byte.

        Raises:
            ProtocolError: More than `limit` bytes; the connection is closed. Otherwise as `chunk`.
        """
        if self.complete and self._inflater is None:
            body = b"".join(self._parts)
            self._parts.clear()
            if len(body) > limit:
                raise self._too_large(limit)
            return body
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise self._too_large(limit)
        pieces: list[bytes] = []
        size = 0
        while piece := await self.chunk(timeout):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise self._too_large(limit)
            if self._inflater is not None and not self._inflater.starved:
                await self._breathe()
        return b"".join(pieces)

    async def _breathe(self) -> None:
        """Let others run between two full pieces of a body that inflates to many."""
        try:
            await asyncio.sleep(0)
        except BaseException:
            self.close()
            raise

    def _too_large(self, limit: int) -> ProtocolError:
        self.close()
        return ProtocolError(f"{self._label} sent a body of more than {limit} bytes", code="response_too_large")

    def close(self) -> None:
        """Done with it. An unfinished message costs its connection, which is closed at once. Never raises."""
        self._parts.clear()
        conn = self._conn
        if conn is not None:
            conn.fail(Unavailable(f"the response of {self._label} was closed", code="connection_error"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Response {self.status} of {self._label}{'' if self.complete else ' (incomplete)'}>"
