"""What a call costs, and how that is written down: the open charge, its entries, estimates where nobody said.

Accounting is on the request path and never a callback: an attempt reserves before it sends, and exactly one entry
(`settle` or `void`) answers each `reserve`, whatever happens in between. Entry ids decide, so writing one twice counts
once, and a step that was cancelled can simply be done again.
"""

from __future__ import annotations

from time import monotonic, time

import msgspec

from tianji import dialects
from tianji.errors import ClientGone, Failure
from tianji.model import Attempt, Call, Cost, Deployment, Entry, Reply, Usage

DEFAULT_OUTPUT = 4096
"""Tokens that a reservation assumes where neither the request nor the model says."""
MEDIA = 5000
"""Tokens that it assumes for each image, file or sound, whose size does not follow from the request's."""


class Charge:
    """The reservation of one attempt, open until `settled`. The one place that knows what there is to settle."""

    __slots__ = ("cost", "deployment", "failed", "number", "reply", "sent", "settled", "started")

    def __init__(self, deployment: Deployment, number: int) -> None:
        self.deployment = deployment
        self.number = number
        self.started = monotonic()
        self.sent = False
        """The provider was asked. Before that an abandoned attempt costs nothing."""
        self.failed = ""
        """The class of the failure that ended the attempt; the reservation is then given back."""
        self.reply: Reply | None = None
        """The provider's own reply, whatever `post_call` hooks answered instead."""
        self.settled = False
        self.cost: Cost | None = None

    def entry(self, call: Call, kind: str, nano: int | None, status: str = "", usage: Usage | None = None) -> Entry:
        """A line of the ledger about this attempt. `settle` and `void` share an id: only one of them counts."""
        return Entry(
            f"{call.id}:{self.number}:{'reserve' if kind == 'reserve' else 'settle'}", kind, call.id, self.number,
            call.principal.key_id, self.deployment.id, self.deployment.model, nano, usage,
            self.cost.price_version if self.cost is not None else "", status, time(),
        )  # fmt: skip


def reservation(call: Call, deployment: Deployment) -> int | None:
    """An upper bound of what the attempt can cost, in nano-dollars; None where the price is unknown.

    A token of text is at least a byte, so the request's size bounds its tokens without counting them.
    """
    ceiling = deployment.ceiling
    if ceiling is None:
        return None
    body = call.body
    raw = call.raw if call.raw is not None else msgspec.json.encode(body)
    output = body.get("max_completion_tokens") or body.get("max_tokens") or deployment.max_output_tokens
    if type(output) is not int or output < 1:
        output = DEFAULT_OUTPUT
    several = max((n for n in (body.get("n"), body.get("best_of")) if type(n) is int and n > 1), default=1)
    prompt = body.get("prompt")
    if type(prompt) is list and prompt and type(prompt[0]) in (str, list):
        several *= len(prompt)
    size = len(raw) + MEDIA * (raw.count(b'"image') + raw.count(b'"file') + raw.count(b'"input_audio"'))
    return (size * ceiling[0] + output * several * ceiling[1]) // 1_000_000 + 1


def finished(
    charge: Charge, *, failure: Failure | None = None, usage: Usage | None = None, ttft: float | None = None
) -> Attempt:
    """What is remembered of an attempt."""
    deployment = charge.deployment
    return Attempt(
        number=charge.number,
        deployment_id=deployment.id,
        group=deployment.group,
        provider=deployment.provider,
        model=deployment.model,
        started=time() - (monotonic() - charge.started),
        duration=monotonic() - charge.started,
        outcome="ok" if failure is None else type(failure).__name__,
        status=200 if failure is None else failure.status,
        time_to_first_token=ttft,
        usage=usage,
        message="" if failure is None else failure.message[:1000],
    )


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
