"""What the server's tests share: a gateway in front of one scripted upstream, and what that answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tianji.testing.gateway import RunningGateway, gateway
from tianji.testing.upstream import Upstream

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    "a_new_field": {"kept": True},
}


def chunk(delta: dict[str, Any], finish: str | None = None, **extra: Any) -> bytes:
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **extra,
    }
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()


USAGE = (
    b"data: %b\n\n"
    % json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [],
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
        },
        separators=(",", ":"),
    ).encode()
)
DONE = b"data: [DONE]\n\n"
STREAM = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "One"}),
    chunk({"content": " two"}),
    chunk({"content": " three"}),
    chunk({}, "stop"),
    USAGE,
    DONE,
]


def deployment(up: Upstream, name: str = "fast", *, prefix: str = "", **params: Any) -> dict[str, Any]:
    return {
        "model_name": name,
        "tianji_params": {
            "model": "openai/gpt-4o-mini", "api_base": f"{up.url}{prefix}/v1", "api_key": "sk-upstream", **params,
        },
    }  # fmt: skip


class Pair:
    """A gateway and the upstream behind it."""

    def __init__(self, gw: RunningGateway, up: Upstream) -> None:
        self.gw = gw
        self.up = up


@asynccontextmanager
async def served(up: Upstream, *more: dict[str, Any], **config: Any) -> AsyncIterator[RunningGateway]:
    plugins = config.pop("plugins_under_test", ())
    async with gateway({"model_list": [deployment(up), *more], **config}, plugins=plugins) as gw:
        yield gw


def events(text: str) -> list[dict[str, Any]]:
    """The JSON payloads of an SSE text; `[DONE]` left out."""
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]
