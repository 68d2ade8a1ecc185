"""Streams under faults: clients that leave, upstreams that break, readers that are slow.

The requirements ST-1 to ST-8 of the reliability page, over real sockets.
"""

from __future__ import annotations

import asyncio
import json
import random

import httpx
import pytest
from support import DONE, STREAM, Pair, chunk, deployment, events, served

from tianji.testing.gateway import RunningGateway, gateway
from tianji.testing.upstream import Close, Reset, Send, Sleep, Stall, Upstream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def piece(data: bytes) -> Send:
    return Send(b"%x\r\n%b\r\n" % (len(data), data))


async def leave_after(gw: RunningGateway, chunks: int, path: str = "/v1/chat/completions", **body: object) -> None:
    """Read so many reads of a stream, then drop the connection."""
    url = httpx.URL(gw.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    fields = {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "x"}], **body}
    data = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gw.key}\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        if chunks == 0:
            await asyncio.sleep(0.05)
        for _ in range(chunks):
            await reader.readuntil(b"\n\n")
    finally:
        writer.transport.abort()


def idle(pair: Pair) -> bool:
    stats = pair.gw.gateway.transport.stats().values()
    pipeline = pair.gw.gateway.pipeline
    return not any(one["active"] for one in stats) and pipeline.in_flight == 0 and pipeline.ledger.open == 0


async def settles(pair: Pair, seconds: float = 2.0) -> None:
    """Wait until nothing is held any more."""
    async with asyncio.timeout(seconds):
        while not idle(pair):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/messages", {"max_tokens": 5}),
        ("/v1/completions", {"prompt": "x"}),
    ],
)
async def test_a_client_that_leaves_stops_the_upstream(pair: Pair, path: str, extra: dict[str, object]) -> None:
    endless = [Send(HEAD), *[step for i in range(500) for step in (piece(chunk({"content": f" {i}"})), Sleep(0.02))]]
    pair.up.script(None, endless)
    rng = random.Random(7)
    await asyncio.gather(*(leave_after(pair.gw, rng.randint(1, 8), path, **extra) for _ in range(50)))
    await pair.up.wait_disconnects(50, timeout=2.0)
    await settles(pair)
    entries = [entry for entry in pair.gw.gateway.pipeline.ledger.entries if entry.kind == "settle"]
    assert len(entries) == 50
    assert {entry.status for entry in entries} == {"cancelled"}
    assert all(entry.usage.estimated and entry.usage.output_tokens >= 1 for entry in entries)


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_first_byte_stops_the_upstream_and_starts_nothing(pair: Pair, stream: bool) -> None:
    pair.up.script(None, [Stall()])
    await asyncio.gather(*(leave_after(pair.gw, 0, stream=stream) for _ in range(30)))
    await pair.up.wait_disconnects(30, timeout=2.0)
    await settles(pair)
    assert len(pair.up.requests) == 30
    await asyncio.sleep(0.1)
    assert len(pair.up.requests) == 30


BREAKS = {
    "reset": [Reset()],
    "truncated chunk": [Send(b"ff\r\ndata: {"), Close()],
    "closed without the last chunk": [Close()],
    "end without a finish reason": [Send(b"0\r\n\r\n")],
    "error event": [piece(b'data: {"error":{"message":"overloaded","type":"server_error","code":"503"}}\n\n'), Stall()],
    "broken JSON": [piece(b'data: {"choices":[{"finish_reason":"stop"\n\n'), Stall()],
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_break_in_mid_stream_is_typed_and_final(pair: Pair, name: str) -> None:
    pair.up.script(None, [Send(HEAD), *map(piece, STREAM[:3]), Sleep(0.02), *BREAKS[name]])
    async with asyncio.timeout(5):
        if name == "error event":
            # What follows an error is of no interest: the answer is over at once.
            steps = [Send(HEAD), *map(piece, STREAM[:3]), Sleep(0.02), BREAKS[name][0], Sleep(0.05), Send(b"0\r\n\r\n")]
            pair.up.script(None, steps)
        reply = await pair.gw.chat("fast", stream=True)
    assert reply.status_code == 200
    assert "[DONE]" not in reply.text
    got = events(reply.text)
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in got[:-1]) == "One two"
    error = got[-1]["error"]
    assert error["message"]
    assert error["type"] == "internal_server_error"
    await settles(pair)
    assert pair.gw.gateway.pipeline.ledger.entries[-1].status == "partial"


async def test_the_official_sdk_raises_on_a_break(pair: Pair) -> None:
    from openai import APIError, AsyncOpenAI

    pair.up.script(None, [Send(HEAD), *map(piece, STREAM[:3]), Sleep(0.02), Reset()])
    async with AsyncOpenAI(base_url=f"{pair.gw.url}/v1", api_key=pair.gw.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="fast", messages=[{"role": "user", "content": "x"}], stream=True
        )
        with pytest.raises(APIError):
            async for _ in stream:
                pass


