"""Streams that break, over sockets: within the commit gate, after it, and with nobody to go on.

OpenAI's dialect is forwarded by the upstreams' own providers or translated; Anthropic's likewise. The upstreams reset,
stall, cut short or report an error after k chunks (ST-5, ST-6).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import pytest
from survival import Heard, HeardMessages

from tianji.model import Op
from tianji.plugin import Provider
from tianji.providers import OpenAICompatible
from tianji.testing.gateway import RunningGateway, gateway
from tianji.testing.upstream import Close, Request, Reset, Send, Sleep, Stall, Step, Upstream, chunked

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TEXT = "Once upon a time there was a gateway.\n\nIt had  two spaces, “quotes” and 🙂 in it."
Json = dict[str, Any]


class Vendor(OpenAICompatible):
    """OpenAI's format, from a vendor that takes prefills."""

    name = "vendor"
    api_key_env = ("VENDOR_KEY",)
    base_url = "http://127.0.0.1:1"
    prefill: ClassVar[bool] = True
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT})


BREAKS: dict[str, list[Step]] = {
    "reset": [Reset()],
    "stall": [Stall()],
    "truncated": [Send(b"ff\r\ndata: {"), Close()],
    "end without a finish": [Send(chunked(b""))],
}


def pieces_of(text: str) -> list[str]:
    rng = random.Random(len(text))
    cuts = sorted(rng.sample(range(1, len(text)), min(12, len(text) - 1)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def openai_frames(text: str, number: int, prompt: int) -> list[bytes]:
    identity = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": number, "model": "upstream"}
    pieces = pieces_of(text)
    deltas: list[tuple[Json, str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": piece}, None) for piece in pieces] + [({}, "stop")]
    events: list[Json] = [
        {**identity, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas
    ]
    usage = {"prompt_tokens": prompt, "completion_tokens": len(pieces), "total_tokens": prompt + len(pieces)}
    events.append({**identity, "choices": [], "usage": usage})
    return [b"data: %b\n\n" % json.dumps(event).encode() for event in events] + [b"data: [DONE]\n\n"]


def anthropic_frames(text: str, number: int, prompt: int) -> list[bytes]:
    pieces = pieces_of(text)
    message: Json = {
        "id": f"msg_{number}", "type": "message", "role": "assistant", "model": "upstream", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": prompt, "output_tokens": 1},
    }  # fmt: skip
    events: list[Json] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in pieces
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": len(pieces)},
        },
        {"type": "message_stop"},
    ]
    return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode()) for event in events]


def error_of(path: str) -> bytes:
    if path.endswith("messages"):
        return b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    return b'data: {"error":{"message":"overloaded","type":"server_error","code":"503"}}\n\n'


class Model:
    """What an upstream says: `TEXT`, or the rest of it after a prefill. The first `broken` answers break after k."""

    def __init__(self, how: str, after: int, broken: int = 1) -> None:
        self.how = how
        self.after = after
        self.left = broken
        self.number = 0

    def __call__(self, request: Request) -> Sequence[Step]:
        self.number += 1
        body = request.json()
        last = body["messages"][-1]
        content = last["content"]
        prefix = (content if isinstance(content, str) else content[-1]["text"]) if last["role"] == "assistant" else ""
        assert prefix == prefix.rstrip()
        assert TEXT.startswith(prefix)
        make = anthropic_frames if request.path.endswith("messages") else openai_frames
        frames = make(TEXT[len(prefix) :], self.number, 10 + len(prefix))
        steps: list[Step] = [Send(HEAD)]
        if self.left <= 0:
            return [*steps, *(Send(chunked(frame)) for frame in frames), Send(chunked(b""))]
        self.left -= 1
        for frame in frames[: self.after]:
            steps += [Send(chunked(frame)), Sleep(0.002)]
        if self.how == "error event":
            return [*steps, Send(chunked(error_of(request.path))), Stall()]
        return [*steps, *BREAKS[self.how]]


MODELS = {"openai": "vendor/upstream", "anthropic": "anthropic/claude-sonnet-4-5"}


@asynccontextmanager
async def served(model: Model, upstream: str, **router: Any) -> AsyncIterator[tuple[RunningGateway, Upstream]]:
    """Two deployments of one group, in this order; both at one scripted upstream."""
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(Upstream())
        up.answer(model)
        base = f"{up.url}/v1" if upstream == "openai" else up.url
        prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
        spec = {"model": MODELS[upstream], "api_base": base, "api_key": "sk-upstream", **prices}
        specs = [
            {"model_name": "fast", "tianji_params": {**spec, "order": order}, "model_info": {"id": f"one-{order}"}}
            for order in (1, 2, 3)
        ]
        plugins: list[type[Provider]] = [Vendor]
        settings = {"cooldown_time": 0.01, **router}
        gw = await stack.enter_async_context(
            gateway({"model_list": specs, "router_settings": settings}, plugins=plugins)
        )
        gw.gateway.sealed.exchange.timeouts.idle = 0.15
        yield gw, up


async def ask(gw: RunningGateway, dialect: str) -> Heard | HeardMessages:
    body: Json = {
        "model": "fast", "messages": [{"role": "user", "content": "Tell me."}], "stream": True, "max_tokens": 500,
    }  # fmt: skip
    if dialect == "openai":
        body["stream_options"] = {"include_usage": True}
        reply = await gw.client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200
        return Heard(reply.content)
    reply = await gw.client.post("/v1/messages", json=body)
    assert reply.status_code == 200
    return HeardMessages(reply.content)


def booked(gw: RunningGateway) -> list[str]:
    """How each attempt ended; every reservation has one answer, and the usage of the last call adds up."""
    ledger = gw.gateway.pipeline.ledger
    entries: list[Any] = list(ledger.entries)  # type: ignore[attr-defined]
    assert ledger.open == 0  # type: ignore[attr-defined]
    reserved = [(one.call_id, one.attempt) for one in entries if one.kind == "reserve"]
    closed = [one for one in entries if one.kind != "reserve"]
    assert sorted((one.call_id, one.attempt) for one in closed) == sorted(reserved)
    assert len(set(reserved)) == len(reserved)
    for one in closed:
        if one.kind == "settle":
            assert one.nano == one.usage.input_tokens * 1000 + one.usage.output_tokens * 2000
    return ["void" if one.kind == "void" else one.status for one in closed]


@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("how", [*BREAKS, "error event"])
@pytest.mark.parametrize("after", [3, 9])
async def test_another_goes_on_in_the_same_stream(dialect: str, upstream: str, how: str, after: int) -> None:
    async with served(Model(how, after), upstream, continue_streams=True) as (gw, up):
        told = await ask(gw, dialect)
        assert told.text == TEXT
        assert told.done == 1
        assert told.error is None
        assert told.finish in ("stop", "end_turn")
        assert booked(gw) == ["partial", "success"]
        closed = [one for one in gw.gateway.pipeline.ledger.entries if one.kind == "settle"]  # type: ignore[attr-defined]
        assert told.usage is not None
        given = told.usage.get("prompt_tokens", told.usage.get("input_tokens"))
        made = told.usage.get("completion_tokens", told.usage.get("output_tokens"))
        assert given == sum(one.usage.input_tokens for one in closed)
        assert made == sum(one.usage.output_tokens for one in closed)
        first, second = (request.json() for request in up.requests)
        assert second["max_tokens"] < first["max_tokens"]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_second_break_is_gone_on_with_too(dialect: str) -> None:
    async with served(Model("reset", 6, broken=2), "openai", continue_streams=True) as (gw, _):
        told = await ask(gw, dialect)
        assert told.text == TEXT
        assert told.done == 1
        assert booked(gw) == ["partial", "partial", "success"]


@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("how", [*BREAKS, "error event"])
async def test_when_nobody_can_the_error_is_the_last_word(dialect: str, upstream: str, how: str) -> None:
    async with served(Model(how, 5, broken=9), upstream, continue_streams=True) as (gw, up):
        told = await ask(gw, dialect)
        assert told.error
        assert not told.done
        assert told.finish is None
        assert TEXT.startswith(told.text)
        assert len(up.requests) == 3
        assert booked(gw) == ["partial"] * 3


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("how", [*BREAKS, "error event"])
async def test_switched_off_a_break_is_final(dialect: str, how: str) -> None:
    async with served(Model(how, 5), "openai") as (gw, up):
        told = await ask(gw, dialect)
        assert told.error
        assert not told.done
        assert len(up.requests) == 1
        assert booked(gw) == ["partial"]


@pytest.mark.parametrize("upstream", ["openai", "anthropic"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("how", [*BREAKS, "error event"])
async def test_within_the_gate_nobody_notices(dialect: str, upstream: str, how: str) -> None:
    async with served(Model(how, 5), upstream, stream_commit_delay=5.0) as (gw, up):
        told = await ask(gw, dialect)
        assert told.text == TEXT
        assert told.done == 1
        assert len(up.requests) == 2
        assert up.requests[0].json()["messages"] == up.requests[1].json()["messages"]
        assert booked(gw) == ["void", "success"]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_an_error_in_the_same_read_as_good_events_is_not_waited_for(dialect: str) -> None:
    model = Model("error event", 5)

    def together(request: Request) -> Sequence[Step]:
        sent = [step.data for step in model(request) if isinstance(step, Send)]
        return [Send(b"".join(sent[:4])), Sleep(0.05), Send(b"".join(sent[4:])), Stall()]

    async with served(model, dialect) as (gw, up):
        up.answer(together)
        gw.gateway.sealed.exchange.timeouts.idle = 30.0
        async with asyncio.timeout(5):
            told = await ask(gw, dialect)
        assert told.error
        assert not told.done
        assert TEXT.startswith(told.text)
        assert told.text
        assert booked(gw) == ["partial"]


@pytest.mark.parametrize("delay", [0.0, 0.05, 5.0])
async def test_the_gate_changes_no_byte(delay: float) -> None:
    frames = openai_frames(TEXT, 1, 10)
    async with served(Model("reset", 0, broken=0), "openai", stream_commit_delay=delay) as (gw, _):
        told = await gw.chat("fast", stream=True, stream_options={"include_usage": True})
        renamed = b"".join(frames).replace(b'"model": "upstream"', b'"model":"fast"')
        assert [json.loads(one[6:]) for one in told.content.split(b"\n\n")[:-2]] == [
            json.loads(one[6:]) for one in renamed.split(b"\n\n")[:-2]
        ]
        assert told.content.endswith(b"data: [DONE]\n\n")
        assert booked(gw) == ["success"]


# -- the official clients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [1, 9])
async def test_the_openai_sdk(broken: int) -> None:
    from openai import APIError, AsyncOpenAI

    async with served(Model("reset", 6, broken), "anthropic", continue_streams=True) as (gw, _):
        client = AsyncOpenAI(base_url=f"{gw.url}/v1", api_key=gw.key, max_retries=0)
        text = ""
        stream = await client.chat.completions.create(
            model="fast", messages=[{"role": "user", "content": "Tell me."}], stream=True
        )

        async def read() -> None:
            nonlocal text
            async for chunk in stream:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""

        if broken == 1:
            await read()
            assert text == TEXT
        else:
            with pytest.raises(APIError):
                await read()
            assert TEXT.startswith(text)
        await client.close()
        booked(gw)


@pytest.mark.parametrize("broken", [1, 9])
async def test_the_anthropic_sdk(broken: int) -> None:
    from anthropic import APIError, AsyncAnthropic

    async with served(Model("reset", 6, broken), "openai", continue_streams=True) as (gw, _):
        client = AsyncAnthropic(base_url=gw.url, api_key=gw.key, max_retries=0)

        async def read() -> Any:
            async with client.messages.stream(
                model="fast", max_tokens=500, messages=[{"role": "user", "content": "Tell me."}]
            ) as stream:
                return await stream.get_final_message()

        if broken == 1:
            message = await read()
            assert [block.text for block in message.content] == [TEXT]
            closed = [one for one in gw.gateway.pipeline.ledger.entries if one.kind == "settle"]  # type: ignore[attr-defined]
            assert message.usage.output_tokens == sum(one.usage.output_tokens for one in closed)
            assert message.stop_reason == "end_turn"
        else:
            with pytest.raises(APIError):
                await read()
        await client.close()
        booked(gw)
