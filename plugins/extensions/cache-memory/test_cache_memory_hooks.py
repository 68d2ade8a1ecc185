"""The hooks by hand: hits and misses, what requests say about caching, streams, and equal calls at the same time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from tianji_extension_cache_memory import CacheMemory, Recorder
from tianji_extension_cache_memory.request import wishes_of

from tianji import BadRequest, Blocked, Call, Chunk, Op, Reply, Unavailable, Usage
from tianji.testing import FakeAssembly, FakeClock, make_call, make_plugin, make_principal


def make(**settings: Any) -> CacheMemory:
    cache = make_plugin(CacheMemory, {"enabled": True, **settings})
    cache.configure(FakeAssembly(SimpleNamespace(tianji_settings=SimpleNamespace(cache=True, cache_params={}))))
    return cache


def ask(text: str = "Hello", *, body: Mapping[str, Any] | None = None, **fields: Any) -> Call:
    return make_call({"model": "m", "messages": [{"role": "user", "content": text}], **(body or {})}, **fields)


ANSWER = {"id": "1", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": "stop"}]}


async def answered(cache: CacheMemory, call: Call, body: Any = ANSWER, **fields: Any) -> Reply | None:
    """The cache's own answer; where it has none, `body` comes from the provider, and the call ends."""
    hit = await cache.pre_call(call)
    if hit is None:
        await cache.post_call(call, Reply(body, **fields))
    await end(call)
    return hit


async def end(call: Call) -> None:
    for undo in call.take_undo():
        await undo()


# -- hits and misses ---------------------------------------------------------------------------------------------------


async def test_a_whole_answer() -> None:
    cache = make()
    clock = cache.store.clock = FakeClock()
    first = ask()
    raw = b'{"id":"1",  "choices":[]}'
    assert await cache.pre_call(first) is None
    assert first.headers is not None
    assert len(first.headers["x-tianji-cache-key"]) == 64
    reply = Reply(raw=raw, usage=Usage(3, 2), model="m-2024")
    assert await cache.post_call(first, reply) is None, "the reply is not touched"
    await end(first)
    clock.advance(5)
    second = ask()
    hit = await cache.pre_call(second)
    assert hit is not None
    assert (hit.raw, hit.source, hit.model, hit.status) == (raw, "cache", "m-2024", 200), "the same bytes"
    assert (hit.usage, hit.cost and hit.cost.nano) == (Usage(3, 2), 0)
    assert hit.headers == {"x-cache": "HIT", "age": "5"}
    assert await cache.post_call(second, hit) is None
    assert second.take_undo() == ()
    assert {k: v for k, v in cache.store.counts.items() if v} == {"hits": 1, "misses": 1, "stored": 1}


async def test_another_caller_gets_nothing() -> None:
    cache = make()
    await answered(cache, ask(principal=make_principal(key_id="a")))
    assert await answered(cache, ask(principal=make_principal(key_id="b"))) is None
    assert await answered(cache, ask(principal=make_principal(key_id="a"))) is not None


async def test_answers_end_with_their_time() -> None:
    cache = make(ttl=10)
    clock = cache.store.clock = FakeClock()
    await answered(cache, ask("ten"))
    await answered(cache, ask("two", options={"cache": {"ttl": 2}}))
    clock.advance(3)
    assert await cache.pre_call(ask("ten")) is not None
    assert await answered(cache, ask("two")) is None
    clock.advance(7)
    assert await answered(cache, ask("ten")) is None
    assert cache.store.counts["expired"] == 2


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply({"error": {"message": "no"}}), "an error"),
        (Reply({"choices": []}, status=500), "a status"),
        (Reply({"choices": [{"finish_reason": "error"}]}), "a broken choice"),
        (Reply({"choices": []}, source="plugin"), "not a provider's"),
        (Reply(raw=b"not json"), "no JSON"),
        (Reply([1]), "no object"),
    ],
)
async def test_what_is_not_kept(reply: Reply, why: str) -> None:
    cache = make()
    call = ask()
    assert await cache.pre_call(call) is None
    await cache.post_call(call, reply)
    assert len(cache.store) == 0, why
    assert not cache._flights


async def test_memory_is_bounded() -> None:
    cache = make(max_entries=3)
    for number in range(5):
        await answered(cache, ask(str(number)))
    assert len(cache.store) == 3
    assert cache.store.counts["evicted"] == 2
    assert await cache.pre_call(ask("2")) is not None, "used again"
    await answered(cache, ask("5"))
    assert await cache.pre_call(ask("3")) is None, "the one that was not used for longest"
    assert await cache.pre_call(ask("2")) is not None
    cache = make(max_bytes=5000, max_entry_bytes=3000)
    for number in range(20):
        await answered(cache, ask(str(number)), {"choices": [], "text": "x" * 1000})
        assert cache.store.bytes <= 5000
    assert len(cache.store) == 2
    assert cache.store.bytes == sum(entry.size for entry in cache.store._entries.values())
    await answered(cache, ask("large"), {"choices": [], "text": "x" * 4000})
    assert cache.store.counts["too_large"] == 1
    assert await cache.flush() == 2
    assert (len(cache.store), cache.store.bytes) == (0, 0)


