"""The data that moves through the gateway: eleven small types, and the words that the rest of the code uses.

`Call` is the only mutable object that stages share. Everything that leaves the request path (`Attempt`, `Record`,
`Entry`) is frozen. Bodies stay plain dicts, so that fields nobody here has heard of pass through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import count
from os import getpid, urandom
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

if TYPE_CHECKING:
    from tianji.errors import Failure
    from tianji.pricing import Price

encode_json = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode

Undo = Callable[[], Awaitable[None]]


class Op(StrEnum):
    """What a call asks for. One op may be reached through several dialects."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"
    RESPONSES = "responses"
    IMAGES = "images"
    SPEECH = "speech"
    TRANSCRIBE = "transcribe"
    RERANK = "rerank"
    MODERATIONS = "moderations"


class Secret:
    """A string that must not be seen: `repr` and `str` are `***`, and no encoder accepts it.

    `reveal()` is called in exactly one kind of place: where the bytes for the wire are made.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


class Headers(dict[str, str]):
    """Request headers whose encoded form is kept. Build once per deployment, share, never change."""

    __slots__ = ("block",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.block: bytes | None = None


class Ingress(msgspec.Struct, frozen=True, gc=False):
    """All that a plugin may know of HTTP. Header names are lower-case bytes, as ASGI gives them; the last one wins."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    peer: str

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.encode("ascii"))
        return None if value is None else value.decode("latin-1")


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who is calling. There is no anonymous principal and no default one: a failure never becomes an identity."""

    key_id: str
    """Public id of the credential (never the credential, never its hash)."""
    role: str
    """`proxy_admin`, or what the identity plugin grants."""
    models: tuple[str, ...]
    """Model groups this caller may use; `("*",)` for all."""
    key_hash: str | None = None
    alias: str | None = None
    user_id: str | None = None
    team_id: str | None = None
    org_id: str | None = None
    tags: tuple[str, ...] = ()
    guardrails: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}

    @property
    def is_admin(self) -> bool:
        return self.role == "proxy_admin"


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


class Deployment(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One entry of `model_list`, resolved: a place where a model group can be served. Compared by identity."""

    id: str
    group: str
    """The `model_name` it was configured under."""
    provider: str
    model: str
    """The model's name at the provider."""
    api_base: str | None = None
    api_key: Secret | None = None
    settings: Any = None
    """The provider's own `Settings`, filled from the keys of `tianji_params` that it declares (`api_version`)."""
    defaults: Mapping[str, Any] = {}
    """Request fields to fill in where the client sent none: every key of `tianji_params` that nobody else knows."""
    extra_headers: Mapping[str, str] = {}
    extra_body: Mapping[str, Any] = {}
    drop: frozenset[str] = frozenset()
    """Request fields never to send (`additional_drop_params`)."""
    weight: float | None = None
    order: int = 0
    rpm: int | None = None
    tpm: int | None = None
    timeout: float | None = None
    stream_timeout: float | None = None
    num_retries: int | None = None
    cooldown_time: float | None = None
    max_parallel_requests: int | None = None
    tags: tuple[str, ...] = ()
    region: str | None = None
    allowed_orgs: frozenset[str] = frozenset()
    allowed_teams: frozenset[str] = frozenset()
    allowed_keys: frozenset[str] = frozenset()
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    price: Price | None = None
    ceiling: tuple[int, int] | None = None
    """What a million tokens in, and a million out, cost at most, in nano-dollars: what reservations use."""
    info: Mapping[str, Any] = {}
    """`model_info` as configured."""


class Wire(msgspec.Struct, frozen=True):
    """One outgoing request, as a provider's `encode` makes it. A dict body becomes JSON; bytes are sent as they are."""

    url: str
    headers: Mapping[str, str] = {}
    body: dict[str, Any] | bytes | None = None
    method: str = "POST"
    framing: str | None = None
    """How to read a streamed answer: `sse`, `json-lines`, `aws-eventstream`. None: the provider's `framing`."""


class Event(msgspec.Struct, frozen=True):
    """One upstream event of a stream, after framing. `data` is decoded JSON where it was JSON, else the text."""

    name: str
    data: Any


