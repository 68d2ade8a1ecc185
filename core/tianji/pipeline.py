"""The life of a call, in one function. Read `Pipeline.run` from top to bottom and you know the gateway.

    identify → parse → pre_call ↓ → [resolve → route → attempt loop] → watched checks → post_call ↑ → bytes out
             → deferred undo → ledger settled → record queued

The first two happen at the edge (`server/`), where the bytes are; everything else happens here. A pipeline is sealed:
it belongs to one configuration, a reload makes another, and a running call stays with the one it began with.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from time import monotonic, perf_counter
from typing import Any, Protocol

from tianji.accounting import Charge, estimate, finished, outcome, usage_so_far
from tianji.attempts import Attempts
from tianji.errors import ClientGone, Failure, Internal, Overloaded, Unauthorized, UpstreamFailure
from tianji.identity import MasterKey
from tianji.log import Log, Outlet
from tianji.model import Call, Deployment, Entry, Ingress, Principal, Reply, Usage
from tianji.pricing import cost as price_of
from tianji.recording import record
from tianji.registry import Hooks, Step
from tianji.services import Ledger

logger = logging.getLogger("tianji.pipeline")

DRAINS = 100
"""Streams read to their end at once, after their clients left."""
DRAIN_TIME = 60.0
OWED = 10_000
"""Entries that are kept while the ledger cannot take them."""


class Egress(Protocol):
    """The client's end of a call."""

    async def reply(self, call: Call, reply: Reply) -> Failure | None:
        """Write the reply; the failure that broke its stream, if one did. Raises when the client is gone."""

    async def refuse(self, call: Call, failure: Failure) -> None:
        """Write an error. Nothing was written before."""

    async def cut(self, call: Call, failure: Failure) -> None:
        """Write an error, as an answer or as a stream's last frame, whichever is still possible. Never raises."""

    def release(self) -> bool:
        """What follows no longer ends when the client leaves. True: it has left already."""


