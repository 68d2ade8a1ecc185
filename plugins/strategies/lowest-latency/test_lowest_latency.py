"""The conformance suite, and what is learnt from attempts."""

from collections.abc import Callable

import pytest
import tianji_strategy_lowest_latency as module
from tianji_strategy_lowest_latency import FORGIVEN, LowestLatency

from tianji import ConfigError, Usage
from tianji.testing import StrategySuite, make_attempt, make_call, make_deployment, make_plugin

GROUP = [make_deployment(id=name) for name in ("a", "b", "c")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time stands still; call it with seconds to pass."""
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


@pytest.mark.usefixtures("clock")
class TestLowestLatency(StrategySuite):
    plugin = LowestLatency

    def learned(self, seconds: dict[str, float], strategy: LowestLatency | None = None) -> LowestLatency:
        """A strategy that saw one whole answer of 100 tokens from each."""
        strategy = strategy or self.make_plugin()
        for name, duration in seconds.items():
            strategy.observe(make_attempt(deployment_id=name, duration=duration, usage=Usage(10, 100)))
        return strategy

    async def order(self, strategy: LowestLatency, *, stream: bool = False) -> list[str]:
        call = make_call({"model": "m", "messages": [], "stream": stream})
        return [one.id for one in await strategy.rank(call, GROUP)]

    async def test_fastest_first(self) -> None:
        assert await self.order(self.learned({"a": 3.0, "b": 1.0, "c": 2.0})) == ["b", "c", "a"]

    async def test_long_answers_are_not_slow_ones(self) -> None:
        strategy = self.make_plugin()
        strategy.observe(make_attempt(deployment_id="a", duration=10.0, usage=Usage(10, 1000)))
        strategy.observe(make_attempt(deployment_id="b", duration=1.0, usage=Usage(10, 10)))
        strategy.observe(make_attempt(deployment_id="c", duration=1.0, usage=Usage(10, 20)))
        assert await self.order(strategy) == ["a", "c", "b"]

    async def test_streams_count_their_first_token(self) -> None:
        strategy = self.learned({"a": 1.0, "b": 2.0, "c": 3.0})
        for name, first in (("a", 0.9), ("b", 0.1), ("c", 0.5)):
            strategy.observe(make_attempt(deployment_id=name, duration=60.0, time_to_first_token=first))
        assert await self.order(strategy, stream=True) == ["b", "c", "a"]
        assert await self.order(strategy) == ["a", "b", "c"], "a long stream says nothing about whole answers"

    async def test_the_unmeasured_go_first(self) -> None:
        assert (await self.order(self.learned({"a": 0.001, "c": 5.0})))[0] == "b"

    async def test_average_moves(self) -> None:
        strategy = self.learned({"a": 1.0, "b": 2.0, "c": 9.0})
        self.learned({"a": 5.0}, strategy)  # 0.7 * 1 + 0.3 * 5 = 2.2 seconds for 100 tokens
        assert strategy.pace["a"].seconds == pytest.approx(0.022)
        assert await self.order(strategy) == ["b", "a", "c"]

    async def test_near_equals_share_the_first_place(self) -> None:
        strategy = self.learned({"a": 1.0, "b": 1.4, "c": 2.0})
        assert {(await self.order(strategy))[0] for _ in range(40)} == {"a"}
        strategy.settings = LowestLatency.Settings(lowest_latency_buffer=0.5)
        orders = [await self.order(strategy) for _ in range(60)]
        assert {order[0] for order in orders} == {"a", "b"}
        assert {order[2] for order in orders} == {"c"}

    async def test_a_failure_weighs_until_it_is_forgiven(self, clock: Callable[[float], None]) -> None:
        strategy = self.learned({"a": 1.0, "b": 2.0, "c": 3.0})
        strategy.observe(make_attempt(deployment_id="a", outcome="Timeout", status=408, duration=600.0))
        assert await self.order(strategy) == ["b", "c", "a"]
        clock(FORGIVEN + 1)
        assert await self.order(strategy) == ["a", "b", "c"]

    async def test_a_success_forgives_at_once(self) -> None:
        strategy = self.learned({"a": 1.0, "b": 2.0, "c": 3.0})
        strategy.observe(make_attempt(deployment_id="a", outcome="Unavailable", status=503))
        self.learned({"a": 1.0}, strategy)
        assert await self.order(strategy) == ["a", "b", "c"]

    async def test_an_unmeasured_one_that_failed_is_not_first(self) -> None:
        strategy = self.learned({"a": 1.0, "c": 2.0})
        strategy.observe(make_attempt(deployment_id="b", outcome="Unavailable", status=503))
        assert await self.order(strategy) == ["a", "c", "b"]

    @pytest.mark.parametrize("outcome", ["Rejected", "ContextWindow", "ContentPolicy", "BadRequest", "ClientGone"])
    async def test_the_clients_own_failures_do_not_count(self, outcome: str) -> None:
        strategy = self.learned({"a": 1.0, "b": 2.0, "c": 3.0})
        strategy.observe(make_attempt(deployment_id="a", outcome=outcome, status=400, duration=90.0))
        assert await self.order(strategy) == ["a", "b", "c"]

    async def test_measurements_expire(self, clock: Callable[[float], None]) -> None:
        strategy = self.learned({"a": 1.0, "b": 2.0, "c": 3.0})
        clock(3000)
        self.learned({"a": 1.0, "b": 2.0}, strategy)
        clock(1000)
        assert (await self.order(strategy))[0] == "c", "4000 seconds old: unknown again"
        self.learned({"c": 9.0}, strategy)
        assert strategy.pace["c"].seconds == pytest.approx(0.09), "what expired is not averaged in"

    def test_settings_of_a_litellm_file(self) -> None:
        written = {"ttl": 10, "lowest_latency_buffer": 0.5, "max_latency_list_size": 5, "ttft_percentile": 95}
        settings = make_plugin(LowestLatency, written).settings
        assert (settings.ttl, settings.lowest_latency_buffer) == (10, 0.5)

    @pytest.mark.parametrize("wrong", [{"alpha": 0}, {"alpha": 1.5}, {"ttl": 0}, {"lowest_latency_buffer": -0.1}])
    def test_settings_that_make_no_sense(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            make_plugin(LowestLatency, wrong)

    async def test_streams_have_a_moving_average_of_their_own(self) -> None:
        strategy = self.make_plugin()
        for first in (1.0, 2.0):
            strategy.observe(make_attempt(deployment_id="a", duration=60.0, time_to_first_token=first))
        assert strategy.first["a"].seconds == pytest.approx(1.3)
        assert "a" not in strategy.pace

    def test_what_is_remembered_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MOST", 3)
        strategy = self.make_plugin()
        for name in "abcde":
            strategy.observe(make_attempt(deployment_id=name))
            strategy.observe(make_attempt(deployment_id=name, time_to_first_token=0.1))
            strategy.observe(make_attempt(deployment_id=name, outcome="Timeout", status=408))
        assert [*strategy.pace] == [*strategy.first] == [*strategy.failed] == ["c", "d", "e"]
