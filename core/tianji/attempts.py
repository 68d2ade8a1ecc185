"""The attempt loop: the one place that retries, fails over and falls back.

For one call: try the group's deployments in the order that `Selection` gives, and on a failure that another attempt can
mend go on: to the next healthy deployment at once, to the same one after a pause. When the group has nothing more to
give, the `fallback` hooks and then the configuration's `fallbacks` name other groups. What bounds it all: the call's
deadline, the number of attempts, `max_fallbacks`, and a retry budget over all calls, so that an outage is not
multiplied.

Nothing here runs once the first byte has left: a provider returns a stream only after its first event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from time import monotonic

from tianji.asking import Asking
from tianji.config.schema import RouterSettings
from tianji.errors import (
    BadCredentials,
    ContentPolicy,
    ContextWindow,
    Failure,
    UpstreamFailure,
)
from tianji.health import IN_A_ROW
from tianji.model import Call, Deployment, Reply
from tianji.plan import AGAIN, Candidate, Route, Tried
from tianji.registry import Hooks
from tianji.retries import ATTEMPTS, RetryBudget, Rules
from tianji.selection import Selection
from tianji.services import Ledger

logger = logging.getLogger("tianji.attempts")

MAX_WAIT = 60.0
"""A provider that asks for more patience than this is not waited for."""
MOST_TARGETS = 100
"""Of a line of fallbacks, those that are looked at."""


class Attempts(Asking):
    """The loop for one configuration."""

    def __init__(
        self, *, selection: Selection, hooks: Hooks, ledger: Ledger, settings: RouterSettings, budget: RetryBudget
    ) -> None:
        super().__init__(router=selection.router, health=selection.health, hooks=hooks, ledger=ledger)
        self.selection = selection
        self.settings = settings
        self.budget = budget
        self.rules = Rules(settings)

    async def run(self, call: Call) -> Reply:
        """The reply, or the failure of the model group that was asked for."""
        self.budget.earn()
        ranked: Sequence[Deployment] = ()
        try:
            ranked = await self.selection.ranked(call, call.model)
            return await self._attempt(call, ranked[0])
        except Failure as failure:
            walk = Walk(call, ranked, failure)
        try:
            reply = None
            if ranked:
                self._note(walk, ranked[0], walk.failure)
                reply = await self._persist(walk)
            if reply is None:
                first = walk.failure
                reply = await self._fall_back(walk)
            if reply is None:
                raise first
            return reply
        finally:
            first = walk = None  # type: ignore[assignment]  # a failure knows this frame, and would never leave it

    # -- fallbacks -----------------------------------------------------------------------------------------------------

    def targets(self, call: Call, failure: Failure | None, tried: Sequence[Deployment] = ()) -> Sequence[str]:
        """The groups to fall back to after a failure (None: one of no particular kind), as configured or requested.

        A table for the kind of failure goes before the general one, also where it has no line for this model.
        """
        asked = call.options.get("fallbacks")
        if asked is not None:
            return [name for name in asked if type(name) is str]
        settings = self.settings
        if isinstance(failure, ContextWindow) and settings.context_window_fallbacks:
            return self._named(settings.context_window_fallbacks, call, tried)
        if isinstance(failure, ContentPolicy) and settings.content_policy_fallbacks:
            return self._named(settings.content_policy_fallbacks, call, tried)
        return self._named(settings.fallbacks, call, tried) or settings.default_fallbacks

    def _named(self, table: Mapping[str, Sequence[str]], call: Call, tried: Sequence[Deployment]) -> Sequence[str]:
        """A table's line for a call: under the name that was asked for, else under its group's (alias, wildcard) or
        under that of the group that a selector named in its place, else the line for all (`*`)."""
        if not table:
            return ()
        named = table.get(call.model)
        if named is None and (group := self.router.known(call.model)) is not None:
            named = table.get(group.name)
        if named is None and tried:
            named = table.get(tried[0].group)
        return table.get("*", ()) if named is None else named

    def _usable(self, walk: Walk) -> list[str]:
        """Those of the targets of a failed call that exist, that its caller may use and that were not tried yet."""
        call = walk.call
        if not walk.failure.falls_back or call.options.get("disable_fallbacks"):
            return []
        seen = {one.group for one in walk.tried}
        found = []
        for name in self.targets(call, walk.failure, walk.tried)[:MOST_TARGETS]:
            group = self.router.known(name)
            if group is None or group.name in seen:
                continue
            try:
                self.router.allowed(group, call.principal, name)
            except Failure as refused:
                logger.info("fallback %r of %r is not usable: %s", name, call.model, type(refused).__name__)
                continue
            found.append(name)
        return found

    async def _fall_back(self, walk: Walk) -> Reply | None:
        """Other groups, one after the other. None: none of them answered, or there is none."""
        call = walk.call
        if not walk.failure.falls_back or call.options.get("disable_fallbacks"):
            return None
        targets = walk.targets = self._usable(walk)
        plugins = True
        while walk.failure.falls_back and call.fallbacks < self.settings.max_fallbacks and not late(call):
            left = len(targets)
            ranked = await self.offered(call, walk.failure, walk.tried, targets, plugins=plugins)
            if not ranked:
                return None
            if self._in_doubt(ranked[0]) and not self.budget.spend():
                logger.info("fallback %r of %r is out of order, and retries are used up", ranked[0].group, call.model)
                plugins = plugins and len(targets) < left  # a hook would offer the same again, without end
                continue
            call.fallbacks += 1
            walk.enter(ranked)
            reply = await self._try(walk, ranked[0]) or await self._persist(walk)
            if reply is not None:
                return reply
        return None

    async def offered(
        self, call: Call, failure: Failure, tried: Sequence[Deployment], targets: list[str], *, plugins: bool = True
    ) -> Sequence[Deployment] | None:
        """Other deployments: from the first `fallback` hook that offers some, else the next configured group.

        The targets that were looked at are taken out of the list. Hooks are not asked about a failure that is only
        imagined, nor without `plugins`.
        """
        for step in () if call.dry or not plugins else self.hooks.fallback:
            offered: Sequence[Deployment] | None = await step.fn(call, failure, tried)
            if offered and (offered := await self.selection.permitted(call, offered)):
                if call.plan is not None:
                    call.plan.routes.append(_offer(offered, step.label))
                return offered
        seen = {one.group for one in tried}
        while targets:
            name = targets.pop(0)
            group = self.router.known(name)
            if group is not None and group.name in seen:  # two names for one group
                if call.plan is not None:
                    call.plan.routes.append(Route(model=name, group=group.name, refused=AGAIN))
                continue
            try:
                ranked = await self.selection.ranked(call, name)
            except Failure as unusable:
                logger.info("fallback %r of %r is not usable: %s", name, call.model, type(unusable).__name__)
                continue
            if ranked[0].group not in seen:
                return ranked
            if call.plan is not None:
                call.plan.routes[-1].refused = AGAIN
                call.plan.routes[-1].candidates = []
        return None

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def _persist(self, walk: Walk) -> Reply | None:
        """Further attempts in a group after a failed one. None: no more of them, or none answered."""
        reply = None
        while reply is None and (pause := self._pause(walk)) is not None:
            if pause:
                walk.call.upstream_seconds += pause  # asked for by the provider's state, not added by the gateway
                await asyncio.sleep(pause)
            reply = await self._try(walk, walk.next())
        return reply

    async def _try(self, walk: Walk, deployment: Deployment) -> Reply | None:
        """One attempt. None: it failed, and the walk knows."""
        try:
            return await self._attempt(walk.call, deployment)
        except Failure as failure:
            self._note(walk, deployment, failure)
            return None

    def _note(self, walk: Walk, deployment: Deployment, failure: Failure) -> None:
        """An attempt has failed: so much for the record, and for the deployment's."""
        walk.failed(deployment, failure)
        if walk.call.plan is not None:
            walk.call.plan.tried.append(Tried(deployment.id, type(failure).__name__))
        self._blame(walk.call, deployment, failure, len(walk.ranked))

    def _pause(self, walk: Walk) -> float | None:
        """Seconds until the next attempt in the group; None where there is none.

        Another deployment that is well is asked at once. All others have been asked or are out of order: that takes
        patience, and a part of the retry budget.
        """
        fresh = walk.made < len(walk.ranked) and not self._in_doubt(walk.ranked[walk.made])
        if not self._again(walk, fresh):
            return None
        if fresh:
            return None if late(walk.call) else 0.0
        one = walk.next()
        pause = self.rules.wait(one, walk.not_before.get(one.id, 0.0) - monotonic(), walk.made)
        if pause > MAX_WAIT or late(walk.call, pause) or not self.budget.spend():
            return None
        return pause

    def _again(self, walk: Walk, fresh: bool) -> bool:
        """Whether the rules allow another attempt in the group. `fresh`: at another deployment that is well."""
        failure = walk.failure
        if isinstance(failure, BadCredentials) and not fresh:
            return False
        if not isinstance(failure, UpstreamFailure):
            if not failure.retryable:
                return False
            if fresh:
                return True  # it had no room and was not asked: that uses nothing up
        count = self.rules.count(walk.call, walk.tried[-1], failure)
        if count is not None:
            return walk.asked <= count
        if walk.total >= ATTEMPTS:
            return False
        return fresh or not self._waiting(walk)

    def _waiting(self, walk: Walk) -> bool:
        """Whether a fallback waits that is more likely to answer than a deployment that was asked already."""
        if walk.call.fallbacks >= self.settings.max_fallbacks:
            return False
        return bool(self._usable(walk) if walk.targets is None else walk.targets)

    def _in_doubt(self, deployment: Deployment) -> bool:
        """Whether a deployment is put aside, or has failed so often in a row that it would be in a larger group.

        One whose time aside is over is left to `Health`, which sends one call at a time to find out.
        """
        state = self.health.states.get(deployment.id)
        if state is None:
            return False
        return self.health.cooling(deployment) > 0.0 if state.aside else state.row >= IN_A_ROW