class Chunk:
    """A piece of a reply's stream: one or more whole events in the client's dialect.

    `raw` are the bytes to write; `events` their decoded payloads. Each is made from the other on first use, so a
    chunk that nobody looks at is never decoded. `named` dialects (Anthropic's) carry an `event:` line per event.
    """

    __slots__ = ("_events", "_raw", "named")

    def __init__(
        self, raw: bytes | None = None, events: list[dict[str, Any]] | None = None, *, named: bool = False
    ) -> None:
        self._raw = raw
        self._events = events
        self.named = named

    @property
    def raw(self) -> bytes:
        raw = self._raw
        if raw is None:
            raw = self._raw = sse_encode(self._events or (), named=self.named)
        return raw

    @property
    def events(self) -> list[dict[str, Any]]:
        """Decoded payloads; the closing `[DONE]` is not an event. Do not mutate: use `with_events`."""
        events = self._events
        if events is None:
            events = self._events = [decode_json(data) for data in sse_payloads(self._raw or b"")]
        return events

    def with_events(self, events: list[dict[str, Any]]) -> Chunk:
        """The same chunk with other content; a `[DONE]` it carried is kept."""
        done = not self.named and self._raw is not None and b"data: [DONE]" in self._raw[-32:]
        fresh = Chunk(events=events, named=self.named)
        if done:
            fresh._raw = fresh.raw + DONE
        return fresh


DONE = b"data: [DONE]\n\n"


def sse_encode(events: Iterable[dict[str, Any]], *, named: bool = False) -> bytes:
    """Events as server-sent-event frames; `named` adds `event: <type>` from each payload's own `type`."""
    if named:
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (str(event.get("type", "message")).encode(), encode_json(event))
            for event in events
        )
    return b"".join(b"data: %b\n\n" % encode_json(event) for event in events)


def sse_payloads(raw: bytes) -> Iterable[bytes]:
    """The `data:` payloads of whole frames that the gateway itself framed or checked. `[DONE]` is left out."""
    for frame in raw.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line[5:].lstrip(b" ") for line in frame.split(b"\n") if line.startswith(b"data:")]
        if lines:
            data = b"\n".join(lines)
            if data != b"[DONE]":
                yield data


class Reply:
    """An answer on its way to the client, whole or streamed.

    Whole: `raw` are the bytes and `body` the decoded object, each made from the other on first use; assign `body` to
    replace it. Streamed: `stream` yields `Chunk`s; wrap it to see or change them. Both are in the client's dialect.
    """

    __slots__ = (
        "_body", "_raw", "cost", "headers", "media_type", "meter", "model", "source", "status", "stream", "upstream",
        "usage",
    )  # fmt: skip

    def __init__(
        self,
        body: Any = None,
        *,
        raw: bytes | None = None,
        stream: AsyncIterator[Chunk] | None = None,
        status: int = 200,
        headers: dict[str, str] | None = None,
        usage: Usage | None = None,
        source: str = "provider",
        media_type: str = "application/json",
        model: str | None = None,
    ) -> None:
        self._body = body
        self._raw = raw
        self.stream = stream
        self.status = status
        self.headers = headers if headers is not None else {}
        self.usage = usage
        self.cost: Cost | None = None
        self.source = source
        """`provider`, `cache` or `plugin`."""
        self.media_type = media_type
        self.model = model
        """The model's name as the provider gave it."""
        self.meter: Meter | None = None
        """What is known so far of a stream's usage."""
        self.upstream: Closable | None = None
        """The stream's source, whatever has been wrapped around `stream` since."""

    @property
    def raw(self) -> bytes:
        if self._raw is None:
            self._raw = encode_json(self._body)
        return self._raw

    def take(self, raw: bytes, body: Any) -> None:
        """Set bytes and decoded form together; None for a body that nobody has decoded yet."""
        self._raw = raw
        self._body = body

    @property
    def body(self) -> Any:
        if self._body is None and self._raw is not None:
            self._body = decode_json(self._raw)
        return self._body

    @body.setter
    def body(self, value: Any) -> None:
        self._body = value
        self._raw = None


class Meter(Protocol):
    """What a stream has told of itself so far."""

    @property
    def usage(self) -> Usage | None: ...

    model: str | None
    delivered: int
    finished: bool


class Closable(Protocol):
    """The upstream end of a stream."""

    ended: bool

    def close(self) -> None: ...
    async def drain(self) -> None: ...


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


_prefix = urandom(8).hex()
_prefix_pid = getpid()
_serial = count(1)


def new_id() -> str:
    """A process-unique id: 64 random bits per process and a counter. Ten times cheaper than a UUID, as unique."""
    global _prefix, _prefix_pid
    if getpid() != _prefix_pid:
        _prefix, _prefix_pid = urandom(8).hex(), getpid()
    return f"{_prefix}{next(_serial):012x}"


