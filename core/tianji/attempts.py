"""The attempt loop: the one place that retries, fails over and falls back.

For one call: rank the group's deployments, try the first, and on a failure that another attempt can mend go on: to the
next healthy deployment at once, to the same one after a pause. When the group has nothing more to give, the `fallback`
hooks and then the configuration's `fallbacks` name other groups. What bounds it all: the call's deadline, the number of
retries, `max_fallbacks`, and a retry budget over all calls, so that an outage is not multiplied.

Nothing here runs once the first byte has left: a provider returns a stream only after its first event.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic

from tianji.accounting import Charge, finished, reservation
from tianji.config.schema import RouterSettings
from tianji.errors import (
    BadCredentials,
    ContentPolicy,
    ContextWindow,
    Failure,
    NoDeployment,
    Overloaded,
    ProtocolError,
    TianjiError,
    Timeout,
    UpstreamNotFound,
)
from tianji.health import Health
from tianji.model import Call, Deployment, Reply, Undo
from tianji.registry import Hooks
from tianji.router import Group, Router
from tianji.services import Ledger

logger = logging.getLogger("tianji.attempts")

MAX_WAIT = 60.0
"""A provider that asks for more patience than this is not waited for."""


_CLOCKS = frozenset({"timeout", "stream_timeout"})
"""Options with which a caller sets an own clock."""


class RetryBudget:
    """How many retries all calls together may still make: 20 % of first attempts, a little at once, slowly more.

    `rate` is a little less than that share, so that what is there at once and what comes with time fit into it. Only
    retries that go to a deployment in doubt are counted; going on to a healthy one hurts nobody.
    """

    __slots__ = ("_at", "cap", "denied", "rate", "tokens")

    def __init__(self, *, rate: float = 0.18, cap: float = 20.0) -> None:
        self.rate = rate
        self.cap = cap
        self.tokens = cap
        self.denied = 0
        self._at = monotonic()

    def earn(self) -> None:
        self.tokens = min(self.cap, self.tokens + self.rate)

    def spend(self) -> bool:
        now = monotonic()
        self.tokens = min(self.cap, self.tokens + 0.1 * (now - self._at))
        self._at = now
        if self.tokens < 1.0:
            self.denied += 1
            return False
        self.tokens -= 1.0
        return True


class Attempts:
    """The loop for one configuration."""

    def __init__(
        self, *, router: Router, health: Health, hooks: Hooks, ledger: Ledger, settings: RouterSettings,
        budget: RetryBudget,
    ) -> None:  # fmt: skip
        self.router = router
        self.health = health
        self.hooks = hooks
        self.ledger = ledger
        self.settings = settings
        self.budget = budget

    async def run(self, call: Call) -> Reply:
        """The reply, or the failure of the model group that was asked for."""
        tried: list[Deployment] = []
        self.budget.earn()
        try:
            ranked = await self._ranked(call, call.model)
            return await self._try(call, ranked, tried)
        except Failure as refused:
            first = refused
        if not first.falls_back or call.options.get("disable_fallbacks"):
            raise first
        targets = iter(self._targets(call, first))
        failure: Failure = first
        while call.fallbacks < self.settings.max_fallbacks and not late(call):
            offered = await self._offered(call, failure, tried, targets)
            if not offered:
                break
            call.fallbacks += 1
            try:
                return await self._try(call, offered, tried)
            except Failure as another:
                failure = another
                if not failure.falls_back:
                    break
        raise first

    # -- candidates ----------------------------------------------------------------------------------------------------

    async def _ranked(self, call: Call, model: str) -> Sequence[Deployment]:
        """The group's deployments that may be tried, best first. Raises `UnknownModel`, `Forbidden`, `NoDeployment`."""
        group = self.router.find(model, call.principal)
        members = self.router.allowed(group, call.principal, model)
        if len(members) == 1:
            return members
        healthy = self.health.available(members)
        tiers = sorted({one.order for one in healthy})
        first = healthy if len(tiers) == 1 else [one for one in healthy if one.order == tiers[0]]
        ranked = list(await self._route(call, group, first))
        for tier in tiers[1:]:
            # Only the tier in use is the strategy's: it may count what it ranks first.
            spare = [one for one in healthy if one.order == tier]
            ranked += random.sample(spare, len(spare))
        if not ranked:
            raise NoDeployment(f"No deployment of '{model}' may be used right now.", param="model")
        return ranked

    async def _route(self, call: Call, group: Group, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Ask the group's strategy; the kernel's own order is the order of the configuration."""
        if len(candidates) == 1:
            return candidates
        route = self.hooks.strategies.get(group.strategy)
        if route is None:
            return candidates
        try:
            ranked = await route(call, candidates)
        except TianjiError:
            raise
        except Exception:
            logger.exception("strategy %s failed; the configured order is used", group.strategy)
            return candidates
        return candidates if ranked is None else ranked

    def _targets(self, call: Call, failure: Failure) -> Iterator[str]:
        """The groups to fall back to, as the request or the configuration names them."""
        asked = call.options.get("fallbacks")
        if asked is not None:
            return iter([name for name in asked if type(name) is str])
        settings = self.settings
        if isinstance(failure, ContextWindow) and settings.context_window_fallbacks:
            named = self._named(settings.context_window_fallbacks, call.model)
        elif isinstance(failure, ContentPolicy) and settings.content_policy_fallbacks:
            named = self._named(settings.content_policy_fallbacks, call.model)
        else:
            named = self._named(settings.fallbacks, call.model) or settings.fallbacks.get("*")
            named = named or settings.default_fallbacks
        return iter(named or ())

    def _named(self, table: Mapping[str, Sequence[str]], model: str) -> Sequence[str] | None:
        """A table's line for a model: under the name that was asked for, else under its group's (alias, wildcard)."""
        named = table.get(model)
        if named is None and table and (group := self.router.known(model)) is not None:
            named = table.get(group.name)
        return named

    async def _offered(
        self, call: Call, failure: Failure, tried: Sequence[Deployment], targets: Iterator[str]
    ) -> Sequence[Deployment] | None:
        """Other deployments: from the first `fallback` hook that offers some, else the next configured group."""
        for step in self.hooks.fallback:
            offered: Sequence[Deployment] | None = await step.fn(call, failure, tried)
            if offered:
                return offered
        seen = {one.group for one in tried}
        for name in targets:
            if self.router.known(name) is None:
                continue  # without the search for near matches, which is for people
            try:
                ranked = await self._ranked(call, name)
            except Failure as unusable:
                logger.info("fallback %r of %r is not usable: %s", name, call.model, type(unusable).__name__)
                continue
            if ranked[0].group not in seen:
                return ranked
        return None

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def _try(self, call: Call, ranked: Sequence[Deployment], tried: list[Deployment]) -> Reply:
        """Up to `num_retries` + 1 attempts over the ranked deployments."""
        limit = self._retries(call, ranked[0]) + 1
        made = 0
        deployment = ranked[0]
        not_before: dict[str, float] = {}
        while True:
            made += 1
            try:
                return await self._attempt(call, deployment)
            except Failure as failure:
                tried.append(deployment)
                self._blame(call, deployment, failure, len(ranked))
                if not failure.retryable or made >= limit:
                    raise
                now = monotonic()
                if failure.retry_after is not None:
                    not_before[deployment.id] = now + failure.retry_after
                fresh = made < len(ranked) and not self.health.cooling(ranked[made])
                if isinstance(failure, BadCredentials) and not fresh:
                    raise
                if not fresh and not self.budget.spend():
                    raise
                at = made % len(ranked)
                deployment = min((*ranked[at:], *ranked[:at]), key=lambda one: not_before.get(one.id, 0.0))
                wait = 0.0 if fresh else self._wait(not_before.get(deployment.id, now) - now, made)
                if wait > MAX_WAIT or late(call, wait):
                    raise
                if wait:
                    call.upstream_seconds += wait  # asked for by the provider's state, not added by the gateway
                    await asyncio.sleep(wait)

    def _retries(self, call: Call, deployment: Deployment) -> int:
        asked = call.options.get("num_retries")
        if type(asked) is int and asked >= 0:
            return min(asked, 10)
        policy = self.settings.model_group_retry_policy.get(deployment.group)
        if policy and type(policy.get("num_retries")) is int:
            return int(policy["num_retries"])
        return self.settings.num_retries if deployment.num_retries is None else deployment.num_retries

    def _wait(self, asked: float, made: int) -> float:
        """Seconds before a deployment is asked again: what it asked for, else exponential with full jitter."""
        if asked > 0.0:
            return asked + random.uniform(0.0, 0.25)
        return max(self.settings.retry_after, random.uniform(0.0, min(8.0, 0.5 * 2.0 ** (made - 1))))

    async def _attempt(self, call: Call, deployment: Deployment) -> Reply:
        """Reserve, ask the provider once, and leave the reservation open for the pipeline to settle.

        The charge is on the call before anything is awaited, so that an attempt that is cancelled at any point is
        found there and closed.
        """
        if call.deadline <= monotonic():
            raise Timeout("The call's deadline passed before the provider could be asked.", code="total_timeout")
        charge = Charge(deployment, len(call.attempts) + 1)
        slot = None if deployment.max_parallel_requests is None else self._take_slot(call, deployment)
        call.charge = charge
        try:
            await self.ledger.reserve(charge.entry(call, "reserve", reservation(call, deployment)), call.principal)
        except Failure:
            charge.settled = True  # refused: nothing is held
            call.charge = None
            raise
        charge.sent = True
        try:
            charge.reply = reply = await self._ask(call, deployment)
        except Failure as failure:
            if slot is not None:
                await slot()
            charge.failed = type(failure).__name__
            call.upstream_seconds += monotonic() - charge.started
            await self.ledger.settle(charge.entry(call, "void", 0, charge.failed))
            charge.settled = True
            call.charge = None
            call.attempts.append(finished(charge, failure=failure))
            raise
        waited = monotonic() - charge.started
        call.upstream_seconds += waited
        if reply.stream is not None:
            call.ttft = waited
        self.health.succeeded(deployment)
        return reply

    async def _ask(self, call: Call, deployment: Deployment) -> Reply:
        """The provider's answer. A fault of the plugin itself counts as its deployment's, and others are tried."""
        try:
            reply: Reply = await self.hooks.providers[deployment.provider](call, deployment)
        except Failure:
            raise
        except Exception as error:
            logger.exception("provider %s failed", deployment.provider)
            message = f"The provider plugin '{deployment.provider}' failed. The log has the details."
            raise ProtocolError(message, provider=deployment.provider, status=500) from error
        return reply

    def _blame(self, call: Call, deployment: Deployment, failure: Failure, group_size: int) -> None:
        """Count a failure against its deployment, unless the caller brought it about."""
        if isinstance(failure, Timeout) and not call.options.keys().isdisjoint(_CLOCKS):
            return
        if isinstance(failure, UpstreamNotFound) and "*" in deployment.group:
            return
        self.health.failed(deployment, failure, group_size)

    def broke(self, call: Call, charge: Charge, failure: Failure) -> None:
        """A stream that broke after its first event: too late for another attempt, and a failure all the same."""
        group = self.router.groups.get(charge.deployment.group)
        self._blame(call, charge.deployment, failure, len(group.deployments) if group is not None else 1)

    def _take_slot(self, call: Call, deployment: Deployment) -> Undo:
        """Count the attempt as one in flight, until what is returned is called or the call ends."""
        state = self.health.state(deployment)
        if state.in_flight >= (deployment.max_parallel_requests or 0):
            full = Overloaded(
                f"Deployment '{deployment.id}' has no free slot.", status=429, code="max_parallel_requests"
            )
            full.type = "rate_limit_error"
            raise full
        state.in_flight += 1
        held = True

        async def give_back() -> None:
            nonlocal held
            if held:
                held = False
                state.in_flight -= 1

        call.defer(give_back)
        return give_back


def late(call: Call, wait: float = 0.0) -> bool:
    """Whether so little of the call's time would be left after `wait` seconds that no further attempt can end in it."""
    return call.deadline - monotonic() - wait <= 0.05 * (call.deadline - call.started)
