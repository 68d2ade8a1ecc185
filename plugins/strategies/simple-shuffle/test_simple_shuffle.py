"""The conformance suite, and the distribution of the draws."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tianji_strategy_simple_shuffle import SimpleShuffle

from tianji import Deployment
from tianji.testing import StrategySuite, make_call, make_deployment

DRAWS = 4000


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    before = random.getstate()
    random.seed(20240501)
    yield
    random.setstate(before)


def group(*fields: dict[str, Any]) -> list[Deployment]:
    return [make_deployment(id=f"d{index}", **one) for index, one in enumerate(fields)]


class TestSimpleShuffle(StrategySuite):
    plugin = SimpleShuffle

    async def shares(self, deployments: list[Deployment], place: int = 0) -> dict[str, float]:
        """How often each deployment stands at a place of the ranking."""
        strategy, call = self.make_plugin(), make_call()
        seen = Counter([(await strategy.rank(call, deployments))[place].id for _ in range(DRAWS)])
        return {one.id: seen[one.id] / DRAWS for one in deployments}

    async def test_first_place_follows_the_weights(self) -> None:
        shares = await self.shares(group({"weight": 1}, {"weight": 3}, {"weight": 6}))
        assert shares == pytest.approx({"d0": 0.1, "d1": 0.3, "d2": 0.6}, abs=0.03)

    async def test_second_place_is_drawn_from_what_is_left(self) -> None:
        # P(second = d0) = P(d1 first) * 1/7 + P(d2 first) * 1/4
        shares = await self.shares(group({"weight": 1}, {"weight": 3}, {"weight": 6}), place=1)
        assert shares["d0"] == pytest.approx(0.3 / 7 + 0.6 / 4, abs=0.03)

    async def test_rpm_counts_where_nobody_has_a_weight(self) -> None:
        shares = await self.shares(group({"rpm": 100, "tpm": 1}, {"rpm": 300, "tpm": 10_000}))
        assert shares == pytest.approx({"d0": 0.25, "d1": 0.75}, abs=0.03)

    async def test_tpm_counts_where_nobody_has_weight_or_rpm(self) -> None:
        shares = await self.shares(group({"tpm": 9000}, {"tpm": 1000}))
        assert shares == pytest.approx({"d0": 0.9, "d1": 0.1}, abs=0.03)

    async def test_one_weight_is_enough_to_ignore_rpm(self) -> None:
        shares = await self.shares(group({"weight": 1, "rpm": 1}, {"rpm": 1_000_000}))
        assert shares == {"d0": 1.0, "d1": 0.0}, "without a weight a deployment is only a failover target"

    @pytest.mark.parametrize("fields", [{}, {"weight": 0}, {"rpm": 0}])
    async def test_nothing_to_tell_them_apart(self, fields: dict[str, Any]) -> None:
        shares = await self.shares(group(fields, fields, fields, fields))
        assert shares == pytest.approx({f"d{index}": 0.25 for index in range(4)}, abs=0.03)
