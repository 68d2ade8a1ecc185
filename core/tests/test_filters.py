"""Routing filters: what they prefer, how they compose with strategies, health and fallbacks; that none is got round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel import (
    Collector,
    VirtualLoop,
    answer,
    ask,
    asking,
    assembled,
    config,
    deployment,
    scripted,
    text_of,
    virtually,
)

from tianji.config.filters import wanted
from tianji.discovery import Catalogue, scan
from tianji.errors import (
    BadCredentials,
    BadRequest,
    Failure,
    Forbidden,
    Internal,
    NoDeployment,
    Throttled,
    Unavailable,
)
from tianji.gateway import Gateway
from tianji.model import Attempt, Call, Deployment, Reply
from tianji.plan import Plan
from tianji.plugin import Filter, Plugin, Strategy
from tianji.testing import make_principal

FILTERS = ("tag-filter", "region-filter", "budget-limiter", "prefix-affinity", "rate-limits")
LONG = "You are a patient teacher of the Greek language. " * 120
CATALOGUE = Catalogue(scan())
INSTALLED = set(CATALOGUE.names("strategies"))
pytestmark = pytest.mark.skipif(not INSTALLED.issuperset(FILTERS), reason="the filters are not installed")


def load(*names: str) -> list[type[Plugin]]:
    return [CATALOGUE.load("strategies", name) for name in names]


STRATEGIES = sorted(
    {cls.name for name in INSTALLED if issubclass(cls := CATALOGUE.load("strategies", name), Strategy)}
    | {"simple-shuffle"}
)


def gateway(*deployments: Mapping[str, Any], plugins: Sequence[type[Plugin]] = (), **router: Any) -> Gateway:
    """A gateway with the installed filters that the configuration asks for."""
    settings = config(*deployments, router_settings=router)
    names = [name for name in (*wanted(settings), router.get("routing_strategy")) if name in INSTALLED]
    return assembled(settings, *plugins, *load(*names))


async def serve(made: Gateway, *calls: Call) -> list[str | Failure]:
    """What the calls ended in, one after the other: the text of the answer, or the failure."""
    ended: list[str | Failure] = []
    for call in calls:
        got = await ask(made, call)
        ended.append(got.failure if got.failure is not None else text_of(got.replied))
    return ended


def tried_by(call: Call) -> list[str]:
    """The upstream models of a call's attempts."""
    charge = call.charge  # the last attempt, which is among the others only where somebody learns from attempts
    last = [charge.deployment.model] if charge is not None and charge.number > len(call.attempts) else []
    return [*(one.model for one in call.attempts), *last]


async def test_a_region_that_nobody_looks_at_is_refused() -> None:
    made = gateway(deployment(), deployment("other", "two"), fallbacks={"group": ["other"]})
    bound = make_principal(metadata={"allowed_model_region": "eu"})
    unbound = make_principal(metadata={"allowed_model_region": None, "team": "x"})
    calls = [asking(options={"allowed_model_region": "eu"}), asking(principal=bound)]
    for failure in await serve(made, *calls):
        assert isinstance(failure, BadRequest)
        assert failure.param == "allowed_model_region"
        assert "pip install tianji-strategy-region-filter" in failure.message
    assert [tried_by(call) for call in calls] == [[], []]
    assert await serve(made, asking(principal=unbound)) == ["ok"]


# -- what a filter prefers ---------------------------------------------------------------------------------------------


class Fond(Filter):
    """Prefers the deployment that a call names in its options."""

    name = "fond"
    asked: ClassVar[list[list[str]]] = []

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return [one for one in candidates if one.model != call.options.get("not")]

    def prefer(self, call: Call, ranked: Sequence[Deployment]) -> Deployment | None:
        wish = call.options.get("wish")
        if wish == "stranger":
            return self.gateway.sealed.router.groups["other"].deployments[0]  # type: ignore[attr-defined,no-any-return]
        if wish == "fault":
            raise RuntimeError("no")
        return next((one for one in ranked if one.model == wish), None)


def fond(*more: Mapping[str, Any], **router: Any) -> Gateway:
    names = ("one", "two", "three")
    group = [deployment(model=name) for name in names]
    return gateway(*(more or group), deployment("other", "four"), plugins=[Fond], filters=["fond"], **router)


