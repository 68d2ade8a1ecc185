"""Replies and failures as ASGI messages: status, headers, bytes.

Header names are LiteLLM's with the prefix `x-tianji-` (https://docs.litellm.ai/docs/proxy/response_headers); a
configuration in LiteLLM's spelling gets both. `x-should-retry` is what OpenAI's and Anthropic's SDKs obey.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable
from math import ceil, isfinite
from time import monotonic
from typing import Any

from tianji import __version__, dialects
from tianji.accounting import Charge
from tianji.dialects import Dialect
from tianji.errors import Failure, Internal
from tianji.explain import header as explained
from tianji.model import Call, Chunk, Deployment, Reply, encode_json, new_id
from tianji.server.link import Link
from tianji.services import Ledger

logger = logging.getLogger("tianji.egress")

KEEP = 1024 * 1024
"""Bytes of a stream that are kept for callbacks that want content."""
LONGEST_WAIT = 86_400.0
"""Seconds; what `retry-after` says at most."""
_STREAM = "content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
_UNSAFE = re.compile(r"[^\x20-\x7e\x80-\xff]")


class Client:
    """One client's end of one call. `both` repeats every `x-tianji-` header as `x-litellm-`."""

    __slots__ = ("_begun", "_keep", "_ledger", "_link", "both", "dialect")

    def __init__(self, link: Link, dialect: Dialect, *, ledger: Ledger, both: bool, keep: bool) -> None:
        self._link = link
        self._ledger = ledger
        self._keep = keep
        self._begun = False
        self.dialect = dialect
        self.both = both

    async def reply(self, call: Call, reply: Reply) -> Failure | None:
        headers = self._headers(call, reply)
        if reply.stream is not None:
            return await self._stream(call, reply, reply.stream, headers)
        raw = reply.raw
        await self._link.whole(reply.status, f"{headers}content-type: {reply.media_type}\r\n".encode("latin-1"), raw)
        return None

    async def refuse(self, call: Call, failure: Failure) -> None:
        await refuse(self._link, failure, self.dialect, self._headers(call, None))

    async def cut(self, call: Call, failure: Failure) -> None:
        """Write an error as long as that is possible: an answer, or the last frame of a stream that has begun."""
        try:
            if self._begun:
                await self._link.end(self.dialect.error_frame(failure))
            else:
                await self.refuse(call, failure)
        except Exception:
            logger.debug("call %s could not be told of its end", call.id, exc_info=True)

    def release(self) -> bool:
        """From here on the client may leave without ending the call. True: it has left already."""
        self._link.leave = None
        return self._link.gone

    async def _stream(self, call: Call, reply: Reply, stream: AsyncIterator[Chunk], headers: str) -> Failure | None:
        """Write a stream. A failure in it becomes its last frame, and no `[DONE]` follows."""
        link = self._link
        self._begun = True
        await link.begin(reply.status, (headers + _STREAM).encode("latin-1"), self.dialect.heartbeat)
        kept: list[bytes] = []
        room = KEEP if self._keep else 0
        failure: Failure | None = None
        try:
            async for chunk in stream:
                raw = chunk.raw
                if room > 0:
                    kept.append(raw)
                    room -= len(raw)
                await link.more(raw)
        except Failure as error:
            failure = error
        except Exception:
            logger.exception("the stream of call %s failed", call.id)
            failure = Internal(f"The gateway failed. Its log has the details under call id {call.id}.")
        finally:
            # A client that leaves while the writer waits for it is not noticed by a generator until it is collected.
            # The upstream's own stream is the pipeline's to close: it may have to read on for the usage.
            upstream: object = reply.upstream
            if stream is not upstream:
                await _close(stream, call)
        last = _said(failure, self.dialect.error_frame) if failure is not None else b""
        if self._keep:
            call.kept = [*kept, last]
        await link.end(last)
        return failure

    def _headers(self, call: Call, reply: Reply | None) -> str:
        """The block of headers that every answer to a call carries."""
        charge: Charge | None = call.charge
        key = call.principal.key_id
        spend = self._ledger.spend(key)
        price = ""
        cost = reply.cost if reply is not None else None
        if cost is not None:
            if cost.nano is None:
                price = "x-tianji-price: unknown\r\n"
            else:
                spend += cost.nano
                price = f"x-tianji-response-cost: {cost.nano / 1e9:.9f}\r\n"
        elif reply is not None and reply.source == "cache":
            price = "x-tianji-response-cost: 0\r\n"
        made = len(call.attempts) - call.fallbacks - (1 if charge is None or charge.settled else 0)
        duration = (monotonic() - call.started) * 1000.0
        overhead = duration - call.upstream_seconds * 1000.0
        block = (
            f"x-request-id: {call.id}\r\n"
            f"x-tianji-call-id: {call.call_id}\r\n"
            f"{facts(charge.deployment) if charge is not None else _VERSION}"
            f"{price}"
            f"x-tianji-key-spend: {spend / 1e9:.9f}\r\n"
            f"x-tianji-attempted-retries: {made if made > 0 else 0}\r\n"
            f"x-tianji-attempted-fallbacks: {call.fallbacks}\r\n"
            f"x-tianji-response-duration-ms: {duration:.3f}\r\n"
            f"x-tianji-overhead-duration-ms: {overhead if overhead > 0 else 0.0:.3f}\r\n"
        )
        if self.dialect.named:
            block += f"request-id: {call.id}\r\n"  # where Anthropic's SDKs look for it
        if call.dropped or call.state or call.headers:
            block += _rare(call)
        if self.both:
            block += "".join(
                line.replace("x-tianji-", "x-litellm-", 1) for line in block.splitlines(True) if line[:9] == "x-tianji-"
            )
        if reply is not None and reply.headers:
            block += "".join(f"{name}: {clean(value)}\r\n" for name, value in reply.headers.items())
        if call.timing is not None:
            block += f"server-timing: {server_timing(call)}\r\n"
        if call.plan is not None:
            block += f"x-tianji-explain: {explained(call)}\r\n"
        return block


