"""Explanations: equal to what then happens, for a thousand random calls; without effect; bounded; discreet."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from kernel import (
    PRICES,
    Collector,
    VirtualLoop,
    answer,
    ask,
    asking,
    assembled,
    config,
    deployment,
    scripted,
    virtually,
)

from tianji.discovery import Catalogue, scan
from tianji.errors import (
    ContentPolicy,
    ContextWindow,
    Failure,
    Forbidden,
    RateLimited,
    Throttled,
    Unavailable,
)
from tianji.explain import _visible, explain, header
from tianji.explanation import Explanation, plain
from tianji.gateway import Gateway
from tianji.hookspecs import hookimpl
from tianji.model import Call, Deployment, Principal, Reply, Wire
from tianji.plan import AGAIN, LONGEST, NO_ACCESS, Candidate, Plan, Route, Tried, Unknowable, compact, explaining
from tianji.plugin import Content, Extension, Filter, Guardrail, Selector, Strategy, Verdict
from tianji.testing import make_principal

NOW = 5000.0
"""What the clock of every `Health` below says."""


class Shuffled(Strategy):
    """By chance and weight; counts what is begun, so that an explanation that began something would show."""

    name = "shuffled"

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.begun: dict[str, int] = {}

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        drawn = [(call.dice.random() ** (1.0 / (one.weight or 1.0)), one.id, one) for one in candidates]
        left_out = [one for one in candidates if "never" in one.tags]
        return [one for *_, one in sorted(drawn, reverse=True) if one not in left_out]

    def begin(self, call: Call, deployment: Deployment) -> None:
        self.begun[deployment.id] = self.begun.get(deployment.id, 0) + 1


class ByTag(Filter):
    """Those that have all tags of the request."""

    name = "by-tag"

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        wanted = set(call.options.get("tags", ()))
        return [one for one in candidates if wanted <= set(one.tags)]

    def reason(self, call: Call, deployment: Deployment) -> str:
        return f"it lacks a tag, and has spent 12 dollars at {deployment.provider}"


def installed(*names: str) -> dict[str, type[Any]]:
    """Those of the repository's routing plugins that are installed."""
    catalogue = Catalogue(scan())
    return {name: catalogue.load("strategies", name) for name in names if catalogue.get("strategies", name) is not None}


STRATEGIES: dict[str, type[Any]] = {
    "shuffled": Shuffled,
    **installed(
        "simple-shuffle", "least-busy", "lowest-cost", "lowest-latency", "round-robin", "usage-based",
        "lowest-tpm-rpm", "priority",
    ),
}  # fmt: skip
FILTERS: dict[str, type[Any]] = {
    "by-tag": ByTag,
    **installed("tag-filter", "region-filter", "budget-limiter", "rate-limits", "prefix-affinity"),
}


async def explained(gateway: Gateway, call: Call) -> Explanation:
    return await explain(gateway.sealed, gateway.catalogue, call)


# -- a thousand random calls -------------------------------------------------------------------------------------------


