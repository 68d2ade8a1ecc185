"""The conformance suite, and the order of prices."""

from collections.abc import Mapping
from typing import Any

from tianji_strategy_lowest_cost import LowestCost

from tianji.testing import StrategySuite, make_call, make_deployment


def price(given: float, made: float | None = None) -> dict[str, float | None]:
    return {"input_cost_per_token": given, "output_cost_per_token": made}


class TestLowestCost(StrategySuite):
    plugin = LowestCost

    async def order(self, prices: Mapping[str, Any]) -> list[str]:
        deployments = [make_deployment(id=name, price=one) for name, one in prices.items()]
        return [one.id for one in await self.make_plugin().rank(make_call(), deployments)]

    async def test_cheapest_first(self) -> None:
        prices = {"dear": price(5e-6, 15e-6), "cheap": price(1e-7, 4e-7), "middle": price(1e-6, 2e-6)}
        assert await self.order(prices) == ["cheap", "middle", "dear"]

    async def test_both_rates_count(self) -> None:
        assert await self.order({"in": price(1e-6, 9e-6), "out": price(4e-6, 5e-6)}) == ["out", "in"]

    async def test_unknown_is_last_and_free_is_first(self) -> None:
        prices = {"unknown": None, "dear": price(1e-3, 1e-3), "free": price(0.0, 0.0)}
        assert await self.order(prices) == ["free", "dear", "unknown"]

    async def test_embeddings_have_no_output_rate(self) -> None:
        assert await self.order({"large": price(13e-8), "small": price(2e-8), "unknown": None}) == [
            "small",
            "large",
            "unknown",
        ]

    async def test_ties_are_not_always_the_first(self) -> None:
        same = {"a": price(1e-6, 1e-6), "b": price(1e-6, 1e-6)}
        assert {(await self.order(same))[0] for _ in range(60)} == {"a", "b"}
