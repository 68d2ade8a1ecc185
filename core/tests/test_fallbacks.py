"""When a model group has nothing more to give: which other groups are tried, by whose word, and when none is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from kernel import (
    Collector,
    answer,
    ask,
    asking,
    assembled,
    books,
    by_model,
    config,
    deployment,
    failing,
    scripted,
    text_of,
)

from tianji.errors import (
    BadRequest,
    ContentPolicy,
    ContextWindow,
    Failure,
    Forbidden,
    OverBudget,
    Overloaded,
    Rejected,
    Unavailable,
    UnknownModel,
)
from tianji.hookspecs import hookimpl
from tianji.ledger import MemoryLedger
from tianji.model import Call, Deployment, Entry, Principal, Reply
from tianji.plugin import Extension, Plugin
from tianji.services import Assembly, Ledger
from tianji.testing import make_principal

ONCE = {"num_retries": 0}


def down() -> Failure:
    return Unavailable("down")


def groups(*names: str) -> list[dict[str, Any]]:
    """One group for each name, of one deployment whose upstream model has the same name."""
    return [deployment(name, name) for name in names]


async def run(call: Call, provider: Any, *plugins: type[Plugin], router: dict[str, Any]) -> Collector:
    """One call over the groups a to e, with no retries."""
    settings = config(*groups("a", "b", "c", "d", "e"), router_settings={**ONCE, **router})
    gateway = assembled(settings, provider, *plugins)
    got = await ask(gateway, call)
    assert books(gateway).open == 0
    await gateway.stop()
    return got


CASES: dict[str, tuple[dict[str, Any], type[Failure], list[str]]] = {
    "none are configured": ({}, Unavailable, ["a"]),
    "in their order": ({"fallbacks": [{"a": ["c", "b"]}]}, Unavailable, ["a", "c", "b"]),
    "for every group": ({"fallbacks": [{"*": ["b"]}]}, Unavailable, ["a", "b"]),
    "its own before every group's": ({"fallbacks": [{"*": ["b"], "a": ["c"]}]}, Unavailable, ["a", "c"]),
    "default": ({"default_fallbacks": ["d"]}, Unavailable, ["a", "d"]),
    "another's": ({"fallbacks": [{"b": ["c"]}]}, Unavailable, ["a"]),
    "itself is passed over": ({"fallbacks": [{"a": ["a", "b"]}]}, Unavailable, ["a", "b"]),
    "twice is once": ({"fallbacks": [{"a": ["b", "b", "c"]}]}, Unavailable, ["a", "b", "c"]),
    "unknown is passed over": ({"fallbacks": [{"a": ["nope", "b"]}]}, Unavailable, ["a", "b"]),
    "at most so many": ({"fallbacks": [{"a": ["b", "c", "d"]}], "max_fallbacks": 1}, Unavailable, ["a", "b"]),
    "none at all": ({"fallbacks": [{"a": ["b"]}], "max_fallbacks": 0}, Unavailable, ["a"]),
    "no chains": ({"fallbacks": [{"a": ["b"], "b": ["c"]}]}, Unavailable, ["a", "b"]),
    "typed: too long": (
        {"context_window_fallbacks": [{"a": ["e"]}], "default_fallbacks": ["d"]}, ContextWindow, ["a", "e"],
    ),
    "typed: policy": (
        {"content_policy_fallbacks": [{"a": ["e"]}], "default_fallbacks": ["d"]}, ContentPolicy, ["a", "e"],
    ),
    "typed: others": (
        {"context_window_fallbacks": [{"a": ["e"]}], "default_fallbacks": ["d"]}, Unavailable, ["a", "d"],
    ),
    "typed: none, so general": ({"fallbacks": [{"a": ["b"]}]}, ContextWindow, ["a", "b"]),
    "rejected": ({"fallbacks": [{"a": ["b"]}]}, Rejected, ["a", "b"]),
    "the callers own mistake": ({"fallbacks": [{"a": ["b"]}]}, BadRequest, ["a"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_which_groups_are_tried(name: str) -> None:
    router, kind, asked = CASES[name]
    provider = by_model(**dict.fromkeys("abcde", lambda: kind("no")))
    got = await run(asking("a"), provider, router=router)
    assert provider.asked == asked
    assert type(got.failure) is kind


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"fallbacks": ["b"]}, ["a", "b"]),
        ({"fallbacks": []}, ["a"]),
        ({"fallbacks": [{"model": "b"}, 5, "c"]}, ["a", "c"]),
        ({"disable_fallbacks": True}, ["a"]),
        ({"disable_fallbacks": True, "fallbacks": ["b"]}, ["a"]),
    ],
)
async def test_the_request_has_the_last_word(options: dict[str, Any], asked: list[str]) -> None:
    provider = by_model(**dict.fromkeys("abcde", down))
    await run(asking("a", options=options), provider, router={"fallbacks": [{"a": ["d", "e"]}]})
    assert provider.asked == asked


async def test_the_answer_of_a_fallback_and_what_is_counted() -> None:
    call = asking("a")
    got = await run(call, by_model(a=down, b=down), router={"fallbacks": [{"a": ["b", "c"]}]})
    assert text_of(got.replied) == "c"
    assert call.fallbacks == 2
    assert [one.group for one in call.attempts] == ["a", "b"]


async def test_when_all_fail_the_first_failure_is_told() -> None:
    def other() -> Failure:
        return Rejected("of the fallback")

    got = await run(asking("a"), by_model(a=down, b=other), router={"fallbacks": [{"a": ["b"]}]})
    assert isinstance(got.failure, Unavailable)


async def test_a_fallback_is_asked_for_access_like_any_model() -> None:
    provider = by_model(a=down)
    caller = make_principal(models=("a", "c"))
    got = await run(asking("a", principal=caller), provider, router={"fallbacks": [{"a": ["b", "c"]}]})
    assert provider.asked == ["a", "c"]
    assert text_of(got.replied) == "c"
    refused = await run(asking("b", principal=caller), by_model(), router={"default_fallbacks": ["a"]})
    assert isinstance(refused.failure, Forbidden)


async def test_a_model_that_does_not_exist_gets_the_default() -> None:
    provider = by_model()
    got = await run(asking("nope"), provider, router={"default_fallbacks": ["d"]})
    assert text_of(got.replied) == "d"
    lost = await run(asking("nope"), provider, router={})
    assert isinstance(lost.failure, UnknownModel)


async def test_a_group_asked_for_by_its_alias_has_its_fallbacks() -> None:
    router = {"fallbacks": [{"a": ["b"]}], "model_group_alias": {"nice": "a"}}
    assert text_of((await run(asking("nice"), by_model(a=down), router=router)).replied) == "b"


class Books(MemoryLedger):
    """Refuses every reservation against the groups in `poor`."""

    poor: Sequence[str] = ()

    async def reserve(self, entry: Entry, principal: Principal) -> None:
        if entry.model in self.poor:
            raise OverBudget("the money is gone")
        await super().reserve(entry, principal)


class Keeper(Extension):
    name = "keeper"
    poor: Sequence[str] = ()

    @hookimpl
    def configure(self, app: Assembly) -> None:
        books = Books()
        books.poor = self.poor
        app.provide(Ledger, books)  # type: ignore[type-abstract]


@pytest.mark.parametrize(("poor", "asked"), [("a", []), ("b", ["a"])])
async def test_money_that_is_gone_is_never_a_reason_to_go_elsewhere(poor: str, asked: list[str]) -> None:
    keeper = type("Keeper", (Keeper,), {"poor": [poor]})
    provider = by_model(a=down)
    got = await run(asking("a"), provider, keeper, router={"fallbacks": [{"a": ["b", "c"]}], "num_retries": 2})
    assert provider.asked[:1] == asked
    assert "c" not in provider.asked
    assert type(got.failure) is (OverBudget if poor == "a" else Unavailable)


class Offers(Extension):
    name = "offers"
    seen: list[tuple[str, int]] = []
    wanted = "d"

    @hookimpl
    async def fallback(self, call: Call, failure: Failure, tried: Sequence[Deployment]) -> Sequence[Deployment] | None:
        self.seen.append((type(failure).__name__, len(tried)))
        if any(one.group == self.wanted for one in tried):
            return None
        return call.snapshot.router.find(self.wanted).deployments  # type: ignore[no-any-return]


async def test_a_fallback_hook_goes_before_the_configuration() -> None:
    plugin: type[Offers] = type("Offers", (Offers,), {"seen": []})
    provider = by_model(a=down, d=down)
    got = await run(asking("a"), provider, plugin, router={"fallbacks": [{"a": ["b"]}]})
    assert provider.asked == ["a", "d", "b"]
    assert text_of(got.replied) == "b"
    assert plugin.seen == [("Unavailable", 1), ("Unavailable", 2)]


class TestSlots:
    async def test_a_deployment_without_a_free_slot_is_passed_over(self) -> None:
        seen: list[str] = []

        async def script(call: Call, deployment: Deployment) -> Reply:
            seen.append(deployment.model)
            if len(seen) == 1:
                inner = await ask(gateway)  # while the first one is in flight
                assert text_of(inner.replied) == "ok"
            return answer()

        settings = config(deployment(max_parallel_requests=1), deployment(model="two"))
        gateway = assembled(settings, scripted(script))
        await ask(gateway)
        assert seen == ["one", "two"]
        assert gateway.sealed.health.state(gateway.sealed.router.deployments[0]).in_flight == 0
        await gateway.stop()

    async def test_none_free_is_429(self) -> None:
        async def script(call: Call, deployment: Deployment) -> Reply:
            got = await ask(gateway, asking(options={"num_retries": 0}))
            assert isinstance(got.failure, Overloaded)
            raise got.failure

        gateway = assembled(config(deployment(max_parallel_requests=1)), scripted(script))
        failure = (await ask(gateway, asking(options={"num_retries": 0}))).failure
        assert failure is not None
        assert (failure.status, failure.type, failure.should_retry) == (429, "rate_limit_error", True)
        await gateway.stop()

    async def test_a_failed_attempt_gives_its_slot_back_before_the_retry(self) -> None:
        settings = config(deployment(max_parallel_requests=1), router_settings={"num_retries": 1})
        provider = failing(Unavailable("down", retry_after=0.01))
        gateway = assembled(settings, provider)
        assert text_of((await ask(gateway)).replied) == "ok"
        assert gateway.sealed.health.state(gateway.sealed.router.deployments[0]).in_flight == 0
        await gateway.stop()