async def test_a_flush_holds_for_calls_under_way() -> None:
    cache = make()
    call = ask()
    await cache.pre_call(call)
    await cache.flush()
    await cache.post_call(call, Reply(ANSWER))
    assert len(cache.store) == 0


async def test_checks_that_run_beside_the_provider_are_made_before_a_hit() -> None:
    cache = make()
    await answered(cache, ask())
    seen = []

    async def check(fails: bool) -> None:
        seen.append(fails)
        if fails:
            raise Blocked("no")

    call = ask()
    call.watch(check(False))
    assert await cache.pre_call(call) is not None
    assert call.watched is None
    call = ask()
    call.watch(check(True))
    call.watch(check(False))
    with pytest.raises(Blocked):
        await cache.pre_call(call)
    assert seen == [False, True]


async def test_the_key_of_a_large_body_is_the_same() -> None:
    cache = make()
    text = "x" * 300_000
    big = ask(text)
    big.raw = b" " * 300_100
    assert await answered(cache, big) is None
    assert await answered(cache, ask(text)) is not None


# -- what a request says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "read", "write"),
    [
        ({}, True, True),
        ({"options": {"cache": {"no-cache": True}}}, False, True),
        ({"options": {"cache": {"no-store": True}}}, True, False),
        ({"options": {"cache": {"no-cache": False}}}, True, True),
        ({"options": {"caching": False}}, False, False),
        ({"options": {"mock_response": "x"}}, False, False),
        ({"headers": {"cache-control": "no-cache"}}, False, True),
        ({"headers": {"cache-control": "max-age=0, no-store"}}, False, False),
        ({"headers": {"cache-control": "max-age=5"}}, True, True),
    ],
)
async def test_controls(fields: dict[str, Any], read: bool, write: bool) -> None:
    cache = make()
    await answered(cache, ask("stored"))
    assert (await answered(cache, ask("stored", **fields)) is not None) is read
    assert await answered(cache, ask("new", **fields)) is None
    assert (await cache.pre_call(ask("new")) is not None) is write


async def test_s_maxage_namespace_and_no_cache_stores_the_new_answer() -> None:
    cache = make()
    clock = cache.store.clock = FakeClock()
    await answered(cache, ask())
    clock.advance(10)
    assert wishes_of(ask(headers={"cache-control": "s-maxage=20"})).max_age == 20
    assert await cache.pre_call(ask(options={"cache": {"s-maxage": 20}})) is not None
    assert await cache.pre_call(ask(options={"cache": {"namespace": "other", "no-store": True}})) is None
    await answered(cache, ask(options={"cache": {"no-cache": True}}), {"choices": [], "id": "fresh"})
    hit = await cache.pre_call(ask(options={"cache": {"s-maxage": 5}}))
    assert hit is not None
    assert hit.body["id"] == "fresh"
    clock.advance(10)
    assert await cache.pre_call(ask(options={"cache": {"s-maxage": 5, "no-store": True}})) is None


async def test_default_off() -> None:
    cache = make(mode="default_off")
    await answered(cache, ask())
    assert len(cache.store) == 0
    await answered(cache, ask(options={"cache": {"use-cache": True}}))
    assert len(cache.store) == 1
    assert await cache.pre_call(ask()) is None
    assert await cache.pre_call(ask(options={"caching": True})) is not None


@pytest.mark.parametrize(
    "said", [{"ttl": "5"}, {"ttl": True}, {"ttl": -1}, {"s-maxage": 1e300}, {"no-cache": 1}, {"namespace": 5}]
)
async def test_bad_controls_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"cache\."):
        await make().pre_call(ask(options={"cache": said}))


async def test_only_supported_ops() -> None:
    cache = make(supported_call_types=["aembedding", "rerank"])
    assert cache.policy.ops == {Op.EMBEDDINGS, Op.RERANK}
    await answered(cache, ask())
    assert len(cache.store) == 0
    embeddings = make_call({"model": "m", "input": "x"}, dialect="openai-embeddings")
    await answered(cache, embeddings, {"object": "list", "data": []})
    assert len(cache.store) == 1


# -- streams -----------------------------------------------------------------------------------------------------------


class Source:
    """A provider's stream."""

    def __init__(self, *raws: bytes, fails: bool = False, meter: Any = None) -> None:
        self.raws, self.fails, self.closed, self.meter = list(raws), fails, False, meter

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        await asyncio.sleep(0)
        if self.raws:
            return Chunk(self.raws.pop(0), named=True)
        if self.fails:
            raise Unavailable("cut")
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


