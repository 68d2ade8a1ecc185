"""An answer on its way to the client: `Reply`, whole or streamed, and the `Chunk`s of a stream."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Protocol

import msgspec

from tianji.errors import ProtocolError
from tianji.records import Cost, Usage

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode


class Chunk:
    """A piece of a reply's stream: one or more whole events in the client's dialect.

    `raw` are the bytes to write; `events` their decoded payloads. Each is made from the other on first use, so a
    chunk that nobody looks at is never decoded. `named` dialects (Anthropic's) carry an `event:` line per event.
    """

    __slots__ = ("_events", "_raw", "named", "piece")

    def __init__(
        self, raw: bytes | None = None, events: list[dict[str, Any]] | None = None, *, named: bool = False
    ) -> None:
        self._raw = raw
        self._events = events
        self.named = named
        self.piece: bytes | None = None
        """The text of a chunk that is known to be one plain delta, as it stands between the quotes of its JSON."""

    @property
    def raw(self) -> bytes:
        raw = self._raw
        if raw is None:
            raw = self._raw = sse_encode(self._events or (), named=self.named)
        return raw

    @property
    def events(self) -> list[dict[str, Any]]:
        """Decoded payloads; the closing `[DONE]` is not an event. Do not mutate: use `with_events`.

        Raises `ProtocolError` for bytes that are no events: what cannot be read cannot be judged, and must not pass
        for an empty chunk.
        """
        events = self._events
        if events is None:
            raw = self._raw or b""
            if raw.startswith(b"data: {") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
                self._events = [_decode_event(raw[6:-2])]  # nearly every chunk: one event of one line
                return self._events
            events = self._events = [_decode_event(data) for data in sse_payloads(raw, strict=True)]
        return events

    def with_events(self, events: list[dict[str, Any]]) -> Chunk:
        """The same chunk with other content; a `[DONE]` it carried is kept."""
        done = not self.named and self._raw is not None and b"data: [DONE]" in self._raw[-32:]
        fresh = Chunk(events=events, named=self.named)
        if done:
            fresh._raw = fresh.raw + DONE
        return fresh


DONE = b"data: [DONE]\n\n"


def sse_encode(events: Iterable[dict[str, Any]], *, named: bool = False) -> bytes:
    """Events as server-sent-event frames; `named` adds `event: <type>` from each payload's own `type`."""
    if named:
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (str(event.get("type", "message")).encode(), encode_json(event))
            for event in events
        )
    return b"".join(b"data: %b\n\n" % encode_json(event) for event in events)


_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"", b"data", b"event", b"id", b"retry")
"""What a line may begin with, up to its colon; the empty one is a comment's."""


def sse_payloads(raw: bytes, *, strict: bool = False) -> Iterator[bytes]:
    """The `data:` payloads of whole frames, read as a client reads them. `[DONE]` is left out.

    Lines end with CR, LF or CRLF, and one byte order mark may come first
    (https://html.spec.whatwg.org/multipage/server-sent-events.html). `strict` raises `ProtocolError` for a frame
    without data that has a line which is neither a comment nor a known field.
    """
    if raw.startswith(_BOM):
        raw = raw[len(_BOM) :]
    lines: list[bytes] = []
    unknown = False
    for line in (*_LINE_END.split(raw), b""):
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                lines.append(value.lstrip(b" "))
            elif name not in _FIELDS:
                unknown = True
            continue
        data = b"\n".join(lines)
        if strict and unknown and not data:
            raise ProtocolError("The provider's stream holds a frame that is no event.")
        if data and data.rstrip() != b"[DONE]":
            yield data
        lines, unknown = [], False


def _decode_event(data: bytes) -> dict[str, Any]:
    try:
        event = decode_json(data)
    except msgspec.DecodeError as error:
        raise ProtocolError("The provider's stream holds an event that is not JSON.") from error
    if type(event) is not dict:
        raise ProtocolError("The provider's stream holds an event that is not an object.")
    return event


class Reply:
    """An answer on its way to the client, whole or streamed.

    Whole: `raw` are the bytes and `body` the decoded object, each made from the other on first use; assign `body` to
    replace it. Streamed: `stream` yields `Chunk`s; wrap it to see or change them. Both are in the client's dialect.
    """

    __slots__ = (
        "_body", "_raw", "cost", "headers", "media_type", "meter", "model", "source", "status", "stream", "upstream",
        "usage",
    )  # fmt: skip

    def __init__(
        self,
        body: Any = None,
        *,
        raw: bytes | None = None,
        stream: AsyncIterator[Chunk] | None = None,
        status: int = 200,
        headers: dict[str, str] | None = None,
        usage: Usage | None = None,
        source: str = "provider",
        media_type: str = "application/json",
        model: str | None = None,
    ) -> None:
        self._body = body
        self._raw = raw
        self.stream = stream
        self.status = status
        self.headers = headers if headers is not None else {}
        self.usage = usage
        self.cost: Cost | None = None
        self.source = source
        """`provider`, `cache` or `plugin`."""
        self.media_type = media_type
        self.model = model
        """The model's name as the provider gave it."""
        self.meter: Meter | None = None
        """What is known so far of a stream's usage."""
        self.upstream: Closable | None = None
        """The stream's source, whatever has been wrapped around `stream` since."""

    @property
    def raw(self) -> bytes:
        if self._raw is None:
            self._raw = encode_json(self._body)
        return self._raw

    def take(self, raw: bytes, body: Any) -> None:
        """Set bytes and decoded form together; None for a body that nobody has decoded yet."""
        self._raw = raw
        self._body = body

    @property
    def body(self) -> Any:
        if self._body is None and self._raw is not None:
            self._body = decode_json(self._raw)
        return self._body

    @body.setter
    def body(self, value: Any) -> None:
        self._body = value
        self._raw = None


class Meter(Protocol):
    """What a stream has told of itself so far."""

    @property
    def usage(self) -> Usage | None: ...

    model: str | None
    delivered: int
    finished: bool


class Closable(Protocol):
    """The upstream end of a stream."""

    ended: bool

    def close(self) -> None: ...
    async def drain(self) -> None: ...
