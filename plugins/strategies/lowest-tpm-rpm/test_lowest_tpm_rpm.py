"""The conformance suite, and the limits."""

from collections.abc import Sequence
from typing import Any

import pytest
from tianji_strategy_lowest_tpm_rpm import LowestTpmRpm

from tianji import Deployment, NoDeployment, Overloaded, Release, Usage
from tianji.testing import FakeClock, StrategySuite, make_attempt, make_call, make_deployment
from tianji.testing.gateway import gateway


def used(strategy: LowestTpmRpm, deployment: str, tokens: int) -> None:
    strategy.observe(make_attempt(deployment_id=deployment, usage=Usage(tokens, 0)))


def saying(tokens: int) -> Any:
    """A call of about so many input tokens."""
    return make_call({"model": "m", "messages": [{"role": "user", "content": "word" * tokens}]})


class TestLowestTpmRpm(StrategySuite):
    plugin = LowestTpmRpm
    returns = ("expected",)

    def on(self, clock: FakeClock) -> LowestTpmRpm:
        strategy: LowestTpmRpm = self.make_plugin()
        strategy.tally.clock = clock
        return strategy

    async def order(self, strategy: LowestTpmRpm, group: Sequence[Deployment], tokens: int = 1) -> list[str]:
        return [one.id for one in await strategy.rank(saying(tokens), group)]

    def begin(self, strategy: LowestTpmRpm, deployment: Deployment, tokens: int = 1) -> Release | None:
        return strategy.begin(saying(tokens), deployment)

    async def test_the_smallest_part_of_the_tokens_goes_first(self) -> None:
        group = [make_deployment(id="half", tpm=1000), make_deployment(id="tenth", tpm=10_000)]
        strategy = self.on(FakeClock())
        used(strategy, "half", 500)
        used(strategy, "tenth", 1000)
        assert await self.order(strategy, group) == ["tenth", "half"]

    async def test_the_unlimited_follow_the_limited(self) -> None:
        group = [make_deployment(id="free"), make_deployment(id="limited", tpm=1000)]
        strategy = self.on(FakeClock())
        used(strategy, "limited", 900)
        assert await self.order(strategy, group) == ["limited", "free"]

    async def test_none_limited_is_a_shuffle_by_weight(self) -> None:
        group = [make_deployment(id="heavy", weight=9.0), make_deployment(id="light", weight=1.0)]
        strategy = self.make_plugin()
        first = [(await strategy.rank(make_call(), group))[0].id for _ in range(300)]
        assert 0.8 < first.count("heavy") / 300 < 1

    async def test_those_without_room_for_the_tokens_are_skipped(self) -> None:
        group = [make_deployment(id="full", tpm=1000), make_deployment(id="roomy", tpm=100_000)]
        strategy = self.on(FakeClock())
        used(strategy, "full", 900)
        used(strategy, "roomy", 95_000)
        assert await self.order(strategy, group, tokens=100) == ["full", "roomy"]
        assert await self.order(strategy, group, tokens=101) == ["roomy"]

    async def test_what_is_under_way_takes_room(self) -> None:
        group = [make_deployment(id="a", tpm=100), make_deployment(id="b", tpm=1000)]
        strategy = self.on(FakeClock())
        used(strategy, "b", 900)
        end = self.begin(strategy, group[0], tokens=60)
        assert await self.order(strategy, group, tokens=50) == ["b"]
        with pytest.raises(NoDeployment) as refused:
            await self.order(strategy, group[:1], tokens=50)
        assert refused.value.retry_after == 1, "nobody knows when an answer ends"
        assert end is not None
        end()
        assert await self.order(strategy, group, tokens=50) == ["a", "b"]

    async def test_requests_a_minute_are_kept(self) -> None:
        clock, group = FakeClock(), [make_deployment(id="a", rpm=2)]
        strategy = self.on(clock)
        self.begin(strategy, group[0])
        clock.advance(10)
        self.begin(strategy, group[0])
        with pytest.raises(NoDeployment) as refused:
            await self.order(strategy, group)
        assert refused.value.status == 429
        assert refused.value.retry_after == pytest.approx(50, abs=0.2)
        clock.advance(50)
        assert await self.order(strategy, group) == ["a"]

    async def test_a_refusal_says_when_the_first_has_room(self) -> None:
        clock = FakeClock()
        group = [make_deployment(id="a", tpm=100), make_deployment(id="b", tpm=100)]
        strategy = self.on(clock)
        used(strategy, "a", 100)
        clock.advance(20)
        used(strategy, "b", 100)
        with pytest.raises(NoDeployment) as refused:
            await self.order(strategy, group)
        assert refused.value.retry_after == pytest.approx(40, abs=0.2)
        assert refused.value.code == "rate_limit_exceeded"

    async def test_a_request_that_never_fits_is_not_told_to_wait(self) -> None:
        strategy = self.make_plugin()
        with pytest.raises(NoDeployment, match="about 101 tokens") as refused:
            await self.order(strategy, [make_deployment(tpm=100)], tokens=101)
        assert refused.value.retry_after is None

    @pytest.mark.parametrize("limits", [{"rpm": 0}, {"tpm": 0}])
    async def test_a_limit_of_nothing_allows_nothing(self, limits: dict[str, int]) -> None:
        with pytest.raises(NoDeployment):
            await self.make_plugin().rank(make_call(), [make_deployment(**limits)])

    async def test_the_limit_holds_when_calls_were_ranked_together(self) -> None:
        tight = make_deployment(id="tight", rpm=3)
        strategy = self.on(FakeClock())
        ranked = [await strategy.rank(make_call(), [tight]) for _ in range(5)]
        for (one,) in ranked[:3]:
            self.begin(strategy, one)
        for (one,) in ranked[3:]:
            with pytest.raises(Overloaded) as refused:
                self.begin(strategy, one)
            assert (refused.value.status, refused.value.retry_after) == (429, 60)

    async def test_real_usage_takes_the_place_of_the_estimate(self) -> None:
        one = make_deployment(id="a", tpm=1000)
        strategy = self.on(FakeClock())
        end = self.begin(strategy, one, tokens=400)
        assert strategy.used(one) == 400
        assert end is not None
        end()
        used(strategy, "a", 30)
        assert strategy.used(one) == 30

    async def test_explaining_a_refusal(self) -> None:
        call = saying(101)
        call.dry = True
        with pytest.raises(NoDeployment):
            await self.make_plugin().rank(call, [make_deployment(tpm=100)])