RAWS = (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n")


async def streamed(cache: CacheMemory, call: Call, source: Source) -> tuple[Recorder, Reply]:
    assert await cache.pre_call(call) is None
    reply = Reply(stream=source, usage=None)
    reply.meter = source.meter
    changed = await cache.post_call(call, reply)
    assert changed is reply
    assert isinstance(reply.stream, Recorder)
    return reply.stream, reply


async def test_a_stream_is_replayed_chunk_by_chunk() -> None:
    cache = make()
    meter = SimpleNamespace(finished=True, usage=Usage(3, 2))
    stream, _ = await streamed(cache, ask(body={"stream": True}), Source(*RAWS, meter=meter))
    assert [chunk.raw async for chunk in stream] == list(RAWS)
    hit = await cache.pre_call(ask(body={"stream": True}))
    assert hit is not None
    assert hit.stream is not None
    assert hit.usage == Usage(3, 2)
    chunks = [chunk async for chunk in hit.stream]
    assert [chunk.raw for chunk in chunks] == list(RAWS)
    assert all(chunk.named for chunk in chunks)
    again = await cache.pre_call(ask(body={"stream": True}))
    assert again is not None
    assert again.stream is not None
    assert [chunk.raw async for chunk in again.stream] == list(RAWS), "more than once"
    assert await cache.pre_call(ask()) is None, "the whole answer is another one"


@pytest.mark.parametrize("how", ["fails", "left", "unfinished", "empty", "too long"])
async def test_a_stream_that_did_not_end_well_is_not_kept(how: str) -> None:
    cache = make(max_entry_bytes=700 if how == "too long" else 10_000)
    raws = () if how == "empty" else (b"x" * 600, b"y" * 600) if how == "too long" else RAWS
    meter = SimpleNamespace(finished=how != "unfinished", usage=None)
    source = Source(*raws, fails=how == "fails", meter=meter)
    call = ask(body={"stream": True})
    stream, _ = await streamed(cache, call, source)
    got = []
    try:
        async for chunk in stream:
            got.append(chunk.raw)
            if how == "left":
                await stream.aclose()
                break
    except Unavailable:
        assert how == "fails"
    assert source.closed is (how == "left")
    assert got == list(raws)[: 1 if how == "left" else None]
    assert len(cache.store) == 0
    assert not cache._flights
    await end(call)


# -- single flight -----------------------------------------------------------------------------------------------------


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_equal_calls_are_made_once() -> None:
    cache = make()
    leader = ask()
    assert await cache.pre_call(leader) is None
    waiting = [asyncio.create_task(cache.pre_call(ask())) for _ in range(20)]
    other = asyncio.create_task(cache.pre_call(ask("another question")))
    await turns()
    assert not any(task.done() for task in waiting)
    assert other.done(), "only equal calls wait"
    await cache.post_call(leader, Reply(ANSWER))
    replies = await asyncio.gather(*waiting)
    assert all(reply is not None and reply.body == ANSWER for reply in replies)
    assert cache.store.counts["waits"] == 20


async def test_a_failed_leader_hands_over_to_one() -> None:
    cache = make()
    leader = ask()
    await cache.pre_call(leader)
    calls = [ask() for _ in range(5)]
    waiting = [asyncio.create_task(cache.pre_call(call)) for call in calls]
    await turns()
    await end(leader)  # no post_call: the attempt failed, or the client left
    await turns()
    assert [task.done() for task in waiting] == [True, False, False, False, False]
    await cache.post_call(calls[0], Reply(ANSWER))
    replies = await asyncio.gather(*waiting)
    assert [reply is not None for reply in replies] == [False, True, True, True, True]


async def test_an_answer_that_cannot_be_kept_lets_all_go() -> None:
    cache = make()
    leader = ask()
    await cache.pre_call(leader)
    waiting = [asyncio.create_task(cache.pre_call(ask())) for _ in range(5)]
    await turns()
    await cache.post_call(leader, Reply({"choices": []}, status=206))
    assert await asyncio.gather(*waiting) == [None] * 5
    assert not cache._flights


async def test_waiting_ends_with_the_setting_and_with_the_client() -> None:
    cache = make(single_flight_wait=0.02)
    leader = ask()
    await cache.pre_call(leader)
    patient = ask()
    assert await cache.pre_call(patient) is None
    assert patient.take_undo() == (), "it leads nobody"
    gone = asyncio.create_task(cache.pre_call(ask()))
    await turns()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await cache.post_call(patient, Reply(ANSWER))
    assert len(cache.store) == 1, "what it brings is kept all the same"
    await end(leader)
    assert not cache._flights
    assert await make(single_flight_wait=0).pre_call(ask()) is None


async def test_a_stream_that_breaks_hands_over_at_once() -> None:
    cache = make()
    stream, _ = await streamed(cache, ask(body={"stream": True}), Source(RAWS[0], fails=True))
    follower = ask(body={"stream": True})
    waiting = asyncio.create_task(cache.pre_call(follower))
    await turns()
    assert not waiting.done()
    with pytest.raises(Unavailable):
        async for _ in stream:
            pass
    assert await waiting is None
    assert len(follower.take_undo()) == 1, "it leads now"
