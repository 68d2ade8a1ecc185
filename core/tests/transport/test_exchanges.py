"""Whole exchanges: what comes back for what was sent, on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tianji.errors import ProtocolError
from tianji.model import Wire
from tianji.testing.upstream import Close, HalfClose, Send, Sleep, Upstream, chunked, message
from tianji.transport import Clocks, Transport

CLOCKS = Clocks()
Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def fetch(transport: Transport, url: str, method: str = "GET", **wire: Any) -> tuple[int, bytes]:
    async with await transport.send(Wire(url=url, method=method, **wire), clocks=CLOCKS) as response:
        return response.status, await response.read()


async def test_request_and_answer_arrive_as_sent(up: Upstream, transport: Transport) -> None:
    up.reply(status=201, json={"ok": True}, headers={"X-Thing": "a "})
    wire = Wire(url=f"{up.url}/v1/x?y=1", headers={"X-Key": "k"}, body={"model": "m"})
    response = await transport.send(wire, clocks=CLOCKS)
    assert response.complete
    assert (response.status, response.http_version) == (201, "1.1")
    assert response.headers == {"content-type": "application/json", "content-length": "12", "x-thing": "a"}
    assert await response.read() == b'{"ok": true}'
    assert await response.read() == b""
    assert await response.chunk(1) == b""
    request = up.requests[0]
    assert (request.method, request.path, request.query, request.json()) == ("POST", "/v1/x", "y=1", {"model": "m"})
    assert request.headers["host"] == f"127.0.0.1:{up.port}"
    assert request.headers["x-key"] == "k"


async def test_a_small_answer_is_complete_when_send_returns_and_is_read_without_waiting(
    up: Upstream, transport: Transport
) -> None:
    up.reply(body=b"x" * 1000)
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    reading = response.read()
    with pytest.raises(StopIteration) as done:
        reading.send(None)
    assert done.value.value == b"x" * 1000


async def test_repeated_headers_are_joined(up: Upstream, transport: Transport) -> None:
    up.script(None, [Send(b"HTTP/1.1 200 OK\r\nVia: a\r\nvia: b\r\nContent-Length: 0\r\n\r\n")])
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    assert response.headers["via"] == "a, b"


@pytest.mark.parametrize("each", [1, 2, 7, 100])
def test_every_split_of_the_bytes_reads_the_same(run: Run, each: int) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            bodies = [b"first", b"second " * 20, b"x"]
            raw = message(200, {"transfer-encoding": "chunked", "a": "b"}, None)
            raw += b"".join(map(chunked, bodies)) + b"0\r\nx-trailer: t\r\n\r\n"
            interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
            up.script("/chunked", [Send(interim + raw, each=each)])
            up.script("/length", [Send(message(200, {"a": "b"}, b"0123456789"), each=each)])
            for _ in range(2):
                response = await transport.send(Wire(url=f"{up.url}/chunked"), clocks=CLOCKS)
                assert response.headers == {"transfer-encoding": "chunked", "a": "b"}
                assert await response.read() == b"".join(bodies)
                assert (await fetch(transport, f"{up.url}/length")) == (200, b"0123456789")
            assert up.connections == 1
            await transport.aclose()

    run(main())


@pytest.mark.parametrize(("method", "status"), [("GET", 204), ("GET", 304), ("HEAD", 200)], ids=["204", "304", "head"])
def test_answers_without_a_body_end_at_their_head(run: Run, method: str, status: int) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.script(None, [Send(message(status, {"content-length": "7", "content-encoding": "gzip"}, None))])
            for _ in range(3):
                assert await fetch(transport, up.url, method) == (status, b"")
            assert up.connections == 1
            await transport.aclose()

    run(main())


async def test_a_body_behind_the_answer_to_head_spoils_the_connection(up: Upstream, transport: Transport) -> None:
    up.script(None, [Send(message(200, {}, b"unasked"))])
    for _ in range(2):
        assert await fetch(transport, up.url, "HEAD") == (200, b"")
    assert up.connections == 2


def test_a_body_without_length_ends_with_the_connection(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.script(
                "/1.1", [Send(message(200, {"connection": "close"}, None) + b"abc"), Sleep(0.02), Send(b"d"), Close()]
            )
            up.script("/1.0", [Send(b"HTTP/1.0 200 OK\r\n\r\nabcd"), HalfClose()])
            up.script("/empty", [Send(b"HTTP/1.1 200 OK\r\n\r\n"), Close()])
            assert await fetch(transport, f"{up.url}/1.1") == (200, b"abcd")
            response = await transport.send(Wire(url=f"{up.url}/1.0"), clocks=CLOCKS)
            assert (response.http_version, await response.read()) == ("1.0", b"abcd")
            assert await fetch(transport, f"{up.url}/empty") == (200, b"")
            assert transport.stats()[up.url] == {"active": 0, "idle": 0, "pending": 0}
            await transport.aclose()

    run(main())


async def test_connection_close_is_respected(up: Upstream, transport: Transport) -> None:
    up.reply(body=b"x", headers={"Connection": "close"})
    for _ in range(3):
        assert await fetch(transport, up.url) == (200, b"x")
    assert up.connections == 3


async def test_http_1_0_with_keep_alive_is_reused(up: Upstream, transport: Transport) -> None:
    up.script(None, [Send(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx")])
    for _ in range(3):
        assert await fetch(transport, up.url) == (200, b"x")
    assert up.connections == 1


async def test_switching_protocols_is_refused(up: Upstream, transport: Transport) -> None:
    up.script(None, [Send(b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nbinary")])
    with pytest.raises(ProtocolError, match="switched protocols"):
        await fetch(transport, up.url)


def test_an_answer_before_the_request_was_read(run: Run) -> None:
    """A 413 comes while megabytes are still unsent. It is the answer, and the connection is not used again."""

    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.script("/big", [Send(message(413, {}, b"too large"))], early=True)
            up.reply(path="/ok", body=b"fine")
            assert await fetch(transport, f"{up.url}/big", "POST", body=b"x" * 20_000_000) == (413, b"too large")
            assert await fetch(transport, f"{up.url}/ok") == (200, b"fine")
            assert up.connections == 2
            assert transport.stats()[up.url] == {"active": 0, "idle": 1, "pending": 0}
            await transport.aclose()

    run(main())


def test_a_large_body_goes_out_whole(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.reply(body=b"y" * 3_000_000)
            body = bytes(range(256)) * 20_000
            assert await fetch(transport, up.url, "POST", body=body) == (200, b"y" * 3_000_000)
            assert up.requests[0].body == body
            await transport.aclose()

    run(main())


def test_chunks_come_as_they_arrive(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            frames = [f"data: {number}\n\n".encode() for number in range(5)]
            up.stream(frames, delay=0.02)
            async with await transport.send(Wire(url=up.url), clocks=CLOCKS) as response:
                assert "content-length" not in response.headers
                assert response.headers["content-type"] == "text/event-stream"
                seen = []
                while data := await response.chunk(1):
                    seen.append(data)
            assert seen == frames
            assert response.complete
            assert up.connections == 1
            await transport.aclose()

    run(main())


async def test_leaving_in_the_middle_closes_the_upstream_at_once(up: Upstream, transport: Transport) -> None:
    up.stream([b"x"] * 1000, delay=0.05)
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    assert await response.chunk(1) == b"x"
    response.close()
    response.close()
    assert transport.stats()[up.url]["active"] == 0
    await up.wait_disconnects(1, timeout=0.5)
    with pytest.raises(Exception, match="was closed"):
        await response.chunk(1)


def test_a_reader_that_is_cancelled_closes_the_upstream(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.stream([b"x", b"y"], delay=30)
            response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
            await response.chunk(1)
            reader = asyncio.create_task(response.chunk(5))
            await asyncio.sleep(0.01)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await up.wait_disconnects(1, timeout=0.5)
            assert transport.stats()[up.url] == {"active": 0, "idle": 0, "pending": 0}
            await transport.aclose()

    run(main())


async def test_a_response_has_one_reader(up: Upstream, transport: Transport) -> None:
    up.stream([b"x", b"y"], delay=30)
    async with await transport.send(Wire(url=up.url), clocks=CLOCKS) as response:
        await response.chunk(1)
        first = asyncio.create_task(response.chunk(5))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one reader"):
            await response.chunk(5)
        first.cancel()
        await asyncio.wait([first])


async def test_after_aclose_requests_fail(up: Upstream) -> None:
    transport = Transport()
    up.stream([b"x", b"y"], delay=30)
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    await response.chunk(1)
    await transport.aclose()
    with pytest.raises(Exception, match="transport is closed"):
        await response.chunk(1)
    with pytest.raises(Exception, match="transport is closed"):
        await transport.send(Wire(url=up.url), clocks=CLOCKS)
    await up.wait_disconnects(1, timeout=0.5)
