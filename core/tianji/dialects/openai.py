"""`openai-chat`: the inner language of the gateway, and its most common client dialect.

https://platform.openai.com/docs/api-reference/chat and .../chat/streaming
"""

from __future__ import annotations

from typing import Any

from tianji.dialects.base import Dialect, Lane, Monitor, descriptions, need, objects, optional, position, type_name
from tianji.dialects.chat_stream import ChatMonitor
from tianji.dialects.usage import from_openai, to_openai
from tianji.errors import BadRequest
from tianji.model import Call, Op, Usage

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

_TYPED: dict[str, tuple[type | tuple[type, ...], str]] = {
    "tools": (list, "an array of tools"),
    "temperature": ((int, float), "a number"),
    "top_p": ((int, float), "a number"),
    "max_tokens": (int, "an integer"),
    "max_completion_tokens": (int, "an integer"),
    "stream_options": (dict, "an object"),
    "response_format": (dict, "an object"),
    "n": (int, "an integer"),
}
"""Fields whose type is checked here, because the gateway reads them or every provider would refuse them."""
_EXPECTED = {
    field: frozenset({type(None), *(kinds if isinstance(kinds, tuple) else (kinds,))})
    for field, (kinds, _) in _TYPED.items()
}
"""The types that need no closer look."""


class OpenAIChat(Dialect):
    name = "openai-chat"
    op = Op.CHAT
    peeks = True

    def check(self, body: dict[str, Any]) -> None:
        messages = need(body, "messages", list, "an array of messages")
        for index, message in enumerate(messages):
            if type(message) is not dict:
                raise BadRequest(
                    f"Invalid type for 'messages[{index}]': expected an object, got {type_name(message)}.",
                    param=f"messages[{index}]",
                    code="invalid_type",
                )
            role = message.get("role")
            if type(role) is not str or role not in ROLES:
                _bad_role(message, index)
            content = message.get("content")
            if type(content) is not str and content is not None:
                _check_parts(content, f"messages[{index}].content")
        if len(body) > 2:
            for field in body.keys() & _TYPED.keys():
                if type(body[field]) not in _EXPECTED[field]:
                    optional(body, field, *_TYPED[field])

    def usage(self, body: dict[str, Any]) -> Usage | None:
        return from_openai(body.get("usage"))

    def to_chat(self, call: Call) -> dict[str, Any]:
        return call.body

    def from_chat(self, call: Call, body: dict[str, Any]) -> dict[str, Any]:
        return body

    def monitor(self, call: Call) -> Monitor:
        return ChatMonitor(call)

    def texts(self, body: dict[str, Any]) -> list[tuple[Any, Any]]:
        lanes: list[Lane] = []
        for message in objects(body.get("messages")):
            _message_lanes(message, (), lanes)
        if type(prediction := body.get("prediction")) is dict:
            _content_lanes(prediction, "content", (), lanes)
        slots = [(box, key) for _, box, key in lanes]
        for field in ("tools", "functions", "response_format"):
            descriptions(body.get(field), slots)
        return slots

    def reply_lanes(self, body: dict[str, Any]) -> list[Lane]:
        lanes: list[Lane] = []
        for at, choice in enumerate(objects(body.get("choices"))):
            for name in ("message", "delta"):
                if type(message := choice.get(name)) is dict:
                    _message_lanes(message, (position(choice.get("index"), at),), lanes)
        return lanes


_TEXTS = ("reasoning_content", "reasoning", "refusal")
"""Texts beside a message's content. `reasoning` is what OpenRouter, Groq and vLLM say for `reasoning_content`."""


def _message_lanes(message: dict[str, Any], lane: tuple[Any, ...], lanes: list[Lane]) -> None:
    """Add the places of all texts of a message or delta, under the lane of its choice."""
    _content_lanes(message, "content", lane, lanes)
    for name in _TEXTS:
        _add(message, name, (*lane, name), lanes)
    for at, detail in enumerate(objects(message.get("reasoning_details"))):
        for name in ("text", "summary"):
            _add(detail, name, (*lane, "reasoning_details", position(detail.get("index"), at), name), lanes)
    for at, tool in enumerate(objects(message.get("tool_calls"))):
        number = position(tool.get("index"), at)
        _add(tool.get("function"), "arguments", (*lane, "tool", number), lanes)
        _add(tool.get("custom"), "input", (*lane, "custom", number), lanes)
    _add(message.get("function_call"), "arguments", (*lane, "function_call"), lanes)
    _add(message.get("audio"), "transcript", (*lane, "transcript"), lanes)


def _content_lanes(
    box: dict[str, Any], name: str, lane: tuple[Any, ...], lanes: list[Lane], kind: str = "content"
) -> None:
    """A content: a string, or a list of strings and parts. Mistral's thinking part holds such a list again."""
    content = box.get(name)
    if type(content) is not list:
        _add(box, name, (*lane, kind), lanes)
        return
    for at, part in enumerate(content):
        if type(part) is dict:
            _content_lanes(part, "text", lane, lanes, kind)
            for inner in ("refusal", "thinking"):
                _content_lanes(part, inner, lane, lanes, inner)
        elif type(part) is str:
            _add(content, at, (*lane, kind), lanes)


def _add(box: Any, key: Any, lane: tuple[Any, ...], lanes: list[Lane]) -> None:
    value = box.get(key) if type(box) is dict else box[key] if type(box) is list else None
    if type(value) is str and value:
        lanes.append((lane, box, key))


def _bad_role(message: dict[str, Any], index: int) -> None:
    role = message.get("role")
    if role is None:
        raise BadRequest(
            f"Missing required parameter: 'messages[{index}].role'.",
            param=f"messages[{index}].role",
            code="missing_required_parameter",
        )
    if type(role) is not str:
        raise BadRequest(
            f"Invalid type for 'messages[{index}].role': expected a string, got {type_name(role)}.",
            param=f"messages[{index}].role",
            code="invalid_type",
        )
    # An unknown role is the provider's to judge: new ones appear faster than gateways are upgraded.


def _check_parts(content: Any, path: str) -> None:
    if type(content) is not list:
        raise BadRequest(
            f"Invalid type for '{path}': expected a string or an array of parts, got {type_name(content)}.",
            param=path,
            code="invalid_type",
        )
    for index, part in enumerate(content):
        if type(part) is str:
            continue
        if type(part) is not dict:
            raise BadRequest(
                f"Invalid type for '{path}[{index}]': expected an object, got {type_name(part)}.",
                param=f"{path}[{index}]",
                code="invalid_type",
            )


# -- building answers: for providers -----------------------------------------------------------------------------------


def completion(
    *,
    id: str,
    model: str,
    message: dict[str, Any],
    finish_reason: str | None,
    usage: Usage | None,
    created: int = 0,
    **extra: Any,
) -> dict[str, Any]:
    """A whole chat completion with one choice. `created` 0 is filled in by the kernel, which owns the clock."""
    body = {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}],
    }
    if usage is not None:
        body["usage"] = to_openai(usage)
    body.update(extra)
    return body


def chunk(
    delta: dict[str, Any],
    finish_reason: str | None = None,
    *,
    id: str = "",
    model: str = "",
    index: int = 0,
    usage: Usage | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """One chat chunk. Empty `id` and `model` are filled in from the stream's first chunk; `extra` joins the choice."""
    body: dict[str, Any] = {
        "id": id,
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model,
        "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason, **extra}],
    }
    if usage is not None:
        body["usage"] = to_openai(usage)
    return body
