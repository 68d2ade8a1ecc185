"""What the cache says of a call that is only explained."""

from types import SimpleNamespace
from typing import Any

import pytest
from tianji_extension_cache_memory import CacheMemory

from tianji import BadRequest, Call, Reply
from tianji.testing import FakeClock, make_call, make_plugin
from tianji.testing.fakes import FakeAssembly

ANSWER = {"id": "1", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": "stop"}]}


def make(**settings: Any) -> CacheMemory:
    cache = make_plugin(CacheMemory, {"enabled": True, **settings})
    cache.configure(FakeAssembly(SimpleNamespace(tianji_settings=SimpleNamespace(cache=True, cache_params={}))))
    return cache


def ask(text: str = "Hello", *, body: dict[str, Any] | None = None, **fields: Any) -> Call:
    return make_call({"model": "m", "messages": [{"role": "user", "content": text}], **(body or {})}, **fields)


async def answered(cache: CacheMemory, call: Call) -> None:
    """A call that the provider answers, from its beginning to its end."""
    assert await cache.pre_call(call) is None
    await cache.post_call(call, Reply(ANSWER))
    for undo in call.take_undo():
        await undo()


async def test_what_it_says_of_a_call() -> None:
    cache = make()
    call = ask()
    said = cache.explain(call)
    assert (said["looks_up"], said["keeps"], said["hit"]) == (True, True, False)
    await answered(cache, call)
    assert call.headers is not None
    assert said["key"] == call.headers["x-tianji-cache-key"], "the key that the real call has"
    counts, entries = dict(cache.store.counts), list(cache.store._entries)
    await answered(cache, ask("newer"))
    told = cache.explain(ask())
    assert (told["hit"], told["keeps"]) == (True, False)
    assert "Hello" not in str(told)
    assert list(cache.store._entries)[:-1] == entries, "looking changes no order"
    assert cache.store.counts["hits"] == counts["hits"]
    assert not cache._flights
    clock = cache.store.clock = FakeClock()
    clock.advance(1e6)
    assert cache.explain(ask())["hit"] is False, "its time is over"


@pytest.mark.parametrize(
    ("settings", "fields", "why"),
    [
        ({"enabled": False}, {"options": {"cache": {"ttl": "bad"}}}, "the cache is off"),
        ({"supported_call_types": ["embeddings"]}, {}, "calls of this op are not cached"),
        ({"mode": "default_off"}, {}, "only requests that say `use-cache` are cached"),
        ({}, {"options": {"caching": False}}, "the request leaves the cache out"),
        ({}, {"body": {"odd": {1, object()}}}, "the body cannot be written down"),
    ],
)
async def test_why_it_does_nothing(settings: dict[str, Any], fields: dict[str, Any], why: str) -> None:
    call = ask(**fields)
    call.raw = b"{}"
    assert make(**settings).explain(call) == {"looks_up": False, "keeps": False, "why": why}


async def test_a_call_that_it_would_refuse_and_a_large_one() -> None:
    with pytest.raises(BadRequest, match=r"cache\.ttl"):
        make().explain(ask(options={"cache": {"ttl": "5"}}))
    large = ask()
    large.raw = b" " * 300_000
    assert "key" not in make().explain(large)