async def order_of(made: Gateway, **options: Any) -> list[str]:
    found = await made.sealed.pipeline.attempts.selection.ranked(asking(options=options), "group")
    return [one.model for one in found]


async def test_the_preferred_one_goes_first() -> None:
    made = fond(routing_strategy="simple-shuffle")
    for wish in ("one", "two", "three"):
        for _ in range(5):
            order = await order_of(made, wish=wish)
            assert order[0] == wish
            assert sorted(order) == ["one", "three", "two"], "nobody is lost"
    assert sorted(await order_of(made, wish="nobody")) == ["one", "three", "two"]


async def test_a_preference_does_not_get_round_a_filter() -> None:
    made = fond()
    assert await order_of(made, wish="two", **{"not": "two"}) == ["one", "three"]
    assert sorted(await order_of(made, wish="stranger")) == ["one", "three", "two"]


async def test_a_fault_of_a_preference_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert sorted(await order_of(fond(), wish="fault")) == ["one", "three", "two"]
    assert "failed to prefer" in caplog.text


async def test_health_and_tiers_win_over_a_preference() -> None:
    made = fond(deployment(model="one"), deployment(model="two"), deployment(model="late", order=1))
    assert await order_of(made, wish="late") == ["one", "two", "late"], "of a later tier"
    (two,) = (one for one in made.sealed.router.deployments if one.model == "two")
    made.sealed.health.failed(two, Throttled("full"), 2)
    assert await order_of(made, wish="two") == ["one", "late", "two"], "out of order"


async def test_an_explanation_shows_who_preferred() -> None:
    call = asking(options={"wish": "three"})
    call.plan = Plan()
    await fond().sealed.pipeline.attempts.selection.ranked(call, "group")
    (route,) = call.plan.routes
    assert {one.model: (one.rank, one.preferred_by) for one in route.candidates}["three"] == (1, "strategies:fond")
    assert [one.preferred_by for one in route.candidates].count(None) == 2


# -- filters and strategies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_filters_compose_with_every_strategy(strategy: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        made = gateway(
            deployment(model="one", tags=["paid"], region="eu-west1", rpm=3, max_budget=1, budget_duration="1d"),
            deployment(model="two", tags=["paid"], region="us-east1"),
            deployment(model="three", tags=["free"], region="eu-west1"),
            deployment(model="four", tags=["paid"], region="eu-west1", max_budget=0),
            routing_strategy=strategy, enable_tag_filtering=True,
            optional_pre_call_checks=["prompt_caching", "enforce_model_rate_limits"],
        )  # fmt: skip
        await made.start()
        options = {"tags": ["paid"], "allowed_model_region": "eu"}
        calls = [asking(options=options) for _ in range(5)]
        ended = await serve(made, *calls)
        assert [tried_by(call) for call in calls] == [["one"]] * 3 + [[], []]
        assert ended[:3] == ["ok"] * 3
        for failure in ended[3:]:
            assert isinstance(failure, NoDeployment)
            assert failure.retry_after is not None
        wide = [asking(options={"tags": ["paid"]}) for _ in range(4)]
        await serve(made, *wide)
        assert {name for call in wide for name in tried_by(call)} == {"two"}
        await made.stop()

    virtually(main)


class Watcher(Filter):
    """Keeps everything, and what is observed."""

    name = "watcher"

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.seen: list[Attempt] = []

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return candidates

    def observe(self, attempt: Attempt) -> None:
        self.seen.append(attempt)


async def test_attempts_say_what_they_cost() -> None:
    async def script(call: Call, one: Deployment) -> Reply:
        if one.model == "bad":
            raise Unavailable("down")
        return answer()

    made = gateway(
        deployment(model="bad"), deployment(model="good", order=1), plugins=[scripted(script), Watcher],
        filters=["watcher"],
    )  # fmt: skip
    assert await serve(made, asking()) == ["ok"]
    (watcher,) = (one for one in made.sealed.registry.plugins if isinstance(one, Watcher))
    assert [(one.model, one.nano) for one in watcher.seen] == [("bad", None), ("good", 10 * 1000 + 5 * 2000)]


