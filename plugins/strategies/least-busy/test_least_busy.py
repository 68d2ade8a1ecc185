"""The conformance suite, and the counting."""

from tianji_strategy_least_busy import LeastBusy

from tianji import Call
from tianji.testing import StrategySuite, make_call, make_deployment

GROUP = [make_deployment(id=name) for name in ("a", "b", "c")]


async def end(call: Call) -> None:
    for undo in call.take_undo():
        await undo()


class TestLeastBusy(StrategySuite):
    plugin = LeastBusy
    returns = ("in_flight",)

    async def test_calls_spread_evenly(self) -> None:
        strategy = self.make_plugin()
        chosen = [(await strategy.rank(make_call(), GROUP))[0].id for _ in range(9)]
        for start in (0, 3, 6):
            assert sorted(chosen[start : start + 3]) == ["a", "b", "c"]
        assert strategy.in_flight == {"a": 3, "b": 3, "c": 3}

    async def test_the_one_that_finished_is_next(self) -> None:
        strategy = self.make_plugin()
        running = {}
        for _ in GROUP:
            call = make_call()
            running[(await strategy.rank(call, GROUP))[0].id] = call
        await end(running["b"])
        assert (await strategy.rank(make_call(), GROUP))[0].id == "b"

    async def test_the_busiest_is_the_last_resort(self) -> None:
        strategy = self.make_plugin()
        for _ in range(2):
            await strategy.rank(make_call(), GROUP[:1])
        await strategy.rank(make_call(), GROUP[1:2])
        assert [one.id for one in await strategy.rank(make_call(), GROUP)] == ["c", "b", "a"]

    async def test_ties_are_not_always_the_first(self) -> None:
        strategy = self.make_plugin()
        first = set()
        for _ in range(60):
            call = make_call()
            first.add((await strategy.rank(call, GROUP))[0].id)
            await end(call)
        assert first == {"a", "b", "c"}
        assert strategy.in_flight == {}, "an idle deployment leaves nothing behind"
