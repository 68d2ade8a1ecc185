"""When a model group has nothing more to give: which other groups are tried, by whose word, and when none is."""

from __future__ import annotations

import asyncio
import gc
import weakref
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
    streamed,
    text_of,
)

from tianji.errors import (
    BadCredentials,
    BadRequest,
    ContentPolicy,
    ContextWindow,
    Failure,
    Forbidden,
    Internal,
    NoDeployment,
    OverBudget,
    Overloaded,
    Rejected,
    Throttled,
    Timeout,
    Unavailable,
    UnknownModel,
)
from tianji.health import IN_A_ROW
from tianji.hookspecs import hookimpl
from tianji.ledger import MemoryLedger
from tianji.model import Call, Deployment, Entry, Principal, Reply
from tianji.plugin import Extension, Filter, Plugin, PluginSettings, Selector, Strategy
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
    "typed: another's, so none": (
        {"context_window_fallbacks": [{"b": ["e"]}], "fallbacks": [{"a": ["c"]}], "default_fallbacks": ["d"]},
        ContextWindow, ["a"],
    ),
    "typed: for every group": (
        {"content_policy_fallbacks": [{"*": ["e"]}], "fallbacks": [{"a": ["c"]}]}, ContentPolicy, ["a", "e"],
    ),
    "none, said so": ({"fallbacks": [{"a": [], "*": ["b"]}]}, Unavailable, ["a"]),
    "only itself": ({"default_fallbacks": ["a"]}, Unavailable, ["a"]),
    "throttled": ({"fallbacks": [{"a": ["b"]}]}, Throttled, ["a", "b"]),
    "a bad key": ({"fallbacks": [{"a": ["b"]}]}, BadCredentials, ["a", "b"]),
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


async def test_a_model_that_does_not_exist_gets_nobody_in() -> None:
    caller = make_principal(models=("a",))
    provider = by_model()
    got = await run(asking("nope", principal=caller), provider, router={"default_fallbacks": ["d"]})
    assert isinstance(got.failure, UnknownModel)
    assert provider.asked == []


class TestHowOften:
    """Where no number is configured."""

    async def run(self, provider: Any, router: dict[str, Any], call: Call | None = None, *more: dict[str, Any]) -> Call:
        settings = config(*groups("a", "b", "c", "d"), *more, router_settings=router)
        gateway = assembled(settings, provider)
        gateway.pipeline.attempts.rules.wait = lambda *_: 0.0  # type: ignore[method-assign]
        call = call or asking("a")
        await ask(gateway, call)
        assert books(gateway).open == 0
        await gateway.stop()
        return call

    @pytest.mark.parametrize(
        ("router", "asked"),
        [
            ({}, "aaa"),
            ({"fallbacks": [{"a": ["b"]}]}, "abb"),
            ({"fallbacks": [{"a": ["b", "c"]}]}, "abc"),
            ({"fallbacks": [{"a": ["b", "c", "d"]}]}, "abcd"),
            ({"default_fallbacks": ["a"]}, "aaa"),
            ({"default_fallbacks": ["a", "b"]}, "abb"),
            ({"fallbacks": [{"a": ["nope"]}]}, "aaa"),
            ({"fallbacks": [{"a": ["b"]}], "max_fallbacks": 0}, "aaa"),
            ({"fallbacks": [{"a": ["b", "c"]}], "max_fallbacks": 1}, "abb"),
        ],
    )
    async def test_three_attempts_and_at_least_one_for_each_fallback(self, router: dict[str, Any], asked: str) -> None:
        provider = by_model(**dict.fromkeys("abcd", down))
        await self.run(provider, router)
        assert "".join(provider.asked) == asked

    async def test_a_fallback_that_may_not_be_used_is_not_waited_for(self) -> None:
        provider = by_model(a=down)
        caller = make_principal(models=("a",))
        await self.run(provider, {"fallbacks": [{"a": ["b"]}]}, asking("a", principal=caller))
        assert provider.asked == ["a", "a", "a"]
        provider = by_model(a=down)
        await self.run(provider, {"fallbacks": [{"a": ["b"]}]}, asking("a", options={"disable_fallbacks": True}))
        assert provider.asked == ["a", "a", "a"]

    async def test_the_healthy_ones_of_the_group_go_before_fallbacks(self) -> None:
        provider = by_model(a=down, two=down)
        more = deployment("a", "two")
        await self.run(provider, {"fallbacks": [{"a": ["b"]}]}, None, more)
        assert sorted(provider.asked[:2]) == ["a", "two"]
        assert provider.asked[2:] == ["b"]


