"""The data that moves through the gateway: eleven small types, and the words that the rest of the code uses.

`Call` is the only mutable object that stages share. Everything that leaves the request path (`Attempt`, `Record`,
`Entry`, in `records`) is frozen. Bodies stay plain dicts, so that fields nobody here has heard of pass through. The
answer's types are in `reply`; everything is imported from here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from itertools import count
from os import register_at_fork, urandom
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from tianji.chance import Dice, seed_of
from tianji.records import UNKNOWN_COST, Attempt, Cost, Entry, Record, Usage, failure_record
from tianji.reply import DONE, Chunk, Closable, Meter, Reply, decode_json, encode_json, sse_encode, sse_payloads

if TYPE_CHECKING:
    from tianji.pricefile import Price

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
    max_budget: float | None = None
    """Dollars that may be spent here in a `budget_duration`; a routing filter sees to that."""
    budget_duration: str | None = None
    """As written: `1d`, `1mo`. None: for ever."""
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


_prefix = urandom(8).hex()
_serial = count(1)


def _fresh_prefix() -> None:
    global _prefix  # noqa: PLW0603 - a forked worker must not repeat its parent's ids
    _prefix = urandom(8).hex()


register_at_fork(after_in_child=_fresh_prefix)


def new_id() -> str:
    """A process-unique id: 64 random bits per process and a counter. Ten times cheaper than a UUID, as unique."""
    return f"{_prefix}{next(_serial):012x}"


class Call:
    """One client request on its way through the pipeline: the one mutable object.

    `body` is the client's request in the client's own `dialect`. Assign a new dict to rewrite it. `state` is a room
    for plugins, one key per instance name; cross-plugin facts go through services.
    """

    # What most calls never touch is a default of the class: an instance of forty attributes is slow to make.
    fallbacks: int = 0
    upstream_seconds: float = 0.0
    ttft: float | None = None
    tokens: int | None = None
    """Input tokens as estimated from the body (`estimate_input`); None until somebody asks."""
    strict: bool = False
    headers: dict[str, str] | None = None
    dropped: tuple[str, ...] = ()
    timing: list[tuple[str, float]] | None = None
    reply: Reply | None = None
    snapshot: Any = None
    """The sealed configuration that this call began with."""
    charge: Any = None
    """The open reservation; the pipeline's own."""
    chat: Call | None = None
    """This call translated to `openai-chat`; made once, when a provider needs it."""
    kept: list[bytes] | None = None
    watched: list[Awaitable[None]] | None = None
    seed: int | None = None
    """Of the dice; None until they are thrown, unless the request names one."""
    plan: Any = None
    """Where the route is written down, when somebody asked for an explanation."""
    dry: bool = False
    """The call is only explained: nothing may be taken, waited for or sent on its account."""
    _dice: Dice | None = None
    _undo: list[Undo] | None = None

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
        self.id = self.call_id = new_id()
        """`call_id` is the one that the client knows the call by; its own, when it sent `x-tianji-call-id`."""
        self.ingress = ingress
        self.op = op
        self.dialect = self.origin = dialect
        """`origin` is the dialect that the client speaks; it differs from `dialect` in a translated call."""
        self.model = model
        """The model group asked for."""
        self._body = body
        self.raw = raw
        """The request's bytes, as long as `body` still says the same; None once it was rewritten."""
        self.stream = stream
        self.principal: Principal = principal  # type: ignore[assignment]  # set by the pipeline before any hook runs
        self.options: Mapping[str, Any] = options if options is not None else {}
        """What the request says to the gateway rather than to the model: `num_retries`, `fallbacks`, `tags`, …"""
        self.started = monotonic()
        self.deadline = self.started + 600.0
        self.attempts: list[Attempt] = []
        self.state: dict[str, Any] = {}

    @property
    def dice(self) -> Dice:
        """The call's own chance. What is thrown with it can be repeated from `seed`."""
        if self._dice is None:
            if self.seed is None:
                self.seed = seed_of(self.id)
            self._dice = Dice(self.seed)
        return self._dice

    @property
    def body(self) -> dict[str, Any]:
        return self._body

    @body.setter
    def body(self, body: dict[str, Any]) -> None:
        self._body = body
        self.raw = self.tokens = self.chat = None

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
        """All that was deferred, in the order to run it in; nothing is left then. For tests."""
        return tuple(iter(self.next_undo, None))

    def next_undo(self) -> Undo | None:
        """The next deferred step to run, the last deferred first; None when none is left."""
        return self._undo.pop() if self._undo else None

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
        child.__dict__.update(self.__dict__)
        child._body = body
        child.raw = child.tokens = None
        child.dialect = dialect
        child.op = op
        child.chat = None
        return child

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.op} {self.model!r} {self.dialect}>"


__all__ = [
    "DONE",
    "UNKNOWN_COST",
    "Attempt",
    "Call",
    "Chunk",
    "Closable",
    "Cost",
    "Deployment",
    "Entry",
    "Event",
    "Headers",
    "Ingress",
    "Meter",
    "Op",
    "Principal",
    "Record",
    "Reply",
    "Secret",
    "Undo",
    "Usage",
    "Wire",
    "decode_json",
    "encode_json",
    "failure_record",
    "new_id",
    "sse_encode",
    "sse_payloads",
]
