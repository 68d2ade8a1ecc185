"""Chat streams: `ChatMonitor` for those that are forwarded as they came, `ChatStreamer` for those that were translated.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import re
from typing import Any

from tianji.dialects.base import objects
from tianji.dialects.template import Template, learn
from tianji.dialects.usage import from_openai, to_openai
from tianji.errors import Failure, ProtocolError, classify
from tianji.model import DONE, Call, Usage, decode_json, encode_json, sse_encode


def wants_usage(body: dict[str, Any]) -> bool:
    """Whether the client asked for the closing usage chunk."""
    options = body.get("stream_options")
    return type(options) is dict and options.get("include_usage") is True


def failure_of(error: Any, *, provider: str | None = None) -> Failure:
    """The failure that an error object inside a stream or a 200 answer stands for."""
    if type(error) is not dict:
        message = sentence(error)[:1000]
        text = f"The provider reported an error: {message}" if message else "The provider reported an error."
        return ProtocolError(text, provider=provider, status=500)
    inner = error.get("error")
    if type(inner) is dict:
        error = {**error, **inner}
    status = next((n for n in (error.get("status_code"), error.get("code"), error.get("status")) if _is_status(n)), 500)
    said = (sentence(error.get(name)) for name in ("message", "detail", "error"))
    message = next(filter(None, said), "The provider reported an error.")
    code = error.get("code")
    code = str(code) if code is not None else None
    failure = classify(400 if code == "content_filter" else int(status), message[:4000], code=code)
    failure.param = error.get("param") if type(error.get("param")) is str else None
    failure.provider = provider
    return failure


def sentence(value: Any) -> str:
    """What an error's message says, where it is not plain text.

    Of an object, or of each in a list (FastAPI's `detail`), only `msg` or `message`: the rest may repeat the request,
    its headers among it.
    """
    if type(value) is list:
        return "; ".join(filter(None, (sentence(one) for one in value if type(one) is dict)))
    if type(value) is dict:
        value = value.get("msg") or value.get("message")
        return value if type(value) is str else ""
    return "" if value is None or type(value) is list else str(value)


def _is_status(value: object) -> bool:
    if type(value) is str and value.isdecimal():
        value = int(value)
    return type(value) is int and 400 <= value < 600


# One search decides whether a read holds anything but plain deltas. Inside a JSON string every quote is escaped, so
# none of these byte patterns can occur in what the model says.
_NOTABLE = re.compile(rb'"usage"\s*:\s*\{|"finish_reason"\s*:\s*"|"error"\s*:\s*[^n\s]|\[DONE\]|"index"\s*:\s*[1-9]')
_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)+)"')
_ERROR_EVENT = re.compile(rb"^event:[ \t]*error[ \t]*\r?$", re.MULTILINE)
_NULL_USAGE = b',"usage":null'


class ChatMonitor:
    """Watches a chat stream that goes to the client as it came.

    What it changes, on bytes: the model's name becomes the group that the client asked for, the usage chunk appears
    exactly when it was asked for, and `[DONE]` closes the stream exactly once.
    """

    __slots__ = (
        "_closing", "_complete", "_every", "_failed", "_first", "_last", "_new", "_old", "_seen", "_template", "_wants",
        "delivered", "done", "finished", "group", "kind", "model", "piece", "usage",
    )  # fmt: skip

    def __init__(self, call: Call, kind: str = "chat.completion.chunk") -> None:
        self.group = call.model
        self.kind = kind
        self._failed: Failure | None = None
        self.usage: Usage | None = None
        self.model: str | None = None
        self.delivered = 0
        self.finished = False
        """Every choice that was seen has its `finish_reason`."""
        self.done = False
        """The upstream said `[DONE]` or an error: whatever its connection does next is not part of the answer."""
        self._seen: set[int] = set()
        self._complete: set[int] = set()
        self._every = _several(call.body)  # each event is looked at, to know of every choice
        self._wants = wants_usage(call.body)
        self._first = True
        self._last: dict[str, Any] | None = None
        self._closing: dict[str, Any] | None = None  # the usage chunk waits for the end: some servers go on after it
        self._old = b""
        self._new = b'"model":' + encode_json(call.model)
        self._template: Template | None = None
        self.piece: bytes | None = None
        """The text of what was fed last, where that was one plain delta and was not examined."""

    def feed(self, raw: bytes) -> bytes:
        if self._failed is not None:
            raise self._failed
        if self._template is not None:
            said = self._template.said(raw)
            if said is not None:
                self.delivered += 1
                self.piece = self._template.piece
                return said
            self.piece = None
        if self._first:
            self._check_first(raw)
        if self.model is None:
            self._find_model(raw)
        self.delivered += raw.count(b"data:")
        whole = raw
        plain = not (self._every or _NOTABLE.search(raw) is not None or _has_long_frames(raw))
        if not plain:
            raw = self._inspect(raw)
        if not self._wants and _NULL_USAGE in raw:
            raw = raw.replace(_NULL_USAGE, b"")
        if self._old:
            raw = raw.replace(self._old, self._new)
        if raw.count(b'"model"') != raw.count(self._new):
            raw = self._restamp(raw)
        if plain:
            self._template = learn(whole, raw) or self._template
        return raw

    def _check_first(self, raw: bytes) -> None:
        """The first event must be JSON; a provider that sends something else is found out before anything is sent."""
        for frame in _frames(raw):
            data = b"\n".join(_payloads(frame))
            if data:
                self._first = False
                if data != b"[DONE]":
                    _decode(data)
                return

    def _find_model(self, raw: bytes) -> None:
        """The name to replace. Azure's first chunk has an empty one."""
        match = _MODEL.search(raw)
        if match is not None:
            self.model = match[1].decode("utf-8", "replace")
            if match[0] != self._new:
                self._old = match[0]

    def _restamp(self, raw: bytes) -> bytes:
        """Frames whose model is written in another way than the first one's, or is another model."""
        out: list[bytes] = []
        for frame in _frames(raw):
            kept = frame
            if frame.count(b'"model"') != frame.count(self._new):
                event = _object(b"\n".join(_payloads(frame)))
                name = None if event is None else event.get("model")
                if type(name) is str and name and name != self.group:
                    found = (one for one in _MODEL.finditer(frame) if _text(one[1]) == name)
                    if (match := next(found, None)) is not None:
                        kept = frame[: match.start()] + self._new + frame[match.end() :]
            out.append(kept)
        return b"".join(out)

    def _inspect(self, raw: bytes) -> bytes:
        out: list[bytes] = []
        for frame in _frames(raw):
            data = b"\n".join(_payloads(frame))
            if not data:
                out.append(frame)  # a comment: the provider's own heartbeat
            elif data == b"[DONE]":  # ours follows, once
                self.done = True
                break
            else:
                try:
                    kept = self._event(_decode(data), frame)
                except Failure as failure:
                    if not out:
                        raise
                    self._failed = failure  # what came before it is good, and goes out first
                    self.done = True
                    break
                if kept is not None:
                    out.append(kept)
        return b"".join(out)

    def _event(self, event: dict[str, Any], frame: bytes) -> bytes | None:
        """One decoded frame: the bytes to forward for it, or None to leave it out."""
        error = event.get("error")
        if not error and _ERROR_EVENT.search(frame) is not None:
            raise failure_of(event)
        if error:  # OpenRouter's stand beside a last choice
            raise failure_of(error if type(error) is dict else event)
        self._last = event
        choices = objects(event.get("choices"))
        for choice in choices:
            reason = choice.get("finish_reason")
            if reason == "error" or choice.get("error"):
                raise failure_of(choice.get("error") or error or "the stream ended with finish_reason 'error'")
            index = choice.get("index") or 0
            if type(index) is int:
                self._seen.add(index)
                if reason:
                    self._complete.add(index)
        if choices:
            self.finished = bool(self._complete) and self._seen <= self._complete
        usage = event.get("usage")
        if type(usage) is not dict:
            return frame if frame.count(b"\ndata:") + frame.startswith(b"data:") < 2 else sse_encode([event])
        self.usage = from_openai(usage) or self.usage
        if event.get("model"):
            event["model"] = self.group  # encoded anew, it no longer is what `feed` looks for
        if choices:
            return sse_encode([{key: value for key, value in event.items() if key != "usage"}])
        self._closing = event
        return None

    def end(self) -> bytes:
        if self._failed is not None:
            raise self._failed
        if not self.finished:
            raise ProtocolError("The provider ended the stream before the answer was complete.")
        if self._wants and self._closing is not None:
            return sse_encode([self._closing]) + DONE
        if self._wants and self.usage is not None:
            last = self._last or {}
            identity = {"id": last.get("id", ""), "created": last.get("created", 0), "model": self.group}
            return sse_encode([usage_chunk(self.usage, kind=self.kind, **identity)]) + DONE
        return DONE


def usage_chunk(
    usage: Usage, *, id: str, created: int, model: str, kind: str = "chat.completion.chunk"
) -> dict[str, Any]:
    """The closing usage chunk, with the identity of the stream's other chunks."""
    return {
        "id": id, "object": kind, "created": created, "model": model, "choices": [], "usage": to_openai(usage),
    }  # fmt: skip


def _frames(raw: bytes) -> list[bytes]:
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return [part + b"\n\n" for part in raw.split(b"\n\n") if part.strip(b"\n")]


def _payloads(frame: bytes) -> list[bytes]:
    return [line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")]


def _has_long_frames(raw: bytes) -> bool:
    """Whether a frame has more than one line: data in several, or an event's name. JSON escapes its line ends."""
    lines = raw.count(b"\ndata:")
    return (lines != raw.count(b"\n\ndata:") and lines != raw.count(b"\n\r\ndata:")) or b"\nevent:" in raw


def _several(body: dict[str, Any]) -> bool:
    """Whether more than one choice may come: `n`, or one for each of a completion's prompts."""
    n = body.get("n")
    return (type(n) is int and n > 1) or type(body.get("prompt")) is list


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        event = decode_json(data)
    except (RecursionError, ValueError):
        return None
    return event if type(event) is dict else None


def _text(inside: bytes) -> str | None:
    """The text of a JSON string, of what stands between its quotes."""
    try:
        return str(decode_json(b'"' + inside + b'"'))
    except ValueError:
        return None


def _decode(data: bytes) -> dict[str, Any]:
    try:
        event = decode_json(data)
    except ValueError:
        raise ProtocolError("The provider sent a stream event that is not JSON.") from None
    if type(event) is not dict:
        raise ProtocolError("The provider sent a stream event that is not an object.")
    return event


class ChatStreamer:
    """Puts translated chunks into the form that OpenAI's own streams have.

    One id, one `created`, the client's model name; the role in the first delta; usage taken out of the chunks and
    sent once at the end, iff it was asked for.
    """

    __slots__ = ("_complete", "_stated", "created", "delivered", "finished", "id", "model", "roles", "wanted", "wants")

    def __init__(self, call: Call, *, id: str, created: int) -> None:
        self.id = id
        self.created = created
        self.wanted = call.model
        self.wants = wants_usage(call.body)
        self.model: str | None = None
        self.finished = False
        self.delivered = 0
        self.roles: set[int] = set()
        self._complete: set[int] = set()
        self._stated: Any = None

    @property
    def usage(self) -> Usage | None:
        """The latest usage that a chunk carried; read when it is asked for, as some providers send it with each."""
        return from_openai(self._stated)

    def push(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """Normalise one chunk in place; None when it carried nothing but usage."""
        if chunk.get("id"):
            self.id = chunk["id"] if not self.roles else self.id
        if self.model is None:
            self.model = chunk.get("model") or None
        if "usage" in chunk:
            self._stated = chunk.pop("usage") or self._stated
        choices = chunk.get("choices")
        if not choices:
            return None
        for choice in choices:
            index = choice.get("index", 0)
            if index not in self.roles:
                self.roles.add(index)
                choice["delta"] = {"role": "assistant", **choice.get("delta", {})}
            if choice.get("finish_reason"):
                self._complete.add(index)
        self.finished = bool(self._complete) and self.roles <= self._complete
        chunk["id"] = self.id
        chunk["created"] = self.created
        chunk["model"] = self.wanted
        self.delivered += 1
        return chunk

    def closing(self) -> list[dict[str, Any]]:
        """The usage chunk, where the client asked for one."""
        usage = self.usage
        if not self.wants or usage is None:
            return []
        return [usage_chunk(usage, id=self.id, created=self.created, model=self.wanted)]
