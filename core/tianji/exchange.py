"""One attempt over HTTP: the only place where a sans-I/O provider meets a socket.

translate (if the provider does not speak the client's dialect) → encode → authorise → send → status → decode, or a
stream of which the first event has already been seen, so that an error in it is still an ordinary failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import parsedate_to_datetime
from functools import partial
from math import isfinite, nan
from time import monotonic, time
from typing import Any

from tianji import dialects
from tianji.config.schema import Config
from tianji.dialects.chat_stream import failure_of
from tianji.dialects.peek import peek
from tianji.errors import BadRequest, Failure, ProtocolError, Timeout, Unprocessable
from tianji.gate import hold
from tianji.model import Call, Chunk, Deployment, Op, Reply, Wire, decode_json, encode_json
from tianji.plugin import Provider
from tianji.providers.http import HTTPProvider, plain
from tianji.streams import UNREADABLE, Forwarded, Translated, redact, refusal, unreadable
from tianji.transport import Clocks, Response, Transport

logger = logging.getLogger("tianji.exchange")

Attempt = Callable[[Call, Deployment], Awaitable[Reply]]

MAX_REPLY = 64 * 1024 * 1024
_PASSED_ON = ("x-ratelimit", "openai-", "anthropic-ratelimit")
_NEVER_COPIED = frozenset({"set-cookie", "transfer-encoding", "connection"})
_passes: dict[str, str] = {"x-request-id": "llm_provider-x-request-id", "request-id": "llm_provider-request-id"}
"""Upstream header to the name it goes on under; empty for one that does not. Grows to `_passes_on`'s bound."""


class Timeouts:
    """Seconds for each clock of an attempt.

    `first` is from sending to the first event of a stream, `idle` between two reads of one after that; `total` bounds
    whole answers only.
    """

    __slots__ = ("connect", "first", "idle", "total")

    def __init__(
        self, *, connect: float = 5.0, first: float = 600.0, idle: float = 300.0, total: float = 600.0
    ) -> None:
        self.connect = connect
        self.first = first
        self.idle = idle
        self.total = total


