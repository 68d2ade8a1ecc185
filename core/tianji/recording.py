"""The record of a finished call: everything that a callback may know. Built only where a callback exists."""

from __future__ import annotations

from time import monotonic, time

from tianji.accounting import Charge, outcome
from tianji.errors import Failure
from tianji.model import Call, Record, Usage, failure_record

KEPT = 1024 * 1024
"""Bytes of an answer that a record holds at most."""


def record(call: Call, failure: Failure | None, usage: Usage | None, *, content: bool) -> Record:
    """What is remembered of a call that has just ended. `content`: the request and the answer, too."""
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
        request=call.body if content else None,
        response=_kept(call) if content else None,
    )


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
    return reply.raw[:KEPT] if reply is not None and reply.stream is None else None
