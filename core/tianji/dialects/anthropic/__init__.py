"""`anthropic-messages` and `anthropic-count-tokens`: Anthropic's Messages API as a client dialect.

https://platform.claude.com/docs/en/api/messages, .../api/messages-count-tokens, .../build-with-claude/streaming
"""

from __future__ import annotations

from typing import Any

from tianji.dialects.anthropic.estimate import estimate_tokens
from tianji.dialects.anthropic.reply import from_chat
from tianji.dialects.anthropic.request import to_chat
from tianji.dialects.anthropic.stream import MessagesMonitor, stream_from_chat
from tianji.dialects.anthropic.wire import (
    FINISH_OF_STOP,
    error_type,
    failure_of,
    merge_usage,
    usage_from_anthropic,
    usage_to_anthropic,
)
from tianji.dialects.base import ChatStream, Dialect, Lane, Monitor, descriptions, position
from tianji.errors import BadRequest, Failure
from tianji.model import Call, Op, Usage, encode_json

Slots = list[tuple[Any, Any]]


class _Anthropic(Dialect):
    """What both of Anthropic's dialects share: the envelope of errors, and where the texts are."""

    named = True

    def error(self, failure: Failure) -> dict[str, Any]:
        error = {"type": error_type(failure), "message": failure.message, **failure.extra}
        body: dict[str, Any] = {"type": "error", "error": error}
        # The kernel passes the provider's own headers on under a prefix.
        if request_id := failure.headers.get("request-id") or failure.headers.get("llm_provider-request-id"):
            body["request_id"] = request_id
        return body

    def error_frame(self, failure: Failure) -> bytes:
        return b"event: error\ndata: %b\n\n" % encode_json(self.error(failure))

    def texts(self, body: dict[str, Any]) -> Slots:
        slots: Slots = []
        _block_slots(body, "system", slots)
        for message in body.get("messages") or ():
            if type(message) is dict:
                _block_slots(message, "content", slots)
        descriptions(body.get("tools"), slots)
        return slots


class AnthropicMessages(_Anthropic):
    """The Messages API."""

    name = "anthropic-messages"
    op = Op.CHAT

    def check(self, body: dict[str, Any]) -> None:
        _check_common(body)
        _field(body, "max_tokens", int, "a valid integer")
        if len(body) > 3:
            _field(body, "stream", bool, "a valid boolean", required=False)
            _field(body, "temperature", (int, float), "a valid number", required=False)
            _field(body, "stop_sequences", list, "a valid list", required=False)
            _field(body, "metadata", dict, "a valid dictionary", required=False)

    def to_chat(self, call: Call) -> dict[str, Any]:
        return to_chat(call)

    def from_chat(self, call: Call, body: dict[str, Any]) -> dict[str, Any]:
        return from_chat(call, body)

    def stream_from_chat(self, call: Call) -> ChatStream:
        return stream_from_chat(call)

    def usage(self, body: dict[str, Any]) -> Usage | None:
        return usage_from_anthropic(body.get("usage"))

    def monitor(self, call: Call) -> Monitor:
        return MessagesMonitor(call)

    def reply_lanes(self, body: dict[str, Any]) -> list[Lane]:
        lanes: list[Lane] = []
        block = position(body.get("index"), 0)
        if type(delta := body.get("delta")) is dict:
            for key in _DELTAS:
                if type(delta.get(key)) is str:
                    lanes.append(((block, key), delta, key))
        _block_lanes(block, body.get("content_block"), lanes)
        for holder in (body, body.get("message")):
            content = holder.get("content") if type(holder) is dict else None
            for at, one in enumerate(content if type(content) is list else ()):
                _block_lanes(at, one, lanes)
        return lanes


class AnthropicCountTokens(_Anthropic):
    """The token counting API: a Messages request without `max_tokens` in, `{"input_tokens": n}` out."""

    name = "anthropic-count-tokens"
    op = Op.COUNT_TOKENS
    translates = False

    def check(self, body: dict[str, Any]) -> None:
        _check_common(body)

    def estimate(self, body: dict[str, Any]) -> int:
        """Tokens of a request whose provider cannot count, on the high side; see `estimate_tokens`."""
        return estimate_tokens(body)


# -- checks, in Anthropic's own words ----------------------------------------------------------------------------------


