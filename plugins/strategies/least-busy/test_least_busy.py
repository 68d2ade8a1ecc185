"""The conformance suite, and the counting."""

from collections.abc import Sequence

from tianji_strategy_least_busy import LeastBusy

from tianji import Deployment, Release
from tianji.testing import StrategySuite, make_call, make_deployment

GROUP = [make_deployment(id=name) for name in ("a", "b", "c")]


class TestLeastBusy(StrategySuite):
    plugin = LeastBusy
    returns = ("in_flight",)

    async def begin(self, strategy: LeastBusy, group: Sequence[Deployment] = GROUP) -> tuple[str, Release]:
        """A call on its way: where it went, and its end."""
        call = make_call()
        first = (await strategy.rank(call, group))[0]
        return first.id, strategy.begin(call, first)

    async def test_calls_spread_evenly(self) -> None:
        strategy = self.make_plugin()
        chosen = [(await self.begin(strategy))[0] for _ in range(9)]
        for start in (0, 3, 6):
            assert sorted(chosen[start : start + 3]) == ["a", "b", "c"]
        assert strategy.in_flight == {"a": 3, "b": 3, "c": 3}

    async def test_the_one_that_finished_is_next(self) -> None:
        strategy = self.make_plugin()
        running = dict([await self.begin(strategy) for _ in GROUP])
        running["b"]()
        assert (await strategy.rank(make_call(), GROUP))[0].id == "b"

    async def test_the_busiest_is_the_last_resort(self) -> None:
        strategy = self.make_plugin()
        for group in (GROUP[:1], GROUP[:1], GROUP[1:2]):
            await self.begin(strategy, group)
        assert [one.id for one in await strategy.rank(make_call(), GROUP)] == ["c", "b", "a"]

    async def test_failover_moves_the_call(self) -> None:
        strategy, call = self.make_plugin(), make_call()
        strategy.begin(call, GROUP[0])()
        strategy.begin(call, GROUP[1])
        assert strategy.in_flight == {"b": 1}

    async def test_ties_are_not_always_the_first(self) -> None:
        strategy = self.make_plugin()
        first = set()
        for _ in range(60):
            name, end = await self.begin(strategy)
            first.add(name)
            end()
        assert first == {"a", "b", "c"}
        assert strategy.in_flight == {}, "an idle deployment leaves nothing behind"
