"""The edges of the wire: odd failures, pipelining, HEAD, heartbeats, and the limits of what a client may ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support import ANSWER, STREAM, Pair, chunk, deployment, served

import tianji.server.link as link_module
from tianji import dialects
from tianji.errors import Blocked, Failure, RateLimited, Unavailable
from tianji.hookspecs import hookimpl
from tianji.model import Call, Chunk, Reply
from tianji.plugin import Extension, Guardrail, PluginSettings, Verdict
from tianji.server.egress import refuse
from tianji.server.ingress import MAX_DEPTH, decode_body
from tianji.server.link import ASGILink
from tianji.testing.gateway import RunningGateway, gateway
from tianji.testing.upstream import Send, Sleep, Stall, Upstream

CHAT = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def piece(data: bytes) -> Send:
    return Send(b"%x\r\n%b\r\n" % (len(data), data))


async def connect(gw: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = httpx.URL(gw.url)
    return await asyncio.open_connection(url.host, url.port)


def request(gw: RunningGateway, **more: Any) -> bytes:
    data = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "x"}], **more}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gw.key}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def refused(failure: Failure, dialect: str = "openai-chat") -> tuple[int, dict[str, str], dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await refuse(ASGILink(send), failure, dialects.get(dialect))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(sent[1]["body"])


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(float("inf"), None), (float("nan"), None), (-5.0, "0"), (1.2, "2"), (1e30, "86400")],
)
async def test_retry_after_is_finite_and_at_most_a_day(seconds: float, header: str | None) -> None:
    status, headers, _ = await refused(RateLimited("slow", retry_after=seconds))
    assert status == 429
    assert headers.get("retry-after") == header
    assert ("retry-after-ms" in headers) is (header is not None)


@pytest.mark.parametrize("status", [600, 999, 302, 0])
async def test_a_status_that_is_no_failure_becomes_502(status: int) -> None:
    assert (await refused(Unavailable("odd", status=status)))[0] == 502


@pytest.mark.parametrize("status", [600, 999])
async def test_an_upstream_status_outside_http(pair: Pair, status: int) -> None:
    pair.up.reply(status=status, json={"error": {"message": "odd"}})
    reply = await pair.gw.chat("fast", num_retries=0)
    assert reply.status_code == 502
    assert reply.json()["error"]["message"]


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages"])
async def test_what_json_cannot_say_does_not_break_the_answer(dialect: str) -> None:
    loop: list[Any] = []
    loop.append(loop)
    failure = Blocked(
        "bad \ud800", extra={"match": object(), "text": "\udfff", "at": [1, {2}], "loop": loop, "big": 10**5000}
    )
    status, _, body = await refused(failure, dialect)
    assert status == 400
    assert body["error"]["message"] == "bad ?"
    if dialect == "openai-chat":
        assert body["error"]["match"] == "object"
        assert body["error"]["text"] == "?"
        assert body["error"]["at"] == [1, "set"]
        assert body["error"]["big"] == "int"


class Odd(Guardrail):
    name = "odd"

    class Settings(PluginSettings, frozen=True):
        pass

    async def check(self, content: Any, call: Call) -> Verdict:
        return Verdict.block("no \ud800", match=object())


class Fine(Guardrail):
    name = "fine"

    class Settings(PluginSettings, frozen=True):
        pass

    async def check(self, content: Any, call: Call) -> Verdict:
        return Verdict.allow()


def guarded(up: Upstream, name: str, mode: str) -> dict[str, Any]:
    params = {"guardrail": name, "mode": mode, "default_on": True}
    return {"model_list": [deployment(up)], "guardrails": [{"guardrail_name": name, "tianji_params": params}]}


async def test_a_guardrail_with_odd_findings_still_blocks() -> None:
    async with Upstream() as up, gateway(guarded(up, "odd", "pre_call"), plugins=[Odd]) as gw:
        reply = await gw.chat("fast")
        assert reply.status_code == 400
        assert reply.headers["content-type"] == "application/json"
        assert reply.json()["error"]["code"] == "guardrail_blocked"
        assert not up.requests


async def test_a_pipelining_client_that_leaves_stops_the_running_request_and_starts_no_other(pair: Pair) -> None:
    pair.up.script(None, [Send(HEAD), piece(STREAM[1]), Stall()])
    reader, writer = await connect(pair.gw)
    writer.write(request(pair.gw, stream=True) * 3)
    await reader.readuntil(b"\n\n")
    writer.transport.abort()
    await pair.up.wait_disconnects(1, timeout=2.0)
    async with asyncio.timeout(2.0):
        while pair.gw.gateway.pipeline.in_flight:
            await asyncio.sleep(0.01)
    assert len(pair.up.requests) == 1


async def test_pipelined_requests_are_answered_in_order(pair: Pair) -> None:
    reader, writer = await connect(pair.gw)
    writer.write(request(pair.gw) + request(pair.gw, model="nope") + request(pair.gw))
    statuses = []
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        statuses.append(int(head.split()[1]))
        lines = head.lower().split(b"\r\n")
        await reader.readexactly(next(int(one[15:]) for one in lines if one.startswith(b"content-length:")))
    assert statuses == [200, 404, 200]
    writer.close()


async def test_head_has_no_body_and_the_connection_stays_in_step(pair: Pair) -> None:
    reader, writer = await connect(pair.gw)
    head = f"HEAD {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pair.gw.key}\r\n\r\n"
    writer.write(head.encode() + b"GET /health/liveness HTTP/1.1\r\nHost: x\r\n\r\n")
    first = await reader.readuntil(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 405 ")
    assert b"content-length: 0" not in first
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()


class Wrapping(Extension):
    name = "wrapping"

    class Settings(PluginSettings, frozen=True):
        pass

    @hookimpl
    async def post_call(self, call: Call, reply: Reply) -> Reply | None:
        inner = reply.stream
        if inner is None:
            return None
        log: list[str] = CLOSED

        async def wrapper() -> AsyncIterator[Chunk]:
            try:
                async for one in inner:
                    yield one
            finally:
                await asyncio.sleep(0)
                log.append("closed")

        reply.stream = wrapper()
        return reply


CLOSED: list[str] = []


async def test_a_wrapped_stream_is_closed_when_the_client_leaves_a_blocked_writer() -> None:
    CLOSED.clear()
    async with Upstream() as up, served(up, plugins_under_test=[Wrapping]) as gw:
        big = piece(chunk({"content": "x" * 60_000}))
        up.script(None, [Send(HEAD), *[big] * 300, Stall()])
        reader, writer = await connect(gw)
        writer.write(request(gw, stream=True))
        await reader.readuntil(b"\n\n")
        await asyncio.sleep(0.2)  # until the buffers are full
        writer.transport.abort()
        async with asyncio.timeout(2.0):
            while gw.gateway.pipeline.in_flight:
                await asyncio.sleep(0.01)
        assert CLOSED == ["closed"]


async def test_a_stream_that_is_held_back_gets_its_head_and_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "HEARTBEAT", 0.1)
    async with Upstream() as up, gateway(guarded(up, "fine", "post_call"), plugins=[Fine]) as gw:
        up.script(None, [Send(HEAD), piece(STREAM[1]), Sleep(2.5), *map(piece, STREAM[4:]), Send(b"0\r\n\r\n")])
        reader, writer = await connect(gw)
        writer.write(request(gw, stream=True))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(13) == b"8\r\n: ping\n\n\r\n"
        rest = await reader.readuntil(b"0\r\n\r\n")
        assert b"HTTP/1.1" not in rest
        assert b"One" in rest
        assert b"data: [DONE]" in rest
        writer.close()


@pytest.mark.parametrize("path", [CHAT, "/engines/{}/chat/completions"])
async def test_a_model_name_is_at_most_512_characters(pair: Pair, path: str) -> None:
    for length, status in ((512, 404), (513, 400)):
        body = {"messages": [{"role": "user", "content": "x"}]}
        name = "m" * length
        if "{}" not in path:
            body["model"] = name  # type: ignore[assignment]
        reply = await pair.gw.client.post(path.format(name), json=body)
        assert reply.status_code == status
    assert reply.json()["error"]["param"] == "model"


async def test_fallbacks_in_litellms_shape() -> None:
    async with Upstream() as up, served(up, deployment(up, "b", prefix="/b")) as gw:
        up.reply(status=500, json={"error": {"message": "down"}})
        up.reply(json=ANSWER, path="/b/v1/chat/completions")
        reply = await gw.chat("fast", num_retries=0, fallbacks=[{"model": "b"}])
        assert reply.status_code == 200
        assert reply.headers["x-tianji-model-group"] == "b"


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"fallbacks": ["fast", {"b": ["c"]}]}, "fallbacks[1]"),
        ({"fallbacks": [{"model": "b", "messages": []}]}, "fallbacks[0]"),
        ({"fallbacks": [{"model": 5}]}, "fallbacks[0]"),
        ({"fallbacks": [None]}, "fallbacks[0]"),
        ({"fallbacks": [""]}, "fallbacks[0]"),
        ({"fallbacks": ["m" * 513]}, "fallbacks[0]"),
        ({"fallbacks": ["fast"] * 21}, "fallbacks"),
        ({"num_retries": -1}, "num_retries"),
    ],
)
async def test_options_out_of_bounds(pair: Pair, extra: dict[str, Any], param: str) -> None:
    reply = await pair.gw.chat("fast", **extra)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert not pair.up.requests


@pytest.mark.parametrize("how", ["body", "header"])
async def test_retries_are_capped(pair: Pair, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    pipeline = pair.gw.gateway.pipeline
    run = type(pipeline).run

    async def spy(self: Any, call: Call, egress: Any) -> None:
        seen.append(call.options["num_retries"])
        await run(self, call, egress)

    monkeypatch.setattr(type(pipeline), "run", spy)
    body: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "x"}]}
    headers = {"x-tianji-num-retries": "1000"} if how == "header" else {}
    if how == "body":
        body["num_retries"] = 10**30
    reply = await pair.gw.client.post(CHAT, json=body, headers=headers)
    assert reply.status_code == 200
    assert seen == [10]


@pytest.mark.parametrize("levels", [MAX_DEPTH, 330, 500, *range(950, 1000, 5), 5000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
async def test_deep_json_is_refused(pair: Pair, levels: int, opening: bytes, closing: bytes) -> None:
    deep = opening * levels + b"1" + closing * levels
    reply = await pair.gw.client.post(CHAT, content=b'{"model":"fast","messages":[],"x":%b}' % deep)
    assert reply.status_code == 400
    assert "nested too deeply" in reply.json()["error"]["message"]


async def test_json_at_the_limit_of_depth_and_wide_json_pass(pair: Pair) -> None:
    levels = MAX_DEPTH - 1
    raw = b'{"model":"fast","messages":[],"x":%b}' % (b"[" * levels + b"]" * levels)
    assert (await pair.gw.client.post(CHAT, content=raw)).status_code == 200
    assert len(decode_body(b'{"x":[%b]}' % b",".join([b"[{}]"] * 5000))["x"]) == 5000


async def test_readiness_does_not_tell_the_version(pair: Pair) -> None:
    reply = await pair.gw.client.get("/health/readiness")
    assert reply.json() == {"status": "healthy"}