def _check_common(body: dict[str, Any]) -> None:
    _field(body, "model", str, "a valid string")
    messages = _field(body, "messages", list, "a valid list")
    if not messages:
        raise BadRequest("messages: at least one message is required", param="messages", code="invalid_value")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if type(message) is not dict:
            raise _invalid(where, "a valid dictionary")
        _field(message, "role", str, "a valid string", where=where)
        # Which roles there are is the provider's to judge: a third one (`system`) appeared already.
        _check_content(_field(message, "content", (str, list), "a valid string or list", where=where), where)
    if len(body) > 2:
        system = _field(body, "system", (str, list), "a valid string or list", required=False)
        if type(system) is list:
            _check_blocks(system, "system")
        tools = _field(body, "tools", list, "a valid list", required=False)
        for index, tool in enumerate(tools or ()):
            if type(tool) is not dict:
                raise _invalid(f"tools.{index}", "a valid dictionary")
        for field in ("tool_choice", "thinking", "output_config", "output_format"):
            _field(body, field, dict, "a valid dictionary", required=False)


def _check_content(content: Any, where: str) -> None:
    if type(content) is list:
        _check_blocks(content, where + ".content")


def _check_blocks(blocks: list[Any], where: str) -> None:
    for index, block in enumerate(blocks):
        if type(block) is not dict:
            raise _invalid(f"{where}.{index}", "a valid dictionary")
        _field(block, "type", str, "a valid string", where=f"{where}.{index}")
        if block["type"] == "text":
            _field(block, "text", str, "a valid string", where=f"{where}.{index}")


def _field(
    body: dict[str, Any],
    field: str,
    kind: type | tuple[type, ...],
    what: str,
    *,
    where: str = "",
    required: bool = True,
) -> Any:
    path = f"{where}.{field}" if where else field
    value = body.get(field)
    if value is None:
        if required:
            raise BadRequest(f"{path}: Field required", param=_param(path), code="missing_required_parameter")
    elif not isinstance(value, kind) or (type(value) is bool and kind is not bool):
        raise _invalid(path, what)
    return value


def _invalid(path: str, what: str) -> BadRequest:
    return BadRequest(f"{path}: Input should be {what}", param=_param(path), code="invalid_type")


def _param(path: str) -> str:
    """`messages.0.content` as the rest of the gateway writes paths, `messages[0].content`."""
    head, *rest = path.split(".")
    return head + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)


# -- texts -------------------------------------------------------------------------------------------------------------


def _block_slots(container: dict[str, Any], key: str, slots: Slots) -> None:
    """The texts of a caller's content: texts, tools' inputs and results, plain-text documents. Not signed thinking."""
    content = container.get(key)
    if type(content) is dict:
        content = [content]
    if type(content) is str:
        if content:
            slots.append((container, key))
        return
    if type(content) is not list:
        return
    for at, block in enumerate(content):
        if type(block) is str:
            slots.append((content, at))
        if type(block) is not dict:
            continue
        if type(block.get("text")) is str:
            slots.append((block, "text"))
        slots += [(block, name) for name in ("title", "context") if type(block.get(name)) is str]
        if block.get("type") == "thinking" and not block.get("signature") and type(block.get("thinking")) is str:
            slots.append((block, "thinking"))
        _leaves(block.get("input"), slots)
        _block_slots(block, "content", slots)
        if type(source := block.get("source")) is dict:
            if source.get("type") == "text" and type(source.get("data")) is str:
                slots.append((source, "data"))
            _block_slots(source, "content", slots)


_DELTAS = ("text", "thinking", "partial_json", "content")
"""The texts of a `content_block_delta`, by what carries them; `content` is a compaction's."""


def _block_lanes(block: int, content: Any, lanes: list[Lane]) -> None:
    """The texts of one block of an answer. Its text and thinking go on in the deltas; the others are whole."""
    if type(content) is not dict:
        return
    lanes += [
        ((block, key), content, key) for key in ("thinking", "text") if type(content.get(key)) is str and content[key]
    ]
    whole: Slots = []
    _leaves(content.get("input"), whole)
    _block_slots(content, "content", whole)
    lanes += [((block, "whole", at), box, key) for at, (box, key) in enumerate(whole)]


def _leaves(value: Any, slots: Slots) -> None:
    """Every string inside a tool's input."""
    pairs = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    for key, item in pairs:
        if type(item) is str:
            slots.append((value, key))
        else:
            _leaves(item, slots)


__all__ = [
    "FINISH_OF_STOP",
    "AnthropicCountTokens",
    "AnthropicMessages",
    "failure_of",
    "merge_usage",
    "usage_from_anthropic",
    "usage_to_anthropic",
]
