"""Connections: reused, bounded, handed on in order, and never lost, whatever is cancelled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import pytest

from tianji.errors import Overloaded, TianjiError, Unavailable
from tianji.model import Wire
from tianji.testing.upstream import Request, Send, Sleep, Stall, Step, Upstream, message
from tianji.transport import Clocks, Transport

CLOCKS = Clocks()
Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def fetch(transport: Transport, url: str, clocks: Clocks = CLOCKS) -> bytes:
    async with await transport.send(Wire(url=url, body={"a": 1}), clocks=clocks) as response:
        return await response.read()


def test_a_hundred_requests_use_one_connection(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.reply(body=b"x")
            for _ in range(100):
                assert await fetch(transport, up.url) == b"x"
            assert up.connections == 1
            assert len(up.requests) == 100
            assert transport.stats() == {up.url: {"active": 0, "idle": 1, "pending": 0}}
            transport.close_idle()
            assert transport.stats() == {up.url: {"active": 0, "idle": 0, "pending": 0}}
            await up.wait_disconnects(1)
            await transport.aclose()

    run(main())


async def test_origins_do_not_share_connections(up: Upstream, transport: Transport) -> None:
    async with Upstream() as other:
        up.reply(body=b"a")
        other.reply(body=b"b")
        assert [await fetch(transport, up.url), await fetch(transport, other.url)] == [b"a", b"b"]
        assert (up.connections, other.connections) == (1, 1)
        assert set(transport.stats()) == {up.url, other.url}
        transport.close_idle()


@pytest.mark.parametrize("wait", [0.0, 0.05])
def test_a_connection_that_the_peer_closed_is_not_used(run: Run, wait: float) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.reply(body=b"x")
            for number in range(5):
                await asyncio.gather(*[fetch(transport, up.url) for _ in range(3)])
                up.drop_all()
                await asyncio.sleep(wait or 0.01)
                assert transport.stats()[up.url]["idle"] == 0
                assert len(up.requests) == 3 * (number + 1)
            await transport.aclose()

    run(main())


async def test_a_hang_up_that_the_loop_has_not_seen_yet_is_found_by_asking(up: Upstream, transport: Transport) -> None:
    """The FIN is in the kernel while the loop was busy elsewhere; a connection at rest for a second is probed."""
    up.reply(body=b"x")
    await fetch(transport, up.url)
    pool = transport._pools[up.url]
    conn = pool.idle[0]
    assert not conn.stale()
    conn.idle_since -= 10
    assert not conn.stale()
    for peer in list(up._peers):
        peer.transport.get_extra_info("socket")._sock.shutdown(2)
    assert pool.take() is None
    assert pool.stats() == {"active": 0, "idle": 0, "pending": 0}
    assert await fetch(transport, up.url) == b"x"
    assert up.connections == 2


async def test_a_request_that_was_sent_is_never_sent_again(up: Upstream, transport: Transport) -> None:
    up.reply(body=b"x", times=1)
    up.script(None, [Sleep(0)], times=1)
    await fetch(transport, up.url)
    failing = asyncio.create_task(fetch(transport, up.url))
    await up.wait_requests(2)
    up.drop_all()
    with pytest.raises(Unavailable):
        await failing
    assert len(up.requests) == 2


async def test_idle_connections_are_retired(up: Upstream) -> None:
    transport = Transport(keepalive=0.05)
    up.reply(body=b"x")
    await fetch(transport, up.url)
    assert transport.stats()[up.url]["idle"] == 1
    ticker = transport._ticker
    assert ticker is not None
    ticker._sweep(monotonic())
    assert transport.stats()[up.url]["idle"] == 1
    ticker._sweep(monotonic() + 0.06)
    await up.wait_disconnects(1)
    ticker._sweep(monotonic() + 1.0)
    assert transport.stats() == {}, "an origin without connections is forgotten"
    assert await fetch(transport, up.url) == b"x"
    await transport.aclose()


def test_connections_are_bounded_and_the_queue_is_in_order(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport(max_connections=2, max_pending=6)
            up.script(None, [Sleep(0.02), Send(message(200, {}, b"x"))])
            order: list[int] = []

            async def one(number: int) -> None:
                await fetch(transport, f"{up.url}/{number}")
                order.append(number)

            tasks = [asyncio.create_task(one(number)) for number in range(8)]
            await asyncio.sleep(0)
            assert transport.stats()[up.url] == {"active": 2, "idle": 0, "pending": 6}
            with pytest.raises(Overloaded, match="are full"):
                await fetch(transport, up.url)
            await asyncio.gather(*tasks)
            assert [int(request.path[1:]) // 2 for request in up.requests] == [0, 0, 1, 1, 2, 2, 3, 3]
            assert [number // 2 for number in order] == [0, 0, 1, 1, 2, 2, 3, 3]
            assert up.connections == 2
            assert transport.stats()[up.url] == {"active": 0, "idle": 2, "pending": 0}
            await transport.aclose()

    run(main())


async def test_the_queue_moves_when_connections_break(up: Upstream) -> None:
    """Every slot of a connection that failed goes to the next in the queue, which opens its own."""
    transport = Transport(max_connections=1)
    up.reply(headers={"connection": "close"})
    up.script("/broken", [Send(b"nonsense")])
    urls = [f"{up.url}/broken" if number % 3 else up.url for number in range(30)]
    results = await asyncio.gather(*[fetch(transport, url) for url in urls], return_exceptions=True)
    assert [isinstance(result, TianjiError) for result in results] == [number % 3 != 0 for number in range(30)]
    assert transport.stats()[up.url] == {"active": 0, "idle": 0, "pending": 0}
    await transport.aclose()


async def test_one_dead_origin_does_not_hold_up_another(up: Upstream, transport: Transport) -> None:
    async with Upstream() as dead:
        dead.script(None, [Stall()])
        up.reply(body=b"x")
        stuck = [asyncio.create_task(fetch(transport, dead.url)) for _ in range(50)]
        await dead.wait_requests(50)
        assert await fetch(transport, up.url) == b"x"
        for task in stuck:
            task.cancel()
        await asyncio.wait(stuck)
        await dead.wait_disconnects(50)


def test_aclose_ends_those_who_wait(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:
            transport = Transport(max_connections=2)
            up.script(None, [Stall()])
            tasks = [asyncio.create_task(fetch(transport, up.url)) for _ in range(6)]
            await up.wait_requests(2)
            await transport.aclose()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [Unavailable] * 6
            await up.wait_disconnects(2)

    run(main())


def _moods(request: Request) -> list[Step]:
    """An answer in pieces, so that a cancellation meets every phase."""
    seed = random.Random(len(request.path) + request.connection)
    return [
        Sleep(seed.random() * 0.002),
        Send(message(200, {"content-length": "6"}, b"abc")),
        Sleep(seed.random() * 0.002),
        Send(b"def"),
    ]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_storm_of_cancellations_loses_no_slot(run: Run, tls: bool) -> None:
    async def main() -> None:
        async with Upstream(tls=tls) as up:
            transport = Transport(max_connections=20, ssl_context=up.client_ssl() if tls else None)
            up.answer(_moods)
            up.reply(path="/last", body=b"well")
            chance = random.Random(7)
            outcomes = {"cancelled": 0, "done": 0}

            async def one() -> None:
                task = asyncio.create_task(fetch(transport, up.url))
                if chance.random() < 0.8:
                    await asyncio.sleep(chance.random() * 0.012)
                    task.cancel()
                try:
                    assert await task == b"abcdef"
                    outcomes["done"] += 1
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1

            async def worker(count: int) -> None:
                for _ in range(count):
                    await one()

            total = 400 if tls else 2000
            await asyncio.gather(*[worker(total // 40) for _ in range(40)])
            assert sum(outcomes.values()) == total
            assert all(outcomes.values()), outcomes
            stats = transport.stats()[up.url]
            assert (stats["active"], stats["pending"]) == (0, 0)
            results = await asyncio.gather(*[fetch(transport, f"{up.url}/last") for _ in range(20)])
            assert results == [b"well"] * 20
            assert transport.stats()[up.url] == {"active": 0, "idle": 20, "pending": 0}
            transport.close_idle()
            await up._until(lambda: up.live == 0, 2.0)
            await transport.aclose()

    run(main())


async def test_a_connection_handed_to_somebody_who_was_cancelled_goes_on(up: Upstream) -> None:
    """The hand-over and the cancellation fall into the same turn of the loop."""
    transport = Transport(max_connections=1)
    up.reply(body=b"x")
    pool_key = up.url
    for _ in range(20):
        first = asyncio.create_task(fetch(transport, up.url))
        waiting = [asyncio.create_task(fetch(transport, up.url)) for _ in range(3)]
        await asyncio.sleep(0)
        pool = transport._pools[pool_key]
        while pool.pending and not pool.pending[0].future.done() and len(pool.pending) == 3:
            await asyncio.sleep(0)
        waiting[0].cancel()
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert results[0] == results[2] == results[3] == b"x"
        assert pool.stats()["active"] == pool.stats()["pending"] == 0
    await transport.aclose()
