"""The commit gate: for a moment after its first event a stream that breaks is an ordinary failed attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kernel import Collector, VirtualLoop, ask, asking, assembled, config, deployment, virtually
from survival import Heard, HeardMessages, Talker, accounts, talker

from tianji.errors import Timeout, Unavailable
from tianji.gate import FULL, Held, hold
from tianji.gateway import Gateway
from tianji.model import Call, Chunk, Reply


def run(main: Any) -> Any:
    return virtually(lambda loop: main())


class Source:
    """A stream that is its own upstream, as an HTTP provider's is. Steps: bytes, seconds to wait, or a failure."""

    def __init__(self, *steps: bytes | float | Exception) -> None:
        self.steps = list(steps)
        self.ended = False
        self.drained = False
        self.reads = 0
        self.cancelled = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Chunk:
        self.reads += 1
        while self.steps:
            step = self.steps[0]
            if isinstance(step, float):
                try:
                    await asyncio.sleep(step)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
            self.steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, bytes):
                return Chunk(step)
        self.ended = True
        raise StopAsyncIteration

    def close(self) -> None:
        self.ended = True

    async def drain(self) -> None:
        self.drained = self.ended = True

    async def aclose(self) -> None:
        self.close()


def reply_of(source: Source) -> Reply:
    reply = Reply(stream=source)
    reply.upstream = source
    return reply


async def rest(reply: Reply) -> list[bytes]:
    assert reply.stream is not None
    return [chunk.raw async for chunk in reply.stream]


def test_what_came_in_the_meantime_is_delivered_in_order_and_unchanged() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        source = Source(b"a", 0.1, b"b", 0.1, b"c", 1.0, b"d", b"e")
        reply = reply_of(source)
        began = loop.time()
        await hold(reply, 0.25)
        assert loop.time() - began == pytest.approx(0.25)
        assert source.reads == 4
        assert await rest(reply) == [b"a", b"b", b"c", b"d", b"e"]
        assert loop.time() - began == pytest.approx(1.2), "the read that was under way went on"
        assert source.cancelled == 0

    run(main)


def test_the_end_of_the_stream_opens_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reply = reply_of(Source(b"a", 0.1, b"b"))
        began = loop.time()
        await hold(reply, 10.0)
        assert loop.time() - began == pytest.approx(0.1)
        assert await rest(reply) == [b"a", b"b"]
        assert await rest(reply) == []

    run(main)


def test_a_full_buffer_opens_it() -> None:
    async def main() -> None:
        source = Source(*[b"x" * 1024 for _ in range(1000)])
        reply = reply_of(source)
        await hold(reply, 10.0)
        assert source.reads == FULL // 1024
        assert len(await rest(reply)) == 1000

    run(main)


def test_a_failure_in_it_is_raised_and_one_after_it_is_the_streams() -> None:
    async def main() -> None:
        source = Source(b"a", 0.1, Unavailable("x"))
        with pytest.raises(Unavailable):
            await hold(reply_of(source), 0.25)
        assert source.ended
        reply = reply_of(Source(b"a", 0.3, Unavailable("x")))
        await hold(reply, 0.25)
        assert reply.stream is not None
        assert (await anext(reply.stream)).raw == b"a"
        with pytest.raises(Unavailable):
            await anext(reply.stream)

    run(main)


def test_whoever_waits_may_leave() -> None:
    async def main() -> None:
        source = Source(b"a", 100.0)
        task = asyncio.ensure_future(hold(reply_of(source), 50.0))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.ended
        assert source.cancelled == 1

    run(main)


def test_closing_it_ends_the_read_that_is_under_way() -> None:
    async def main() -> None:
        for how in ("close", "aclose", "drain"):
            source = Source(b"a", 5.0, b"b")
            reply = reply_of(source)
            await hold(reply, 0.25)
            held: Any = reply.upstream
            assert held is reply.stream
            assert type(held) is Held
            assert not source.ended
            if how == "close":
                held.close()
                await asyncio.sleep(0)
            else:
                await getattr(held, how)()
            await asyncio.sleep(0)
            assert held.ended
            assert source.cancelled == (how != "drain")
            assert source.drained == (how == "drain")

    run(main)


def test_the_first_event_is_waited_for_where_nobody_did() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reply = reply_of(Source(2.0, b"a", 0.1, b"b", 9.0, b"c"))
        began = loop.time()
        await hold(reply, 0.25, first=5.0)
        assert loop.time() - began == pytest.approx(2.25)
        source = Source(9.0, b"a")
        with pytest.raises(Timeout):
            await hold(reply_of(source), 0.25, first=5.0)
        assert source.ended

    run(main)


# -- in the gateway ----------------------------------------------------------------------------------------------------


def gateway_of(provider: type[Talker], **router: Any) -> Gateway:
    specs = [deployment("group", one) for one in "ab"]
    return assembled(config(*specs, router_settings=router), provider)


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages"])
@pytest.mark.parametrize(("delay", "text"), [(0.0, ""), (0.25, "One two three.")])
def test_a_break_within_it_is_another_attempt(dialect: str, delay: float, text: str) -> None:
    async def main() -> None:
        native = frozenset({"openai-chat", dialect})
        provider = talker(breaks={"a": 2}, pause=0.05, native=native)
        gateway = gateway_of(provider, stream_commit_delay=delay)
        call = asking(stream=True, dialect=dialect, max_tokens=100)
        collector = await ask(gateway, call)
        raw = b"".join(collector.chunks)
        told = Heard(raw) if dialect == "openai-chat" else HeardMessages(raw)
        if delay:
            assert told.text == text
            assert told.done == 1
            assert accounts(gateway, call) == ["void", "success"]
            assert provider.calls[1][1]["messages"] == provider.calls[0][1]["messages"], "from the beginning"
        else:
            assert not told.done
            assert accounts(gateway, call) == ["partial"]
        await gateway.stop()

    run(main)


def test_a_client_that_leaves_during_it_leaves_nothing_behind() -> None:
    async def main() -> None:
        gateway = gateway_of(talker(pause=1.0), stream_commit_delay=30.0)
        call = asking(stream=True)
        task = asyncio.ensure_future(ask(gateway, call, collector=Collector()))
        await asyncio.sleep(1.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(accounts(gateway, call)) == 1
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [one for one in others if one.get_name() == "commit gate"]

    run(main)


def test_the_deadline_bounds_it() -> None:
    def main(loop: VirtualLoop) -> Any:
        async def inner() -> float:
            gateway = gateway_of(talker(pause=0.5, text="x" * 400), stream_commit_delay=1000.0)
            began = loop.time()

            class First(Collector):
                async def reply(self, call: Call, reply: Reply) -> None:
                    self.after = loop.time() - began

            collector = First()
            await ask(gateway, asking(stream=True, options={"timeout": 3.0}), collector=collector)
            return collector.after

        return inner()

    assert virtually(main) == pytest.approx(3.0)


async def test_without_it_the_stream_is_untouched() -> None:
    gateway = gateway_of(talker())
    collector = await ask(gateway, asking(stream=True))
    assert collector.replied is not None
    assert isinstance(collector.replied.stream, AsyncIterator)
    assert not isinstance(collector.replied.stream, Held)
