"""Strategies: which deployment of a model group goes first. The author writes `rank`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from tianji.hookspecs import hookimpl
from tianji.model import Attempt, Call, Deployment
from tianji.plugin.base import Plugin


class Strategy(Plugin):
    """Orders a model group's healthy deployments.

    What `rank` acquires (a slot, a count) it returns with `call.defer`. One instance serves all groups that name it.
    """

    family: ClassVar[str] = "strategies"

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """The candidates, best first: a permutation, or fewer where some must not be used at all.

        An empty answer means that none may be used now; the call is refused with 429.
        """
        raise NotImplementedError

    def observe(self, attempt: Attempt) -> None:
        """Learn from one finished attempt. Called for every attempt, after the call; must not block."""

    @final
    @hookimpl
    async def route(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment] | None:
        return await self.rank(call, candidates)
