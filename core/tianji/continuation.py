"""Streams that survive: a chat answer that breaks off is gone on with by another deployment, in the same stream.

    router_settings: {continue_streams: true}

Only text can be gone on with, and only by a model that is shown it as the beginning of its own answer (a prefill), so
that it says the rest and not the whole again. Each attempt has its own reservation: the broken one is settled as
`partial` before the next is made. Where nobody can go on, the client gets the error event that it gets without this.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from tianji import dialects
from tianji.accounting import Charge, finished, outcome, usage_so_far
from tianji.attempts import Attempts, late
from tianji.errors import Failure, ProtocolError, UpstreamFailure
from tianji.joins import Join, join_of
from tianji.model import Call, Chunk, Cost, Deployment, Op, Reply, Usage
from tianji.pricing import cost as price_of
from tianji.retries import ATTEMPTS

logger = logging.getLogger("tianji.continuation")


class Resumed(Call):
    """A client's call once more, with the beginning of the answer as its last message.

    What there is to close in the end stays with the client's call, where the pipeline looks for it.
    """

    client: Call
    before: tuple[Usage | None, Cost]

    @classmethod
    def of(cls, call: Call, body: dict[str, Any], before: tuple[Usage | None, Cost]) -> Resumed:
        made = cls.__new__(cls)
        made.__dict__.update(call.__dict__)
        made.__dict__.pop("charge", None)
        made.client = call
        made.before = before
        made.body = body
        return made

    @property
    def charge(self) -> Any:
        return self.client.charge

    @charge.setter
    def charge(self, charge: Charge | None) -> None:
        if charge is not None:
            charge.asked = self
            charge.before = self.before
        self.client.charge = charge

    def defer(self, fn: Callable[[], Awaitable[None]]) -> None:
        self.client.defer(fn)

    def say(self, join: Join, natives: frozenset[str]) -> None:
        """Translate it, where a provider needs that, with the beginning marked as such."""
        if self.chat is not None or self.dialect in natives or self.dialect == "openai-chat":
            return
        body = dialects.get(self.dialect).to_chat(self)
        if join.prefill:
            last = body["messages"][-1]
            body["messages"] = [*body["messages"][:-1], {**last, "prefix": True}]
        self.chat = self.derive(body=body, dialect="openai-chat", op=Op.CHAT)


class Surviving(Attempts):
    """The attempt loop, for a configuration whose streams survive a break."""

    async def run(self, call: Call) -> Reply:
        reply = await super().run(call)
        if reply.stream is not None and (join := join_of(call)) is not None:
            reply.stream = Continued(self, call, reply, reply.stream, join)
        return reply

    async def go_on(self, call: Call, reply: Reply, join: Join, failure: UpstreamFailure) -> Reply | None:
        """Another deployment's answer from the break on; None where none can give one.

        The broken attempt is closed only when there is somebody to ask; else it is left to the pipeline, as ever.
        """
        charge: Charge | None = call.charge
        if charge is None or charge.settled or charge.reply is None:
            return None
        usage = usage_so_far(charge.asked or call, charge.reply)
        cost = charge.cost = price_of(charge.deployment.price, usage)
        before = charge.total(usage, cost)
        used = before[0].output_tokens if before[0] is not None else 0
        again = Resumed.of(call, join.request(call.body, used), before)
        tried = self._tried(call, charge.deployment)
        failed = {attempt.deployment_id for attempt in call.attempts} | {charge.deployment.id}
        made = 0
        async with aclosing(self._others(call, again, charge, failure, tried)) as others:
            async for deployment, group_size in others:
                if deployment.id in failed or (join.prefill and not self._prefills(again, deployment)):
                    continue
                if made >= ATTEMPTS or late(call):
                    return None
                if self.health.cooling(deployment) and not self.budget.spend():
                    return None
                if not made and not await self._close(call, reply, charge, failure, usage, before):
                    return None
                made += 1
                failed.add(deployment.id)
                fresh = await self._ask_for_the_rest(again, join, deployment, group_size)
                if fresh is not None:
                    logger.info("call %s goes on at %s after a break at %s", call.id, deployment.id, tried[-1].id)
                    join.resume(before[0], repeats=self._repeats(deployment))
                    return fresh
                tried.append(deployment)
        return None

    async def _ask_for_the_rest(
        self, again: Resumed, join: Join, deployment: Deployment, group_size: int
    ) -> Reply | None:
        """One attempt; None where it failed."""
        try:
            again.say(join, self.hooks.natives.get(deployment.provider, frozenset()))
            return await self._attempt(again, deployment)
        except Failure as failure:
            logger.info("call %s cannot go on at %s: %s", again.id, deployment.id, type(failure).__name__)
            self._blame(again, deployment, failure, group_size)
            return None

    async def _others(
        self, call: Call, again: Call, charge: Charge, failure: Failure, tried: Sequence[Deployment]
    ) -> AsyncGenerator[tuple[Deployment, int], None]:
        """Whom else to ask: the rest of the group that answered and of the one asked for, then fallbacks."""
        names = [charge.deployment.group, call.model] if call.fallbacks else [call.model]
        for name in dict.fromkeys(names):
            try:
                ranked = await self.selection.ranked(again, name)
            except Failure as unusable:
                logger.info("group %r has nobody to go on: %s", name, type(unusable).__name__)
                continue
            for deployment in ranked:
                yield deployment, len(ranked)
        if call.options.get("disable_fallbacks"):
            return
        targets = [name for name in self.targets(call, failure) if self.router.known(name) is not None]
        while call.fallbacks < self.settings.max_fallbacks:
            offered = await self.offered(again, failure, tried, targets)
            if not offered:
                return
            call.fallbacks += 1
            for deployment in offered:
                yield deployment, len(offered)

    def _tried(self, call: Call, broken: Deployment) -> list[Deployment]:
        """The deployments that failed so far, the one that broke off last."""
        ids = {attempt.deployment_id for attempt in call.attempts}
        names = {attempt.group for attempt in call.attempts}
        groups = (self.router.groups[name] for name in names if name in self.router.groups)
        found = [one for group in groups for one in group.deployments if one.id in ids and one.id != broken.id]
        return [*found, broken]

    def _prefills(self, call: Call, deployment: Deployment) -> bool:
        provider = self.hooks.prefills.get(deployment.provider)
        try:
            return provider is not None and provider.prefills(call, deployment)
        except Exception:
            logger.exception("provider %s could not say whether it goes on", deployment.provider)
            return False

    def _repeats(self, deployment: Deployment) -> bool:
        provider = self.hooks.prefills.get(deployment.provider)
        return provider is not None and provider.repeats_prefill

    async def _close(
        self, call: Call, reply: Reply, charge: Charge, failure: Failure, usage: Usage | None,
        before: tuple[Usage | None, Cost],
    ) -> bool:  # fmt: skip
        """Settle a broken attempt. False where the ledger could not take it: the pipeline tries again."""
        nano = charge.cost.nano if charge.cost is not None else None
        try:
            await self.ledger.settle(charge.entry(call, "settle", nano, outcome(failure, charge.reply), usage))
        except Exception:
            logger.exception("the ledger did not take the broken attempt of call %s", call.id)
            return False
        charge.settled = True
        ttft = (charge.asked or call).ttft
        call.attempts.append(finished(charge, failure=failure, usage=usage, ttft=ttft))
        self.broke(call, charge, failure)
        if charge.reply is not None and charge.reply.upstream is not None:
            charge.reply.upstream.close()
        if charge.release is not None:
            charge.release()
        final = call.reply or reply
        final.usage, final.cost = before
        return True


class Continued:
    """A stream that goes on elsewhere when it breaks. Until then its chunks pass as they came."""

    def __init__(self, attempts: Surviving, call: Call, reply: Reply, source: AsyncIterator[Chunk], join: Join) -> None:
        self._attempts = attempts
        self._call: Call | None = call
        self._reply: Reply | None = reply
        """The client's. Its upstream and meter are always those of the attempt that is being read."""
        self._source = source
        self._join: Join | None = join
        self._breaks = 0

    def __aiter__(self) -> Continued:
        return self

    async def __anext__(self) -> Chunk:
        while True:
            try:
                chunk = self._passed(await self._source.__anext__())
            except UpstreamFailure as failure:
                await self._go_on(failure)
                continue
            except StopAsyncIteration:
                self._call = self._reply = None  # they know this stream; only the collector could free them all
                raise
            if chunk is not None:
                return chunk

    def _passed(self, chunk: Chunk) -> Chunk | None:
        """A chunk as the client gets it; None where nothing in it is new."""
        join = self._join
        if join is None:
            return chunk
        if self._breaks:
            events = join.rewrite(chunk.events)
            fresh = chunk.with_events(events)
            return fresh if events or fresh.raw else None
        try:
            if chunk.piece is not None:
                join.add(chunk.piece)
            else:
                join.note(chunk.events)
        except ProtocolError:
            join.pure = False  # a client may make more of it than we do
        if not join.pure:
            self._join = None  # nothing of what follows needs to be looked at
        return chunk

    async def _go_on(self, failure: UpstreamFailure) -> None:
        """Read on from another deployment; raises the failure where there is none."""
        join, call, reply = self._join, self._call, self._reply
        if call is None or reply is None or join is None or not join.open or not failure.retryable:
            raise failure
        if self._breaks >= self._attempts.settings.max_fallbacks or late(call):
            raise failure
        fresh = await self._attempts.go_on(call, reply, join, failure)
        if fresh is None or fresh.stream is None:
            raise failure
        await self._drop()
        self._breaks += 1
        self._source = fresh.stream
        reply.meter = fresh.meter
        reply.upstream = fresh.upstream

    async def _drop(self) -> None:
        """Leave the present source. An upstream is the pipeline's to close: it may have to read on for the usage."""
        if self._reply is None:
            return  # it was read to its end
        close = getattr(self._source, "aclose", None)
        upstream: object = self._reply.upstream
        if close is not None and self._source is not upstream:
            await close()

    async def aclose(self) -> None:
        await self._drop()