async def test_behind_the_gateway() -> None:
    """Two requests a minute over two deployments: the third is refused before anything is sent."""
    params = {"model": "echo/echo", "rpm": 1}
    config = {
        "model_list": [{"model_name": "chat", "tianji_params": {**params, "temperature": n}} for n in (0.1, 0.2)],
        "router_settings": {"routing_strategy": "usage-based-routing-v2"},
    }
    async with gateway(config) as gw:
        answers = [await gw.chat("chat") for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert 50 < float(answers[2].headers["retry-after"]) <= 60
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


async def test_one_deployment_alone_is_kept_to_its_limit() -> None:
    config = {
        "model_list": [{"model_name": "chat", "tianji_params": {"model": "echo/echo", "rpm": 1}}],
        "router_settings": {"routing_strategy": "lowest-tpm-rpm"},
    }
    async with gateway(config) as gw:
        answers = [await gw.chat("chat") for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 429]


async def test_the_next_tier_serves_when_the_first_is_full() -> None:
    tiers = [{"model": "echo/echo", "rpm": 1, "order": 1}, {"model": "echo/echo", "order": 2}]
    config = {
        "model_list": [{"model_name": "chat", "tianji_params": one} for one in tiers],
        "router_settings": {"routing_strategy": "lowest-tpm-rpm"},
    }
    async with gateway(config) as gw:
        answers = [await gw.chat("chat") for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 200]