@pytest.mark.parametrize(
    "first",
    [
        [Reset()],
        [Send(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")],
        [Send(HEAD), piece(b'data: {"error":{"message":"no","code":"500"}}\n\n'), Send(b"0\r\n\r\n")],
        [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 34\r\n\r\n"), Send(b'{"error":{"message":"x","code":5}}\n')],
        [Send(HEAD), Close()],
    ],
)  # fmt: skip
async def test_before_the_first_event_another_deployment_answers(first: list[object]) -> None:
    async with Upstream() as bad, Upstream() as good:
        bad.script(None, first)
        good.stream(STREAM)
        async with gateway(
            {
                "model_list": [deployment(bad, order=1), deployment(good, order=2)],
                "router_settings": {"disable_cooldowns": True, "num_retries": 1},
            }
        ) as gw:
            for _ in range(10):
                reply = await gw.chat("fast", stream=True)
                assert reply.text.endswith("data: [DONE]\n\n"), reply.text
                assert reply.text.count("One") == 1
                assert reply.headers["x-tianji-attempted-retries"] == "1"


async def test_after_the_first_event_no_other_deployment_is_asked() -> None:
    async with Upstream() as bad, Upstream() as good:
        bad.script(None, [Send(HEAD), piece(STREAM[0]), piece(STREAM[1]), Sleep(0.01), Reset()])
        good.stream(STREAM)
        async with gateway({"model_list": [deployment(bad, order=1), deployment(good, order=2)]}) as gw:
            reply = await gw.chat("fast", stream=True)
            assert "error" in events(reply.text)[-1]
            assert reply.text.count("One") == 1
            assert not good.requests


async def test_the_clocks_of_an_attempt() -> None:
    async with Upstream() as up:
        async with served(up, router_settings={"timeout": 0.3, "stream_timeout": 0.3, "num_retries": 0}) as gw:
            for script in ([Stall()], [Send(HEAD), Stall()], [Send(HEAD), piece(b": ping\n\n"), Stall()]):
                up.script(None, script)
                reply = await gw.chat("fast", stream=True)
                assert (reply.status_code, reply.json()["error"]["code"][-7:]) == (408, "timeout"), script
            up.script(None, [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"), Stall()])
            reply = await gw.chat("fast")
            assert reply.status_code == 408


async def test_the_callers_deadline_bounds_everything(pair: Pair) -> None:
    pair.up.script(None, [Stall()])
    async with asyncio.timeout(2):
        reply = await pair.gw.chat("fast", timeout=0.2)
    assert reply.status_code == 408
    assert len(pair.up.requests) <= 2


async def test_a_slow_reader_slows_the_upstream_down(pair: Pair) -> None:
    """Back-pressure: of 64 MB only what the buffers hold is taken from the provider while nobody reads."""
    block = chunk({"content": "x" * 65_000})
    pair.up.script(None, [Send(HEAD), *[piece(block) for _ in range(1000)]])
    url = httpx.URL(pair.gw.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
    data = json.dumps({"model": "fast", "stream": True, "messages": []}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pair.gw.key}\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    await reader.readexactly(500)
    taken = -1
    while taken != pair.up.sent:
        taken = pair.up.sent
        await asyncio.sleep(0.2)
    assert taken < 24 * 1024 * 1024
    writer.transport.abort()
    await settles(pair)


async def test_a_reader_that_takes_nothing_is_cut_off(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from tianji.server import protocol

    monkeypatch.setattr(protocol, "STALL_TIME", 0.2)
    block = chunk({"content": "x" * 65_000})
    pair.up.script(None, [Send(HEAD), *[piece(block) for _ in range(1000)]])
    url = httpx.URL(pair.gw.url)
    _, writer = await asyncio.open_connection(url.host, url.port, limit=1024)
    data = json.dumps({"model": "fast", "stream": True, "messages": []}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {pair.gw.key}\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    writer.transport.pause_reading()
    await pair.up.wait_disconnects(1, timeout=10.0)
    await settles(pair)
    writer.transport.abort()


async def test_two_hundred_streams_at_once_are_all_whole(pair: Pair) -> None:
    pair.up.stream(STREAM, delay=0.001)
    replies = await asyncio.gather(*(pair.gw.chat("fast", stream=True) for _ in range(200)))
    assert {reply.text for reply in replies} == {replies[0].text}
    assert replies[0].text.endswith(DONE.decode())
    await settles(pair)


async def test_a_silent_stream_sends_heartbeats_that_are_no_events(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from openai import AsyncOpenAI

    from tianji.server import link

    monkeypatch.setattr(link, "HEARTBEAT", 0.1)
    pair.up.script(
        None, [Send(HEAD), piece(STREAM[0]), piece(STREAM[1]), Sleep(1.3), *map(piece, STREAM[2:]), Send(b"0\r\n\r\n")]
    )
    reply = await pair.gw.chat("fast", stream=True)
    assert ": ping\n\n" in reply.text
    async with AsyncOpenAI(base_url=f"{pair.gw.url}/v1", api_key=pair.gw.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="fast", messages=[{"role": "user", "content": "x"}], stream=True
        )
        texts = [one.choices[0].delta.content or "" async for one in stream]
    assert "".join(texts) == "One two three"
    assert len(texts) == 5
