"""The conformance suite, and the counting."""

import pytest
from tianji_strategy_rate_limits import RateLimits

from tianji import Call, Counters, NoDeployment, Overloaded, Usage
from tianji.testing import FakeClock, FakeGateway, FilterSuite, make_attempt, make_call, make_deployment, make_plugin

A = make_deployment(id="a", rpm=2)
B = make_deployment(id="b", tpm=100)
FREE = make_deployment(id="free")


def a_call(tokens: int = 2) -> Call:
    return make_call({"model": "m", "messages": [{"role": "user", "content": "x" * 4 * tokens}]})


def limiter(clock: FakeClock, gateway: FakeGateway | None = None) -> RateLimits:
    plugin = make_plugin(RateLimits, gateway=gateway or FakeGateway(clock=clock))
    plugin.tally.clock = clock
    return plugin


class TestRateLimits(FilterSuite):
    plugin = RateLimits
    returns = ("under_way",)

    async def test_requests(self) -> None:
        clock = FakeClock()
        plugin = limiter(clock)
        for _ in range(2):
            assert [one.id for one in await plugin.keep(a_call(), [A, FREE])] == ["a", "free"]
            plugin.begin(a_call(), A)
            clock.advance(10)
        assert [one.id for one in await plugin.keep(a_call(), [A, FREE])] == ["free"]
        assert plugin.reason(a_call(), A) == "its limit of 2 requests a minute is reached; there is room in 40 s"
        with pytest.raises(NoDeployment) as caught:
            await plugin.keep(a_call(), [A])
        failure = caught.value
        assert (failure.status, failure.code, failure.retry_after) == (429, "rate_limit_exceeded", 40.0)
        assert failure.falls_back
        clock.advance(40)
        assert await plugin.keep(a_call(), [A]) == [A], "the first request is a minute ago"

    async def test_exact_where_many_calls_passed_keep_at_once(self) -> None:
        plugin = limiter(FakeClock())
        calls = [a_call() for _ in range(50)]
        for call in calls:
            assert await plugin.keep(call, [A]) == [A]
        for call in calls[:2]:
            plugin.begin(call, A)
        for call in calls[2:]:
            with pytest.raises(Overloaded) as caught:
                plugin.begin(call, A)
            assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")

    async def test_tokens(self) -> None:
        clock = FakeClock()
        plugin = limiter(clock)
        call = a_call(60)
        release = plugin.begin(call, B)
        assert release is not None
        assert plugin.under_way == {"b": 60}
        assert await plugin.keep(a_call(40), [B]) == [B]
        with pytest.raises(NoDeployment) as caught:
            await plugin.keep(a_call(41), [B])
        assert caught.value.retry_after == 1.0, "nobody knows when the attempt ends"
        release()
        plugin.observe(make_attempt(deployment_id="b", usage=Usage(60, 40)))
        assert plugin.under_way == {}
        with pytest.raises(NoDeployment) as caught:
            await plugin.keep(a_call(0), [B])
        assert caught.value.retry_after == 60.0
        clock.advance(60)
        assert await plugin.keep(a_call(100), [B]) == [B]

    async def test_what_never_fits(self) -> None:
        plugin = limiter(FakeClock())
        with pytest.raises(NoDeployment) as caught:
            await plugin.keep(a_call(101), [B])
        assert caught.value.retry_after is None
        for closed in (make_deployment(rpm=0), make_deployment(tpm=0)):
            with pytest.raises(NoDeployment) as caught:
                await plugin.keep(a_call(), [closed])
            assert caught.value.retry_after is None
            assert "is reached" in plugin.reason(a_call(), closed)

    async def test_failed_attempts_count_as_requests_and_not_as_tokens(self) -> None:
        plugin = limiter(FakeClock())
        both = make_deployment(id="both", rpm=1, tpm=100)
        release = plugin.begin(a_call(50), both)
        assert release is not None
        release()
        plugin.observe(make_attempt(deployment_id="both", outcome="Unavailable", status=503, usage=None))
        assert plugin.tally.sum("tokens:both") == 0
        with pytest.raises(Overloaded):
            plugin.begin(a_call(), both)

    async def test_processes_share_their_counts(self) -> None:
        clock = FakeClock()
        gateway = FakeGateway(clock=clock)
        first = limiter(clock, gateway)
        second = limiter(clock, FakeGateway(clock=clock, services={Counters: gateway.services[Counters]}))
        first.begin(a_call(), A)
        second.begin(a_call(), A)
        assert await first.keep(a_call(), [A]) == [A], "not heard yet"
        for _ in range(2):
            await first.tally.exchange()
            await second.tally.exchange()
        for plugin in (first, second):
            with pytest.raises(NoDeployment):
                await plugin.keep(a_call(), [A])

    async def test_without_limits_nothing_is_counted(self) -> None:
        plugin = limiter(FakeClock())
        call = a_call()
        assert await plugin.keep(call, [FREE]) == [FREE]
        assert plugin.begin(call, FREE) is None
        assert call.state == {}
        assert not plugin.tally.counts