class Call:
    """One client request on its way through the pipeline: the one mutable object.

    `body` is the client's request in the client's own `dialect`. Assign a new dict to rewrite it. `state` is a room
    for plugins, one key per instance name; cross-plugin facts go through services.
    """

    # fmt: off
    __slots__ = (
        "_body", "_undo", "attempts", "call_id", "charge", "chat", "deadline", "dialect", "dropped", "fallbacks",
        "headers", "id", "ingress", "kept", "model", "op", "options", "origin", "principal", "raw", "reply",
        "snapshot", "started", "state", "stream", "strict", "timing", "ttft", "upstream_seconds", "waiting",
        "watched",
    )
    # fmt: on

    def __init__(
        self,
        *,
        ingress: Ingress,
        op: Op,
        dialect: str,
        model: str,
        body: dict[str, Any],
        raw: bytes | None = None,
        stream: bool = False,
        principal: Principal | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = new_id()
        self.call_id = self.id
        """The id that the client knows the call by; its own, when it sent `x-tianji-call-id`."""
        self.ingress = ingress
        self.op = op
        self.dialect = dialect
        self.origin = dialect
        """The dialect that the client speaks; differs from `dialect` in a translated call."""
        self.model = model
        """The model group asked for."""
        self._body = body
        self.raw = raw
        """The request's bytes, as long as `body` still says the same; None once it was rewritten."""
        self.stream = stream
        self.principal: Principal = principal  # type: ignore[assignment]  # set by the pipeline before any hook runs
        self.options: Mapping[str, Any] = options or {}
        """What the request says to the gateway rather than to the model: `num_retries`, `fallbacks`, `tags`, …"""
        self.started = monotonic()
        self.deadline = self.started + 600.0
        self.attempts: list[Attempt] = []
        self.fallbacks = 0
        self.upstream_seconds = 0.0
        self.ttft: float | None = None
        self.strict = False
        self.headers: dict[str, str] | None = None
        self.dropped: tuple[str, ...] = ()
        self.state: dict[str, Any] = {}
        self.timing: list[tuple[str, float]] | None = None
        self.reply: Reply | None = None
        self.snapshot: Any = None
        """The sealed configuration that this call began with."""
        self.charge: Any = None
        """The open reservation; the pipeline's own."""
        self.chat: Call | None = None
        """This call translated to `openai-chat`; made once, when a provider needs it."""
        self.kept: list[bytes] | None = None
        self.watched: list[Awaitable[None]] | None = None
        self.waiting: Any = None
        self._undo: list[Undo] | None = None

    @property
    def body(self) -> dict[str, Any]:
        return self._body

    @body.setter
    def body(self, body: dict[str, Any]) -> None:
        self._body = body
        self.raw = None
        self.chat = None

    def defer(self, fn: Undo) -> None:
        """Run `fn` after the last byte, on failure and when the client leaves. Last deferred runs first."""
        if self._undo is None:
            self._undo = [fn]
        else:
            self._undo.append(fn)

    def watch(self, check: Awaitable[None]) -> None:
        """Run `check` beside the provider call. It is joined before the first byte leaves; a Failure ends the call."""
        if self.watched is None:
            self.watched = [check]
        else:
            self.watched.append(check)

    def take_undo(self) -> Sequence[Undo]:
        """What was deferred, in the order to run it in; empty from then on."""
        undo, self._undo = self._undo, None
        return undo[::-1] if undo else ()

    def remaining(self) -> float:
        """Seconds left until the deadline; never negative."""
        return max(0.0, self.deadline - monotonic())

    def add_header(self, name: str, value: str) -> None:
        """Add a response header (`x-tianji-…`)."""
        if self.headers is None:
            self.headers = {name: value}
        else:
            self.headers[name] = value

    def drop(self, *fields: str) -> None:
        """Name request fields that the translation cannot carry; they end up in `x-tianji-dropped`."""
        fresh = tuple(field for field in fields if field not in self.dropped)
        self.dropped += fresh

    def derive(self, *, body: dict[str, Any], dialect: str, op: Op) -> Call:
        """This call, said in another dialect: same identity, deadline and rooms, another body."""
        child = Call.__new__(Call)
        for name in Call.__slots__:
            setattr(child, name, getattr(self, name))
        child._body = body
        child.raw = None
        child.dialect = dialect
        child.op = op
        child.chat = None
        return child

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.op} {self.model!r} {self.dialect}>"


def failure_record(failure: Failure) -> dict[str, Any]:
    """A failure as a record carries it: the error object and the class that made it."""
    return {"class": type(failure).__name__, "status": failure.status, **failure.body()}
