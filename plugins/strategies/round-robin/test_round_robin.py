"""The conformance suite, the turns, and the headers of subscriptions."""

from collections.abc import Mapping
from typing import Any

import pytest
import tianji_strategy_round_robin as module
from tianji_strategy_round_robin import PREFIX, RoundRobin, blocked_until

from tianji import ConfigError, Deployment, NoDeployment, Secret
from tianji.testing import (
    FakeClock,
    FakeGateway,
    StrategySuite,
    Upstream,
    make_attempt,
    make_call,
    make_deployment,
    make_plugin,
)
from tianji.testing.gateway import gateway

GROUP = [make_deployment(id=name) for name in ("a", "b", "c")]
NOW = 1_800_000_000.0


def subscription(id: str, key: str = "") -> Deployment:
    return make_deployment(id=id, provider="anthropic", api_key=f"sk-ant-oat01-{key or id}")


def said(**headers: object) -> dict[str, str]:
    """`five_utilization=0.9` as the header of the 5-hour window."""
    short = {"five": "5h", "seven": "7d"}
    named = {}
    for name, value in headers.items():
        first, _, rest = name.partition("_")
        named[PREFIX + (f"{short[first]}-{rest}" if first in short else name)] = str(value)
    return named


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock(NOW)
    monkeypatch.setattr(module, "time", made)
    return made


class TestRoundRobin(StrategySuite):
    plugin = RoundRobin

    async def go(self, strategy: RoundRobin, group: list[Deployment], limits: Mapping[str, str] | None = None) -> str:
        """One whole call; where it went."""
        call = make_call()
        first = (await strategy.rank(call, group))[0]
        strategy.begin(call, first)
        strategy.observe(make_attempt(deployment_id=first.id, limits=limits or {}))
        return first.id

    # -- turns

    async def test_each_in_turn(self) -> None:
        strategy = self.make_plugin()
        assert [await self.go(strategy, GROUP) for _ in range(7)] == [*"abcabca"]

    async def test_the_others_follow_in_order(self) -> None:
        strategy = self.make_plugin()
        await self.go(strategy, GROUP)
        assert [one.id for one in await strategy.rank(make_call(), GROUP)] == ["b", "c", "a"]

    async def test_groups_have_turns_of_their_own(self) -> None:
        other = [make_deployment(id=name, group="other") for name in ("x", "y")]
        strategy = self.make_plugin()
        assert [await self.go(strategy, group) for group in (GROUP, other, GROUP, other)] == ["a", "x", "b", "y"]

    async def test_failover_does_not_take_a_turn(self) -> None:
        strategy, call = self.make_plugin(), make_call()
        for one in await strategy.rank(call, GROUP):
            strategy.begin(call, one)
        assert await self.go(strategy, GROUP) == "b"

    async def test_explaining_does_not_take_a_turn(self) -> None:
        strategy = self.make_plugin()
        for _ in range(3):
            assert (await strategy.rank(make_call(), GROUP))[0].id == "a"

    # -- subscriptions

    @pytest.mark.parametrize(
        "limits",
        [
            said(five_utilization=0.8, five_reset=NOW + 600),
            said(seven_utilization=1.0, seven_reset=NOW + 600),
            said(status="rejected", reset=NOW + 600),
            said(status="rate_limited", five_reset=NOW + 600, seven_reset=NOW + 9000),
            said(status="overage", five_reset=NOW + 600),
        ],
    )
    async def test_a_throttled_one_is_left_alone_until_its_reset(self, clock: FakeClock, limits: Any) -> None:
        group, strategy = [subscription("a"), subscription("b")], self.make_plugin()
        assert await self.go(strategy, group, limits) == "a"
        assert {await self.go(strategy, group) for _ in range(4)} == {"b"}
        clock.advance(600)
        assert {await self.go(strategy, group) for _ in range(4)} == {"a", "b"}

    @pytest.mark.parametrize(
        "limits",
        [
            {},
            said(status="allowed", five_utilization=0.79, seven_utilization=0.1),
            said(status="allowed_warning"),
            said(five_utilization="unknown", seven_utilization="nan"),
            {"anthropic-ratelimit-requests-remaining": "0"},
        ],
    )
    async def test_what_is_not_known_speaks_against_nothing(self, clock: FakeClock, limits: Any) -> None:
        group, strategy = [subscription("a"), subscription("b")], self.make_plugin()
        assert [await self.go(strategy, group, limits) for _ in range(4)] == ["a", "b", "a", "b"]

    async def test_other_keys_are_never_left_out(self, clock: FakeClock) -> None:
        group = [make_deployment(id="a", api_key="sk-ant-api03-x"), make_deployment(id="b", api_key=None)]
        strategy = self.make_plugin()
        limits = said(status="rejected", reset=NOW + 600)
        assert [await self.go(strategy, group, limits) for _ in range(4)] == ["a", "b", "a", "b"]

    async def test_deployments_of_one_key_are_throttled_together(self, clock: FakeClock) -> None:
        group = [subscription("a", "same"), subscription("b", "same"), subscription("c")]
        strategy = self.make_plugin()
        await self.go(strategy, group, said(status="rejected", reset=NOW + 600))
        assert [one.id for one in await strategy.rank(make_call(), group)] == ["c"]

    async def test_a_good_answer_lifts_it(self, clock: FakeClock) -> None:
        one, strategy = subscription("a"), self.make_plugin()
        await self.go(strategy, [one], said(status="rejected", reset=NOW + 600))
        strategy.observe(make_attempt(deployment_id="a", limits=said(status="allowed", five_utilization=0.1)))
        assert await strategy.rank(make_call(), [one]) == [one]

    async def test_none_left(self, clock: FakeClock) -> None:
        group, strategy = [subscription("a"), subscription("b")], self.make_plugin()
        await self.go(strategy, group, said(status="rejected", reset=NOW + 600))
        await self.go(strategy, group, said(status="rejected", reset=NOW + 300))
        with pytest.raises(NoDeployment) as refused:
            await strategy.rank(make_call(), group)
        assert (refused.value.status, refused.value.retry_after) == (429, 300)
        clock.advance(290)
        with pytest.raises(NoDeployment) as refused:
            await strategy.rank(make_call(), group)
        assert refused.value.retry_after == 60, "never sooner than in a minute"

    def test_resets(self) -> None:
        assert blocked_until(said(status="rejected"), 0.8, NOW) == NOW + 60, "no reset: a minute"
        assert blocked_until(said(five_utilization=0.9, five_reset=NOW - 5), 0.8, NOW) == NOW + 60
        iso = said(seven_utilization=0.9, seven_reset="2027-01-15T08:10:00Z")
        assert blocked_until(iso, 0.8, NOW) == 1_800_000_600.0
        both = said(five_utilization=0.9, five_reset=NOW + 60, seven_utilization=0.9, seven_reset=NOW + 900)
        assert blocked_until(both, 0.8, NOW) == NOW + 900, "both windows must have room"
        assert blocked_until(said(five_utilization=2, five_reset="inf"), 0.8, NOW) == NOW + 8 * 86_400
        assert blocked_until(said(five_utilization=2, five_reset="soon"), 0.8, NOW) == NOW + 60

    def test_threshold(self) -> None:
        assert self.make_plugin().threshold() == 0.8
        assert make_plugin(RoundRobin, {"ratelimit_alert_threshold": 0.5}).threshold() == 0.5

        class Config:
            sections: Any = {"ratelimit_alert_threshold": 0.9}

        assert make_plugin(RoundRobin, gateway=FakeGateway(Config())).threshold() == 0.9
        Config.sections = {"ratelimit_alert_threshold": "high"}
        with pytest.raises(ConfigError, match="ratelimit_alert_threshold"):
            make_plugin(RoundRobin, gateway=FakeGateway(Config()))

    def test_keys_do_not_show(self) -> None:
        strategy = self.make_plugin()
        strategy.begin(make_call(), subscription("a"))
        assert strategy.keys == {"a": Secret("sk-ant-oat01-a")}
        assert "oat01" not in repr(vars(strategy))