_VERSION = f"x-tianji-version: {__version__}\r\n"
_facts: dict[int, tuple[Deployment, str]] = {}


def facts(deployment: Deployment) -> str:
    """The headers that say which deployment answered; made once for each."""
    known = _facts.get(id(deployment))
    if known is not None and known[0] is deployment:
        return known[1]
    block = (
        f"{_VERSION}x-tianji-model-id: {clean(deployment.id)}\r\nx-tianji-model-group: {clean(deployment.group)}\r\n"
        f"x-tianji-model-name: {clean(f'{deployment.provider}/{deployment.model}')}\r\n"
    )
    if deployment.api_base:
        block += f"x-tianji-model-api-base: {clean(deployment.api_base.split('?')[0])}\r\n"
    if len(_facts) > 10_000:
        _facts.clear()  # wildcards make deployments from what clients send
    _facts[id(deployment)] = (deployment, block)
    return block


def _rare(call: Call) -> str:
    block = ""
    if call.dropped:
        block += f"x-tianji-dropped: {clean(', '.join(call.dropped))}\r\n"
    if guards := call.state.get("guardrails"):
        block += f"x-tianji-applied-guardrails: {clean(','.join(guards))}\r\n"
    for name, value in (call.headers or {}).items():
        block += f"{clean(name)}: {clean(value)}\r\n"
    return block


def clean(value: str) -> str:
    """A header value without control characters or anything that Latin-1 cannot say."""
    return value if value.isascii() and value.isprintable() else _UNSAFE.sub("?", value)


def server_timing(call: Call) -> str:
    """`Server-Timing` (https://www.w3.org/TR/server-timing/): one entry for each stage and plugin, in milliseconds."""
    names = [(re.sub(r"[^A-Za-z0-9!#$%&'*+.^`|~-]", "-", name), seconds) for name, seconds in call.timing or ()]
    names.append(("total", monotonic() - call.started))
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in names)


async def _close(stream: AsyncIterator[Chunk], call: Call) -> None:
    """Let the last wrapper around a stream clean up. What goes wrong in that does not change the call's end."""
    close = getattr(stream, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except Exception:
        logger.exception("closing the stream of call %s failed", call.id)


def _said(failure: Failure, make: Callable[[Failure], bytes]) -> bytes:
    """A failure as bytes. What a plugin put into it that JSON cannot say is made plain, and told from then on so."""
    try:
        return make(failure)
    except (TypeError, ValueError, OverflowError, RecursionError):
        logger.warning("a failure of type %s carries what JSON cannot say", type(failure).__name__)
    for field in ("message", "type", "param", "code", "provider", "model"):
        value = getattr(failure, field)
        if value is not None:
            setattr(failure, field, _plain(value if isinstance(value, str) else type(value).__name__))
    failure.extra = _plain(failure.extra) if isinstance(failure.extra, dict) else {}
    return make(failure)


def _plain(value: Any, depth: int = 0) -> Any:
    """A value that JSON can say: lone surrogates become `?`, and what has no place in JSON the name of its type."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    if isinstance(value, dict) and depth < _DEEP:
        return {_plain(key): _plain(one, depth + 1) for key, one in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple) and depth < _DEEP:
        return [_plain(one, depth + 1) for one in value]
    return type(value).__name__


_DEEP = 8


async def refuse(link: Link, failure: Failure, dialect: Dialect | None = None, headers: str = "") -> None:
    """Write a failure as JSON in the client's dialect. Without `headers` it is given an id of its own."""
    dialect = dialect or dialects.get("openai-chat")
    block = headers or f"x-request-id: {new_id()}\r\n"
    block += f"content-type: application/json\r\nx-should-retry: {'true' if failure.should_retry else 'false'}\r\n"
    if failure.retry_after is not None and isfinite(failure.retry_after):
        wait = min(max(failure.retry_after, 0.0), LONGEST_WAIT)
        block += f"retry-after: {ceil(wait)}\r\nretry-after-ms: {ceil(wait * 1000)}\r\n"
    block += "".join(f"{clean(name)}: {clean(value)}\r\n" for name, value in failure.headers.items())
    status = failure.status if 400 <= failure.status <= 599 else 502  # an upstream may send any three digits
    raw = _said(failure, lambda one: encode_json(dialect.error(one)))
    await link.whole(status, block.encode("latin-1"), raw)
