"""Lowest cost: the deployment with the lowest price per token goes first.

Docs: https://docs.litellm.ai/docs/routing (the semantics that operators expect of this name)
"""

from collections.abc import Sequence

from tianji import Call, Deployment, Strategy


class LowestCost(Strategy):
    name = "lowest-cost"

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """By the sum of the input and the output rate, ties at random; an unknown price is never cheap, but last."""
        dice = call.dice
        return sorted(candidates, key=lambda one: (_rate(one), dice.random()))


def _rate(deployment: Deployment) -> float:
    """Femto-dollars for one token in and one token out; infinite where the price is not known."""
    price = deployment.price
    if price is None or price.input is None:
        return float("inf")
    return price.input + (price.output or 0)  # no output rate: an embedding model, which puts out no tokens
