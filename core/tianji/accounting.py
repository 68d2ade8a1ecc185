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
from tianji.model import UNKNOWN_COST, Attempt, Call, Cost, Deployment, Entry, Reply, Usage
from tianji.plugin.strategy import Release

DEFAULT_OUTPUT = 4096
"""Tokens that a reservation assumes where neither the request nor the model says."""
MEDIA = 5000
"""Tokens that it assumes for each image, file or sound, whose size does not follow from the request's."""


class Charge:
    """The reservation of one attempt, open until `settled`. The one place that knows what there is to settle."""

    __slots__ = (
        "asked", "before", "cost", "deployment", "failed", "number", "release", "reply", "sent", "settled", "started",
    )  # fmt: skip

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
        self.asked: Call | None = None
        """What the provider was asked, where that is not the client's own call: it goes on with a broken answer."""
        self.before: tuple[Usage | None, Cost] | None = None
        """Usage and cost of the attempts that broke off, of the same answer; settled by themselves."""
        self.release: Release | None = None
        """Gives back what the attempt took, as soon as it is over."""

    def total(self, usage: Usage | None, cost: Cost) -> tuple[Usage | None, Cost]:
        """What the whole answer took, from what this attempt took."""
        if self.before is None:
            return usage, cost
        return usage_sum(self.before[0], usage), cost_sum(self.before[1], cost)

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
    several = 1
    if "n" in body or "best_of" in body:
        several = max((n for n in (body.get("n"), body.get("best_of")) if type(n) is int and n > 1), default=1)
    prompt = body.get("prompt")
    if type(prompt) is list and prompt and type(prompt[0]) in (str, list):
        several *= len(prompt)
    size = len(raw)
    if b'"type"' in raw:  # every part that is not plain text states its kind
        size += MEDIA * (raw.count(b'"image') + raw.count(b'"file') + raw.count(b'"input_audio"'))
    return (size * ceiling[0] + output * several * ceiling[1]) // 1_000_000 + 1


def usage_sum(one: Usage | None, other: Usage | None) -> Usage | None:
    """Two usages as one: every class added, an estimate as soon as one of them is."""
    if one is None or other is None:
        return one or other
    counts = {name: getattr(one, name) + getattr(other, name) for name in _COUNTS}
    return Usage(**counts, estimated=one.estimated or other.estimated)


def cost_sum(one: Cost, other: Cost) -> Cost:
    """Two costs as one; unknown as soon as one of them is."""
    if one.nano is None or other.nano is None:
        return UNKNOWN_COST
    return Cost(
        one.nano + other.nano, one.input_nano + other.input_nano, one.output_nano + other.output_nano,
        other.price_version,
    )  # fmt: skip


_COUNTS = tuple(name for name in Usage.__struct_fields__ if name != "estimated")


def finished(
    charge: Charge, *, failure: Failure | None = None, usage: Usage | None = None, ttft: float | None = None
) -> Attempt:
    """What is remembered of an attempt."""
    deployment = charge.deployment
    headers = failure.headers if failure is not None else charge.reply.headers if charge.reply is not None else {}
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
        limits={name: value for name, value in headers.items() if "ratelimit" in name} if headers else {},
        nano=charge.cost.nano if charge.cost is not None else None,
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


def estimate_input(call: Call) -> int:
    """Input tokens of a call, estimated from the size of its texts, four bytes each; worked out once for each body."""
    if call.tokens is None:
        prompt = sum(len(box[key].encode()) for box, key in dialects.get(call.dialect).texts(call.body))
        call.tokens = -(-prompt // 4)
    return call.tokens


def estimate(call: Call, reply: Reply | None) -> Usage:
    """Tokens counted from sizes: four bytes of text each; in a stream, one for each content frame delivered."""
    dialect = dialects.get(call.dialect)
    output = 0
    if reply is not None and reply.meter is not None:
        output = reply.meter.delivered
    elif reply is not None and reply.stream is None and type(reply.body) is dict:
        output = sum(len(box[key].encode()) for box, key in dialect.reply_texts(reply.body)) // 4
    return Usage(input_tokens=estimate_input(call), output_tokens=output, estimated=True)