class Pipeline:
    """One sealed configuration at work."""

    def __init__(
        self, *, hooks: Hooks, attempts: Attempts, ledger: Ledger, log: Log, master: MasterKey,
        default_timeout: float = 600.0,
    ) -> None:  # fmt: skip
        self.hooks = hooks
        self.attempts = attempts
        self.ledger = ledger
        self.log = log
        self.master = master
        self.default_timeout = default_timeout
        self.in_flight = 0
        self._background: set[asyncio.Task[None]] = set()
        self._drains = 0
        self._owed: deque[Entry] = deque(maxlen=OWED)

    async def identify(self, ingress: Ingress) -> Principal:
        """Who is calling. Anything but a principal is a 401: a fault never becomes an identity."""
        for step in self.hooks.identify:
            try:
                principal: Principal | None = await step.fn(ingress)
            except Failure:
                raise
            except Exception:
                logger.exception("%s failed to identify a caller", step.label)
                raise Unauthorized("Authentication Error: the credential could not be checked.") from None
            if principal is not None:
                return principal
        return self.master.identify(ingress)

    async def run(self, call: Call, egress: Egress) -> None:
        """One call, from an identified and parsed request to its record. Never raises a Failure.

        `CancelledError` means that the client left or that the server stops; the call is closed, and it goes on up.
        """
        self.in_flight += 1
        failure: Failure | None = None
        try:
            call.deadline = call.started + self._timeout(call)
            reply, reached = await self._admit(call) if self.hooks.pre_call else (None, len(self.hooks.row))
            if reply is None or call.watched is not None:
                reply = await self._answer(call, reply)
            if self.hooks.post_call:
                reply = await self._after(call, reply, reached)
            self._price(call, reply)
            failure = await egress.reply(call, reply)
        except Failure as error:
            failure = error
            await egress.refuse(call, error)
        except asyncio.CancelledError:
            if egress.release():
                failure = ClientGone("The client left before the answer was complete.")
            else:
                failure = Overloaded("The gateway is shutting down.", code="shutting_down")
                await egress.cut(call, failure)
            raise
        except Exception:
            logger.exception("call %s failed", call.id)
            failure = Internal(f"The gateway failed. Its log has the details under call id {call.id}.")
            await egress.refuse(call, failure)
        finally:
            egress.release()
            try:
                if not self._kept_open(call, failure):
                    await self._close(call, failure)
            except asyncio.CancelledError:
                self._spawn(self._close(call, failure), f"close {call.id}")
                raise
            except Exception:
                logger.exception("call %s could not be closed", call.id)
            finally:
                self.in_flight -= 1
                failure = None  # it knows this frame, which would keep both alive

    async def ask(self, call: Call, only: Deployment | None = None) -> Reply:
        """A call of a plugin's own: the attempt loop, the ledger and the log, without hooks and without a client.

        `only`: this deployment is asked, once, and no other. A stream is read to its end, and its pieces kept in
        `call.kept`. Raises the `Failure` that ended the call.
        """
        self.in_flight += 1
        failure: Failure | None = None
        try:
            call.deadline = call.started + self._timeout(call)
            call.reply = reply = await (self.attempts.once(call, only) if only else self.attempts.run(call))
            self._price(call, reply)
            if reply.stream is not None:
                call.kept = [chunk.raw async for chunk in reply.stream]
            return reply
        except Failure as error:
            failure = error
            raise
        except asyncio.CancelledError:
            failure = ClientGone("Nobody waits for the answer any more.")
            raise
        finally:
            try:
                if not self._kept_open(call, failure):
                    await self._close(call, failure)
            finally:
                self.in_flight -= 1

    # -- the stages, in order ------------------------------------------------------------------------------------------

    async def _admit(self, call: Call) -> tuple[Reply | None, int]:
        """`pre_call` in order. A plugin may answer; the second value is how far down the row the call came."""
        for step in self.hooks.pre_call:
            reply: Reply | None = await (step.fn(call) if call.timing is None else _timed(call, "pre_call", step, call))
            if reply is not None:
                call.reply = reply
                return reply, step.position
        return None, len(self.hooks.row)

    async def _answer(self, call: Call, ready: Reply | None) -> Reply:
        """The attempt loop, with the checks that run beside it. No byte leaves before they have all passed.

        `ready` is the answer of a `pre_call` hook: nothing is attempted then, and the checks must pass all the same.
        """
        if call.watched is None and call.timing is None:
            call.reply = await self.attempts.run(call)
            return call.reply
        start = perf_counter()
        checks = [asyncio.ensure_future(check) for check in call.watched or ()]
        try:
            call.reply = reply = ready or await self.attempts.run(call)
            if call.timing is not None:
                call.timing.append(("provider", perf_counter() - start))
            await asyncio.gather(*checks)
        finally:
            for check in checks:
                check.cancel()
            await asyncio.gather(*checks, return_exceptions=True)
        return reply

    async def _after(self, call: Call, reply: Reply, reached: int) -> Reply:
        """`post_call` in reverse order, for the plugins whose turn had come."""
        for step in self.hooks.post_call:
            if step.position > reached:
                continue
            changed: Reply | None = await (
                step.fn(call, reply) if call.timing is None else _timed(call, "post_call", step, call, reply)
            )
            if changed is not None:
                reply = changed
        call.reply = reply
        return reply

    def _price(self, call: Call, reply: Reply) -> None:
        """The cost of a whole answer, known before its headers go out. A stream's is known at its end."""
        charge: Charge | None = call.charge
        if charge is None or charge.reply is None or charge.reply.stream is not None:
            return
        usage = charge.reply.usage
        if usage is None:
            usage = charge.reply.usage = estimate(call, charge.reply)
        reply.usage = usage
        reply.cost = charge.cost = price_of(charge.deployment.price, usage)

    def _kept_open(self, call: Call, failure: Failure | None) -> bool:
        """Cut the upstream off where it has not ended; True where it is read on in the background, and closed then."""
        charge: Charge | None = call.charge
        reply = charge.reply if charge is not None else call.reply
        upstream = reply.upstream if reply is not None else None
        if upstream is not None and not upstream.ended:
            if isinstance(failure, ClientGone) and self._drain(call, failure):
                return True
            upstream.close()
        return False

    async def _close(self, call: Call, failure: Failure | None) -> None:
        """The end of a call: run what was deferred, settle, record, whatever happened before.

        Each step is done at most once, so that what was cancelled can be called again.
        """
        while (undo := call.next_undo()) is not None:
            try:
                await undo()
            except Exception:
                logger.exception("a deferred step of call %s failed", call.id)
        for check in call.watched or ():
            if asyncio.iscoroutine(check):
                check.close()  # never begun, where a `pre_call` hook refused the call
        usage = await self._settle(call, failure)
        for strategy in self.hooks.observers:
            try:
                for attempt in call.attempts:
                    strategy.observe(attempt)
            except Exception:
                logger.exception("strategy %s could not learn from call %s", strategy.instance, call.id)
        if self.log:
            self.log.put(record(call, failure, usage, content=self.log.content))

    async def _settle(self, call: Call, failure: Failure | None) -> Usage | None:
        """One entry for the reservation that is still open: what it cost, as well as that can be known."""
        charge: Charge | None = call.charge
        if charge is None or charge.settled:
            return call.reply.usage if call.reply is not None else None
        if not charge.sent or charge.failed:
            await self._write(charge.entry(call, "void", 0, charge.failed or outcome(failure, None)))
            charge.settled = True
            return charge.before[0] if charge.before is not None else None
        usage = usage_so_far(charge.asked or call, charge.reply)
        cost = charge.cost = charge.cost or price_of(charge.deployment.price, usage)
        whole, price = charge.total(usage, cost)
        if call.reply is not None:
            call.reply.usage, call.reply.cost = whole, price
        await self._write(charge.entry(call, "settle", cost.nano, outcome(failure, charge.reply), usage))
        charge.settled = True
        if isinstance(failure, UpstreamFailure):
            self.attempts.broke(call, charge, failure)
        if self.log or self.hooks.observers:
            ttft = (charge.asked or call).ttft
            call.attempts.append(finished(charge, failure=failure, usage=usage, ttft=ttft))
        return whole

    async def _write(self, entry: Entry) -> None:
        """Settle, or keep the entry for later where the ledger cannot take it now."""
        try:
            while self._owed:
                await self.ledger.settle(self._owed[0])
                self._owed.popleft()
            await self.ledger.settle(entry)
        except Exception:
            logger.exception("the ledger did not take %s; it will be offered again", entry.entry_id)
            if len(self._owed) == OWED:
                logger.error("%s is given up: too many entries wait for the ledger", self._owed[0])
            self._owed.append(entry)

    def _spawn(self, job: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(job, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- details -------------------------------------------------------------------------------------------------------

    def _timeout(self, call: Call) -> float:
        asked = call.options.get("timeout")
        if isinstance(asked, (int, float)) and asked > 0:
            return min(float(asked), 86_400.0)
        return self.default_timeout

    def _drain(self, call: Call, failure: Failure) -> bool:
        """Read on in the background where the provider bills in full anyway. False: not this provider, or no room."""
        charge: Charge | None = call.charge
        if charge is None or self._drains >= DRAINS or charge.reply is None or charge.reply.upstream is None:
            return False
        upstream = charge.reply.upstream
        if charge.deployment.provider not in self.hooks.drains:
            return False

        async def read_on() -> None:
            try:
                async with asyncio.timeout(DRAIN_TIME):
                    await upstream.drain()
            except (TimeoutError, Failure):
                pass
            finally:
                self._drains -= 1
                upstream.close()
                await self._close(call, failure)

        self._drains += 1
        self._spawn(read_on(), f"drain {call.id}")
        return True

    async def stop(self, grace: float, keep: Sequence[Outlet] = ()) -> None:
        """Wait for the calls, then for what still closes or drains, then for the log: `grace` seconds for them all."""
        until = monotonic() + grace
        while self.in_flight and monotonic() < until:  # noqa: ASYNC110 - an event would cost every call
            await asyncio.sleep(0.02)
        if self._background:
            await asyncio.wait(set(self._background), timeout=max(0.0, until - monotonic()))
        await self.log.stop(max(1.0, until - monotonic()), keep)


async def _timed(call: Call, stage: str, step: Step, *args: Any) -> Any:
    start = perf_counter()
    try:
        return await step.fn(*args)
    finally:
        if call.timing is not None:
            call.timing.append((f"{stage}-{step.label}", perf_counter() - start))