class Exchange:
    """Makes attempts. One per gateway; holds no state but its transport."""

    def __init__(
        self, transport: Transport, timeouts: Timeouts, *, copy_headers: bool = False, commit_delay: float = 0.0
    ) -> None:
        self.transport = transport
        self.timeouts = timeouts
        self.commit_delay = commit_delay
        """Seconds that a stream is held back for after its first event; see `tianji.gate`."""
        self.copy_headers = copy_headers
        """Repeat every upstream header as `llm_provider-<name>`, as LiteLLM does."""

    @staticmethod
    def of(config: Config, transport: Transport) -> Exchange:
        """The exchange of one configuration."""
        router = config.router
        total = router.timeout or config.tianji_settings.request_timeout or 600.0
        timeouts = Timeouts(first=router.stream_timeout or total, idle=router.stream_idle_timeout or 300.0, total=total)
        return Exchange(
            transport, timeouts, copy_headers=config.spelling == "litellm", commit_delay=router.stream_commit_delay
        )

    def attempt_of(self, provider: Provider) -> Attempt:
        """The shortest way to an attempt. An HTTP provider's sealed `call` does nothing but ask for the exchange."""
        if isinstance(provider, HTTPProvider):
            return partial(self, provider)
        return partial(local_attempt, provider, delay=self.commit_delay)

    async def __call__(self, provider: HTTPProvider, call: Call, deployment: Deployment) -> Reply:
        """One attempt. Raises an `UpstreamFailure`, or `BadRequest` for what the provider cannot be asked."""
        said, wire = _encoded(provider, call, deployment)
        if said is not call and said.dropped:
            call.drop(*said.dropped)
        if call.strict and call.dropped:
            raise cannot_carry(provider, call)
        if provider.authorizes:
            wire = await provider.authorize(wire, deployment)
        clocks = self._clocks(call, deployment)
        first_by = monotonic() + clocks.headers
        response = await self.transport.send(wire, clocks=clocks)
        try:
            if response.status >= 400:
                raise await self._failure(provider, deployment, response)
            if said.stream:
                return await self._stream(provider, deployment, call, said, wire, response, first_by)
            raw = await response.read(MAX_REPLY)
            response.close()
            return self._whole(provider, call, said, response, raw)
        except Failure as failure:
            response.close()
            failure.provider = failure.provider or provider.name
            redact(failure, deployment)
            raise
        except BaseException:
            response.close()
            raise

    def _clocks(self, call: Call, deployment: Deployment) -> Clocks:
        timeouts = self.timeouts
        left = call.deadline - monotonic()
        own = deployment.timeout
        if call.stream:
            first = call.options.get("stream_timeout") or deployment.stream_timeout or own or timeouts.first
            return Clocks(timeouts.connect, first if first < left else left, 86400.0)
        total = own or timeouts.total
        if left < total:
            total = left
        return Clocks(timeouts.connect, total, total)

    # -- whole answers -------------------------------------------------------------------------------------------------

    def _whole(self, provider: HTTPProvider, call: Call, said: Call, response: Response, raw: bytes) -> Reply:
        dialect = dialects.get(said.dialect)
        reply = Reply(headers=self._headers(response))
        forwarded = said is call and said.dialect in provider.native and not provider.rewrites(said)
        if forwarded and dialect.peeks and (seen := peek(raw)) is not None:
            reply.usage = seen.usage
            reply.model = seen.model
            reply.take(raw if seen.model == call.model else renamed(raw, seen.model, call.model), None)
            return reply
        data = _decode(raw, response)
        if forwarded:
            if "error" in data and data["error"] and "choices" not in data and data.get("type") != "message":
                raise failure_of(data["error"], provider=provider.name)
            if dialect.peeks and "choices" not in data and "data" not in data:
                raise ProtocolError("The provider's answer has neither choices nor data.")
            reply.usage = dialect.usage(data)
            reply.model = data.get("model")
            if dialect.op != Op.COUNT_TOKENS and not dialect.named:
                raw = renamed(raw, data.get("model"), call.model)
                data["model"] = call.model
            reply.take(raw, data)
            return reply
        try:
            body = provider.decode(said, data)
            reply.usage = dialect.usage(body)
            reply.model = body.get("model")
            if "model" in body:
                body["model"] = call.model
            if not body.get("created", 1):
                body["created"] = int(time())
            reply.body = body if said is call else dialects.get(call.dialect).from_chat(call, body)
        except UNREADABLE as error:
            raise unreadable(provider.name, error) from error
        return reply

    # -- streams -------------------------------------------------------------------------------------------------------

    async def _stream(
        self,
        provider: HTTPProvider,
        deployment: Deployment,
        call: Call,
        said: Call,
        wire: Wire,
        response: Response,
        first_by: float,
    ) -> Reply:
        """`first_by` is when the first event must be there: one clock with the time that the head took."""
        stream: Forwarded | Translated
        if said.dialect in provider.native and not provider.rewrites(said) and said is call:
            stream = Forwarded(provider, deployment, call, response, self.timeouts.idle)
        else:
            name = wire.framing or provider.framing
            stream = Translated(provider, deployment, call, said, response, name, self.timeouts.idle)
        await stream.open(max(0.001, first_by - monotonic()))
        reply = Reply(stream=stream, headers=self._headers(response), media_type="text/event-stream")
        reply.meter = stream.meter
        reply.upstream = stream
        if self.commit_delay:
            await hold(reply, min(self.commit_delay, call.remaining()))
        return reply

    # -- the rest ------------------------------------------------------------------------------------------------------

    async def _failure(self, provider: HTTPProvider, deployment: Deployment, response: Response) -> Failure:
        raw = await response.read(1024 * 1024)
        response.close()
        try:
            data: Any = decode_json(raw)
        except (RecursionError, ValueError):
            data = plain(raw.decode("utf-8", "replace"))
        failure = refusal(provider, response.status, data)
        failure.provider = provider.name
        failure.model = deployment.model
        if failure.retry_after is None:
            failure.retry_after = retry_after(response.headers)
        failure.headers = {**self._headers(response), **failure.headers}
        failure.headers.pop("retry-after", None)
        return failure

    def _headers(self, response: Response) -> dict[str, str]:
        """What of the upstream's headers goes to the client: rate limits and ids, by allow-list."""
        passed: dict[str, str] = {}
        for name, value in response.headers.items():
            passes = _passes.get(name)
            if passes is None:
                passes = _passes_on(name)
            if passes:
                passed[passes] = value
            if self.copy_headers and name not in _NEVER_COPIED:
                passed[f"llm_provider-{name}"] = value
        return passed


def _passes_on(name: str) -> str:
    passes = name if name.startswith(_PASSED_ON) else ""
    if len(_passes) < 1000:
        _passes[name] = passes
    return passes


def _encoded(provider: HTTPProvider, call: Call, deployment: Deployment) -> tuple[Call, Wire]:
    """The call as the provider is told it, and its request. What falls over odd input is the input's fault."""
    try:
        said = spoken(provider, call)
        return said, provider.encode(said, deployment)
    except Failure:
        raise
    except Exception as error:
        logger.warning("%s could not encode a call", provider.name, exc_info=error)
        raise BadRequest(
            f"The request cannot be said to {provider.name}: one of its fields is not what it should be "
            f"({type(error).__name__})."
        ) from error


