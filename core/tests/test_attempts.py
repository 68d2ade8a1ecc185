"""The attempt loop: what is retried, where, how often, how soon, and when it gives up.

Nothing waits: time is virtual. The requirements UP-1 to UP-3 of the reliability page.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from kernel import (
    Collector,
    VirtualLoop,
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
    virtually,
)

from tianji.config import RouterSettings
from tianji.errors import (
    BadCredentials,
    ContentPolicy,
    ContextWindow,
    Failure,
    PermissionDenied,
    ProtocolError,
    Rejected,
    Throttled,
    Timeout,
    Unavailable,
    UpstreamNotFound,
)
from tianji.model import Call, Deployment, Reply
from tianji.plugin import Plugin, Strategy
from tianji.retries import RetryBudget, Rules
from tianji.testing import make_deployment

Make = Callable[[], Failure]


def down() -> Failure:
    return Unavailable("down")


def run(settings: Any, *plugins: type[Plugin], call: Call | None = None) -> tuple[Collector, Call, float]:
    """One call in virtual time: what the client got, the call, and how long it took."""

    async def main(loop: VirtualLoop) -> tuple[Collector, Call, float]:
        gateway = assembled(settings, *plugins)
        gateway.sealed.health.clock = loop.time
        asked = call or asking()
        asked.deadline += loop.time() - asked.started
        asked.started = began = loop.time()
        collector = await ask(gateway, asked)
        assert books(gateway).open == 0
        took = loop.time() - began
        await gateway.stop()
        return collector, asked, took

    return virtually(main)


class TestRetries:
    @pytest.mark.parametrize(
        ("router", "own", "group", "asked", "attempts"),
        [
            ({}, None, None, None, 3), ({"num_retries": 0}, None, None, None, 1),
            ({"num_retries": 4}, 1, None, None, 2), ({}, 1, 3, None, 2), ({"num_retries": 0}, None, 3, None, 4),
            ({}, 1, 3, 0, 1), ({}, None, None, 5, 6), ({}, None, None, 1000, 11), ({}, 0, 3, None, 1),
            ({}, None, None, -1, 3), ({}, None, None, True, 3), ({}, 1000, None, None, 11),
        ],
    )  # fmt: skip
    def test_the_number_is_the_requests_the_deployments_the_groups_the_routers(
        self, router: dict[str, Any], own: int | None, group: int | None, asked: Any, attempts: int
    ) -> None:
        settings = config(
            deployment(num_retries=own),
            router_settings={
                **router, **({} if group is None else {"model_group_retry_policy": {"group": {"num_retries": group}}})
            },
        )  # fmt: skip
        provider = by_model(one=down)
        options = {} if asked is None else {"num_retries": asked}
        collector, _, _ = run(settings, provider, call=asking(options=options))
        assert isinstance(collector.failure, Unavailable)
        assert len(provider.asked) == attempts

    @pytest.mark.parametrize(
        ("kind", "attempts"),
        [
            (Unavailable, 3), (Timeout, 3), (Throttled, 3), (ProtocolError, 3), (Rejected, 1), (ContextWindow, 1),
            (ContentPolicy, 1), (PermissionDenied, 1), (UpstreamNotFound, 1), (BadCredentials, 1),
        ],
    )  # fmt: skip
    def test_only_what_another_attempt_can_mend(self, kind: type[Failure], attempts: int) -> None:
        provider = by_model(one=lambda: kind("no"))
        collector, call, _ = run(config(), provider)
        assert type(collector.failure) is kind
        assert len(provider.asked) == attempts
        assert [one.outcome for one in call.attempts] == [kind.__name__] * attempts

    def test_a_success_ends_it(self) -> None:
        provider = failing(down(), down(), None)
        collector, call, _ = run(config(), provider)
        assert text_of(collector.replied) == "ok"
        assert [one.number for one in call.attempts] == [1, 2]


class TestFailover:
    def test_goes_on_to_a_healthy_one_at_once(self) -> None:
        provider = by_model(one=down, two=down)
        settings = config(deployment(), deployment(model="two"), deployment(model="three"))
        collector, _, took = run(settings, provider)
        assert text_of(collector.replied) == "three"
        assert provider.asked == ["one", "two", "three"]
        assert took == 0.0

    def test_a_bad_key_is_tried_elsewhere_only(self) -> None:
        settings = config(deployment(), deployment(model="two"), router_settings={"num_retries": 5})
        provider = by_model(one=lambda: BadCredentials("no"), two=lambda: BadCredentials("no"))
        collector, _, _ = run(settings, provider)
        assert isinstance(collector.failure, BadCredentials)
        assert provider.asked == ["one", "two"]

    def test_starts_over_when_all_were_tried(self) -> None:
        settings = config(deployment(), deployment(model="two"), router_settings={"num_retries": 3})
        provider = by_model(one=down, two=down)
        _, _, took = run(settings, provider)
        assert provider.asked == ["one", "two", "one", "two"]
        assert took > 0

    def test_the_order_is_the_strategys_and_its_fault_is_the_configured_order(self) -> None:
        class Ranks(Strategy):
            name = "ranks"
            broken = False

            async def rank(self, call: Call, candidates: Any) -> Any:
                if self.broken:
                    raise KeyError("a fault of the strategy")
                return candidates[::-1]

        settings = config(deployment(), deployment(model="two"), router_settings={"routing_strategy": "ranks"})
        provider = by_model()
        run(settings, provider, Ranks)
        Ranks.broken = True
        run(settings, provider, Ranks)
        assert provider.asked == ["two", "one"]

    def test_lower_tiers_come_after_the_first(self) -> None:
        provider = by_model(one=down, two=down)
        settings = config(
            deployment(model="three", order=3), deployment(model="two", order=2), deployment(model="one", order=1)
        )
        collector, _, _ = run(settings, provider)
        assert provider.asked == ["one", "two", "three"]
        assert text_of(collector.replied) == "three"

    def test_a_strategy_that_allows_none_is_429(self) -> None:
        class NoneAtAll(Strategy):
            name = "none"

            async def rank(self, call: Call, candidates: Any) -> Any:
                return []

        settings = config(deployment(), deployment(model="two"), router_settings={"routing_strategy": "none"})
        collector, _, _ = run(settings, NoneAtAll)
        assert collector.failure is not None
        assert (collector.failure.status, collector.failure.type) == (429, "all_deployments_in_cooldown")


class TestPatience:
    def test_waits_as_long_as_it_is_asked_to_and_not_less(self) -> None:
        for asked in (0.5, 7.0, 30.0):
            _, _, took = run(config(), failing(Throttled("slow", retry_after=asked)))
            assert asked <= took <= asked + 0.25

    def test_too_much_patience_is_not_had(self) -> None:
        provider = failing(Throttled("slow", retry_after=61.0))
        collector, _, took = run(config(), provider)
        assert isinstance(collector.failure, Throttled)
        assert took == 0.0
        assert len(provider.asked) == 1

    def test_a_deployment_is_not_asked_again_before_its_time_by_way_of_another(self) -> None:
        times: list[tuple[str, float]] = []

        async def script(call: Call, deployment: Deployment) -> Reply:
            times.append((deployment.model, asyncio.get_running_loop().time()))
            raise Throttled("slow", retry_after=20.0) if deployment.model == "one" else down()

        settings = config(deployment(), deployment(model="two"), router_settings={"num_retries": 2})
        run(settings, scripted(script))
        # The second asked for no patience, so it is asked again first.
        assert [model for model, _ in times] == ["one", "two", "two"]
        times.clear()
        run(config(deployment(), router_settings={"num_retries": 1}), scripted(script))
        assert times[1][1] - times[0][1] >= 20.0

    @pytest.mark.parametrize(("made", "most"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 8.0)])
    def test_full_jitter(self, made: int, most: float) -> None:
        random.seed(1)
        rules = Rules(RouterSettings())
        waits = [rules.wait(make_deployment(), 0.0, made) for _ in range(2000)]
        assert 0 <= min(waits) < most * 0.05
        assert most * 0.95 < max(waits) <= most
        # Spread evenly: no tenth of the range has more than twice its share.
        tenths = [sum(1 for wait in waits if tenth <= wait / most * 10 < tenth + 1) for tenth in range(10)]
        assert max(tenths) < 400

    def test_five_hundred_clients_do_not_come_back_together(self) -> None:
        times: list[float] = []

        async def script(call: Call, deployment: Deployment) -> Reply:
            if not call.attempts:
                raise Throttled("slow", retry_after=2.0)
            times.append(asyncio.get_running_loop().time())
            return answer()

        async def main(loop: VirtualLoop) -> float:
            gateway = assembled(config(), scripted(script))
            gateway.pipeline.attempts.budget.cap = gateway.pipeline.attempts.budget.tokens = 1e9
            began = loop.time()
            calls = [asking() for _ in range(500)]
            for call in calls:
                call.started = began
            await asyncio.gather(*(ask(gateway, call) for call in calls))
            await gateway.stop()
            return began

        began = virtually(main)
        assert len(times) == 500
        assert min(times) >= began + 2.0
        assert max(times) <= began + 2.25

    def test_no_attempt_starts_at_the_deadline(self) -> None:
        """UP-2: the deadline is kept, and no attempt starts with less than a twentieth of it left."""
        for seed in range(40):
            random.seed(seed)
            limit = random.uniform(0.2, 10.0)
            starts: list[float] = []

            async def script(
                call: Call, deployment: Deployment, limit: float = limit, starts: list[float] = starts
            ) -> Reply:
                starts.append(call.deadline - asyncio.get_running_loop().time())
                await asyncio.sleep(random.uniform(0.0, limit * 0.7))
                raise down()

            names = ("one", "two", "three", "four")
            settings = config(*(deployment(model=name) for name in names), router_settings={"num_retries": 10})
            collector, _, took = run(settings, scripted(script), call=asking(options={"timeout": limit}))
            assert collector.failure is not None
            assert took <= limit + 1e-6
            assert min(starts) >= limit * 0.05 - 1e-9


class TestBudget:
    def outage(self, calls: int, gap: float, share: float = 1.0) -> tuple[int, int]:
        """Upstream attempts and lost calls of so many calls, `gap` seconds apart, while `share` of attempts fail."""
        lost = 0
        rng = random.Random(3)

        async def script(call: Call, deployment: Deployment) -> Reply:
            if rng.random() < share:
                raise down()
            return answer()

        provider = scripted(script)

        async def main(loop: VirtualLoop) -> None:
            nonlocal lost
            gateway = assembled(config(), provider)

            async def one(number: int) -> None:
                nonlocal lost
                await asyncio.sleep(number * gap)
                call = asking()
                call.started = loop.time()
                failed = (await ask(gateway, call)).failure is not None
                lost += failed

            await asyncio.gather(*(one(number) for number in range(calls)))
            await gateway.stop()

        virtually(main)
        return len(provider.asked), lost

    @pytest.mark.parametrize("gap", [0.0, 0.005, 0.05])
    def test_an_outage_is_not_multiplied(self, gap: float) -> None:
        """UP-1: 2,000 calls against 100 % 503 make at most 2,400 attempts."""
        attempts, lost = self.outage(2000, gap)
        assert lost == 2000
        assert 2000 < attempts <= 2400

    def test_nor_by_a_fallback_that_is_out_of_order_too(self) -> None:
        """Each fallback is tried, until it is known to fail; from then on it takes a part of the budget."""
        provider = by_model(one=down, two=down)
        settings = config(
            deployment("a", "one"), deployment("b", "two"), router_settings={"fallbacks": [{"a": ["b"]}]}
        )  # fmt: skip

        async def main(loop: VirtualLoop) -> None:
            gateway = assembled(settings, provider)
            gateway.sealed.health.clock = loop.time
            for _ in range(2000):
                call = asking("a")
                call.started = loop.time()
                assert isinstance((await ask(gateway, call)).failure, Unavailable)
                await asyncio.sleep(0.005)
            await gateway.stop()

        virtually(main)
        assert 2005 <= len(provider.asked) <= 2400
        assert provider.asked.count("one") == 2000, "a fallback waits: the first is not asked twice"

    def test_an_outage_that_ends_is_over_within_ten_seconds(self) -> None:
        """UP-1: 100 % of 503, then 30 %, then none: less than 1 % retries ten seconds later."""
        attempts: list[tuple[float, int]] = []
        phases = ((10.0, 1.0), (20.0, 0.3), (1e9, 0.0))
        rng = random.Random(5)
        lost = [0, 0, 0]

        async def main(loop: VirtualLoop) -> None:
            began = loop.time()

            def phase() -> int:
                return next(at for at, (end, _) in enumerate(phases) if loop.time() - began < end)

            async def script(call: Call, deployment: Deployment) -> Reply:
                attempts.append((loop.time() - began, len(call.attempts)))
                if rng.random() < phases[phase()][1]:
                    raise down()
                return answer()

            gateway = assembled(config(deployment(), deployment(model="two")), scripted(script))
            gateway.sealed.health.clock = loop.time

            async def one(number: int) -> None:
                await asyncio.sleep(number * 0.005)
                at = phase()
                call = asking()
                call.started = loop.time()
                lost[at] += (await ask(gateway, call)).failure is not None

            await asyncio.gather(*(one(number) for number in range(10_000)))
            await gateway.stop()

        virtually(main)
        first = [number for at, number in attempts if at < 10.0]
        assert len(first) <= 2000 * 1.2
        second = [number for at, number in attempts if 10.0 <= at < 20.0]
        assert len(second) <= 2000 * 1.5
        assert lost[1] < 600, "a part of the failures is mended"
        last = [number for at, number in attempts if at >= 30.0]
        assert len(last) >= 3900
        assert sum(number > 0 for number in last) < len(last) * 0.01
        assert lost[2] < 20

    def test_a_few_failures_are_all_mended(self) -> None:
        attempts, lost = self.outage(500, 0.02, share=0.05)
        assert lost == 0
        assert attempts < 560

    def test_it_recovers_slowly_by_itself(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            budget = RetryBudget()
            while budget.spend():
                pass
            assert budget.denied == 1
            empty = budget.tokens
            await asyncio.sleep(9.0)
            assert budget.left() == pytest.approx(empty + 0.9)
            assert budget.tokens == empty, "looking at it changes nothing"
            assert not budget.spend()
            await asyncio.sleep(2.0)
            assert budget.spend()
            for _ in range(1000):
                budget.earn()
            assert budget.tokens == budget.cap

        virtually(main)

    def test_the_gateway_reports_it_over_reloads(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            gateway = assembled(config(deployment()), by_model())
            assert (gateway.health().retries_left, gateway.health().retries_denied) == (20.0, 0)
            while gateway.pipeline.attempts.budget.spend():
                pass
            await gateway.reload(config(deployment(), deployment("second")))
            health = gateway.health()
            assert health.retries_left < 1.0
            assert health.retries_denied == 1
            assert [one.deployment.group for one in health.deployments] == ["group", "second"]
            await gateway.stop()

        virtually(main)

    def test_going_on_to_a_healthy_deployment_costs_nothing(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            settings = config(
                deployment(), deployment(model="two"), router_settings={"disable_cooldowns": True, "num_retries": 1}
            )
            gateway = assembled(settings, by_model(one=down))
            budget = gateway.pipeline.attempts.budget
            budget.tokens = budget.rate = 0.0
            for _ in range(100):
                call = asking()
                call.started = loop.time()
                assert text_of((await ask(gateway, call)).replied) == "two"
            assert budget.denied == 0
            await gateway.stop()

        virtually(main)


@pytest.mark.parametrize(
    ("asked", "left"), [(5, 5.0), (None, 600.0), (0, 600.0), (-1, 600.0), ("9", 600.0), (1e12, 86400.0)]
)
async def test_the_deadline_is_the_requests_or_the_configured_one(asked: Any, left: float) -> None:
    gateway = assembled(config())
    call = asking(options={"timeout": asked})
    await ask(gateway, call)
    assert call.deadline - call.started == pytest.approx(left)
    await gateway.stop()
