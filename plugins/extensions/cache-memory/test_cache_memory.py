"""The conformance suite, the key, the configuration, and a whole gateway."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tianji_extension_cache_memory import CacheMemory
from tianji_extension_cache_memory.policy import DEFAULT_OPS, policy
from tianji_extension_cache_memory.request import key_of

from tianji import Call, ConfigError, Op, ResponseCache
from tianji.testing import (
    ExtensionSuite,
    FakeAssembly,
    Upstream,
    assert_imports_light,
    make_call,
    make_plugin,
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


def ask(text: str = "Hello", *, body: Mapping[str, Any] | None = None, **fields: Any) -> Call:
    return make_call({"model": "m", "messages": [{"role": "user", "content": text}], **(body or {})}, **fields)


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
    cache = make_plugin(CacheMemory, {"enabled": True})
    cache.configure(FakeAssembly(config()))
    call = ask(body={"seed": object()})
    assert await cache.pre_call(call) is None
    assert not call.state


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
    cache = make_plugin(CacheMemory, settings)
    app = FakeAssembly(config(**tianji))
    cache.configure(app)
    assert cache.policy.active is active
    assert (app.provided.get(ResponseCache) is cache) is active, "another cache may offer the service"
    assert len(app.routes) == (2 if active else 0)


def test_cache_params_are_read_below_the_section() -> None:
    params = {"ttl": "60", "namespace": "ours", "mode": "default_off", "supported_call_types": ["acompletion"]}
    settings = make_plugin(CacheMemory).settings
    read = policy(settings, config(cache_params=params).tianji_settings)
    assert (read.ttl, read.namespace, read.opt_in, read.ops) == (60.0, "ours", True, frozenset({Op.CHAT}))
    over = make_plugin(CacheMemory, {"ttl": 5, "namespace": "", "mode": "default_on"}).settings
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
    values = make_plugin(CacheMemory, settings).settings
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
