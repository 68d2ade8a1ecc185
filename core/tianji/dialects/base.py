"""What a dialect is. Everything here is pure: no I/O, no clock, no environment."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar, Protocol

from tianji.errors import BadRequest, Failure, Internal
from tianji.model import DONE, Call, Op, Usage, encode_json


class Monitor(Protocol):
    """Watches a stream that is forwarded in the client's own dialect, decoding only the frames that matter."""

    @property
    def usage(self) -> Usage | None:
        """What the provider has stated so far."""

    model: str | None
    delivered: int
    """Content frames seen so far: the floor of an estimate when the provider never says."""
    finished: bool
    """The provider said that the answer is complete."""

    def feed(self, raw: bytes) -> bytes:
        """Whole frames in, the frames to forward out. Raises a Failure for an error that the frames carry."""

    def end(self) -> bytes:
        """The upstream ended: the closing frames, or a `ProtocolError` for an answer that was cut short."""


ChatStream = Generator[list[dict[str, Any]], "dict[str, Any] | None", None]
"""Sent one chat chunk at a time (None: the stream is over); yields the events to send in another dialect."""


Lane = tuple[tuple[Any, ...], Any, Any]
"""A place of text in an answer: the hashable key of its lane, the container, the key in the container."""


class Dialect:
    """One client wire format. Subclasses say what is particular; the defaults are OpenAI's."""

    name: ClassVar[str]
    op: ClassVar[Op]
    named: ClassVar[bool] = False
    """Frames carry an `event:` line, and there is no `[DONE]`."""
    peeks: ClassVar[bool] = False
    """Whole answers have OpenAI's shape, so `tianji.dialects.peek` can read what matters without decoding them."""
    translates: ClassVar[bool] = True
    """Can be said as chat. Where not (embeddings), only a provider that offers the op can serve it."""

    def check(self, body: dict[str, Any]) -> None:
        """Raise `BadRequest` naming the first field whose shape no provider could accept."""

    def to_chat(self, call: Call) -> dict[str, Any]:
        """The call's body as an OpenAI chat request; fields that cannot be carried are named with `call.drop`."""
        raise Internal(f"{self.name} cannot be translated")

    def from_chat(self, call: Call, body: dict[str, Any]) -> dict[str, Any]:
        """A whole chat completion, said in this dialect."""
        raise Internal(f"{self.name} cannot be translated")

    def stream_from_chat(self, call: Call) -> ChatStream:
        """A generator that turns chat chunks into this dialect's events."""
        raise Internal(f"{self.name} cannot be translated")

    def usage(self, body: dict[str, Any]) -> Usage | None:
        """The usage that a whole answer in this dialect states."""
        return None

    def estimate(self, body: dict[str, Any]) -> int:
        """Tokens of a request, from its size, for a provider that does not count."""
        return -(-sum(len(box[key].encode()) for box, key in self.texts(body)) // 4)

    def monitor(self, call: Call) -> Monitor:
        """A watcher for one stream that is passed through."""
        raise Internal(f"{self.name} has no streams")

    def error(self, failure: Failure) -> dict[str, Any]:
        """The error body that clients of this dialect expect."""
        return {"error": failure.body()}

    def error_frame(self, failure: Failure) -> bytes:
        """The error as the last frame of a stream that had begun. No `[DONE]` follows it."""
        return b"data: %b\n\n" % encode_json(self.error(failure))

    @property
    def done(self) -> bytes:
        """The frame that closes a complete stream."""
        return b"" if self.named else DONE

    @property
    def heartbeat(self) -> bytes:
        """A frame that means nothing, for the pauses of a stream."""
        return b'event: ping\ndata: {"type":"ping"}\n\n' if self.named else b": ping\n\n"

    def texts(self, body: dict[str, Any]) -> list[tuple[Any, Any]]:
        """Where the caller's texts are: `(container, key)` pairs with `container[key]` a string, in reading order."""
        return []

    def unreadable(self, body: dict[str, Any]) -> str | None:
        """The field in which the caller sent token numbers, where a text could be: nobody here can read them."""
        return None

    def reply_texts(self, body: dict[str, Any]) -> list[tuple[Any, Any]]:
        """Where the texts of an answer are, whole or one event of a stream."""
        return [(box, key) for _, box, key in self.reply_lanes(body)]

    def reply_lanes(self, body: dict[str, Any]) -> list[Lane]:
        """The same, each with the lane it belongs to: `(lane, container, key)`.

        The events of a stream interleave several texts (choices, reasoning, the arguments of each tool call). Pieces
        of the same lane, in the order of arrival, are one text; pieces of two lanes never are.
        """
        return []


def need(body: dict[str, Any], field: str, kind: type | tuple[type, ...], what: str) -> Any:
    """A required field of the right type, or a `BadRequest` that names it."""
    value = body.get(field)
    if value is None:
        raise BadRequest(
            f"Missing required parameter: '{field}' ({what}).", param=field, code="missing_required_parameter"
        )
    if not isinstance(value, kind):
        raise BadRequest(
            f"Invalid type for '{field}': expected {what}, got {type_name(value)}.", param=field, code="invalid_type"
        )
    return value


def optional(body: dict[str, Any], field: str, kind: type | tuple[type, ...], what: str) -> None:
    """An optional field, where it is present and not null, must have the right type."""
    value = body.get(field)
    if value is None:
        return
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadRequest(
            f"Invalid type for '{field}': expected {what}, got {type_name(value)}.", param=field, code="invalid_type"
        )


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; providers have been seen to answer with nulls and texts where objects belong."""
    return [one for one in value if type(one) is dict] if type(value) is list else []


def position(value: Any, default: int) -> int:
    """An `index` as the provider states it, or the place in the list where it states none."""
    return value if type(value) is int else default


def descriptions(value: Any, slots: list[tuple[Any, Any]]) -> None:
    """Add every `description` in a tool or schema: the caller's words, and the model reads them."""
    rest = [value]
    while rest:
        one = rest.pop()
        if type(one) is dict:
            if type(one.get("description")) is str:
                slots.append((one, "description"))
            rest.extend(reversed(one.values()))
        elif type(one) is list:
            rest.extend(reversed(one))


def type_name(value: object) -> str:
    """The JSON name of a decoded value's type."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)
