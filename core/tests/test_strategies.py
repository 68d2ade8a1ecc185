"""What the kernel makes of a strategy's answers (refusals, tiers), and what it tells a strategy of attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from kernel import Collector, answer, ask, asking, assembled, config, deployment, failing, scripted, text_of

from tianji.errors import NoDeployment, Overloaded, Throttled, UpstreamNotFound
from tianji.gateway import Gateway
from tianji.model import Attempt, Call, Deployment, Reply
from tianji.plugin import Strategy

RANKED = {"routing_strategy": "picky"}


class Picky(Strategy):
    """Takes deployments whose model is not `full`, and refuses where there is none."""

    name = "picky"
    alone = True
    ranked: ClassVar[list[list[str]]] = []
    seen: ClassVar[list[Attempt]] = []

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        self.ranked.append([one.model for one in candidates])
        fit = [one for one in candidates if not one.model.startswith("full")]
        if not fit:
            raise NoDeployment("All full.", retry_after=7.0)
        return fit

    def observe(self, attempt: Attempt) -> None:
        self.seen.append(attempt)


def gateway(*models: dict[str, Any], cls: type[Strategy] = Picky, provider: Any = None, **router: Any) -> Gateway:
    Picky.ranked, Picky.seen = [], []
    entries = [deployment(**one) for one in models]
    plugins = [cls] if provider is None else [cls, provider]
    return assembled(config(*entries, router_settings={**RANKED, **router}), *plugins)


async def asked(made: Gateway) -> Collector:
    got = await ask(made)
    await made.stop()
    return got


class TestRefusals:
    async def test_a_refusal_says_when_to_come_back(self) -> None:
        got = await asked(gateway({"model": "full-1"}, {"model": "full-2"}))
        assert isinstance(got.failure, NoDeployment)
        assert (got.failure.status, got.failure.retry_after) == (429, 7.0)

    async def test_one_deployment_is_asked_about_where_the_strategy_wants_it(self) -> None:
        got = await asked(gateway({"model": "full-1"}))
        assert isinstance(got.failure, NoDeployment)

    async def test_one_deployment_is_not_asked_about_otherwise(self) -> None:
        got = await asked(gateway({"model": "full-1"}, cls=type("Easy", (Picky,), {"alone": False})))
        assert got.replied is not None
        assert Picky.ranked == []

    async def test_the_next_tier_is_ranked_when_one_is_refused(self) -> None:
        tiers = [{"model": "full-1", "order": 1}, {"model": "full-2", "order": 2}, {"model": "three", "order": 3}]
        got = await asked(gateway(*tiers))
        assert got.replied is not None
        assert Picky.ranked == [["full-1"], ["full-2"], ["three"]]

    async def test_a_fallback_is_tried_after_a_refusal(self) -> None:
        entries = [{"model": "full-1"}, {"name": "other", "model": "two"}]
        got = await asked(gateway(*entries, fallbacks=[{"group": ["other"]}]))
        assert got.replied is not None


class TestWhatIsToldOfAttempts:
    async def test_headers_about_limits(self) -> None:
        told = {"anthropic-ratelimit-unified-status": "allowed", "x-ratelimit-remaining-tokens": "5", "openai-id": "1"}

        async def script(call: Call, deployment: Deployment) -> Reply:
            if deployment.model == "one":
                raise Throttled("Slow down.", headers={"x-ratelimit-remaining-tokens": "0"})
            reply = answer()
            reply.headers = told
            return reply

        got = await asked(gateway({"model": "one"}, {"model": "two"}, provider=scripted(script)))
        assert text_of(got.replied) == "ok"
        assert [attempt.limits for attempt in Picky.seen] == [
            {"x-ratelimit-remaining-tokens": "0"},
            {"anthropic-ratelimit-unified-status": "allowed", "x-ratelimit-remaining-tokens": "5"},
        ]


class TestProbes:
    async def test_a_probe_of_a_call_that_its_strategy_refuses_is_the_next_calls(self) -> None:
        class Queue(Picky):
            async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
                raise Overloaded("The queue is full.")

        made = gateway({"model": "a"}, {"model": "b"}, {"model": "c"}, cls=Queue)
        health, one = made.sealed.health, made.sealed.router.deployments[0]
        health.failed(one, Throttled("slow"), 3)
        health.states[one.id].until = health.clock()
        got = await asked(made)
        assert isinstance(got.failure, Overloaded)
        assert health.name(one) == "ejected", "it was not asked"
        assert health.split(made.sealed.router.deployments).probe is one

    async def test_a_probe_that_asks_for_a_model_that_is_not_there(self) -> None:
        """The caller's mistake says nothing about the provider: the next call finds out."""
        entries = [deployment("any/*", model) for model in ("*", "x/*")]
        made = assembled(config(*entries), failing(*[UpstreamNotFound("no such model")] * 9))
        health, one = made.sealed.health, made.sealed.router.deployments[0]
        health.failed(one, Throttled("slow"), 2)
        health.states[one.id].until = health.clock()
        got = await ask(made, asking("any/nonsense", options={"num_retries": 0}))
        assert isinstance(got.failure, UpstreamNotFound)
        assert health.name(one) == "ejected"
        await made.stop()
