"""Three vendors behind a running gateway, each a scripted loopback server that answers as its documentation says.

OpenAI: https://platform.openai.com/docs/api-reference/chat, Anthropic: https://platform.claude.com/docs/en/api/messages,
Gemini: https://ai.google.dev/api/generate-content. What a test wants said is a `Said`; each backend writes it down in
its own format, whole and streamed.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tianji.testing.gateway import RunningGateway, gateway
from tianji.testing.upstream import Close, Send, Upstream, chunked, message

Json = dict[str, Any]

MODEL = "house-model"


@dataclass(frozen=True)
class Said:
    """What a model says. 12 tokens in; 7 out, of which 3 are for thinking where it thinks."""

    text: str = ""
    thinking: str = ""
    tools: Sequence[tuple[str, Json]] = field(default=())
    cut: bool = False
    """It stopped at the token limit."""

    @property
    def pieces(self) -> list[str]:
        """The text, as a stream would bring it."""
        third = len(self.text) // 3
        return [piece for piece in (self.text[:third], self.text[third:-third], self.text[-third:]) if piece]


class Backend:
    """One vendor. `params` are the deployment's, `refusal` the vendor's error body."""

    name: str
    params: Mapping[str, str]
    request_id = "x-request-id"
    closing = 3
    """How many of a stream's last frames say how the answer ends."""

    def whole(self, said: Said) -> Json:
        raise NotImplementedError

    def frames(self, said: Said) -> list[bytes]:
        raise NotImplementedError

    def refusal(self, status: int, words: str) -> Json:
        raise NotImplementedError

    def broken(self, words: str) -> bytes:
        """An error event in the middle of a stream."""
        raise NotImplementedError

    def tool_names(self, body: Json) -> list[str]:
        """The tools that a request offers."""
        raise NotImplementedError

    def schema(self, body: Json) -> Json:
        """The schema that a request asks the answer to have."""
        raise NotImplementedError


def sse(*events: Json) -> list[bytes]:
    return [b"data: %b\n\n" % json.dumps(event).encode() for event in events]