def spoken(provider: Provider, call: Call) -> Call:
    """The call in a dialect that the provider understands: itself, or said as chat (once per call)."""
    if call.dialect in provider.native or call.dialect == "openai-chat" or not dialects.get(call.dialect).translates:
        return call
    if call.chat is None:
        body = dialects.get(call.dialect).to_chat(call)
        call.chat = call.derive(body=body, dialect="openai-chat", op=Op.CHAT)
    return call.chat


def cannot_carry(provider: Provider, call: Call) -> Unprocessable:
    return Unprocessable(
        f"These fields cannot be carried to {provider.name}: {', '.join(call.dropped)}.", param=call.dropped[0]
    )


async def local_attempt(provider: Provider, call: Call, deployment: Deployment, *, delay: float = 0.0) -> Reply:
    """One attempt of a provider that does its own I/O: translated, and under a deadline, as any other is.

    `delay`: seconds of the commit gate; with one, the first event is waited for as well.
    """
    said = spoken(provider, call)
    if call.strict and call.dropped:
        raise cannot_carry(provider, call)
    first = call.options.get("stream_timeout") or deployment.stream_timeout
    limit = (first if call.stream else None) or deployment.timeout or call.remaining()
    try:
        async with asyncio.timeout(min(limit, call.remaining())):
            reply = await provider.call(said, deployment)
    except TimeoutError:
        raise Timeout(f"{provider.name} did not answer within {limit:g} seconds.", provider=provider.name) from None
    if said is not call:
        dialect = dialects.get(call.dialect)
        if reply.stream is not None:
            reply.stream = _said_back(call, reply.stream)
        else:
            reply.body = dialect.from_chat(call, reply.body)
    if delay and reply.stream is not None:
        await hold(reply, min(delay, call.remaining()), first=min(limit, call.remaining()))
    return reply


async def _said_back(call: Call, stream: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """A chat stream, said in the client's dialect."""
    dialect = dialects.get(call.dialect)
    out = dialect.stream_from_chat(call)
    next(out)
    async for chunk in stream:
        events = [event for one in chunk.events for event in out.send(one)]
        if events:
            yield Chunk(events=events, named=dialect.named)
    yield Chunk(Chunk(events=out.send(None), named=dialect.named).raw + dialect.done, named=dialect.named)


def renamed(raw: bytes, theirs: Any, model: str) -> bytes:
    """An answer's bytes with the client's model name in place of the provider's.

    The bytes are spliced rather than encoded anew, so that everything else stays exactly as the provider wrote it.
    """
    if theirs == model or type(theirs) is not str:
        return raw
    old, spaced, new = _names.get((theirs, model)) or _named(theirs, model)
    for member in (old, spaced):
        if raw.count(member) == 1:
            spliced = raw.replace(member, new)
            # With several members of that name the one that was found may be an inner one.
            if raw.count(b'"model"') == 1 or decode_json(spliced)["model"] == model:
                return spliced
    data = decode_json(raw)
    data["model"] = model
    return encode_json(data)


def _named(theirs: str, model: str) -> tuple[bytes, bytes, bytes]:
    """The member that names their model, without and with a blank, and the one that names ours."""
    name = encode_json(theirs)
    if len(_names) >= 1000:
        _names.clear()  # a provider may name its models as it likes; rare enough for a full reset
    members = _names[theirs, model] = (b'"model":' + name, b'"model": ' + name, b'"model":' + encode_json(model))
    return members


_names: dict[tuple[str, str], tuple[bytes, bytes, bytes]] = {}


def retry_after(headers: Any) -> float | None:
    """Seconds, at most a day, from `retry-after-ms` or `retry-after` (a number or a date); None for a time gone by."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except KeyError:
            continue
        except ValueError:
            seconds = _until(headers[name])
        if isfinite(seconds) and seconds >= 0:
            return min(seconds, 86400.0)
    return None


def _until(date: str) -> float:
    """Seconds until an HTTP date; NaN for what is none."""
    try:
        return parsedate_to_datetime(date).timestamp() - time()
    except (OverflowError, TypeError, ValueError):
        return nan


def _decode(raw: bytes, response: Response) -> dict[str, Any]:
    try:
        data = decode_json(raw)
    except (RecursionError, ValueError):
        kind = response.headers.get("content-type", "no content type")
        raise ProtocolError(f"The provider's answer is not JSON ({kind}, {len(raw)} bytes).") from None
    if type(data) is not dict:
        if type(data) is list and len(data) == 1 and type(data[0]) is dict:
            return data[0]
        raise ProtocolError(f"The provider answered with a JSON {type(data).__name__}, not with an object.")
    return data