async def test_a_prompt_that_fits_nowhere_is_sent_nowhere_but_to_its_fallback() -> None:
    small = {"model_info": {"max_input_tokens": 10}}
    settings = config(
        deployment("a", "a", **small), deployment("a", "a2", **small), *groups("b", "c"),
        router_settings={
            "enable_pre_call_checks": True, "context_window_fallbacks": [{"a": ["b"]}], "fallbacks": [{"a": ["c"]}],
        },
    )  # fmt: skip
    provider = by_model()
    gateway = assembled(settings, provider)
    got = await ask(gateway, asking("a", messages=[{"role": "user", "content": "word " * 200}]))
    assert text_of(got.replied) == "b"
    assert provider.asked == ["b"]
    await gateway.stop()


@pytest.mark.parametrize("name", ["nice", "a"])
async def test_fallbacks_of_an_alias_and_by_an_alias(name: str) -> None:
    router = {
        "model_group_alias": {"nice": "a", "spare": {"model": "b", "hidden": True}},
        "fallbacks": [{"nice": ["spare"], "a": ["c"]}],
    }
    got = await run(asking(name), by_model(a=down), router=router)
    assert text_of(got.replied) == ("b" if name == "nice" else "c")


async def test_a_group_of_which_nothing_may_be_used_falls_back() -> None:
    class Narrow(Filter):
        name = "nothing-of-a"

        async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
            return [one for one in candidates if one.group != "a"]

    router = {"filters": ["nothing-of-a"], "fallbacks": [{"a": ["b"]}]}
    provider = by_model()
    assert text_of((await run(asking("a"), provider, Narrow, router=router)).replied) == "b"
    assert provider.asked == ["b"]
    refused = await run(asking("a"), by_model(), Narrow, router={"filters": ["nothing-of-a"]})
    assert isinstance(refused.failure, NoDeployment)


async def test_a_selectors_choice_has_its_fallbacks() -> None:
    class Picks(Selector):
        name = "picks"

        async def choose(self, call: Call) -> str:
            return "a"

    stand_in = {"model_name": "auto", "tianji_params": {"model": "picks/any"}}
    for fallbacks, answered in (([{"a": ["b"]}], "b"), ([{"a": ["b"], "auto": ["c"]}], "c")):
        settings = config(*groups("a", "b", "c"), stand_in, router_settings={**ONCE, "fallbacks": fallbacks})
        gateway = assembled(settings, by_model(a=down), Picks)
        assert text_of((await ask(gateway, asking("auto"))).replied) == answered
        await gateway.stop()


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


async def test_a_fallback_hook_that_offers_what_is_out_of_order_is_asked_once() -> None:
    """Where retries are used up it would offer the same for ever, and the event loop would do nothing else."""
    plugin: type[Offers] = type("Offers", (Offers,), {"seen": []})
    provider = by_model(a=down)
    settings = config(*groups("a", "b", "d"), router_settings={"fallbacks": [{"a": ["b"]}], **ONCE})
    gateway = assembled(settings, provider, plugin)
    health, (out,) = gateway.sealed.health, gateway.sealed.router.groups["d"].deployments
    for _ in range(IN_A_ROW):
        health.failed(out, down(), 1)
    gateway._budget.tokens = 0.0
    got = await ask(gateway, asking("a"))
    assert provider.asked == ["a", "b"]
    assert text_of(got.replied) == "b"
    assert plugin.seen == [("Unavailable", 1)]
    await gateway.stop()


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

    async def test_one_without_room_uses_no_attempt_up(self) -> None:
        """Not even where a call has but one: it was not asked."""
        provider = by_model()
        Full.left = 3
        full = assembled(
            config(
                *(deployment(model=name) for name in ("one", "two", "three", "four")),
                router_settings={"num_retries": 0, "routing_strategy": "full"},
            ),
            provider,
            Full,
        )
        got = await ask(full)
        assert text_of(got.replied) == "four"
        assert provider.asked == ["four"]
        assert Full.held == 0
        await full.stop()


class Full(Strategy):
    """The first `left` deployments have no room; all others are held while they are asked."""

    name = "full"
    left = 0
    held = 0
    given: list[str] = []

    class Settings(PluginSettings, frozen=True):
        pass

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return candidates

    def begin(self, call: Call, deployment: Deployment) -> Any:
        if Full.left > 0:
            Full.left -= 1
            raise Overloaded("no room", status=429)
        Full.held += 1

        def release() -> None:
            Full.held -= 1
            Full.given.append(deployment.model)

        return release