class OpenAI(Backend):
    name = "openai"
    params = {"model": "openai/gpt-4.1-mini"}

    def _usage(self, said: Said) -> Json:
        details = {"reasoning_tokens": 3 if said.thinking else 0, "accepted_prediction_tokens": 0}
        return {
            "prompt_tokens": 12,
            "completion_tokens": 7,
            "total_tokens": 19,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": details,
        }

    def _finish(self, said: Said) -> str:
        return "length" if said.cut else "tool_calls" if said.tools else "stop"

    def _tools(self, said: Said) -> list[Json]:
        return [
            {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for n, (name, arguments) in enumerate(said.tools)
        ]

    def whole(self, said: Said) -> Json:
        answer: Json = {"role": "assistant", "content": said.text or None, "refusal": None, "annotations": []}
        if said.tools:
            answer["tool_calls"] = self._tools(said)
        return {
            "id": "chatcmpl-B9MBs8Cj",
            "object": "chat.completion",
            "created": 1741569952,
            "model": "gpt-4.1-mini-2025-04-14",
            "choices": [{"index": 0, "message": answer, "logprobs": None, "finish_reason": self._finish(said)}],
            "usage": self._usage(said),
            "service_tier": "default",
            "system_fingerprint": "fp_44709d6fcb",
        }

    def _chunk(self, choices: list[Json], usage: Json | None = None) -> Json:
        return {
            "id": "chatcmpl-B9MBs8Cj", "object": "chat.completion.chunk", "created": 1741569952,
            "model": "gpt-4.1-mini-2025-04-14", "service_tier": "default", "system_fingerprint": "fp_44709d6fcb",
            "choices": choices, "usage": usage,
        }  # fmt: skip

    def frames(self, said: Said) -> list[bytes]:
        deltas: list[Json] = [{"role": "assistant", "content": "" if said.text else None, "refusal": None}]
        deltas += [{"content": piece} for piece in said.pieces]
        for index, tool in enumerate(self._tools(said)):
            arguments = tool["function"]["arguments"]
            deltas.append({"tool_calls": [{"index": index, **tool, "function": {**tool["function"], "arguments": ""}}]})
            for piece in (arguments[:4], arguments[4:]):
                deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        events = [self._chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
        events.append(self._chunk([{"index": 0, "delta": {}, "finish_reason": self._finish(said)}]))
        events.append(self._chunk([], self._usage(said)))
        return [*sse(*events), b"data: [DONE]\n\n"]

    def refusal(self, status: int, words: str) -> Json:
        return {"error": {"message": words, "type": "a_type", "param": None, "code": "a_code"}}

    def broken(self, words: str) -> bytes:
        return sse({"error": {"message": words, "type": "server_error", "param": None, "code": None}})[0]

    def tool_names(self, body: Json) -> list[str]:
        return [tool["function"]["name"] for tool in body["tools"]]

    def schema(self, body: Json) -> Json:
        schema: Json = body["response_format"]["json_schema"]["schema"]
        return schema

    def completion(self, text: str) -> Json:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
        return {
            "id": "cmpl-uqkvlQyYK7bG", "object": "text_completion", "created": 1589478378,
            "model": "gpt-3.5-turbo-instruct", "choices": [choice], "usage": usage,
        }  # fmt: skip

    def vectors(self, vectors: list[list[float]], *, packed: bool) -> Json:
        def said(vector: list[float]) -> Any:
            return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if packed else vector

        return {
            "object": "list",
            "data": [{"object": "embedding", "index": n, "embedding": said(one)} for n, one in enumerate(vectors)],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        }


class Anthropic(Backend):
    name = "anthropic"
    params = {"model": "anthropic/claude-sonnet-4-5"}
    request_id = "request-id"

    def _stop(self, said: Said) -> str:
        return "max_tokens" if said.cut else "tool_use" if said.tools else "end_turn"

    def _blocks(self, said: Said) -> list[Json]:
        blocks: list[Json] = []
        if said.thinking:
            blocks.append({"type": "thinking", "thinking": said.thinking, "signature": "EqQBCgIYAhIM"})
        if said.text:
            blocks.append({"type": "text", "text": said.text})
        for n, (name, given) in enumerate(said.tools):
            blocks.append({"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": given})
        return blocks

    def _message(self, said: Said) -> Json:
        return {
            "id": "msg_013Zva2CMHLNnXjNJKqJ2EF", "type": "message", "role": "assistant",
            "model": "claude-sonnet-4-5-20250929", "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": {
                "input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1,
                "service_tier": "standard",
            },
        }  # fmt: skip

    def whole(self, said: Said) -> Json:
        answer = self._message(said)
        answer.update(content=self._blocks(said), stop_reason=self._stop(said))
        answer["usage"]["output_tokens"] = 7
        return answer

    def frames(self, said: Said) -> list[bytes]:
        events: list[Json] = [{"type": "message_start", "message": self._message(said)}, {"type": "ping"}]
        for index, block in enumerate(self._blocks(said)):
            start, deltas = self._pieces(said, block)
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        stop = {"stop_reason": self._stop(said), "stop_sequence": None}
        events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 7}})
        return [self._frame(event) for event in (*events, {"type": "message_stop"})]

    def _pieces(self, said: Said, block: Json) -> tuple[Json, list[Json]]:
        if block["type"] == "text":
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in said.pieces]
        if block["type"] == "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}, [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        given = json.dumps(block["input"])
        pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", given[:4], given[4:])]
        return {**block, "input": {}}, pieces

    def _frame(self, event: Json) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())

    def refusal(self, status: int, words: str) -> Json:
        kinds = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
        error = {"type": kinds.get(status, "api_error"), "message": words}
        return {"type": "error", "error": error, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}

    def broken(self, words: str) -> bytes:
        return self._frame({"type": "error", "error": {"type": "overloaded_error", "message": words}})

    def tool_names(self, body: Json) -> list[str]:
        return [tool["name"] for tool in body["tools"]]

    def schema(self, body: Json) -> Json:
        schema: Json = body["output_config"]["format"]["schema"]
        return schema