class Case:
    """One random configuration, one random call, and what the providers will say."""

    def __init__(self, number: int) -> None:
        self.dice = random.Random(number)
        pick = self.dice.choice
        self.groups = [f"g{n}" for n in range(self.dice.randint(1, 4))]
        self.members = {name: [f"m{n}" for n in range(self.dice.randint(1, 6))] for name in self.groups}
        self.outcomes: dict[str, Any] = {
            f"{group}-{model}": pick([None, Unavailable, Throttled, ContextWindow, ContentPolicy])
            for group, models in self.members.items()
            for model in models
        }
        everything = [self._deployment(group, model) for group in self.groups for model in self.members[group]]
        everything.append(deployment("wild/*", "*", model_info={"id": "wild"}))
        names = [*self.groups, "nick", "wild/one", "nowhere", "g0-m0"]
        router = {
            "routing_strategy": pick([*STRATEGIES, "shuffled", "shuffled"]),
            "filters": [name for name in FILTERS if self.dice.random() < 0.2],
            "enable_pre_call_checks": self.dice.random() < 0.5,
            "model_group_alias": {"nick": pick(self.groups)},
            "max_fallbacks": pick([0, 1, 2, 5]),
            "disable_cooldowns": self.dice.random() < 0.2,
        }
        for field in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
            if self.dice.random() < 0.7:
                keys = [*self.groups, "nick", "wild/*", *(["*"] if field == "fallbacks" else [])]
                router[field] = [{key: self._some(names)} for key in keys if self.dice.random() < 0.6]
        if self.dice.random() < 0.3:
            router["num_retries"] = self.dice.randint(0, 4)
        self.config = config(*everything, router_settings=router)
        self.model = pick([*names, *self.groups, *self.groups])
        self.seed = self.dice.getrandbits(64)
        self.options = self._options(names)
        self.principal = self._principal(names)

    def _some(self, names: list[str]) -> list[str]:
        return self.dice.sample(names, self.dice.randint(1, min(4, len(names))))

    def _deployment(self, group: str, model: str) -> dict[str, Any]:
        pick = self.dice.choice
        return deployment(
            group, model, order=pick([0, 0, 1, 2]), weight=pick([0.5, 1.0, 2.5]),
            tags=pick([[], ["eu"], ["eu", "paid"], ["never"] if self.dice.random() < 0.2 else ["paid"]]),
            model_info={"max_input_tokens": pick([None, 1, 50, 1000])}, region=pick([None, "eu", "us"]),
            rpm=pick([None, 1, 100]), tpm=pick([None, 10, 100_000]),
            access_control=pick([{}, {}, {"allowed_teams": ["red"]}, {"allowed_teams": ["blue"]}]),
            **{key: price * pick([1, 2]) for key, price in PRICES.items()},
        )  # fmt: skip

    def _options(self, names: list[str]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.dice.random() < 0.5:
            options["tags"] = self.dice.choice([["eu"], ["paid"], ["eu", "paid"]])
        if self.dice.random() < 0.1:
            options["fallbacks"] = self._some(names)
        if self.dice.random() < 0.1:
            options["disable_fallbacks"] = True
        return options

    def _principal(self, names: list[str]) -> Principal:
        if self.dice.random() < 0.3:
            return make_principal(role="proxy_admin")
        models = ("*",) if self.dice.random() < 0.7 else tuple(self._some(names))
        return make_principal(models=models, team_id=self.dice.choice([None, "red", "blue"]))

    def gateway(self) -> Gateway:
        async def script(call: Call, one: Deployment) -> Reply:
            failure = self.outcomes.get(one.id)
            if failure is not None:
                raise failure("scripted")
            return answer()

        plugins: list[type[Any]] = [*STRATEGIES.values(), *FILTERS.values()]
        gateway = assembled(self.config, scripted(script), *plugins)
        health = gateway.sealed.health
        health.clock = lambda: NOW
        for one in gateway.sealed.router.deployments:
            if self.dice.random() < 0.3:
                health.failed(one, Throttled("busy", retry_after=self.dice.choice([1.0, 5.0, 40.0])), 2)
        health.clock = lambda: NOW + 3.0  # some are due for a probe
        return gateway

    def call(self) -> Call:
        text = "word " * self.dice.choice([1])
        call = asking(
            self.model, messages=[{"role": "user", "content": text * 10}], options=dict(self.options),
            principal=self.principal,
        )  # fmt: skip
        call.seed = self.seed
        return call


def state_of(gateway: Gateway) -> Any:
    """All that a call changes in a gateway."""
    sealed = gateway.sealed
    states = {
        key: [repr(getattr(state, name)) for name in type(state).__slots__]
        for key, state in sealed.health.states.items()
    }
    ledger: Any = sealed.pipeline.ledger
    plugins = {
        one.instance: repr({key: value for key, value in vars(one).items() if key not in ("gateway", "settings")})
        for one in sealed.registry.plugins
    }
    budget = sealed.pipeline.attempts.budget
    return states, list(ledger.entries), ledger.held, plugins, budget.tokens, budget.denied, sealed.pipeline.in_flight


def visible(principal: Principal, routes: Sequence[Route]) -> list[Route]:
    """Routes of a real call, as its caller would have them explained."""
    closed = [] if principal.is_admin else [one for one in routes[1:] if (one.refused or "").startswith("Forbidden")]
    return _visible(principal, [one for one in routes if not any(one is other for other in closed)])


def attempted(call: Call) -> list[str]:
    made = [one.deployment_id for one in call.plan.tried]
    return made if call.charge is None else [*made, call.charge.deployment.id]


def check_order(routes: Sequence[Route], made: list[str]) -> None:
    """Attempts go through each route in the order of its ranks, one route after the other.

    Who is asked again when all of a route have been, depends on what they have answered.
    """
    left = list(made)
    for route in routes:
        if route.refused is not None:
            continue
        ranked = sorted((one for one in route.candidates if one.rank is not None), key=lambda one: one.rank or 0)
        ids = [one.deployment_id for one in ranked]
        at = 0
        while left and (left[0] == ids[at] if at < len(ids) else left[0] in ids):
            left.pop(0)
            at += 1
    assert not left, (made, routes)


def kind_of(call: Call, first: Route) -> str:
    """Which fallbacks a real call went on to."""
    mine = {one.deployment_id for one in first.candidates}
    outcomes = [one.outcome for one in call.plan.tried if one.deployment_id in mine]
    last = outcomes[-1] if outcomes else ""
    return {"ContextWindow": "context_window", "ContentPolicy": "content_policy"}.get(last, "general")


async def check_case(number: int) -> str:
    """Explain a random call twice, make it, compare. What came of it, so that the test can see that all things did."""
    case = Case(number)
    gateway = case.gateway()
    await gateway.start()
    for _ in range(case.dice.randint(0, 3)):
        earlier = case.call()
        earlier.seed = case.dice.getrandbits(64)
        await ask(gateway, earlier)
    before = state_of(gateway)
    told = await explained(gateway, case.call())
    assert plain(await explained(gateway, case.call())) == plain(told)
    assert state_of(gateway) == before, "an explanation changed something"
    call = case.call()
    call.plan = Plan()
    collector = await ask(gateway, call)
    real = visible(case.principal, call.plan.routes)
    assert call.plan.seed == told.seed == case.seed
    assert real[:1] == told.routes
    chain = told.fallbacks.get(kind_of(call, real[0])) or next(iter(told.fallbacks.values()), None)
    further = real[1:]
    if chain is None:
        assert not further
    else:
        assert further == chain.routes[: len(further)]
        if collector.failure is not None:
            assert further == chain.routes, "all fallbacks were looked at"
    check_order(call.plan.routes, attempted(call))
    check_header(call)
    if told.refused is not None:
        assert collector.failure is not None
        assert (collector.failure.status, collector.failure.message) == (
            told.refused["status"], told.refused["message"],
        )  # fmt: skip
        assert not attempted(call)
        return "refused"
    assert attempted(call)
    assert told.estimated.deployment_id == attempted(call)[0]
    return "fell back" if further else "direct"


def check_header(call: Call) -> None:
    text = header(call)
    assert text.isascii()
    assert len(text) <= LONGEST
    said = json.loads(text)
    assert said["seed"] == call.seed
    if "truncated" not in said:
        assert [one["model"] for one in said["routes"]] == [one.model for one in call.plan.routes]
        assert [one["deployment_id"] for one in said["attempts"]] == attempted(call)


@pytest.mark.parametrize("batch", range(10))
def test_a_call_goes_as_it_was_explained(batch: int) -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        return [await check_case(batch * 100 + number) for number in range(100)]

    seen = virtually(main)
    assert {seen.count(kind) > 5 for kind in ("refused", "fell back", "direct")} == {True}, seen


@pytest.mark.parametrize("strategy", ["shuffled", "simple-shuffle"])
def test_chance_is_the_same_in_the_fallbacks(strategy: str) -> None:
    """The dice have been thrown for the first group by then, and go on from there."""
    if strategy not in STRATEGIES:
        pytest.skip(f"{strategy} is not installed")

    async def script(call: Call, one: Deployment) -> Reply:
        raise Unavailable("scripted")

    everything = [deployment(group, f"m{n}") for group in ("group", "b", "c") for n in range(5)]
    router = {"routing_strategy": strategy, "fallbacks": [{"group": ["b", "c"]}]}

    async def main(loop: VirtualLoop) -> set[tuple[int | None, ...]]:
        gateway = assembled(config(*everything, router_settings=router), scripted(script), STRATEGIES[strategy])
        gateway.sealed.health.disabled = True
        orders = set()
        for seed in range(20):
            first, second = asking(), asking()
            first.seed = second.seed = seed
            told = await explained(gateway, first)
            second.plan = Plan()
            await ask(gateway, second)
            assert [*told.routes, *told.fallbacks["general"].routes] == second.plan.routes
            orders |= {tuple(one.rank for one in route.candidates) for route in second.plan.routes}
        return orders

    assert len(virtually(main)) > 30


# -- what a document says ----------------------------------------------------------------------------------------------


class Strict(Guardrail):
    name = "strict"

    async def check(self, content: Content, call: Call) -> Verdict:
        raise AssertionError("a call that is only explained is not checked")


class Limits(Extension):
    """Refuses callers of its own choosing; `explain` says so."""

    name = "limits"
    order = 200

    @hookimpl
    async def pre_call(self, call: Call) -> Reply | None:
        raise AssertionError("nothing is counted")

    def explain(self, call: Call) -> dict[str, Any] | None:
        if call.principal.key_id == "hasty":
            raise RateLimited("Too fast.")
        if call.principal.key_id == "odd":
            raise KeyError("a fault")
        return {"left": 3, "since": object()}


class Silent(Extension):
    """Has hooks and says nothing of them."""

    name = "silent"

    @hookimpl
    async def pre_call(self, call: Call) -> Reply | None:
        raise AssertionError("not to be run")

    @hookimpl
    async def fallback(self, call: Call, failure: Failure, tried: Sequence[Deployment]) -> None:
        raise AssertionError("nothing has failed")


class Asking(Selector):
    """Asks a model which group it shall be, whatever it is told; takes the first group where that fails."""

    name = "asking"

    async def choose(self, call: Call) -> str:
        try:
            await self.gateway.ask(asking("group"))
        except Exception:
            return "group"
        raise AssertionError("somebody was asked")


def guarded(**fields: Any) -> dict[str, Any]:
    params = {"guardrail": "strict", "mode": ["pre_call", "post_call"], **fields}
    return {"guardrail_name": "polite", "tianji_params": params}


async def test_who_acts_and_what_they_say() -> None:
    plugins = (Strict, Limits, Silent, ByTag, Shuffled)
    router = {"routing_strategy": "shuffled", "filters": ["by-tag"]}
    gateway = assembled(config(router_settings=router, guardrails=[guarded()]), *plugins)
    document = plain(await explained(gateway, asking(options={"guardrails": ["polite"], "tags": ["eu"]})))
    labels = {
        stage: [f"{one['family']}:{one['instance']}" for one in acting] for stage, acting in document["hooks"].items()
    }
    assert labels == {
        "identify": ["kernel:master-key"],
        "pre_call": ["extensions:limits", "guardrails:polite", "extensions:silent"],
        "select": [],
        "narrow": ["strategies:by-tag"],
        "route": [],
        "provider_call": [],
        "fallback": ["extensions:silent", "kernel:fallbacks"],
        "post_call": ["guardrails:polite"],
        "log": [],
    }
    assert document["hooks"]["pre_call"][1] == {
        "plugin": "strict", "instance": "polite", "family": "guardrails", "distribution": "test", "version": "local",
        "order": 300,
    }  # fmt: skip
    assert document["plugins"] == {
        "extensions:limits": {"left": 3, "since": "object"},
        "guardrails:polite": {
            "applies": True, "why": "the request asks for it", "modes": ["pre_call", "post_call"], "fail_open": False,
        },
    }  # fmt: skip
    assert document["unknown"] == [
        "guardrails:polite: its verdict; it may refuse the call, or change its texts",
        "extensions:silent: what it does in pre_call",
        "extensions:silent: what it offers after a failure",
    ]
    assert document["refused"]["by"] == "kernel:routing"
    assert document["refused"]["type"] == "all_deployments_in_cooldown"
    assert document["policies"] == []
    json.dumps(document)


@pytest.mark.parametrize(
    ("given", "principal", "applies", "why"),
    [
        ({"default_on": True}, {}, True, "always on"),
        ({}, {"guardrails": ("polite",)}, True, "the caller's key"),
        ({}, {}, False, "neither the request nor the key"),
    ],
)
async def test_why_a_guardrail_applies(given: Any, principal: Any, applies: bool, why: str) -> None:
    gateway = assembled(config(guardrails=[guarded(**given)]), Strict)
    told = await explained(gateway, asking(principal=make_principal(**principal)))
    said = told.plugins["guardrails:polite"]
    assert said["applies"] is applies
    assert why in said["why"]
    assert bool(told.unknown) is applies


async def test_a_guardrail_that_cannot_read_refuses() -> None:
    gateway = assembled(config(guardrails=[guarded(default_on=True)]), Strict)
    call = asking(prompt=[1, 2], dialect="openai-completions")
    told = await explained(gateway, call)
    assert told.refused is not None
    assert (told.refused["by"], told.refused["code"]) == ("guardrails:polite", "guardrail_blocked")
    real = await ask(gateway, asking(prompt=[1, 2], dialect="openai-completions"))
    assert real.failure is not None
    assert real.failure.message == told.refused["message"]


@pytest.mark.parametrize(("key", "by"), [("hasty", "extensions:limits"), ("odd", None)])
async def test_a_plugin_that_would_refuse_and_one_that_fails(key: str, by: str | None) -> None:
    gateway = assembled(config(), Limits)
    told = await explained(gateway, asking(principal=make_principal(key_id=key)))
    assert (told.refused["by"] if told.refused else None) == by
    if by is None:
        assert told.unknown == ["extensions:limits: it could not say (KeyError)"]
    else:
        assert told.refused is not None
        assert (told.refused["status"], told.refused["message"]) == (429, "Too fast.")
    assert told.routes[0].candidates[0].rank == 1, "the route is told all the same"


async def test_a_selector_reaches_nobody() -> None:
    stand_in = {"model_name": "auto", "tianji_params": {"model": "asking/x"}, "model_info": {"id": "auto"}}
    gateway = assembled(config(deployment(), stand_in), Asking)
    before = state_of(gateway)
    told = await explained(gateway, asking("auto"))
    assert told.routes[0].selected_by == "asking:auto"
    assert [one.instance for one in told.hooks["select"]] == ["asking:auto"]
    assert told.unknown == ["the answer of 'group' would have to be asked for"]
    assert state_of(gateway) == before


async def test_the_ways_out_are_closed_only_while_explaining() -> None:
    gateway = assembled(config())
    with explaining() as prevented:
        for way in (gateway.ask(asking()), gateway.fetch(Wire("http://127.0.0.1:9/"))):
            with pytest.raises(Unknowable):
                await way
        with pytest.raises(Unknowable):
            _ = gateway.http
    assert prevented == ["the answer of 'group' would have to be asked for", *[OVER_HTTP] * 2]
    assert (await gateway.ask(asking())).status == 200


OVER_HTTP = "an answer over HTTP would have to be asked for"


async def test_one_member_is_told_in_full() -> None:
    gateway = assembled(config())
    health = gateway.sealed.health
    health.clock = lambda: NOW
    (one,) = gateway.sealed.router.deployments
    health.failed(one, Throttled("busy", retry_after=40.0), 2)
    told = await explained(gateway, asking())
    assert told.routes[0].candidates == [
        Candidate(
            deployment_id="group-one", provider="scripted", model="one", order=0, health=health.name(one),
            cooling_for=40.0, rank=1,
        )
    ]  # fmt: skip
    assert told.refused is None


async def test_fallbacks_by_kind_of_failure() -> None:
    router = {
        "fallbacks": [{"group": ["b", "nick", "c"]}], "context_window_fallbacks": [{"group": ["c"]}],
        "content_policy_fallbacks": [{"*": []}], "model_group_alias": {"nick": "b"}, "max_fallbacks": 1,
    }  # fmt: skip
    gateway = assembled(config(deployment(), deployment("b"), deployment("c"), router_settings=router))
    told = await explained(gateway, asking())
    assert {kind: [one.model for one in chain.routes] for kind, chain in told.fallbacks.items()} == {
        "general": ["b"], "context_window": ["c"], "content_policy": [],
    }  # fmt: skip
    assert told.fallbacks["general"].note == "a call tries no more than 1 of them (router_settings.max_fallbacks)"
    told = await explained(gateway, asking(options={"disable_fallbacks": True}))
    assert {chain.note for chain in told.fallbacks.values()} == {"the request switches fallbacks off"}
    told = await explained(gateway, asking(options={"fallbacks": ["nick", "b"]}))
    assert [one.model for one in told.fallbacks["context_window"].routes] == ["nick"]


async def test_two_names_of_one_group_are_tried_once() -> None:
    router = {"fallbacks": [{"group": ["b", "nick", "c"]}], "model_group_alias": {"nick": "b"}}
    gateway = assembled(config(deployment(), deployment("b"), deployment("c"), router_settings=router))
    told = await explained(gateway, asking())
    routes = told.fallbacks["general"].routes
    assert [(one.model, one.refused) for one in routes] == [("b", None), ("nick", AGAIN), ("c", None)]


async def test_a_refusal_that_falls_back_is_none() -> None:
    router = {"default_fallbacks": ["group"]}
    gateway = assembled(config(router_settings=router))
    told = await explained(gateway, asking("no-such-model"))
    assert told.refused is None
    assert (told.routes[0].refused or "").startswith("UnknownModel: ")
    assert list(told.fallbacks) == ["general"]
    assert told.estimated.deployment_id == "group-one"


async def test_money_and_time() -> None:
    told = await explained(assembled(config()), asking(options={"timeout": 7}, max_tokens=100))
    raw = len(json.dumps(asking(max_tokens=100).body, separators=(",", ":")))
    assert told.estimated.reserved_nano == raw * 1000 + 100 * 2000 + 1
    assert told.estimated.price_known is True
    assert told.estimated.input_tokens == 2
    assert told.call["timeouts"] == {"call": 7.0, "connect": 5.0, "attempt": 7.0}
    unpriced = deployment(input_cost_per_token=None, output_cost_per_token=None)
    told = await explained(assembled(config(unpriced)), asking(stream=True))
    assert (told.estimated.reserved_nano, told.estimated.price_known) == (None, False)
    assert told.call["timeouts"]["first_event"] == 600.0


# -- who may see what --------------------------------------------------------------------------------------------------


async def told_to(principal: Principal) -> Explanation:
    own = deployment(model="one", api_base="https://user:pass@h.example:8443/v1?key=sk-1#x", tags=["eu"])
    other = deployment(model="two", access_control={"allowed_teams": ["blue"]})
    third = deployment(model="three", tags=["us"])
    router = {"fallbacks": [{"group": ["hidden", "open"]}], "filters": ["by-tag"]}
    hidden, public = deployment("hidden", tags=["eu"]), deployment("open", tags=["eu"])
    gateway = assembled(config(own, other, third, hidden, public, router_settings=router), ByTag)
    return await explained(gateway, asking(principal=principal, options={"tags": ["eu"]}))


async def test_what_a_caller_may_not_use_is_not_shown() -> None:
    secret = "0123456789abcdef"
    caller = make_principal(models=("group", "open"), team_id="red", key_hash=secret, metadata={"note": secret})
    told = await told_to(caller)
    text = json.dumps(plain(told))
    assert [one.deployment_id for one in told.routes[0].candidates] == ["group-one", "group-three"]
    assert told.routes[0].candidates[1].dropped == "not kept by strategies:by-tag"
    assert [one.model for one in told.fallbacks["general"].routes] == ["open"]
    assert told.fallbacks["general"].targets == ["open"]
    assert (told.api_bases, told.config) == ({}, None)
    for word in ("hidden", "group-two", "h.example", "12 dollars", secret, "sk-"):
        assert word not in text


async def test_an_administrator_sees_all_but_secrets() -> None:
    told = await told_to(make_principal(role="proxy_admin", key_hash="0123456789abcdef"))
    assert told.api_bases == {"group-one": "https://h.example:8443/v1"}
    assert told.config
    reasons = {one.deployment_id: one.dropped for one in told.routes[0].candidates}
    assert reasons["group-three"] == "it lacks a tag, and has spent 12 dollars at scripted"
    assert [one.model for one in told.fallbacks["general"].routes] == ["hidden", "open"]
    text = json.dumps(plain(told))
    for word in ("pass", "sk-1", "0123456789abcdef"):
        assert word not in text


async def test_a_model_that_may_not_be_used() -> None:
    told = await told_to(make_principal(models=("open",)))
    assert told.refused is not None
    assert (told.refused["status"], told.refused["code"]) == (403, "key_model_access_denied")
    assert (told.fallbacks, told.routes[0].candidates) == ({}, [])
    assert (told.routes[0].refused or "").startswith(Forbidden.__name__)
    assert NO_ACCESS not in json.dumps(plain(told))


# -- the header --------------------------------------------------------------------------------------------------------


def plan_of(count: int, *, length: int = 8, routes: int = 1) -> Plan:
    candidates = [
        Candidate(
            deployment_id=f"{n:0{length}d}", provider="openai", model="gpt-4o-mini", order=n % 2,
            dropped=None if n % 3 else "ä reason", rank=n + 1 if n % 3 else None,
        )
        for n in range(count)
    ]  # fmt: skip
    return Plan(seed=9, routes=[Route(model="m", group="m", candidates=candidates) for _ in range(routes)])


def test_a_short_plan_says_everything() -> None:
    said = json.loads(compact(plan_of(2), [Tried("00000001", "Unavailable"), Tried("00000002", "ok")]))
    assert said == {
        "seed": 9,
        "routes": [
            {
                "model": "m", "group": "m", "how": "exact",
                "candidates": [
                    {"deployment_id": "00000000", "provider": "openai", "model": "gpt-4o-mini", "order": 0,
                     "dropped": "ä reason"},
                    {"deployment_id": "00000001", "provider": "openai", "model": "gpt-4o-mini", "order": 1, "rank": 2},
                ],
            }
        ],
        "attempts": [
            {"deployment_id": "00000001", "outcome": "Unavailable"}, {"deployment_id": "00000002", "outcome": "ok"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "kept", "keys"),
    [
        (plan_of(70), {"seed", "routes", "attempts"}, {"deployment_id", "rank"}),
        (plan_of(500), {"seed", "routes", "attempts", "truncated"}, None),
        (plan_of(1, routes=200), {"seed", "attempts", "truncated"}, None),
    ],
)
def test_a_long_plan_loses_the_least_important(plan: Plan, kept: set[str], keys: set[str] | None) -> None:
    text = compact(plan, [Tried("00000001", "ok")])
    said = json.loads(text)
    assert len(text) <= LONGEST
    assert text.isascii()
    assert said.keys() == kept
    if keys is not None:
        assert said["routes"][0]["candidates"][1].keys() == keys
        assert said["routes"][0]["candidates"][0].keys() == {"deployment_id", "dropped"}


def test_a_plan_of_endless_attempts_is_still_bounded() -> None:
    text = compact(plan_of(1), [Tried("x" * 100, "Unavailable")] * 200)
    assert json.loads(text) == {"seed": 9, "truncated": True}


async def test_the_attempt_that_is_under_way() -> None:
    started = asyncio.Event()

    async def script(call: Call, one: Deployment) -> Reply:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    gateway = assembled(config(), scripted(script))
    call = asking()
    call.plan = Plan()
    task = asyncio.create_task(ask(gateway, call, collector=Collector()))
    await started.wait()
    assert json.loads(header(call))["attempts"] == [{"deployment_id": "group-one", "outcome": "cancelled"}]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