class TestRelease:
    """What an attempt took is given back exactly once, however it ends."""

    @pytest.fixture(autouse=True)
    def fresh(self) -> None:
        Full.left = Full.held = 0
        Full.given = []

    async def gateway(self, provider: Any, *more: type[Plugin], **router: Any) -> Any:
        settings = config(
            deployment(), deployment(model="two"),
            router_settings={"routing_strategy": "full", "retry_after": 0, **router},
        )  # fmt: skip
        made = assembled(settings, provider, Full, *more)
        made.pipeline.attempts.rules.wait = lambda *_: 0.0  # type: ignore[method-assign]
        return made

    async def test_an_answer(self) -> None:
        gateway = await self.gateway(by_model())
        await ask(gateway)
        assert (Full.held, Full.given) == (0, ["one"])
        await gateway.stop()

    async def test_failures(self) -> None:
        gateway = await self.gateway(by_model(one=down, two=down))
        await ask(gateway)
        assert (Full.held, Full.given) == (0, ["one", "two", "one"])
        await gateway.stop()

    async def test_a_failed_attempt_holds_nothing_during_the_next(self) -> None:
        held: list[int] = []

        async def script(call: Call, deployment: Deployment) -> Reply:
            held.append(Full.held)
            if deployment.model == "one":
                raise down()
            return answer()

        gateway = await self.gateway(scripted(script))
        await ask(gateway)
        assert held == [1, 1]
        await gateway.stop()

    @pytest.mark.parametrize("leave_after", [None, 1])
    async def test_a_stream(self, leave_after: int | None) -> None:
        held: list[int] = []

        async def script(call: Call, deployment: Deployment) -> Reply:
            return streamed("a", "b", "c")

        gateway = await self.gateway(scripted(script))
        collector = Collector(leave_after=leave_after)
        call = asking(stream=True)
        try:
            await ask(gateway, call, collector=collector)
        except asyncio.CancelledError:
            held.append(Full.held)
        await gateway.stop()
        assert (Full.held, Full.given) == (0, ["one"])
        assert held == ([] if leave_after is None else [0])

    async def test_a_stream_that_breaks(self) -> None:
        async def script(call: Call, deployment: Deployment) -> Reply:
            return streamed("a", Timeout("stalled"))

        gateway = await self.gateway(scripted(script))
        await ask(gateway, asking(stream=True))
        assert (Full.held, Full.given) == (0, ["one"])
        await gateway.stop()

    async def test_a_client_that_leaves_before_the_answer(self) -> None:
        async def script(call: Call, deployment: Deployment) -> Reply:
            await asyncio.sleep(3600)
            return answer()

        gateway = await self.gateway(scripted(script))
        task = asyncio.ensure_future(ask(gateway))
        await asyncio.sleep(0.01)
        assert Full.held == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (Full.held, Full.given) == (0, ["one"])
        await gateway.stop()

    async def test_a_ledger_that_refuses(self) -> None:
        """The refusal comes after `begin`: it is given back before another deployment is asked."""
        gateway = await self.gateway(by_model(), type("Keeper", (Keeper,), {"poor": ["one"]}))
        got = await ask(gateway)
        assert isinstance(got.failure, OverBudget)
        assert (Full.held, Full.given) == (0, ["one"])
        await gateway.stop()

    async def test_a_ledger_that_is_busy(self) -> None:
        seen: list[int] = []

        class Busy(MemoryLedger):
            async def reserve(self, entry: Entry, principal: Principal) -> None:
                seen.append(Full.held)
                if len(seen) < 3:
                    raise Overloaded("the ledger is busy")
                await super().reserve(entry, principal)

        class Slow(Extension):
            name = "slow"

            @hookimpl
            def configure(self, app: Assembly) -> None:
                app.provide(Ledger, Busy())  # type: ignore[type-abstract]

        gateway = await self.gateway(by_model(), Slow)
        got = await ask(gateway)
        assert text_of(got.replied) is not None
        assert seen == [1, 1, 1]
        assert (Full.held, len(Full.given)) == (0, 3)
        await gateway.stop()


async def test_a_ledger_that_cannot_take_a_reservation_back_ends_the_call_and_is_offered_it_again() -> None:
    class Deaf(MemoryLedger):
        fails = 1

        async def settle(self, entry: Entry) -> None:
            if self.fails:
                self.fails -= 1
                raise Overloaded("not now")
            await super().settle(entry)

    class Slow(Extension):
        name = "slow"

        @hookimpl
        def configure(self, app: Assembly) -> None:
            app.provide(Ledger, Deaf())  # type: ignore[type-abstract]

    provider = by_model(a=down)
    got = await run(asking("a"), provider, Slow, router={"fallbacks": [{"a": ["b"]}]})
    assert isinstance(got.failure, Internal)
    assert provider.asked == ["a"]


async def test_a_call_that_failed_leaves_no_circle_behind() -> None:
    """What refers to itself stays until a garbage collection: under an outage that is a lot."""
    settings = config(*groups("a", "b"), router_settings={"fallbacks": [{"a": ["b"]}], "num_retries": 1})
    gateway = assembled(settings, by_model(a=down, b=down))
    gateway.pipeline.attempts.rules.wait = lambda *_: 0.0  # type: ignore[method-assign]
    call = asking("a")
    call.snapshot = gateway.sealed
    seen = weakref.ref(call)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Unavailable):
            await gateway.pipeline.attempts.run(call)
        assert [one.outcome for one in call.attempts] == ["Unavailable"] * 4
        await gateway.pipeline._close(call, None)
        call = None  # type: ignore[assignment]
        assert seen() is None
    finally:
        gc.enable()
    await gateway.stop()