class Gemini(Backend):
    name = "gemini"
    params = {"model": "gemini/gemini-2.5-flash"}
    closing = 1

    def _parts(self, said: Said) -> list[list[Json]]:
        parts: list[list[Json]] = []
        if said.thinking:
            parts.append([{"text": said.thinking, "thought": True}])
        parts += [[{"text": piece}] for piece in said.pieces]
        if said.tools:
            parts.append([{"functionCall": {"name": name, "args": given}} for name, given in said.tools])
        return parts

    def _answer(self, said: Said, parts: list[Json], *, last: bool) -> Json:
        candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": 0}
        usage = {"promptTokenCount": 12, "totalTokenCount": 12}
        if last:
            candidate["finishReason"] = "MAX_TOKENS" if said.cut else "STOP"
            thoughts = 3 if said.thinking else 0
            usage |= {"candidatesTokenCount": 7 - thoughts, "totalTokenCount": 19}
            usage |= {"thoughtsTokenCount": thoughts} if thoughts else {}
        return {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": "gemini-2.5-flash",
            "responseId": "x8ULaYmJN5Sv",
        }

    def whole(self, said: Said) -> Json:
        return self._answer(said, [part for parts in self._parts(said) for part in parts], last=True)

    def frames(self, said: Said) -> list[bytes]:
        groups = self._parts(said)
        events = [self._answer(said, parts, last=parts is groups[-1]) for parts in groups]
        return [frame.replace(b"\n\n", b"\r\n\r\n") for frame in sse(*events)]

    def refusal(self, status: int, words: str) -> Json:
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}
        return {"error": {"code": status, "message": words, "status": names.get(status, "INTERNAL")}}

    def broken(self, words: str) -> bytes:
        return sse({"error": {"code": 503, "message": words, "status": "UNAVAILABLE"}})[0]

    def tool_names(self, body: Json) -> list[str]:
        return [one["name"] for tool in body["tools"] for one in tool["functionDeclarations"]]

    def schema(self, body: Json) -> Json:
        schema: Json = body["generationConfig"]["responseJsonSchema"]
        return schema

    def vectors(self, vectors: list[list[float]]) -> Json:
        return {"embeddings": [{"values": vector} for vector in vectors]}


class Served:
    """A gateway with one vendor behind it. `say` and `refuse` set what the vendor answers from now on."""

    def __init__(self, backend: Backend, up: Upstream, gw: RunningGateway) -> None:
        self.backend = backend
        self.up = up
        self.gw = gw

    def say(self, said: Said, *, stream: bool = False) -> None:
        headers = {self.backend.request_id: "req_upstream"}
        if stream:
            self.up.stream(self.backend.frames(said), headers=headers)
        else:
            self.up.reply(json=self.backend.whole(said), headers=headers)

    def refuse(
        self, status: int, words: str, *, headers: Mapping[str, str] | None = None, times: int | None = None
    ) -> None:
        self.up.reply(status=status, json=self.backend.refusal(status, words), headers=headers, times=times)

    def break_off(self, said: Said, words: str) -> None:
        """Begin to stream, then report an error in one write with the last text."""
        *first, last = self._opening(said)
        self.up.stream([*first, last + self.backend.broken(words)], delay=0.01)

    def _opening(self, said: Said) -> list[bytes]:
        return self.backend.frames(said)[: -self.backend.closing]

    def cut_off(self, said: Said, *, politely: bool) -> None:
        """Begin to stream, then end: politely with the last chunk of the body, or by closing the connection."""
        frames = self._opening(said)
        if politely:
            self.up.stream(frames)
            return
        head = message(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}, None)
        self.up.script(None, [Send(head), *(Send(chunked(frame)) for frame in frames), Close()])

    @property
    def asked(self) -> Json:
        """The body of the last request that reached the vendor."""
        body: Json = self.up.requests[-1].json()
        return body


@asynccontextmanager
async def serve(backend: Backend) -> AsyncIterator[Served]:
    """A running gateway whose one model is served by the backend; it makes no retries of its own."""
    async with Upstream() as up:
        params = {**backend.params, "api_key": "sk-upstream", "api_base": up.url}
        config = {
            "model_list": [{"model_name": MODEL, "tianji_params": params}],
            "router_settings": {"num_retries": 0},
        }
        async with gateway(config) as gw:
            yield Served(backend, up, gw)


BACKENDS: tuple[Backend, ...] = (OpenAI(), Anthropic(), Gemini())
