"""How a call was routed, or would be: what an explanation shows of models, deployments and their order.

`Selection` and the attempt loop write it down where a call carries a plan, and nowhere else: it costs nothing while
nobody asks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec

from tianji.errors import TianjiError

NO_ACCESS = "the caller has no access"
AGAIN = "its group was tried before"
LONGEST = 6 * 1024
"""Characters that a plan may take in a header."""


class Candidate(msgspec.Struct, kw_only=True):
    """One deployment of a group."""

    deployment_id: str
    provider: str
    model: str
    order: int
    """Its tier."""
    dropped: str | None = None
    """Why it may not serve this call; None for those that may."""
    dropped_by: str | None = None
    """The filter that left it out; None where the kernel or the strategy did."""
    health: str = "healthy"
    """`healthy`, or put aside: `doubted`, `ejected`, `probing` (see `tianji.health`)."""
    cooling_for: float = 0.0
    """Seconds until its time aside ends; until then it comes after the others."""
    probe: bool = False
    """It was put aside, and this call is the one that finds out whether it is well."""
    rank: int | None = None
    """Its place in the order in which deployments are tried, from 1."""
    preferred_by: str | None = None
    """The filter that put it before the strategy's first choice."""


class Route(msgspec.Struct, kw_only=True):
    """From one model name to deployments."""

    model: str
    """As asked for, or as a fallback names it."""
    group: str = ""
    how: str = "exact"
    """`exact`, `alias`, `deployment` or `wildcard`; the label of the `fallback` hook that offered the deployments."""
    selected_by: str | None = None
    """The selector that named the group in place of the one asked for."""
    selected_because: str | None = None
    """Why it named that group, in its own words."""
    strategy: str = ""
    candidates: list[Candidate] = []
    refused: str | None = None
    """Why nothing is tried here: the class of the failure and its message."""


class Tried(msgspec.Struct, frozen=True):
    """One attempt that was made."""

    deployment_id: str
    outcome: str
    """`ok`, `streaming` (its answer has begun), or the class of the failure that ended it."""


class Plan(msgspec.Struct, kw_only=True):
    """All routes of a call: the model asked for first, then its fallbacks as far as they came into question."""

    seed: int = 0
    routes: list[Route] = []
    tried: list[Tried] = []
    """Attempts that failed, in order. The one that is open is the call's `charge`."""

    def because(self, reason: str) -> None:
        """For selectors: why the name that is being looked up leads where it leads."""
        if self.routes:
            route = self.routes[-1]
            route.selected_because = f"{route.selected_because}; {reason}" if route.selected_because else reason


# -- a plan in a header ------------------------------------------------------------------------------------------------


def compact(plan: Plan, tried: Sequence[Tried]) -> str:
    """A plan as one line of ASCII JSON; fields that say nothing are left out.

    A plan that would be longer than `LONGEST` keeps id, rank and reason of its candidates; one that still is loses
    candidates, then routes, and says `truncated`.
    """
    attempts = [{"deployment_id": one.deployment_id, "outcome": one.outcome} for one in tried]
    for show in (_whole, _brief):
        text = _json({"seed": plan.seed, "routes": [_route(one, show) for one in plan.routes], "attempts": attempts})
        if len(text) <= LONGEST:
            return text
    routes: list[Any] = [_route(one, None) for one in plan.routes]
    for left in ({"routes": routes, "attempts": attempts}, {"attempts": attempts}):
        text = _json({"seed": plan.seed, **left, "truncated": True})
        if len(text) <= LONGEST:
            return text
    return _json({"seed": plan.seed, "truncated": True})


_Show = Callable[[Candidate], dict[str, Any]]


def _route(route: Route, show: _Show | None) -> dict[str, Any]:
    said = {name: value for name in route.__struct_fields__ if (value := getattr(route, name))}
    said.pop("candidates", None)
    if show is not None and route.candidates:
        said["candidates"] = [show(one) for one in route.candidates]
    return said


def _whole(one: Candidate) -> dict[str, Any]:
    values = ((name, getattr(one, name)) for name in one.__struct_fields__)
    return {name: value for name, value in values if (value and value != "healthy") or name == "order"}


def _brief(one: Candidate) -> dict[str, Any]:
    said: dict[str, Any] = {"deployment_id": one.deployment_id}
    if one.rank is not None:
        said["rank"] = one.rank
    if one.dropped is not None:
        said["dropped"] = one.dropped
    return said


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


# -- what only a real call can know ------------------------------------------------------------------------------------


class Unknowable(TianjiError):
    """What a plugin would do cannot be told without doing it, and the call is only explained."""


_explaining: ContextVar[list[str] | None] = ContextVar("explaining", default=None)


@contextmanager
def explaining() -> Iterator[list[str]]:
    """A stretch of code in which no plugin reaches anybody through the gateway. Yields what was prevented."""
    prevented: list[str] = []
    token = _explaining.set(prevented)
    try:
        yield prevented
    finally:
        _explaining.reset(token)


def only_for_real(what: str) -> None:
    """Called where something is about to be sent: raises `Unknowable` while a call is only explained."""
    prevented = _explaining.get()
    if prevented is not None:
        unknowable = Unknowable(f"{what} would have to be asked for")
        prevented.append(str(unknowable))
        raise unknowable
