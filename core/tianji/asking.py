"""One attempt at one deployment: take what it needs, reserve, ask the provider once, give back, note how it ended.

Nothing here decides whether there is another attempt; that is the loop's (`attempts`).
"""

from __future__ import annotations

import logging
from time import monotonic

from tianji.accounting import Charge, finished, reservation
from tianji.errors import Failure, Internal, Overloaded, ProtocolError, TianjiError, Timeout, UpstreamNotFound
from tianji.health import Health
from tianji.model import Call, Deployment, Reply
from tianji.plugin.strategy import Release
from tianji.registry import Hooks
from tianji.router import Router
from tianji.services import Ledger

logger = logging.getLogger("tianji.attempts")

_CLOCKS = frozenset({"timeout", "stream_timeout"})
"""Options with which a caller sets an own clock."""


class Asking:
    """Asks the providers of one configuration."""

    def __init__(self, *, router: Router, health: Health, hooks: Hooks, ledger: Ledger) -> None:
        self.router = router
        self.health = health
        self.hooks = hooks
        self.ledger = ledger

    async def once(self, call: Call, deployment: Deployment) -> Reply:
        """One attempt at this deployment and no other, which counts for its health as any."""
        try:
            return await self._attempt(call, deployment)
        except Failure as failure:
            group = self.router.groups.get(deployment.group)
            self._blame(call, deployment, failure, len(group.deployments) if group is not None else 1)
            raise

    async def _attempt(self, call: Call, deployment: Deployment) -> Reply:
        """Reserve, ask the provider once, and leave the reservation open for the pipeline to settle.

        The charge is on the call before anything is awaited, so that an attempt that is cancelled at any point is
        found there and closed.
        """
        if call.deadline <= monotonic():
            raise Timeout("The call's deadline passed before the provider could be asked.", code="total_timeout")
        charge = Charge(deployment, len(call.attempts) + 1)
        release: Release | None = None
        if deployment.max_parallel_requests is not None or self.hooks.beginners:
            release = charge.release = self._begin(call, deployment)
        call.charge = charge
        try:
            await self.ledger.reserve(charge.entry(call, "reserve", reservation(call, deployment)), call.principal)
        except Failure:
            if release is not None:
                release()  # not left to the end of the call, which may yet ask this deployment again
            charge.settled = True  # refused: nothing is held
            call.charge = None
            raise
        charge.sent = True
        try:
            charge.reply = reply = await self._ask(call, deployment)
        except Failure as failure:
            if release is not None:
                release()
            charge.failed = type(failure).__name__
            call.upstream_seconds += monotonic() - charge.started
            await self._void(call, charge)
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

    async def _void(self, call: Call, charge: Charge) -> None:
        """Give a reservation back. Raises `Internal` where the ledger fails: the pipeline then offers it again."""
        try:
            await self.ledger.settle(charge.entry(call, "void", 0, charge.failed))
        except Exception as error:
            logger.exception("the ledger did not take back the reservation of call %s", call.id)
            raise Internal("The ledger failed. The log has the details.") from error

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
            self.health.unclaim(deployment)  # it has answered, and that says nothing of its other models
            return
        self.health.failed(deployment, failure, group_size)

    def broke(self, call: Call, charge: Charge, failure: Failure) -> None:
        """A stream that broke after its first event: too late for another attempt, and a failure all the same."""
        group = self.router.groups.get(charge.deployment.group)
        self._blame(call, charge.deployment, failure, len(group.deployments) if group is not None else 1)

    def _begin(self, call: Call, deployment: Deployment) -> Release:
        """Take what the attempt needs, until what is returned is called or the call ends, whichever comes first.

        Raises what a routing plugin raises, or `Overloaded` where there is no free slot; nothing is held then.
        """
        taken: list[Release] = []

        def give_back() -> None:
            while taken:
                release = taken.pop()
                try:
                    release()
                except Exception:
                    logger.exception("what an attempt at %s took could not be given back", deployment.id)

        async def undo() -> None:
            give_back()

        try:
            if deployment.max_parallel_requests is not None:
                taken.append(self._take_slot(deployment, deployment.max_parallel_requests))
            for plugin in self.hooks.beginners:
                if (release := plugin.begin(call, deployment)) is not None:
                    taken.append(release)
        except TianjiError:
            give_back()
            raise
        except Exception as error:
            give_back()
            logger.exception("a routing plugin failed at the beginning of an attempt")
            raise Internal("A routing plugin failed. The log has the details.") from error
        call.defer(undo)
        return give_back

    def _take_slot(self, deployment: Deployment, slots: int) -> Release:
        state = self.health.state(deployment)
        if state.in_flight >= slots:
            full = Overloaded(
                f"Deployment '{deployment.id}' has no free slot.", status=429, code="max_parallel_requests"
            )
            full.type = "rate_limit_error"
            raise full
        state.in_flight += 1

        def free() -> None:
            state.in_flight -= 1

        return free
