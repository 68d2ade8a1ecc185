"""The bytes that the benchmark's provider answers with, and the prompt that asks it for them.

One provider stands behind every gateway, and what it is to do travels in the prompt, the one thing that every gateway
forwards untouched: `bench[c200,d20,p10000]` asks for 200 content chunks, 20 ms before the first byte, and 10,000 µs
between two chunks. Each piece of content begins with `PIECE`, so that the load generator can count on the far side what
was really delivered; a digit after it differs from chunk to chunk, because some gateways break off a stream that
repeats itself.

Wire formats:
    https://platform.openai.com/docs/api-reference/chat
    https://docs.anthropic.com/en/api/messages-streaming
    https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

PIECE = " benchmark"
"""What the content of every chunk begins with."""

_DIRECTIVE = re.compile(rb"bench\[c(\d+),d(\d+),p(\d+)\]")
_PROMPT_BYTES = 170
_OPENAI, _ANTHROPIC, _GEMINI = "openai", "anthropic", "gemini"


@dataclass(frozen=True, slots=True)
class Directive:
    """What one request asks the provider for."""

    chunks: int = 10
    """Pieces of content, streamed or not."""
    delay_ms: int = 0
    """Milliseconds before the first byte."""
    pace_us: int = 0
    """Microseconds between two frames; 0: the next turn of the event loop."""

    def prompt(self) -> str:
        """A prompt of 170 bytes that carries the directive."""
        head = f"bench[c{self.chunks},d{self.delay_ms},p{self.pace_us}] Explain in two sentences why "
        filler = "a gateway between programs and language models should cost little and never lose an answer. " * 2
        return (head + filler)[:_PROMPT_BYTES]


def directive(body: bytes) -> Directive:
    """The directive in a request body; the defaults where there is none."""
    found = _DIRECTIVE.search(body)
    if found is None:
        return Directive()
    chunks, delay_ms, pace_us = (int(group) for group in found.groups())
    return Directive(chunks, delay_ms, pace_us)


def chat_body(model: str, ask: Directive, *, stream: bool) -> bytes:
    """What a client of the gateway sends: an OpenAI chat request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a terse assistant."},
            {"role": "user", "content": ask.prompt()},
        ],
        "temperature": 0.2,
        "max_tokens": 1024,
    }
    if stream:
        body["stream"] = True
    return json.dumps(body).encode()


def dialect_of(path: bytes) -> str:
    """Which provider a request path belongs to; empty: none."""
    if path.endswith(b"/chat/completions"):
        return _OPENAI
    if path.endswith(b"/messages"):
        return _ANTHROPIC
    if b":generateContent" in path or b":streamGenerateContent" in path:
        return _GEMINI
    return ""


def wants_stream(path: bytes, body: bytes) -> bool:
    """Gemini says it in the path, the others in the body."""
    return b":streamGenerateContent" in path or b'"stream":true' in body or b'"stream": true' in body


def _piece(number: int) -> str:
    return f"{PIECE}{number % 10}"


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _http(status: bytes, kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (status, kind, len(body), body)


NOT_FOUND = _http(b"404 Not Found", b"application/json", b'{"error":{"message":"no such path"}}')
ACCEPTED = _http(b"200 OK", b"application/json", b"{}")
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@lru_cache(maxsize=64)
def answer(dialect: str, chunks: int) -> bytes:
    """One whole answer, headers included."""
    text = "".join(_piece(number) for number in range(min(chunks, 10)))
    body: dict[str, Any]
    if dialect == _ANTHROPIC:
        body = {
            "id": "msg_01BenchmarkAnswer000000",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 42,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": chunks,
                "service_tier": "standard",
            },
        }
    elif dialect == _GEMINI:
        part = {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", "index": 0}
        body = {"candidates": [part], "usageMetadata": _gemini_usage(chunks), **_GEMINI_TAIL}
    else:
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        body = {
            "id": "chatcmpl-BenchmarkAnswer000000000000",
            "object": "chat.completion",
            "created": 1760000000,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _openai_usage(chunks),
            "service_tier": "default",
            "system_fingerprint": "fp_bench00000",
        }
    return _http(b"200 OK", b"application/json", _dumps(body))


@lru_cache(maxsize=64)
def frames(dialect: str, chunks: int, usage: bool) -> tuple[bytes, ...]:
    """The frames of a stream, each already an HTTP/1.1 chunk; the last one carries the end of the body.

    `usage`: an OpenAI client asked for `stream_options.include_usage`.
    """
    if dialect == _ANTHROPIC:
        events = _anthropic_events(chunks)
    elif dialect == _GEMINI:
        events = _gemini_events(chunks)
    else:
        events = _openai_events(chunks, usage)
    wrapped = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    wrapped[-1] += b"0\r\n\r\n"
    return tuple(wrapped)


def _openai_usage(chunks: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 42,
        "completion_tokens": chunks,
        "total_tokens": 42 + chunks,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _openai_events(chunks: int, usage: bool) -> list[bytes]:
    base: dict[str, Any] = {
        "id": "chatcmpl-BenchmarkStream000000000000",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "gpt-4o-mini-2024-07-18",
        "system_fingerprint": "fp_bench00000",
    }

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: %s\n\n" % _dumps({**base, "choices": [choice]})

    events = [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": _piece(number)}) for number in range(chunks)),
        chunk({}, "stop"),
    ]
    if usage:
        events.append(b"data: %s\n\n" % _dumps({**base, "choices": [], "usage": _openai_usage(chunks)}))
    return [*events, b"data: [DONE]\n\n"]


def _anthropic_events(chunks: int) -> list[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), _dumps({"type": kind, **fields}))

    message: dict[str, Any] = {
        "id": "msg_01BenchmarkStream000000",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 42, "cache_read_input_tokens": 0, "output_tokens": 1},
    }
    pieces = ({"type": "text_delta", "text": _piece(number)} for number in range(chunks))
    return [
        event("message_start", message=message),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(event("content_block_delta", index=0, delta=piece) for piece in pieces),
        event("content_block_stop", index=0),
        event(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"input_tokens": 42, "output_tokens": chunks},
        ),
        event("message_stop"),
    ]


_GEMINI_TAIL = {"modelVersion": "gemini-2.5-flash", "responseId": "BenchmarkAnswer000000"}


def _gemini_usage(chunks: int) -> dict[str, int]:
    return {"promptTokenCount": 42, "candidatesTokenCount": chunks, "totalTokenCount": 42 + chunks}


def _gemini_events(chunks: int) -> list[bytes]:
    def event(finish: dict[str, str], count: int) -> bytes:
        candidate = {"content": {"parts": [{"text": _piece(count)}], "role": "model"}, **finish, "index": 0}
        return b"data: %s\r\n\r\n" % _dumps(
            {"candidates": [candidate], "usageMetadata": _gemini_usage(count), **_GEMINI_TAIL}
        )

    return [event({}, number) for number in range(1, chunks)] + [event({"finishReason": "STOP"}, chunks)]
