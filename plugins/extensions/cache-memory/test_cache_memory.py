"""The conformance suite, the key, the hooks by hand, and a whole gateway."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tianji_extension_cache_memory import CacheMemory, Recorder
from tianji_extension_cache_memory.policy import DEFAULT_OPS, policy
from tianji_extension_cache_memory.request import key_of, wishes_of

from tianji import BadRequest, Blocked, Call, Chunk, ConfigError, Op, Reply, ResponseCache, Unavailable, Usage
from tianji.plugin import convert_settings
from tianji.testing import (
    ExtensionSuite,
    FakeAssembly,
    FakeClock,
    FakeGateway,
    Upstream,
    assert_imports_light,
    make_call,
    make_principal,
)
from tianji.testing.gateway import gateway
from tianji.testing.upstream import Send, Stall, chunked, message


class TestCacheMemory(ExtensionSuite):
    plugin = CacheMemory
    settings = {"enabled": True}


class TestSwitchedOff(ExtensionSuite):
    plugin = CacheMemory


def config(**settings: Any) -> Any:
    return SimpleNamespace(tianji_settings=SimpleNamespace(**{"cache": True, "cache_params": {}, **settings}))


def make(tianji: Mapping[str, Any] | None = None, **settings: Any) -> CacheMemory:
    values = convert_settings(CacheMemory.Settings, {"enabled": True, **settings}, path="cache_memory")
    cache = CacheMemory(values, instance="cache-memory", gateway=FakeGateway())
    cache.configure(FakeAssembly(config(**(tianji or {}))))
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


# -- the key -----------------------------------------------------------------------------------------------------------


def test_equal_calls() -> None:
    call = ask(body={"temperature": 0.5, "tools": [{"a": 1, "b": 2}]})
    other = make_call(
        {"tools": [{"b": 2, "a": 1}], "temperature": 0.5, "messages": call.body["messages"], "model": "m"}
    )
    assert key_of(call) == key_of(other), "the order of members"
    same = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
    for field in same:
        assert key_of(ask(body={field: "x"})) == key_of(ask()), field
    assert key_of(ask(body={"stream": False})) == key_of(ask())
    assert key_of(ask(options={"num_retries": 3})) == key_of(ask())


@pytest.mark.parametrize(
    "other",
    [
        {"text": "hello"},
        {"body": {"temperature": 0}},
        {"body": {"stream": True}},
        {"body": {"model": "n"}},
        {"body": {"n": 2}},
        {"body": {"seed": 1}},
        {"dialect": "anthropic-messages", "op": "chat"},
        {"op": "completions"},
        {"options": {"tags": ["eu"]}},
        {"headers": {"anthropic-beta": "x"}},
        {"principal": make_principal(key_id="key-2")},
        {"principal": make_principal(team_id="t")},
        {"principal": make_principal(user_id="u")},
        {"principal": make_principal(org_id="o")},
        {"principal": make_principal(role="proxy_admin")},
        {"principal": make_principal(models=("m",))},
    ],
)
def test_different_calls(other: dict[str, Any]) -> None:
    assert key_of(ask(**other)) != key_of(ask())


def test_the_configuration_and_the_namespaces_are_in_the_key() -> None:
    call = ask()
    keys = {key_of(call), key_of(call, "a"), key_of(call, "", "a"), key_of(call, "a", "a")}
    call.snapshot = SimpleNamespace(config=SimpleNamespace(fingerprint="abc"))
    assert len(keys | {key_of(call)}) == 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_keys_are_equal_exactly_for_equal_bodies(one: dict[str, Any], two: dict[str, Any]) -> None:
    shuffled = dict(reversed(one.items()))
    assert key_of(make_call(one)) == key_of(make_call(shuffled))
    if repr(sorted(one.items())) != repr(sorted(two.items())) and one != two:
        assert key_of(make_call({"x": one})) != key_of(make_call({"x": two}))


async def test_a_body_that_cannot_be_written_down_is_not_cached() -> None:
    cache = make()
    call = ask(body={"seed": object()})
    assert await cache.pre_call(call) is None
    assert not call.state


async def test_the_key_of_a_large_body_is_the_same() -> None:
    cache = make()
    text = "x" * 300_000
    big = ask(text)
    big.raw = b" " * 300_100
    assert await answered(cache, big) is None
    assert await answered(cache, ask(text)) is not None


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


# -- the configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "tianji", "active"),
    [
        ({}, {}, True),
        ({}, {"cache_params": {"type": "local"}}, True),
        ({}, {"cache_params": {"type": "memory"}}, True),
        ({}, {"cache_params": {"type": "redis"}}, False),
        ({}, {"cache": False}, False),
        ({"enabled": True}, {"cache": False}, True),
        ({"enabled": False}, {}, False),
        ({"enabled": True}, {"cache_params": {"type": "redis", "ttl": "odd"}}, True),
    ],
)
def test_when_it_is_on(settings: dict[str, Any], tianji: dict[str, Any], active: bool) -> None:
    values = convert_settings(CacheMemory.Settings, settings, path="cache_memory")
    cache = CacheMemory(values, instance="cache-memory", gateway=FakeGateway())
    app = FakeAssembly(config(**tianji))
    cache.configure(app)
    assert cache.policy.active is active
    assert (app.provided.get(ResponseCache) is cache) is active, "another cache may offer the service"
    assert len(app.routes) == (2 if active else 0)


def test_cache_params_are_read_below_the_section() -> None:
    params = {"ttl": "60", "namespace": "ours", "mode": "default_off", "supported_call_types": ["acompletion"]}
    settings = convert_settings(CacheMemory.Settings, {}, path="")
    read = policy(settings, config(cache_params=params).tianji_settings)
    assert (read.ttl, read.namespace, read.opt_in, read.ops) == (60.0, "ours", True, frozenset({Op.CHAT}))
    over = convert_settings(CacheMemory.Settings, {"ttl": 5, "namespace": "", "mode": "default_on"}, path="")
    read = policy(over, config(cache_params=params).tianji_settings)
    assert (read.ttl, read.namespace, read.opt_in) == (5.0, "", False)
    assert policy(settings, config().tianji_settings).ops == set(DEFAULT_OPS)


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"ttl": 0}, {}),
        ({"max_bytes": 0}, {}),
        ({"supported_call_types": ["poems"]}, {}),
        ({}, {"ttl": "soon"}),
        ({}, {"mode": "sometimes"}),
    ],
)
def test_bad_settings(settings: dict[str, Any], params: dict[str, Any]) -> None:
    values = convert_settings(CacheMemory.Settings, settings, path="cache_memory")
    with pytest.raises(ConfigError):
        policy(values, config(cache_params=params).tianji_settings)


def test_the_import_is_light() -> None:
    assert_imports_light("tianji_extension_cache_memory")


# -- a whole gateway ---------------------------------------------------------------------------------------------------

COMPLETION = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
}  # fmt: skip
FRAMES = [
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}\n\n',
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]


def tree(up: Upstream, **settings: Any) -> dict[str, Any]:
    params = {"model": "openai/gpt", "api_base": up.url, "api_key": "sk-x"}
    return {
        "model_list": [{"model_name": "m", "tianji_params": params}],
        "tianji_settings": {"cache": True, "num_retries": 0, **settings},
    }


async def test_end_to_end_whole() -> None:
    async with Upstream() as up:
        up.reply(json=COMPLETION)
        async with gateway(tree(up), plugins=[CacheMemory]) as gw:
            first = await gw.chat("m")
            second = await gw.chat("m")
            third = await gw.chat("m", cache={"no-cache": True})
            assert len(up.requests) == 2
            assert "x-cache" not in first.headers
            assert "x-cache" not in third.headers
            assert second.headers["x-cache"] == "HIT"
            assert float(second.headers["x-tianji-response-cost"]) == 0
            assert second.headers["x-tianji-cache-key"] == first.headers["x-tianji-cache-key"]
            assert second.json() == first.json()
            assert second.json()["model"] == "m"
            ledger: Any = gw.gateway.pipeline.ledger
            assert sum(entry.kind == "reserve" for entry in ledger.entries) == 2, "a hit reserves nothing"
            ping = (await gw.client.get("/cache/ping")).json()
            assert (ping["entries"], ping["hits"], ping["misses"]) == (1, 1, 1)
            assert (await gw.client.get("/cache/ping", headers={"authorization": "Bearer no"})).status_code == 401
            assert (await gw.client.post("/cache/flushall")).json()["dropped"] == 1
            await gw.chat("m")
            assert len(up.requests) == 3


async def test_end_to_end_stream() -> None:
    async with Upstream() as up:
        up.stream(FRAMES)
        async with gateway(tree(up), plugins=[CacheMemory]) as gw:
            replies = [await gw.chat("m", stream=True) for _ in range(3)]
            assert len(up.requests) == 1
            assert len({reply.text for reply in replies}) == 1
            assert replies[2].text.endswith("data: [DONE]\n\n")
            assert replies[2].headers["x-cache"] == "HIT"
            assert replies[2].headers["content-type"].startswith("text/event-stream")


async def test_end_to_end_single_flight_and_failures() -> None:
    async with Upstream() as up:
        up.reply(status=400, json={"error": {"message": "no"}}, times=1)
        up.reply(json=COMPLETION)
        async with gateway(tree(up), plugins=[CacheMemory]) as gw:
            replies = await asyncio.gather(*(gw.chat("m") for _ in range(8)))
            statuses = sorted(reply.status_code for reply in replies)
            assert statuses == [200] * 7 + [400], "an error is not shared"
            assert len(up.requests) == 2
            assert not gw.gateway.pipeline.in_flight


async def test_end_to_end_switched_off() -> None:
    async with Upstream() as up:
        up.reply(json=COMPLETION)
        async with gateway(tree(up, cache=False), plugins=[CacheMemory]) as gw:
            for _ in range(2):
                assert "x-tianji-cache-key" not in (await gw.chat("m")).headers
            assert len(up.requests) == 2
            assert (await gw.client.get("/cache/ping")).status_code == 404


async def test_end_to_end_a_leader_that_leaves_hands_over() -> None:
    async with Upstream() as up:
        head = message(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}, None)
        up.script("/chat/completions", [Send(head + chunked(FRAMES[0])), Stall()], times=1)
        up.stream(FRAMES, path="/chat/completions")
        async with gateway(tree(up), plugins=[CacheMemory]) as gw:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
            async with gw.client.stream("POST", "/v1/chat/completions", json=body) as leader:
                async for _ in leader.aiter_bytes():
                    break
                follower = asyncio.create_task(gw.chat("m", stream=True))
                cache = next(p for p in gw.gateway.sealed.registry.plugins if isinstance(p, CacheMemory))
                while not cache.store.counts["waits"]:
                    await asyncio.sleep(0.01)
            reply = await follower
            assert reply.text.endswith("data: [DONE]\n\n")
            assert len(up.requests) == 2
            assert (await gw.chat("m", stream=True)).headers["x-cache"] == "HIT", "what the follower got is kept"
