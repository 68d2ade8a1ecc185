"""The clocks: each fires in its own phase, with its own code, and frees its connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tianji.errors import Overloaded, Timeout
from tianji.model import Wire
from tianji.testing.upstream import Send, Sleep, Stall, Upstream, chunked, message
from tianji.transport import Clocks, Response, Transport

Run = Callable[[Coroutine[Any, Any, Any]], Any]
HEAD = message(200, {"transfer-encoding": "chunked"}, None)
SHORT = 0.2


def times_out(run: Run, code: str, clocks: Clocks, steps: list[Any], *, idle: float = 30.0) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.script(None, steps)
            with pytest.raises(Timeout) as caught:
                async with await transport.send(Wire(url=f"{up.url}/?secret"), clocks=clocks) as response:
                    await response.read(timeout=idle)
            assert caught.value.code == code
            assert f"127.0.0.1:{up.port}" in caught.value.message
            assert "secret" not in caught.value.message
            await up.wait_disconnects(1, timeout=0.5)
            assert transport.stats()[up.url] == {"active": 0, "idle": 0, "pending": 0}
            await transport.aclose()

    run(main())


@pytest.mark.parametrize(
    "steps",
    [
        [Stall()],
        [Send(b"HTTP/1.1 200 OK\r\na"), Stall()],
        [Send(b"HTTP/1.1 100 Continue\r\n\r\n"), Stall()],
        [Send(b"HTTP/1.1 200 OK\r\n"), *[Sleep(0.03), Send(b"a: b\r\n")] * 100],
    ],
    ids=["nothing", "half-a-head", "interim", "drip"],
)
def test_headers(run: Run, steps: list[Any]) -> None:
    times_out(run, "headers_timeout", Clocks(headers=SHORT), steps)


@pytest.mark.parametrize("sent", [HEAD, HEAD + chunked(b"abc"), message(200, {"content-length": "9"}, b"abc")])
def test_idle(run: Run, sent: bytes) -> None:
    times_out(run, "idle_timeout", Clocks(), [Send(sent), Stall()], idle=SHORT)


def test_total_in_a_body_that_drips(run: Run) -> None:
    steps = [Send(HEAD), *[Sleep(0.03), Send(chunked(b"x"))] * 100]
    times_out(run, "total_timeout", Clocks(total=SHORT), steps, idle=0.15)


def test_total_before_the_headers(run: Run) -> None:
    times_out(run, "total_timeout", Clocks(headers=30.0, total=SHORT), [Stall()])


async def test_total_while_nobody_reads(up: Upstream, transport: Transport) -> None:
    """A response that was forgotten costs its connection until the total clock, and what had arrived stays readable."""
    up.script(None, [Send(HEAD + chunked(b"abc")), Stall()])
    response = await transport.send(Wire(url=up.url), clocks=Clocks(total=SHORT))
    await up.wait_disconnects(1)
    assert transport.stats()[up.url]["active"] == 0
    assert await response.chunk(1) == b"abc"
    with pytest.raises(Timeout) as caught:
        await response.chunk(1)
    assert caught.value.code == "total_timeout"


async def test_the_idle_clock_does_not_run_while_the_reader_is_busy(up: Upstream, transport: Transport) -> None:
    up.script(None, [Send(HEAD + chunked(b"abc")), Sleep(0.25), Send(chunked(b"d") + chunked(b""))])
    async with await transport.send(Wire(url=up.url), clocks=Clocks()) as response:
        assert await response.chunk(0.05) == b"abc"
        await asyncio.sleep(0.2)
        assert await response.chunk(0.3) == b"d"
        assert await response.chunk(0.3) == b""


def test_connect(run: Run) -> None:
    """A listener whose queue is full accepts nobody, as a black hole would."""

    async def main() -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(0)
            port = server.getsockname()[1]
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            transport = Transport()
            with pytest.raises(Timeout) as caught:
                await transport.send(Wire(url=f"http://127.0.0.1:{port}"), clocks=Clocks(connect=SHORT))
            assert caught.value.code == "connect_timeout"
            assert transport.stats()[f"http://127.0.0.1:{port}"]["active"] == 0
            await transport.aclose()
            for filler in fillers:
                filler.close()

    run(main())


async def test_connect_covers_the_name(transport: Transport) -> None:
    async def resolve(host: str, port: int) -> list[Any]:
        await asyncio.sleep(30)
        return []

    slow = Transport(resolve=resolve)
    with pytest.raises(Timeout) as caught:
        await slow.send(Wire(url="http://slow.test/"), clocks=Clocks(connect=0.05))
    assert caught.value.code == "connect_timeout"
    await slow.aclose()


def test_connect_covers_the_tls_handshake(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:  # takes the connection and says nothing
            transport = Transport()
            with pytest.raises(Timeout) as caught:
                await transport.send(Wire(url=up.url.replace("http", "https")), clocks=Clocks(connect=SHORT))
            assert caught.value.code == "connect_timeout"
            await up.wait_disconnects(1, timeout=0.5)
            await transport.aclose()

    run(main())


async def test_waiting_for_a_connection_has_the_connect_clock_too(up: Upstream) -> None:
    up.script(None, [Stall()])
    transport = Transport(max_connections=1)
    holder = asyncio.create_task(transport.send(Wire(url=up.url), clocks=Clocks()))
    await up.wait_requests(1)
    with pytest.raises(Overloaded, match="none of 1 connections came free"):
        await transport.send(Wire(url=up.url), clocks=Clocks(connect=SHORT))
    with pytest.raises(Timeout) as caught:
        await transport.send(Wire(url=up.url), clocks=Clocks(total=SHORT))
    assert caught.value.code == "total_timeout"
    assert transport.stats()[up.url] == {"active": 1, "idle": 0, "pending": 0}
    holder.cancel()
    await asyncio.wait([holder])
    await transport.aclose()


async def test_many_requests_share_one_timer(up: Upstream) -> None:
    """Requests add no timer of their own: the loop schedules the tick and what the upstream asked for."""
    transport = Transport()
    up.script(None, [Stall()])
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(transport.send(Wire(url=up.url), clocks=Clocks())) for _ in range(20)]
    await up.wait_requests(20)
    mine = [handle for handle in loop._scheduled if "Ticker" in repr(handle) and not handle.cancelled()]  # type: ignore[attr-defined]
    assert len(mine) == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await transport.aclose()


async def test_infinite_clocks(up: Upstream, transport: Transport) -> None:
    up.reply(body=b"x")
    forever = float("inf")
    response: Response = await transport.send(Wire(url=up.url), clocks=Clocks(forever, forever, forever))
    assert await response.read(timeout=forever) == b"x"
