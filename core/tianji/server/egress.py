"""Replies and failures as ASGI messages: status, headers, bytes.

Header names are LiteLLM's with the prefix `x-tianji-` (https://docs.litellm.ai/docs/proxy/response_headers); a
configuration in LiteLLM's spelling gets both. `x-should-retry` is what OpenAI's and Anthropic's SDKs obey.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import ceil
from time import monotonic
from typing import Any

from tianji import __version__, dialects
from tianji.attempts import Charge
from tianji.dialects import Dialect
from tianji.errors import Failure, Internal
from tianji.model import Call, Deployment, Reply, encode_json
from tianji.services import Ledger

logger = logging.getLogger("tianji.egress")

Send = Callable[[dict[str, Any]], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]

KEEP = 1024 * 1024
"""Bytes of a stream that are kept for callbacks that want content."""
_STREAM_HEADERS: HeaderList = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Client:
    """One client's end of one call. `both` repeats every `x-tianji-` header as `x-litellm-`."""

    __slots__ = ("_keep", "_ledger", "_send", "both", "dialect")

    def __init__(self, send: Send, dialect: Dialect, *, ledger: Ledger, both: bool, keep: bool) -> None:
        self._send = send
        self._ledger = ledger
        self._keep = keep
        self.dialect = dialect
        self.both = both

    async def reply(self, call: Call, reply: Reply) -> Failure | None:
        headers = self._call_headers(call, reply)
        if reply.stream is not None:
            return await self._stream(call, reply, headers)
        raw = reply.raw
        headers.append((b"content-type", reply.media_type.encode()))
        headers.append((b"content-length", b"%d" % len(raw)))
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": raw})
        return None

    async def refuse(self, call: Call, failure: Failure) -> None:
        headers = self._call_headers(call, call.reply) if call.attempts else self._ids(call)
        await refuse(self._send, failure, self.dialect, headers)

    async def _stream(self, call: Call, reply: Reply, headers: HeaderList) -> Failure | None:
        """Write a stream. A failure in it becomes its last frame, and no `[DONE]` follows."""
        assert reply.stream is not None
        send = self._send
        headers += _STREAM_HEADERS
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        kept, room = [], KEEP if self._keep else 0
        failure: Failure | None = None
        try:
            async for chunk in reply.stream:
                raw = chunk.raw
                if room > 0:
                    kept.append(raw)
                    room -= len(raw)
                await send({"type": "http.response.body", "body": raw, "more_body": True})
        except Failure as error:
            failure = error
        except Exception:
            logger.exception("the stream of call %s failed", call.id)
            failure = Internal(f"The gateway failed. Its log has the details under call id {call.id}.")
        last = self.dialect.error_frame(failure) if failure is not None else b""
        if self._keep:
            call.kept = [*kept, last]
        await send({"type": "http.response.body", "body": last})
        return failure

    # -- headers -------------------------------------------------------------------------------------------------------

    def _ids(self, call: Call) -> HeaderList:
        ident = call.id.encode()
        headers = [(b"x-request-id", ident), (b"x-tianji-call-id", call.call_id.encode())]
        if self.both:
            headers.append((b"x-litellm-call-id", call.call_id.encode()))
        return headers

    def _call_headers(self, call: Call, reply: Reply | None) -> HeaderList:
        charge: Charge | None = call.charge
        facts: list[tuple[str, str]] = [("version", __version__)]
        if charge is not None:
            facts += _deployment_facts(charge.deployment)
        cost = reply.cost if reply is not None else None
        key = call.principal.key_id
        spend = self._ledger.spend(key)
        if cost is not None:
            if cost.nano is None:
                facts.append(("price", "unknown"))
            else:
                facts.append(("response-cost", dollars(cost.nano)))
                facts.append(("response-cost-input", dollars(cost.input_nano)))
                facts.append(("response-cost-output", dollars(cost.output_nano)))
                spend += cost.nano
        elif reply is not None and reply.source == "cache":
            facts.append(("response-cost", "0"))
        facts.append(("key-spend", dollars(spend)))
        made = len(call.attempts) + (1 if charge is not None and not charge.settled else 0)
        facts.append(("attempted-retries", str(max(0, made - 1 - call.fallbacks))))
        facts.append(("attempted-fallbacks", str(call.fallbacks)))
        duration = monotonic() - call.started
        facts.append(("response-duration-ms", f"{duration * 1000:.3f}"))
        facts.append(("overhead-duration-ms", f"{max(0.0, duration - call.upstream_seconds) * 1000:.3f}"))
        self._rare_facts(call, facts)
        headers = self._ids(call)
        for name, value in facts:
            headers.append((f"x-tianji-{name}".encode(), value.encode()))
            if self.both:
                headers.append((f"x-litellm-{name}".encode(), value.encode()))
        if reply is not None and reply.headers:
            headers += [
                (name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in reply.headers.items()
            ]
        if call.timing is not None:
            headers.append((b"server-timing", server_timing(call).encode()))
        return headers

    def _rare_facts(self, call: Call, facts: list[tuple[str, str]]) -> None:
        if call.dropped:
            facts.append(("dropped", ", ".join(call.dropped)))
        if call.state and (guards := call.state.get("guardrails")):
            facts.append(("applied-guardrails", ",".join(guards)))
        if call.headers:
            facts += [(name.removeprefix("x-tianji-"), value) for name, value in call.headers.items()]


def _deployment_facts(deployment: Deployment) -> list[tuple[str, str]]:
    facts = [
        ("model-id", deployment.id),
        ("model-group", deployment.group),
        ("model-name", f"{deployment.provider}/{deployment.model}"),
    ]
    if deployment.api_base:
        facts.append(("model-api-base", deployment.api_base.split("?")[0]))
    return facts


def dollars(nano: int) -> str:
    """Nano-dollars as a decimal number of dollars, exactly."""
    whole, rest = divmod(nano, 1_000_000_000)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") if rest else str(whole)


def server_timing(call: Call) -> str:
    """`Server-Timing` (https://www.w3.org/TR/server-timing/): one entry for each stage and plugin, in milliseconds."""
    names = [(name.replace(":", "-").replace("_", "-"), seconds) for name, seconds in call.timing or ()]
    names.append(("total", monotonic() - call.started))
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in names)


async def refuse(
    send: Send, failure: Failure, dialect: Dialect | None = None, headers: HeaderList | None = None
) -> None:
    """Write a failure as JSON in the client's dialect. Usable where there is no call yet."""
    dialect = dialect or dialects.get("openai-chat")
    body = encode_json(dialect.error(failure))
    out: HeaderList = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-should-retry", b"true" if failure.should_retry else b"false"),
        *(headers or ()),
    ]
    if failure.retry_after is not None:
        out.append((b"retry-after", b"%d" % ceil(failure.retry_after)))
        out.append((b"retry-after-ms", b"%d" % ceil(failure.retry_after * 1000)))
    out += [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in failure.headers.items()]
    if failure.status == 413:
        out.append((b"connection", b"close"))  # the rest of the body was not read
    await send({"type": "http.response.start", "status": failure.status, "headers": out})
    await send({"type": "http.response.body", "body": body})
