"""Least busy: the deployment with the fewest calls in flight goes first.

Docs: https://docs.litellm.ai/docs/routing (the semantics that operators expect of this name)
"""

from collections.abc import Sequence
from typing import Any

from tianji import Call, Deployment, Release, Strategy


class LeastBusy(Strategy):
    name = "least-busy"

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.in_flight: dict[str, int] = {}
        """Calls under way by deployment id; an idle deployment has no entry."""

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """By calls in flight, ties at random."""
        busy, dice = self.in_flight, call.dice
        return sorted(candidates, key=lambda one: (busy.get(one.id, 0), dice.random()))

    def begin(self, call: Call, deployment: Deployment) -> Release:
        """A deployment is busy from the beginning of an attempt to its end: to the last byte of a stream."""
        busy, chosen = self.in_flight, deployment.id
        busy[chosen] = busy.get(chosen, 0) + 1

        def give_back() -> None:
            left = busy[chosen] - 1
            if left:
                busy[chosen] = left
            else:
                del busy[chosen]

        return give_back