def test_a_provider_whose_budget_is_spent_falls_back() -> None:
    async def main(loop: VirtualLoop) -> None:
        made = gateway(
            deployment(model="one", max_budget=0.00003, budget_duration="1h"), deployment("spare", "two"),
            fallbacks={"group": ["spare"]},
        )  # fmt: skip
        await made.start()
        calls = [asking() for _ in range(4)]
        await serve(made, *calls)
        assert [tried_by(call) for call in calls] == [["one"], ["one"], ["two"], ["two"]]
        (failure,) = await serve(made, asking(options={"disable_fallbacks": True}))
        assert isinstance(failure, NoDeployment)
        assert (failure.status, failure.code) == (429, "deployment_budget_exceeded")
        await made.stop()

    virtually(main)


def test_a_conversation_stays_and_moves_when_its_deployment_is_ill() -> None:
    async def main(loop: VirtualLoop) -> None:
        ill: set[str] = set()

        async def script(call: Call, one: Deployment) -> Reply:
            if one.model in ill:
                raise Throttled("full")
            return answer(one.model)

        names = ("one", "two", "three")
        made = gateway(
            *(deployment(model=name) for name in names), plugins=[scripted(script)], filters=["prefix-affinity"],
            routing_strategy="simple-shuffle", cooldown_time=5,
        )  # fmt: skip
        await made.start()
        turns: list[dict[str, Any]] = [{"role": "system", "content": LONG}]

        async def turn(text: str) -> str:
            turns.append({"role": "user", "content": text})
            (said,) = await serve(made, asking(messages=list(turns)))
            assert isinstance(said, str)
            turns.append({"role": "assistant", "content": said})
            return said

        first = await turn("Hello")
        assert {await turn(str(number)) for number in range(8)} == {first}
        ill.add(first)
        second = await turn("And now?")
        assert second != first
        ill.clear()
        assert {await turn(str(number)) for number in range(8)} == {second}, "the cache is there now"
        await made.stop()

    virtually(main)


# -- nobody gets round a filter ----------------------------------------------------------------------------------------

PLACES: dict[str | None, set[str]] = {
    None: set(), "eu-west1": {"eu", "eu-west1"}, "europe-west4": {"eu"}, "us-east1": {"us"}, "eu-west-2": set(),
}  # fmt: skip
"""Where deployments are, and which of the regions asked for below that is in."""
FAULTS: dict[str, type[Failure]] = {"down": Unavailable, "full": Throttled, "locked": BadCredentials}
_one = st.fixed_dictionaries(
    {
        "group": st.sampled_from(["group", "group", "other"]),
        "tags": st.sampled_from([[], ["default"], ["paid"], ["paid", "fast"], ["free"]]),
        "region": st.sampled_from(list(PLACES)),
        "team": st.sampled_from([None, None, "a", "b"]),
        "rpm": st.sampled_from([None, None, 1, 2]),
        "order": st.sampled_from([0, 0, 1]),
        "max_budget": st.sampled_from([None, None, 0.00001]),
        "fault": st.sampled_from([None, None, *FAULTS]),
    }
)
_call = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["group", "group", "other"]),
        "tags": st.lists(st.sampled_from(["paid", "fast", "free", "!paid", "&fast", "odd"]), max_size=2),
        "key_tags": st.sampled_from([(), (), ("&paid",), ("free",)]),
        "region": st.sampled_from([None, None, "eu", "us", "eu-west1"]),
        "key_region": st.sampled_from([None, None, "eu"]),
        "team": st.sampled_from([None, "a"]),
    }
)
_world = st.fixed_dictionaries(
    {
        "deployments": st.lists(_one, min_size=1, max_size=6),
        "calls": st.lists(_call, min_size=1, max_size=6),
        "strategy": st.sampled_from(STRATEGIES),
        "match_any": st.booleans(),
        "fallbacks": st.booleans(),
    }
)


