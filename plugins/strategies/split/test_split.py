"""The conformance suite, the shares, and a split through a whole gateway."""

from collections import Counter
from typing import Any

import pytest
from tianji_strategy_split import Split

from tianji import Call, ConfigError
from tianji.testing import FakeGateway, SelectorSuite, Upstream, make_call, make_plugin, make_principal
from tianji.testing.gateway import gateway

SHARES = {"stable": 90, "next": 10, "off": 0}


class TestSplit(SelectorSuite):
    plugin = Split
    settings = {"split": SHARES}


class TestSticky(SelectorSuite):
    plugin = Split
    settings = {"split": SHARES, "split_by": "user"}


def make(**settings: Any) -> Split:
    return make_plugin(Split, {"split": SHARES, **settings}, gateway=FakeGateway(), instance="split:chat")


def ask(seed: int = 1, user: str | None = None, key: str = "k1") -> Call:
    body: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
    if user is not None:
        body["user"] = user
    call = make_call(body, principal=make_principal(key_id=key))
    call.seed = seed
    return call


async def test_shares() -> None:
    split = make()
    seen = Counter([await split.choose(ask(seed)) for seed in range(5000)])
    assert 4350 < seen["stable"] < 4650
    assert seen["stable"] + seen["next"] == 5000, "a weight of 0 gets nothing"
    assert await split.choose(ask(77)) == await split.choose(ask(77))


@pytest.mark.parametrize("by", ["user", "key"])
async def test_callers_stay_where_they_are(by: str) -> None:
    def call(number: int, seed: int) -> Call:
        return ask(seed, user=f"u{number}") if by == "user" else ask(seed, user=f"{seed}", key=f"k{number}")

    split = make(split_by=by)
    first = {number: await split.choose(call(number, 1)) for number in range(2000)}
    again = {number: await split.choose(call(number, 2)) for number in range(2000)}
    assert first == again
    assert 140 < Counter(first.values())["next"] < 260
    wider = make(split={"stable": 80, "next": 20}, split_by=by)
    moved = {number: await wider.choose(call(number, 3)) for number in range(2000)}
    assert all(moved[number] == "next" for number, group in first.items() if group == "next")


async def test_an_end_user_that_is_not_named_stays_with_the_key() -> None:
    split = make(split={"a": 1, "b": 1}, split_by="user")
    assert len({await split.choose(ask(seed)) for seed in range(20)}) == 1


@pytest.mark.parametrize("bad", [{}, {"a": 0}, {"a": -1}, {"a": "much"}])
def test_bad_weights(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"weight|split"):
        make(split=bad)


async def test_through_a_gateway() -> None:
    """The client sees the name it asked for, the headers say which group it was, and a broken canary is not noticed."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    async with Upstream() as stable, Upstream() as canary:
        stable.reply(json={"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]})
        canary.reply(status=500, json={"error": {"message": "broken"}})

        def entry(name: str, **params: Any) -> dict[str, Any]:
            return {"model_name": name, "tianji_params": {"api_key": "sk-x", **params}}

        config = {
            "model_list": [
                {"model_name": "chat", "tianji_params": {"model": "split/chat", "split": {"stable": 50, "next": 50}}},
                entry("stable", model="openai/m", api_base=f"{stable.url}/v1"),
                entry("next", model="openai/m", api_base=f"{canary.url}/v1"),
            ],
            "router_settings": {"fallbacks": [{"chat": ["stable"]}]},
        }
        async with gateway(config) as running:
            groups, fallbacks = Counter[str](), 0
            for _ in range(24):
                answer = await running.chat("chat")
                assert (answer.status_code, answer.json()["model"]) == (200, "chat")
                groups[answer.headers["x-tianji-model-group"]] += 1
                fallbacks += int(answer.headers["x-tianji-attempted-fallbacks"])
            assert groups == {"stable": 24}
            assert 0 < fallbacks == len(canary.requests) < 24
