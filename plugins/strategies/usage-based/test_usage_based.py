"""The conformance suite, and what counts as use."""

from tianji_strategy_usage_based import UsageBased

from tianji import Counters, Usage
from tianji.testing import FakeClock, FakeGateway, StrategySuite, make_attempt, make_call, make_deployment, make_plugin

GROUP = [make_deployment(id=name) for name in ("a", "b", "c")]


class TestUsageBased(StrategySuite):
    plugin = UsageBased

    def on(self, clock: FakeClock, gateway: FakeGateway | None = None) -> UsageBased:
        strategy: UsageBased = self.make_plugin(gateway)
        strategy.tally.clock = clock
        return strategy

    async def order(self, strategy: UsageBased, group: list[object] | None = None) -> list[str]:
        return [one.id for one in await strategy.rank(make_call(), group or GROUP)]  # type: ignore[arg-type]

    async def test_the_least_used_goes_first(self) -> None:
        strategy = self.on(FakeClock())
        for index in (0, 0, 1):
            strategy.begin(make_call(), GROUP[index])
        assert await self.order(strategy) == ["c", "b", "a"]

    async def test_the_larger_of_both_parts_counts(self) -> None:
        strategy = self.on(FakeClock())
        for _ in range(6):
            strategy.begin(make_call(), GROUP[0])  # 6 of 60
        strategy.observe(make_attempt(deployment_id="b", usage=Usage(10_000, 10_000)))  # 20,000 of 100,000
        assert await self.order(strategy) == ["c", "a", "b"]
        assert (strategy.load(GROUP[0]), strategy.load(GROUP[1])) == (0.1, 0.2)

    async def test_limits_are_the_deployments_own_where_it_has_some(self) -> None:
        small, large = make_deployment(id="small", rpm=2, tpm=100), make_deployment(id="large", rpm=1000, tpm=10**6)
        strategy = self.on(FakeClock())
        strategy.begin(make_call(), small)
        for _ in range(10):
            strategy.begin(make_call(), large)
        assert await self.order(strategy, [small, large]) == ["large", "small"]

    async def test_one_that_is_over_its_limits_is_only_last(self) -> None:
        tight = make_deployment(id="tight", rpm=1)
        strategy = self.on(FakeClock())
        for _ in range(3):
            strategy.begin(make_call(), tight)
        assert await self.order(strategy, [tight, GROUP[0]]) == ["a", "tight"]

    async def test_use_is_forgotten_after_a_minute(self) -> None:
        clock = FakeClock()
        strategy = self.on(clock)
        strategy.begin(make_call(), GROUP[0])
        clock.advance(59)
        assert strategy.load(GROUP[0]) > 0
        clock.advance(1)
        assert strategy.load(GROUP[0]) == 0

    async def test_ties_are_not_always_the_first(self) -> None:
        strategy = self.make_plugin()
        assert {(await self.order(strategy))[0] for _ in range(60)} == {"a", "b", "c"}

    async def test_attempts_without_usage_have_no_tokens(self) -> None:
        strategy = self.make_plugin()
        strategy.observe(make_attempt(deployment_id="a", usage=None, outcome="Timeout", status=408))
        assert strategy.load(GROUP[0]) == 0

    async def test_workers_share_what_they_count(self) -> None:
        clock = FakeClock()
        here = FakeGateway(clock=clock)
        there = FakeGateway(clock=clock, services={Counters: here.services[Counters]})
        one, other = self.on(clock, here), self.on(clock, there)
        for strategy in (one, other):
            await strategy.startup()
        for _ in range(3):
            one.begin(make_call(), GROUP[0])
        other.begin(make_call(), GROUP[0])
        for gateway in (here, there):
            await gateway.jobs[0].run()
        assert other.load(GROUP[0]) == 4 / 60
        one.begin(make_call(), GROUP[0])
        await one.shutdown()
        assert await here.services[Counters].read("routing:rpm:a", 60.0) == 5, "the last ones are told at the end"
        await other.shutdown()

    def test_defaults_are_settings(self) -> None:
        strategy = make_plugin(UsageBased, {"default_rpm": 1, "default_tpm": 10})
        strategy.begin(make_call(), GROUP[0])
        assert strategy.load(GROUP[0]) == 1