def permitted(world: dict[str, Any], asked: dict[str, Any], group: str) -> set[str]:
    """The models of a group that may serve a call, told anew from the documented rules."""
    members = {f"m{n}": one for n, one in enumerate(world["deployments"]) if one["group"] == group}
    for region in (asked["region"], asked["key_region"]):
        if region is not None:
            members = {name: one for name, one in members.items() if region in PLACES[one["region"]]}
    members = {name: one for name, one in members.items() if one["team"] in (None, asked["team"])}
    tags = [*asked["tags"], *asked["key_tags"]]
    required = {tag[1:] for tag in tags if tag[0] == "&"}
    excluded = {tag[1:] for tag in tags if tag[0] == "!"}
    plain = {tag for tag in tags if tag[0] not in "&!"}
    carried = {name: set(one["tags"]) for name, one in members.items()}
    fit = {name for name, own in carried.items() if required <= own and not excluded & own}
    defaults = {name for name, own in carried.items() if "default" in own}
    if plain:
        matching = {name for name in fit if (carried[name] & plain if world["match_any"] else plain <= carried[name])}
        return matching or fit & defaults
    return fit if required else fit & (defaults or set(carried))


async def play(world: dict[str, Any]) -> None:
    async def script(call: Call, one: Deployment) -> Reply:
        fault = world["deployments"][int(one.model[1:])]["fault"]
        if fault is not None:
            raise FAULTS[fault](fault)
        return answer(one.model)

    listed = []
    for number, one in enumerate(world["deployments"]):
        params = {key: one[key] for key in ("tags", "region", "rpm", "order", "max_budget") if one[key]}
        access = {"allowed_teams": [one["team"]]} if one["team"] else {}
        listed.append(deployment(one["group"], f"m{number}", access_control=access, **params))
    made = gateway(
        *listed, deployment("elsewhere", "m0", model_info={"id": "unused"}, region="us-east1", tags=["never"]),
        plugins=[scripted(script)], routing_strategy=world["strategy"], enable_tag_filtering=True,
        tag_filtering_match_any=world["match_any"], filters=["prefix-affinity", "rate-limits"],
        fallbacks={"group": ["other"], "other": ["group"]} if world["fallbacks"] else {},
    )  # fmt: skip
    await made.start()
    attempts: dict[str, int] = {}
    answers: dict[str, int] = {}
    for asked in world["calls"]:
        metadata = {} if asked["key_region"] is None else {"allowed_model_region": asked["key_region"]}
        principal = make_principal(tags=asked["key_tags"], team_id=asked["team"], metadata=metadata)
        options = {"tags": asked["tags"], "allowed_model_region": asked["region"]}
        call = asking(
            asked["model"], principal=principal, options={key: value for key, value in options.items() if value},
            messages=[{"role": "user", "content": LONG}, {"role": "user", "content": "x"}],
        )  # fmt: skip
        got: Collector = await ask(made, call)
        for name in tried_by(call):
            group = world["deployments"][int(name[1:])]["group"]
            assert name in permitted(world, asked, group), f"{name} must not serve {asked}"
            assert group == asked["model"] or world["fallbacks"]
            attempts[name] = attempts.get(name, 0) + 1
        if got.failure is None:
            said = text_of(got.replied)
            assert said in permitted(world, asked, "group") | permitted(world, asked, "other")
            answers[said] = answers.get(said, 0) + 1
        else:
            assert not isinstance(got.failure, Internal), got.failure.message
        here = [one for one in world["deployments"] if one["group"] == asked["model"]]
        theirs = here and all(one["team"] in (None, asked["team"]) for one in here)
        if theirs and not permitted(world, asked, asked["model"]):
            assert isinstance(got.failure, Forbidden), "nobody may serve it, so nobody does"
            assert not tried_by(call)
    for name, count in attempts.items():
        rpm = world["deployments"][int(name[1:])]["rpm"]
        assert rpm is None or count <= rpm, f"{name} had {count} requests of {rpm}"
        dear = world["deployments"][int(name[1:])]["max_budget"] is not None and answers.get(name, 0) > 1
        assert not dear, f"{name} spent {answers[name]} times 0.00002 dollars of 0.00001"
    await made.stop()


@settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink], suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(_world)
def test_no_request_reaches_a_deployment_that_is_forbidden_to_it(world: dict[str, Any]) -> None:
    """Also under failures, cooldowns, retries and fallbacks, with every strategy."""
    virtually(lambda loop: play(world))