async def test_behind_the_gateway() -> None:
    """Headers of a real exchange: a subscription at its threshold is asked once, its status told to the client."""
    answer = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "ok"}], "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    async with Upstream() as full, Upstream() as roomy:
        full.reply(json=answer, headers=said(status="allowed_warning", five_utilization=0.95, five_reset=4e9))
        roomy.reply(json=answer, headers=said(status="allowed", five_utilization=0.1))
        entries = [
            {"model": "anthropic/claude", "api_base": up.url, "api_key": f"sk-ant-oat01-{up.port}"}
            for up in (full, roomy)
        ]
        config = {
            "model_list": [{"model_name": "claude", "tianji_params": one} for one in entries],
            "router_settings": {"routing_strategy": "round-robin"},
        }
        async with gateway(config) as gw:
            answers = [await gw.chat("claude", max_tokens=5) for _ in range(4)]
        assert [one.status_code for one in answers] == [200] * 4
        assert (len(full.requests), len(roomy.requests)) == (1, 3)


async def test_a_subscription_alone_that_refused() -> None:
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "used up"}}
    async with Upstream() as up:
        up.reply(status=429, json=error, headers=said(status="rejected", reset=4e9))
        entry = {"model": "anthropic/claude", "api_base": up.url, "api_key": "sk-ant-oat01-one", "num_retries": 0}
        config = {
            "model_list": [{"model_name": "claude", "tianji_params": entry}],
            "router_settings": {"routing_strategy": "round-robin"},
        }
        async with gateway(config) as gw:
            answers = [await gw.chat("claude", max_tokens=5) for _ in range(2)]
        assert [one.status_code for one in answers] == [429, 429]
        assert len(up.requests) == 1, "the second call is refused at once"
        assert float(answers[1].headers["retry-after"]) > 60
