"""What is remembered of a call: usage, cost, attempts, ledger entries and records. All frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from tianji.errors import Failure


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens, by class. `input_tokens` and `output_tokens` are totals that include the classes below them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    """All tokens written to a prompt cache, whatever their lifetime."""
    cache_write_1h_tokens: int = 0
    """The part of `cache_write_tokens` with the one-hour lifetime."""
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_image_tokens: int = 0
    web_searches: int = 0
    estimated: bool = False
    """The provider did not say; counted from what was delivered."""

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Cost(msgspec.Struct, frozen=True):
    """Money in integer nano-dollars (1e-9 USD). `nano is None`: the price is unknown, which is never zero."""

    nano: int | None
    input_nano: int = 0
    output_nano: int = 0
    price_version: str = ""

    @property
    def usd(self) -> float | None:
        """For display only; sums are made in nano-dollars."""
        return None if self.nano is None else self.nano / 1_000_000_000


UNKNOWN_COST = Cost(nano=None)


class Attempt(msgspec.Struct, frozen=True):
    """One try of a call against one deployment."""

    number: int
    deployment_id: str
    group: str
    provider: str
    model: str
    started: float
    """Seconds since the epoch."""
    duration: float
    """Seconds from sending to the end of the answer."""
    outcome: str
    """`ok`, or the name of the failure's class."""
    status: int
    time_to_first_token: float | None = None
    """Seconds from sending to the first event of a stream."""
    usage: Usage | None = None
    message: str = ""
    limits: Mapping[str, str] = {}
    """The answer's headers about rate limits, as they are passed on to the client."""
    nano: int | None = None
    """What it cost, in nano-dollars. None: the price is unknown, or nothing was answered that could cost anything."""


class Entry(msgspec.Struct, frozen=True):
    """One immutable line of the spend ledger. `entry_id` is unique: the same line written twice counts once."""

    entry_id: str
    kind: str
    """`reserve`, `settle` or `void`."""
    call_id: str
    attempt: int
    key_id: str
    deployment_id: str
    model: str
    nano: int | None
    usage: Usage | None = None
    price_version: str = ""
    status: str = ""
    at: float = 0.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a callback may know of a finished call."""

    id: str
    call_id: str
    op: str
    dialect: str
    model: str
    group: str
    provider: str
    upstream_model: str
    deployment_id: str
    api_base: str
    stream: bool
    status: str
    """`success`, `failure`, `partial` (a stream that broke) or `cancelled` (the client left)."""
    http_status: int
    error: dict[str, Any] | None
    key_id: str
    key_alias: str | None
    user_id: str | None
    team_id: str | None
    org_id: str | None
    end_user: str | None
    usage: Usage | None
    cost: Cost | None
    source: str
    attempts: tuple[Attempt, ...]
    fallbacks: int
    response_model: str | None
    """The model as the provider named it in its answer."""
    traceparent: str | None
    """The client's W3C trace context, unchecked (https://www.w3.org/TR/trace-context/)."""
    started: float
    """Seconds since the epoch."""
    duration: float
    time_to_first_token: float | None
    upstream_duration: float
    """Seconds spent waiting for providers, over all attempts."""
    overhead: float
    """Seconds that the gateway itself added."""
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    guardrails: tuple[str, ...]
    request: dict[str, Any] | None
    """The body as the client sent it; None when content is not to be logged or no callback wants it."""
    response: bytes | None
    """The reply's bytes as sent (SSE frames for a stream), under the same condition and at most 1 MiB."""

    @property
    def cache_hit(self) -> bool:
        return self.source == "cache"


def failure_record(failure: Failure) -> dict[str, Any]:
    """A failure as a record carries it: the error object and the class that made it."""
    return {"class": type(failure).__name__, "status": failure.status, **failure.body()}


SCHEMA = "tianji.call.v1"
"""Names the shape that `document` makes. Fields are only ever added to it."""


def document(record: Record, *, content: bool = False) -> dict[str, Any]:
    """A record as JSON: the fields of `Record` by their names, and what can be worked out of them.

    Times are seconds since the epoch, durations seconds, money dollars and integer nano-dollars; what is not known is
    null, a price above all. `request` and `response` are there only with `content`: the body as the client sent it,
    and the answer as an object, or as text where it was streamed.
    """
    said = msgspec.structs.asdict(record)
    request, response = said.pop("request"), said.pop("response")
    usage, cost = record.usage, record.cost
    said |= {
        "schema": SCHEMA,
        "ended": record.started + record.duration,
        "cache_hit": record.cache_hit,
        "usage": None if usage is None else {**_all(usage), "total_tokens": usage.total_tokens},
        "cost": None if cost is None else {**_all(cost), "usd": cost.usd},
        "attempts": [
            {**_all(attempt), "usage": None if attempt.usage is None else _all(attempt.usage)}
            for attempt in record.attempts
        ],
    }
    if content:
        said |= {"request": request, "response": _response(response)}
    return said


def _all(struct: msgspec.Struct) -> dict[str, Any]:
    """Every field, zeros too: msgspec leaves the defaults of some structs out."""
    return msgspec.structs.asdict(struct)


def _response(raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")
