"""Least busy: the deployment with the fewest calls in flight goes first.

Docs: https://docs.litellm.ai/docs/routing (the semantics that operators expect of this name)
"""

import random
from collections.abc import Sequence
from typing import Any

from tianji import Call, Deployment, Strategy


class LeastBusy(Strategy):
    name = "least-busy"

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.in_flight: dict[str, int] = {}
        """Calls under way by deployment id; an idle deployment has no entry."""

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """By calls in flight, ties at random. The first one counts as busy until the call's last byte.

        A call that fails over stays counted where it was first sent: nobody says here which attempt it is at.
        """
        if not candidates:
            return candidates
        busy = self.in_flight
        ranked = sorted(candidates, key=lambda one: (busy.get(one.id, 0), random.random()))
        chosen = ranked[0].id
        busy[chosen] = busy.get(chosen, 0) + 1

        async def give_back() -> None:
            left = busy[chosen] - 1
            if left:
                busy[chosen] = left
            else:
                del busy[chosen]

        call.defer(give_back)
        return ranked
