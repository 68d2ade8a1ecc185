"""The life of a call, in one function. Read `Pipeline.run` from top to bottom and you know the gateway.

    identify → parse → pre_call ↓ → [resolve → route → attempt loop] → watched checks → post_call ↑ → bytes out
             → deferred undo → ledger settled → record queued

The first two happen at the edge (`server/`), where the bytes are; everything else happens here. A pipeline is sealed:
it belongs to one configuration, a reload makes another, and a running call stays with the one it began with.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, perf_counter, time
from typing import Any, Protocol

from tianji import dialects
from tianji.attempts import Attempts, Charge, finished
from tianji.errors import ClientGone, Failure, Internal, Unauthorized
from tianji.identity import MasterKey
from tianji.log import Log
from tianji.model import Call, Entry, Ingress, Principal, Record, Reply, Usage, failure_record
from tianji.pricing import cost as price_of
from tianji.registry import Hooks, Step
from tianji.services import Ledger

logger = logging.getLogger("tianji.pipeline")

DRAINS = 100
"""Streams read to their end at once, after their clients left."""
DRAIN_TIME = 60.0


class Egress(Protocol):
    """The client's end of a call."""

    async def reply(self, call: Call, reply: Reply) -> Failure | None:
        """Write the reply; the failure that broke its stream, if one did. Raises when the client is gone."""

    async def refuse(self, call: Call, failure: Failure) -> None:
        """Write an error. Nothing was written before."""


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
        self._drains: set[asyncio.Task[None]] = set()

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

        Raises `CancelledError` only when the server stops; a client that leaves is an ordinary end.
        """
        self.in_flight += 1
        failure: Failure | None = None
        try:
            call.deadline = call.started + self._timeout(call)
            reply, reached = await self._admit(call)
            if reply is None or call.watched is not None:
                reply = await self._answer(call, reply)
            reply = await self._after(call, reply, reached)
            self._price(call, reply)
            failure = await egress.reply(call, reply)
        except Failure as error:
            failure = error
            await egress.refuse(call, error)
        except asyncio.CancelledError:
            failure = ClientGone("The client left before the answer was complete.")
            raise
        except Exception:
            logger.exception("call %s failed", call.id)
            failure = Internal(f"The gateway failed. Its log has the details under call id {call.id}.")
            await egress.refuse(call, failure)
        finally:
            try:
                await self._finish(call, failure)
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
        return None, 1_000_000

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
            for check in checks:
                await check
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
        if reply.stream is not None or reply.source != "provider" or charge is None:
            return
        if reply.usage is None:
            reply.usage = estimate(call, reply)
        reply.cost = charge.cost = price_of(charge.deployment.price, reply.usage)

    async def _finish(self, call: Call, failure: Failure | None) -> None:
        """Cut or drain the upstream, run what was deferred, settle, record. Runs once, whatever happened before."""
        reply = call.reply
        upstream = reply.upstream if reply is not None else None
        if upstream is not None and not upstream.ended:
            if isinstance(failure, ClientGone) and self._drain(call, failure):
                return
            upstream.close()
        try:
            await self._close(call, failure)
        except Exception:
            logger.exception("call %s could not be closed", call.id)

    async def _close(self, call: Call, failure: Failure | None) -> None:
        for undo in call.take_undo():
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
            self.log.put(self._record(call, failure, usage))

    async def _settle(self, call: Call, failure: Failure | None) -> Usage | None:
        """Exactly one entry after each reservation: what it cost, as well as that can be known."""
        charge: Charge | None = call.charge
        reply = call.reply
        if charge is None or charge.settled:
            return reply.usage if reply is not None else None
        charge.settled = True
        usage = usage_so_far(call, reply)
        cost = charge.cost or price_of(charge.deployment.price, usage)
        charge.cost = cost
        if reply is not None:
            reply.usage, reply.cost = usage, cost
        await self.ledger.settle(
            Entry(
                f"{charge.entry_id}:settle", "settle", call.id, charge.number, call.principal.key_id,
                charge.deployment.id, charge.deployment.model, cost.nano, usage, cost.price_version,
                outcome(failure, reply), time(),
            )
        )  # fmt: skip
        if self.log or self.hooks.observers:
            call.attempts.append(finished(charge, failure=failure, usage=usage, ttft=call.ttft))
        return usage

    # -- details -------------------------------------------------------------------------------------------------------

    def _timeout(self, call: Call) -> float:
        asked = call.options.get("timeout")
        if isinstance(asked, (int, float)) and asked > 0:
            return min(float(asked), 86_400.0)
        return self.default_timeout

    def _drain(self, call: Call, failure: Failure) -> bool:
        """Read on in the background where the provider bills in full anyway. False: not this provider, or no room."""
        charge: Charge | None = call.charge
        if charge is None or len(self._drains) >= DRAINS:
            return False
        if charge.deployment.provider not in self.hooks.drains:
            return False

        async def read_on() -> None:
            reply = call.reply
            try:
                async with asyncio.timeout(DRAIN_TIME):
                    if reply is not None and reply.upstream is not None:
                        await reply.upstream.drain()
            except (TimeoutError, Failure):
                pass
            finally:
                if reply is not None and reply.upstream is not None:
                    reply.upstream.close()
                await self._close(call, failure)

        task = asyncio.get_running_loop().create_task(read_on(), name=f"drain {call.id}")
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)
        return True

    def _record(self, call: Call, failure: Failure | None, usage: Usage | None) -> Record:
        """Everything a callback may know. Built only where a callback exists."""
        reply, principal = call.reply, call.principal
        last = call.attempts[-1] if call.attempts else None
        charge: Charge | None = call.charge
        metadata = call.options.get("metadata")
        now = monotonic()
        duration = now - call.started
        return Record(
            id=call.id,
            call_id=call.call_id,
            op=call.op.value,
            dialect=call.dialect,
            model=call.model,
            group=last.group if last else "",
            provider=last.provider if last else "",
            upstream_model=last.model if last else "",
            deployment_id=last.deployment_id if last else "",
            api_base=(charge.deployment.api_base or "") if charge else "",
            stream=call.stream,
            status=outcome(failure, reply),
            http_status=failure.status if failure is not None else reply.status if reply is not None else 500,
            error=failure_record(failure) if failure is not None else None,
            key_id=principal.key_id,
            key_alias=principal.alias,
            user_id=principal.user_id,
            team_id=principal.team_id,
            org_id=principal.org_id,
            end_user=_end_user(call),
            usage=usage,
            cost=reply.cost if reply is not None else None,
            source=reply.source if reply is not None else "none",
            attempts=tuple(call.attempts),
            fallbacks=call.fallbacks,
            response_model=(reply.model or (reply.meter.model if reply.meter is not None else None)) if reply else None,
            traceparent=call.ingress.header("traceparent"),
            started=time() - duration,
            duration=duration,
            time_to_first_token=call.ttft,
            upstream_duration=call.upstream_seconds,
            overhead=max(0.0, duration - call.upstream_seconds) if not call.stream else 0.0,
            tags=tuple(call.options.get("tags") or ()) + principal.tags,
            metadata=metadata if type(metadata) is dict else {},
            guardrails=tuple(call.state.get("guardrails", ())),
            request=call.body if self.log.content else None,
            response=_kept(call) if self.log.content else None,
        )

    async def stop(self, grace: float) -> None:
        """Wait for drains, then for the log."""
        if self._drains:
            await asyncio.wait(set(self._drains), timeout=grace)
        await self.log.stop(grace)


async def _timed(call: Call, stage: str, step: Step, *args: Any) -> Any:
    start = perf_counter()
    try:
        return await step.fn(*args)
    finally:
        if call.timing is not None:
            call.timing.append((f"{stage}-{step.label}", perf_counter() - start))


def outcome(failure: Failure | None, reply: Reply | None) -> str:
    """`success`, `failure`, `partial` (a stream that broke) or `cancelled` (the client left)."""
    if failure is None:
        return "success"
    if isinstance(failure, ClientGone):
        return "cancelled"
    return "partial" if reply is not None and reply.stream is not None else "failure"


def usage_so_far(call: Call, reply: Reply | None) -> Usage | None:
    """The usage that the provider stated, else an estimate that is marked as one."""
    if reply is None:
        return estimate(call, None)
    if reply.usage is not None:
        return reply.usage
    meter = reply.meter
    if meter is None:
        return estimate(call, reply)
    stated: Usage | None = meter.usage
    if stated is not None and (meter.finished or stated.output_tokens >= meter.delivered):
        return stated
    guess = estimate(call, reply)
    if stated is None:
        return guess
    return Usage(
        input_tokens=stated.input_tokens,
        output_tokens=max(stated.output_tokens, guess.output_tokens),
        cache_read_tokens=stated.cache_read_tokens,
        cache_write_tokens=stated.cache_write_tokens,
        cache_write_1h_tokens=stated.cache_write_1h_tokens,
        estimated=True,
    )


def estimate(call: Call, reply: Reply | None) -> Usage:
    """Tokens counted from sizes: four bytes of text each; in a stream, one for each content frame delivered."""
    dialect = dialects.get(call.dialect)
    prompt = sum(len(box[key].encode()) for box, key in dialect.texts(call.body))
    output = 0
    if reply is not None and reply.meter is not None:
        output = reply.meter.delivered
    elif reply is not None and reply.stream is None and type(reply.body) is dict:
        output = sum(len(box[key].encode()) for box, key in dialect.reply_texts(reply.body)) // 4
    return Usage(input_tokens=-(-prompt // 4), output_tokens=output, estimated=True)


def _end_user(call: Call) -> str | None:
    user = call.body.get("user")
    if type(user) is str:
        return user
    metadata = call.body.get("metadata")
    found = metadata.get("user_id") if type(metadata) is dict else None
    return found if type(found) is str else None


def _kept(call: Call) -> bytes | None:
    if call.kept is not None:
        return b"".join(call.kept)
    reply = call.reply
    return reply.raw[: 1024 * 1024] if reply is not None and reply.stream is None else None


__all__ = ["Egress", "Pipeline", "estimate", "outcome", "usage_so_far"]
