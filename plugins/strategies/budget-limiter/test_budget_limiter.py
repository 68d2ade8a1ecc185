"""The conformance suite, what is spent, and when it is there again."""

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
import tianji_strategy_budget_limiter as module
from tianji_strategy_budget_limiter import BudgetLimiter, Period

from tianji import ConfigError, Counters, NoDeployment, Overloaded
from tianji.testing import FakeClock, FakeGateway, FilterSuite, make_attempt, make_call, make_deployment, make_plugin

OPENAI = make_deployment(id="one", provider="openai")
OTHER = make_deployment(id="two", provider="other")
OWN = make_deployment(id="own", provider="other", max_budget=0.5, budget_duration="1d")
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()
DOLLAR = 1_000_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Noon of a Wednesday, until a test says otherwise."""
    clock = FakeClock(NOON)
    monkeypatch.setattr(module, "time", clock)
    return clock


def limiter(gateway: FakeGateway, limit: float = 1.0, period: str | None = "1d") -> BudgetLimiter:
    budget = {"budget_limit": limit, "time_period": period}
    return make_plugin(BudgetLimiter, {"provider_budget_config": {"openai": budget}}, gateway=gateway)


def spend(plugin: BudgetLimiter, dollars: float | None, **fields: Any) -> None:
    nano = None if dollars is None else int(dollars * DOLLAR)
    plugin.observe(make_attempt(**{"deployment_id": "one", "provider": "openai", "nano": nano, **fields}))


async def kept(plugin: BudgetLimiter, *deployments: Any) -> list[str]:
    return [one.id for one in await plugin.keep(make_call(), deployments or (OPENAI, OTHER))]


class TestBudgetLimiter(FilterSuite):
    plugin = BudgetLimiter
    settings = {"provider_budget_config": {"openai": {"budget_limit": 1, "time_period": "1d"}}}
    returns = ("in_flight",)

    async def test_a_budget_is_used_up_and_comes_back(self, clock: FakeClock) -> None:
        plugin = limiter(FakeGateway(clock=clock))
        spend(plugin, 0.999999999)
        assert await kept(plugin) == ["one", "two"]
        spend(plugin, 0.000000001)
        assert await kept(plugin) == ["two"]
        assert plugin.reason(make_call(), OPENAI) == "the budget of 'openai', $1, is used up until 2026-03-05 00:00 UTC"
        clock.advance(12 * 3600 - 1)
        assert await kept(plugin) == ["two"]
        clock.advance(1)
        assert await kept(plugin) == ["one", "two"]

    async def test_nothing_is_left(self, clock: FakeClock) -> None:
        plugin = limiter(FakeGateway(clock=clock))
        spend(plugin, 2)
        with pytest.raises(NoDeployment) as caught:
            await kept(plugin, OPENAI)
        failure = caught.value
        assert (failure.status, failure.code, failure.type) == (429, "deployment_budget_exceeded", "budget_exceeded")
        assert failure.retry_after == 12 * 3600
        assert failure.falls_back, "another model group may answer; for a key's own budget it may not"
        assert "$" not in failure.message, "clients are not told of the operator's money"
        with pytest.raises(Overloaded) as refused:
            plugin.begin(make_call(), OPENAI)
        assert refused.value.status == 429
        assert plugin.in_flight == {}

    async def test_a_deployments_own_budget(self, clock: FakeClock) -> None:
        plugin = limiter(FakeGateway(clock=clock))
        release = plugin.begin(make_call(), OWN)
        assert release is not None
        release()
        spend(plugin, 0.5, deployment_id="own", provider="other")
        assert await kept(plugin, OWN, OTHER, OPENAI) == ["two", "one"]
        clock.advance(12 * 3600)
        assert await kept(plugin, OWN, OTHER) == ["own", "two"]

    async def test_both_budgets_count(self, clock: FakeClock) -> None:
        plugin = limiter(FakeGateway(clock=clock))
        both = make_deployment(id="both", provider="openai", max_budget=5.0, budget_duration="1d")
        plugin.begin(make_call(), both)
        spend(plugin, 1, deployment_id="both")
        assert plugin.accounts["deployment:both"].spent(NOON) == DOLLAR
        assert await kept(plugin, both, OTHER) == ["two"], "its provider's is used up"

    async def test_what_is_under_way_counts_with_the_average(self, clock: FakeClock) -> None:
        plugin = limiter(FakeGateway(clock=clock))
        spend(plugin, 0.4)
        releases = [plugin.begin(make_call(), OPENAI)]
        assert await kept(plugin) == ["one", "two"], "0.40 spent, 0.40 under way"
        releases.append(plugin.begin(make_call(), OPENAI))
        assert await kept(plugin) == ["two"], "0.40 spent, 0.80 under way"
        with pytest.raises(Overloaded):
            plugin.begin(make_call(), OPENAI)
        for release in releases:
            assert release is not None
            release()
        assert await kept(plugin) == ["one", "two"]
        assert plugin.in_flight == {}

    async def test_an_unknown_price_is_said_once(self, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
        plugin = limiter(FakeGateway(clock=clock), limit=0.1)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                spend(plugin, None)
            spend(plugin, None, outcome="Unavailable", status=503, deployment_id="three")
        assert [record.getMessage() for record in caplog.records] == [
            "deployment one has a budget and no price: what it costs is not counted"
        ]
        assert await kept(plugin) == ["one", "two"]

    async def test_a_broken_stream_costs_what_it_cost(self, clock: FakeClock) -> None:
        plugin = limiter(FakeGateway(clock=clock))
        spend(plugin, 1, outcome="ProtocolError", status=502)
        assert await kept(plugin) == ["two"]

    async def test_processes_share_a_budget_and_a_restart_does_not_fill_it(self, clock: FakeClock) -> None:
        counters = FakeGateway(clock=clock).services[Counters]
        first, second, third = (limiter(FakeGateway(services={Counters: counters})) for _ in range(3))
        await first.startup()
        await second.startup()
        spend(first, 0.6)
        spend(second, 0.4)
        for plugin in (first, second, first):
            await plugin.exchange()
        await third.startup()
        for plugin in (first, second, third):
            assert await kept(plugin) == ["two"]
            assert plugin.accounts["provider:openai"].spent(NOON) == DOLLAR
        clock.advance(12 * 3600)
        for plugin in (first, second, third):
            await plugin.exchange()
            assert await kept(plugin) == ["one", "two"]

    async def test_budgets_of_the_configuration_are_known_at_the_start(self, clock: FakeClock) -> None:
        counters = FakeGateway(clock=clock).services[Counters]
        before = limiter(FakeGateway(services={Counters: counters}))
        before.begin(make_call(), OWN)
        spend(before, 0.5, deployment_id="own", provider="other")
        await before.shutdown()

        class Spec:
            id = "own"
            extra = {"max_budget": 0.5, "budget_duration": "1d"}

        class Config:
            deployments = (Spec,)

        after = limiter(FakeGateway(Config(), services={Counters: counters}))
        await after.startup()
        assert await kept(after, OWN, OTHER) == ["two"]

    async def test_a_store_out_of_order_loses_nothing(self, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
        counters = FakeGateway(clock=clock).services[Counters]

        class Broken:
            async def add(self, key: str, amount: int, window: float) -> int:
                raise ConnectionError("away")

            read = add

        gateway = FakeGateway(services={Counters: Broken()})
        plugin = limiter(gateway)
        spend(plugin, 0.7)
        for _ in range(3):
            await plugin.exchange()
        spend(plugin, 0.3)
        assert await kept(plugin) == ["two"]
        assert sum("cannot be exchanged" in record.getMessage() for record in caplog.records) == 1
        gateway.provide(Counters, counters)
        await plugin.exchange()
        other = limiter(FakeGateway(services={Counters: counters}))
        await other.exchange()
        assert other.accounts["provider:openai"].spent(NOON) == DOLLAR

    async def test_a_store_that_forgets_does_not_fill_a_budget(self, clock: FakeClock) -> None:
        gateway = FakeGateway(clock=clock)
        plugin = limiter(gateway)
        spend(plugin, 1)
        await plugin.exchange()
        gateway.provide(Counters, FakeGateway(clock=clock).services[Counters])
        await plugin.exchange()
        assert await kept(plugin) == ["two"]

    async def test_a_month_needs_few_cells(self, clock: FakeClock) -> None:
        gateway = FakeGateway(clock=clock)
        plugin = limiter(gateway, limit=1e6, period="1mo")
        for _ in range(3000):
            spend(plugin, 0.01)
            await plugin.exchange()
            clock.advance(600)
        account = plugin.accounts["provider:openai"]
        assert account.spent(clock()) == 3000 * DOLLAR // 100
        counter = gateway.services[Counters]
        assert sum(len(one.cells) for one in counter._cells.values()) < 100

    async def test_zero_is_a_budget_too(self, clock: FakeClock) -> None:
        plugin = limiter(FakeGateway(clock=clock), limit=0)
        assert await kept(plugin, OPENAI, make_deployment(id="nil", max_budget=0.0), OTHER) == ["two"]

    async def test_for_ever(self, clock: FakeClock) -> None:
        plugin = limiter(FakeGateway(clock=clock), period=None)
        spend(plugin, 1)
        await plugin.exchange()
        clock.advance(5 * 365 * 86400)
        with pytest.raises(NoDeployment) as caught:
            await kept(plugin, OPENAI)
        assert caught.value.retry_after is None
        assert plugin.reason(make_call(), OPENAI).endswith("is used up for ever")

    @pytest.mark.parametrize(
        ("text", "starts", "ends"),
        [
            ("1d", "2026-03-04 00:00", "2026-03-05 00:00"),
            ("24h", "2026-03-04 00:00", "2026-03-05 00:00"),
            ("1h30m", "2026-03-04 12:00", "2026-03-04 13:30"),
            ("7d", "2026-03-02 00:00", "2026-03-09 00:00"),
            ("1w", "2026-03-02 00:00", "2026-03-09 00:00"),
            ("1mo", "2026-03-01 00:00", "2026-04-01 00:00"),
            ("3mo", "2026-01-01 00:00", "2026-04-01 00:00"),
            ("3600", "2026-03-04 12:00", "2026-03-04 13:00"),
        ],
    )
    def test_periods(self, text: str, starts: str, ends: str) -> None:
        found = Period(text).at(NOON)
        assert [f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in found] == [starts, ends]
        assert found[1] - found[0] <= Period(text).seconds

    @pytest.mark.parametrize("text", ["", "soon", "0s", "5ms"])
    def test_what_is_no_period_stops_the_start(self, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            limiter(FakeGateway(), period=text)
        assert caught.value.path == "router_settings.provider_budget_config.openai.time_period"

    async def test_accounts_are_bounded(self, monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
        monkeypatch.setattr(module, "MOST", 3)
        plugin = limiter(FakeGateway(clock=clock))
        for number in range(9):
            release = plugin.begin(make_call(), make_deployment(id=f"d{number}", max_budget=1.0))
            assert release is not None
            release()
        assert list(plugin.accounts) == ["provider:openai", "deployment:d7", "deployment:d8"]


@pytest.mark.parametrize("text", ["500ms", "9999999mo", "inf", "nan", "1e300"])
def test_a_period_that_is_no_stretch_of_time(text: str) -> None:
    """A budget over it would never be used up: it must not be taken."""
    with pytest.raises(ValueError, match="not a period"):
        Period(text)
