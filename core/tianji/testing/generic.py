"""The golden exchanges that an `OpenAICompatible` provider without a `wire` folder is held to.

OpenAI's documented shapes (https://platform.openai.com/docs/api-reference), with the expected request computed from the
class's attributes: `base_url`, `paths`, `auth`, `drop`, `rename`, `stream_usage`. A class that overrides `encode`,
`request_body` or `url` says more than its attributes do and brings its own folder.
"""

from __future__ import annotations

from typing import Any

from tianji.model import Op, encode_json
from tianji.providers import OpenAICompatible
from tianji.testing.builders import TEST_KEY
from tianji.testing.goldens import Golden, parse_golden

_SOURCE = "docs:https://platform.openai.com/docs/api-reference/"
_MODEL = "upstream-model"
_MESSAGES = [{"role": "user", "content": "Say hello."}]
_USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


def generic_goldens(plugin: type[OpenAICompatible], base_url: str) -> list[Golden]:
    """The exchanges for those of the class's ops that OpenAI's own reference describes."""
    exchanges: dict[str, dict[str, Any]] = {}
    if Op.CHAT in plugin.ops:
        exchanges |= {"generic-chat": _chat(), "generic-chat-stream": _chat_stream(), "generic-throttled": _throttled()}
    if Op.COMPLETIONS in plugin.ops:
        exchanges["generic-completions"] = _completions()
    if Op.EMBEDDINGS in plugin.ops:
        exchanges["generic-embeddings"] = _embeddings()
    return [parse_golden(name, _expected(plugin, base_url, data)) for name, data in exchanges.items()]


def _expected(plugin: type[OpenAICompatible], base_url: str, data: dict[str, Any]) -> dict[str, Any]:
    """The exchange with the request that the class's attributes promise."""
    call = data["call"]
    body = {**call["body"], "model": _MODEL}
    if body.get("stream") and plugin.stream_usage:
        body["stream_options"] = {"include_usage": True}
    dropped = sorted(plugin.drop & body.keys())
    body = {name: value for name, value in body.items() if name not in plugin.drop}
    for old, new in plugin.rename.items():
        if old in body:
            body.setdefault(new, body[old])
            del body[old]
    headers = {"content-type": "application/json", **plugin.headers}
    if plugin.auth == "bearer":
        headers["authorization"] = f"Bearer {TEST_KEY}"
    elif plugin.auth.startswith("header:"):
        headers[plugin.auth.removeprefix("header:")] = TEST_KEY
    url = base_url.rstrip("/") + plugin.paths[Op(call["op"])]
    request = {"url": url, "headers": headers, "body": body}
    return {"deployment": {"model": _MODEL}, "request": request, "dropped": dropped, **data}


def _chat() -> dict[str, Any]:
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": _MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
    return {
        "source": _SOURCE + "chat/create",
        "call": {"op": "chat", "body": {"model": "group", "messages": _MESSAGES, "temperature": 0.5, "max_tokens": 20}},
        "upstream": {"body": answer},
        "reply": {"body": answer},
    }


def _chat_stream() -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": _MODEL}
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hel"}, None),
        ({"content": "lo."}, None),
        ({}, "stop"),
    ]
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas
    ]
    chunks.append({**head, "choices": [], "usage": _USAGE})
    frames = [f"data: {encode_json(chunk).decode()}\n\n" for chunk in chunks]
    return {
        "source": _SOURCE + "chat-streaming",
        "call": {"op": "chat", "body": {"model": "group", "messages": _MESSAGES, "stream": True}},
        "upstream": {"frames": [*frames, "data: [DONE]\n\n"]},
        "reply": {"chunks": chunks},
    }


def _throttled() -> dict[str, Any]:
    error = {"message": "Rate limit reached.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    return {
        "source": "docs:https://platform.openai.com/docs/guides/error-codes",
        "call": {"op": "chat", "body": {"model": "group", "messages": _MESSAGES}},
        "upstream": {"status": 429, "body": {"error": error}},
        "reply": {"failure": {"class": "Throttled", "status": 429, "message": "Rate limit reached."}},
    }


def _completions() -> dict[str, Any]:
    answer = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1700000000,
        "model": _MODEL,
        "choices": [{"text": " time", "index": 0, "logprobs": None, "finish_reason": "length"}],
        "usage": _USAGE,
    }
    return {
        "source": _SOURCE + "completions/create",
        "call": {
            "op": "completions",
            "dialect": "openai-completions",
            "body": {"model": "group", "prompt": "Once upon a"},
        },
        "upstream": {"body": answer},
        "reply": {"body": answer},
    }


def _embeddings() -> dict[str, Any]:
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
        "model": _MODEL,
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    return {
        "source": _SOURCE + "embeddings/create",
        "call": {"op": "embeddings", "dialect": "openai-embeddings", "body": {"model": "group", "input": "Hello."}},
        "upstream": {"body": answer},
        "reply": {"body": answer},
    }