class Walk:
    """The way of one call after its first failure: what was tried, what that used up, and where it may still go."""

    __slots__ = ("asked", "call", "failure", "made", "not_before", "ranked", "targets", "total", "tried")

    def __init__(self, call: Call, ranked: Sequence[Deployment], failure: Failure) -> None:
        self.call = call
        self.ranked = ranked
        """The deployments of the group that is being tried, best first."""
        self.made = 0
        """Attempts in this group."""
        self.asked = 0
        """Of those, the ones that use up retries: all but those that a deployment had no room for."""
        self.total = 0
        """The same, over all groups."""
        self.tried: list[Deployment] = []
        self.not_before: dict[str, float] = {}
        """By deployment id: when a provider wants to be asked again, by the monotonic clock."""
        self.targets: list[str] | None = None
        """The groups that are left to fall back to; None while the one that was asked for is being tried."""
        self.failure = failure.with_traceback(None)
        """The last one. Its traceback would lead back here, and both would stay until a garbage collection."""

    def enter(self, ranked: Sequence[Deployment]) -> None:
        """Go on to another group."""
        self.ranked = ranked
        self.made = self.asked = 0

    def failed(self, deployment: Deployment, failure: Failure) -> None:
        """Write down how an attempt ended."""
        self.failure = failure.with_traceback(None)
        self.tried.append(deployment)
        self.made += 1
        if isinstance(failure, UpstreamFailure) or self.made >= len(self.ranked):
            self.asked += 1
            self.total += 1
        if failure.retry_after is not None:
            self.not_before[deployment.id] = monotonic() + failure.retry_after

    def next(self) -> Deployment:
        """The deployment after the last one, round and round; rather one that did not ask for patience."""
        at = self.made % len(self.ranked)
        return min((*self.ranked[at:], *self.ranked[:at]), key=lambda one: self.not_before.get(one.id, 0.0))


def _offer(offered: Sequence[Deployment], by: str) -> Route:
    """What a `fallback` hook offered, for a plan."""
    candidates = [
        Candidate(deployment_id=one.id, provider=one.provider, model=one.model, order=one.order, rank=place)
        for place, one in enumerate(offered, 1)
    ]
    return Route(model=offered[0].group, group=offered[0].group, how=by, candidates=candidates)


def late(call: Call, wait: float = 0.0) -> bool:
    """Whether so little of the call's time would be left after `wait` seconds that no further attempt can end in it."""
    return call.deadline - monotonic() - wait <= 0.05 * (call.deadline - call.started)
