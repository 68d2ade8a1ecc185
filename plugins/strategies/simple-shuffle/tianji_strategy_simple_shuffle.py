"""Simple shuffle: weighted random routing, and the default of LiteLLM-style configurations.

Docs: https://docs.litellm.ai/docs/routing (the semantics that operators expect of this name)
"""

import random
from collections.abc import Sequence

from tianji import Call, Deployment, Strategy


class SimpleShuffle(Strategy):
    name = "simple-shuffle"

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """A random permutation: at every place, each deployment left is drawn in proportion to its weight.

        Weights are the first of `weight`, `rpm` and `tpm` that any candidate has; a candidate without it counts as 0
        and comes after all others. Where none is set, or all are 0, every order is equally likely.
        """
        weights = _weights(candidates)
        if weights is None:
            return random.sample(candidates, len(candidates))
        # Sorting by u^(1/w) draws without replacement in one pass (Efraimidis and Spirakis, 2006).
        drawn = [(random.random() ** (1.0 / weight) if weight > 0 else -random.random()) for weight in weights]
        order = sorted(range(len(candidates)), key=drawn.__getitem__, reverse=True)
        return [candidates[index] for index in order]


def _weights(candidates: Sequence[Deployment]) -> list[float] | None:
    for field in ("weight", "rpm", "tpm"):
        values = [getattr(one, field) for one in candidates]
        if any(value is not None for value in values):
            weights = [max(0.0, float(value or 0)) for value in values]
            return weights if any(weights) else None
    return None
