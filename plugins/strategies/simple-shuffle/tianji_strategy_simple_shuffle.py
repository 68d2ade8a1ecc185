"""Simple shuffle: weighted random routing, and the default of LiteLLM-style configurations.

Docs: https://docs.litellm.ai/docs/routing (the semantics that operators expect of this name)
"""

from collections.abc import Sequence

from tianji import Call, Deployment, Strategy


class SimpleShuffle(Strategy):
    name = "simple-shuffle"

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """A random permutation, drawn by `weight`, else by `rpm`, else by `tpm`, else evenly."""
        return self.shuffled(call, candidates)
