"""Response cache: exact, in this process's memory, for whole answers and streams, with single flight.

The key is a hash of everything that the answer depends on, the caller included: nobody gets what another was told.
Equal calls at the same time are made once; the others wait for the first. Settings and the controls of a request are
LiteLLM's.

Docs: https://docs.litellm.ai/docs/proxy/caching
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any, Literal

import msgspec

from tianji import (
    BadRequest,
    Call,
    Chunk,
    ConfigError,
    Cost,
    Extension,
    Forbidden,
    Ingress,
    Op,
    PluginSettings,
    Reply,
    ResponseCache,
    Usage,
    hookimpl,
)

TTL = 600.0
TYPES = (None, "local", "memory")
NO_EFFECT = frozenset({"user", "metadata", "stream", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Fields of a body that change nothing in the answer (`stream` is in the key by itself)."""
HEADERS = (b"anthropic-beta", b"anthropic-version")
"""Request headers that change an answer."""
CALL_TYPES = {
    "completion": Op.CHAT, "acompletion": Op.CHAT, "anthropic_messages": Op.CHAT, "text_completion": Op.COMPLETIONS,
    "atext_completion": Op.COMPLETIONS, "embedding": Op.EMBEDDINGS, "aembedding": Op.EMBEDDINGS,
    "transcription": Op.TRANSCRIBE, "atranscription": Op.TRANSCRIBE, "arerank": Op.RERANK, "aresponses": Op.RESPONSES,
}  # fmt: skip
"""LiteLLM's names of ops; Tianji's own are understood too."""
DEFAULT_OPS = (Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS, Op.RERANK, Op.TRANSCRIBE, Op.RESPONSES)
LARGE = 256 * 1024
"""Bytes of a request from which on its key is computed beside the event loop."""
OVERHEAD = 600
"""Bytes that an entry takes besides its content; `CHUNK` for each chunk of a stream."""
CHUNK = 60
_canonical = msgspec.json.Encoder(order="deterministic").encode


class Entry(msgspec.Struct, frozen=True):
    """One stored answer: `chunks` of a stream, or one for a whole answer."""

    chunks: tuple[bytes, ...]
    streamed: bool
    named: bool
    media_type: str
    model: str | None
    usage: Usage | None
    stored: float
    until: float
    size: int


class Policy(msgspec.Struct, frozen=True):
    """What the configuration says. Replaced as a whole on a reload."""

    active: bool = False
    ttl: float = TTL
    namespace: str = ""
    opt_in: bool = False
    max_entries: int = 10_000
    max_bytes: int = 64 * 1024 * 1024
    max_entry_bytes: int = 1024 * 1024
    wait: float = 30.0
    ops: frozenset[Op] = frozenset(DEFAULT_OPS)


class Flight:
    """A call that others wait for. `shared` tells them whether the next one shall try in its place."""

    __slots__ = ("done", "shared")

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.shared = True


class Plan(msgspec.Struct):
    """What is to become of one call's answer."""

    key: bytes
    ttl: float
    flight: Flight | None
    generation: int


class Wishes(msgspec.Struct, frozen=True):
    """What the request says about caching."""

    read: bool = True
    write: bool = True
    ttl: float | None = None
    max_age: float | None = None
    namespace: str = ""
    use: bool = False


NO_WISHES = Wishes()


class CacheMemory(Extension):
    name = "cache-memory"
    order = 400

    class Settings(PluginSettings, frozen=True):
        enabled: bool | None = None
        """On or off. Else it is on where `tianji_settings.cache` is true and `cache_params.type` is absent, `local` or
        `memory`. The other settings are looked for in `cache_params`, too, where they are not given here."""
        ttl: float | None = None
        """Seconds that an answer is kept; 600 where nothing is said."""
        namespace: str | None = None
        """Part of every key."""
        mode: Literal["default_on", "default_off"] | None = None
        """`default_off`: only requests that say `cache: {use-cache: true}` are cached."""
        max_entries: int = 10_000
        """Answers kept at most; the one that was not used for longest goes first."""
        max_bytes: int = 64 * 1024 * 1024
        """Memory that the answers may take."""
        max_entry_bytes: int = 1024 * 1024
        """A longer answer is not kept."""
        single_flight_wait: float = 30.0
        """Seconds that a call waits for an equal one that is under way, before it goes its own way. 0: not at all."""
        supported_call_types: tuple[str, ...] | None = None
        """Ops that are cached, by Tianji's names (`chat`, `embeddings`) or LiteLLM's (`acompletion`). Else chat,
        completions, embeddings, rerank, transcribe and responses."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.policy = Policy()
        self.clock: Callable[[], float] = monotonic
        self.counts = dict.fromkeys(("hits", "misses", "waits", "stored", "evicted", "expired", "too_large"), 0)
        self.bytes = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._flights: dict[bytes, Flight] = {}
        self._generation = 0

    # -- assembly ------------------------------------------------------------------------------------------------------

    @hookimpl
    def configure(self, app: Any) -> None:
        self.policy = policy(self.settings, getattr(app.config, "tianji_settings", None))
        app.add_section("cache_memory", self.Settings)
        if self.policy.active:
            app.provide(ResponseCache, self)
            app.add_route(*self._routes())

    @hookimpl
    async def shutdown(self) -> None:
        await self.flush()

    async def flush(self) -> int:
        """Drop everything; calls under way do not store what they bring. The number of entries dropped."""
        count = len(self._entries)
        self._entries.clear()
        self.bytes = 0
        self._generation += 1
        return count

    def _routes(self) -> tuple[Any, ...]:
        from litestar import Request, get, post

        @get("/cache/ping", summary="The state of the response cache", tags=["cache"])
        async def ping(request: Request[Any, Any, Any]) -> dict[str, Any]:
            await _administrator(request)
            sizes = {"entries": len(self._entries), "bytes": self.bytes, "under_way": len(self._flights)}
            return {"status": "healthy", "cache_type": "memory", **sizes, **self.counts}

        @post("/cache/flushall", summary="Empty the response cache", tags=["cache"], status_code=200)
        async def flush_all(request: Request[Any, Any, Any]) -> dict[str, Any]:
            await _administrator(request)
            return {"status": "success", "dropped": await self.flush()}

        return ping, flush_all

    # -- the hooks of a call -------------------------------------------------------------------------------------------

    @hookimpl
    async def pre_call(self, call: Call) -> Reply | None:
        own = self.policy
        if not own.active or call.op not in own.ops:
            return None
        wishes = wishes_of(call)
        if (own.opt_in and not wishes.use) or not (wishes.read or wishes.write):
            return None
        if _size_of(call) > LARGE:
            key = await asyncio.to_thread(key_of, call, own.namespace, wishes.namespace)
        else:
            key = key_of(call, own.namespace, wishes.namespace)
        call.add_header("x-tianji-cache-key", key.hex())
        ttl = own.ttl if wishes.ttl is None else wishes.ttl
        if wishes.read:
            entry = self._find(key, wishes.max_age)
            if entry is None and wishes.write and own.wait > 0:
                flight = Flight()
                entry = await self._lead_or_wait(call, key, flight, wishes.max_age)
                if entry is None:
                    self.counts["misses"] += 1
                    led = self._flights.get(key) is flight
                    call.state[self.instance] = Plan(key, ttl, flight if led else None, self._generation)
                    return None
            if entry is not None:
                self.counts["hits"] += 1
                return self._reply(entry)
            self.counts["misses"] += 1
        if wishes.write:
            call.state[self.instance] = Plan(key, ttl, None, self._generation)
        return None

    @hookimpl
    async def post_call(self, call: Call, reply: Reply) -> Reply | None:
        plan: Plan | None = call.state.get(self.instance)
        if plan is None:
            return None
        if reply.status != 200 or reply.source != "provider":
            self._land(plan, shared=False)
            return None
        if reply.stream is not None:
            reply.stream = Recorder(self, plan, reply)
            return reply
        if whole(reply):
            self._keep(plan, (reply.raw,), reply, streamed=False, named=False)
        self._land(plan, shared=False)
        return None

    # -- single flight -------------------------------------------------------------------------------------------------

    async def _lead_or_wait(self, call: Call, key: bytes, flight: Flight, max_age: float | None) -> Entry | None:
        """Put `flight` up as the one that others wait for, or wait for the one that is under way.

        The entry that was waited for; None: make the call, either as the leader or, after too long a wait or an answer
        that cannot be kept, without anybody waiting. A leader that fails or leaves hands over to the next in the line.
        """
        until = min(asyncio.get_running_loop().time() + self.policy.wait, _loop_deadline(call))
        while (other := self._flights.get(key)) is not None:
            self.counts["waits"] += 1
            try:
                async with asyncio.timeout_at(until):
                    await other.done.wait()
            except TimeoutError:
                return None
            entry = self._find(key, max_age)
            if entry is not None or not other.shared:
                return entry
        self._flights[key] = flight
        plan = Plan(key, 0.0, flight, 0)

        async def release() -> None:
            self._land(plan, shared=True)

        call.defer(release)
        return None

    def _land(self, plan: Plan, *, shared: bool) -> None:
        """The leader has come to its end. `shared`: it brought nothing, and one of those that wait is to try again."""
        flight = plan.flight
        if flight is None or flight.done.is_set():
            return
        if self._flights.get(plan.key) is flight:
            del self._flights[plan.key]
        flight.shared = shared
        flight.done.set()

    # -- the store -----------------------------------------------------------------------------------------------------

    def _find(self, key: bytes, max_age: float | None = None) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self.clock()
        if entry.until <= now:
            self._drop(key)
            self.counts["expired"] += 1
            return None
        if max_age is not None and now - entry.stored > max_age:
            return None
        self._entries.move_to_end(key)
        return entry

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key).size

    def _keep(self, plan: Plan, chunks: tuple[bytes, ...], reply: Reply, *, streamed: bool, named: bool) -> None:
        size = OVERHEAD + sum(map(len, chunks)) + CHUNK * len(chunks)
        own = self.policy
        if size > min(own.max_entry_bytes, own.max_bytes):
            self.counts["too_large"] += 1
            return
        if plan.generation != self._generation:
            return
        now = self.clock()
        usage = reply.usage if reply.usage is not None else reply.meter.usage if reply.meter is not None else None
        entry = Entry(
            chunks, streamed, named, reply.media_type, reply.model, usage, now, now + plan.ttl, size
        )  # fmt: skip
        if plan.key in self._entries:
            self._drop(plan.key)
        self._entries[plan.key] = entry
        self.bytes += size
        self.counts["stored"] += 1
        while len(self._entries) > own.max_entries or self.bytes > own.max_bytes:
            self._drop(next(iter(self._entries)))
            self.counts["evicted"] += 1

    def _reply(self, entry: Entry) -> Reply:
        """A stored answer. It costs nothing, and its usage is what the first caller was told."""
        headers = {"x-cache": "HIT", "age": str(int(self.clock() - entry.stored))}
        if entry.streamed:
            reply = Reply(stream=Replay(entry), headers=headers, usage=entry.usage, source="cache", model=entry.model)
        else:
            reply = Reply(
                raw=entry.chunks[0], headers=headers, usage=entry.usage, source="cache", model=entry.model,
                media_type=entry.media_type,
            )  # fmt: skip
        reply.cost = Cost(0)
        return reply


class Recorder:
    """A stream on its way to the client, kept as it passes. It is stored when it has come to its proper end."""

    def __init__(self, cache: CacheMemory, plan: Plan, reply: Reply) -> None:
        assert reply.stream is not None
        self._cache = cache
        self._plan = plan
        self._reply = reply
        self._stream: AsyncIterator[Chunk] = reply.stream
        self._chunks: list[bytes] = []
        self._room = cache.policy.max_entry_bytes
        self._named = False

    def __aiter__(self) -> "Recorder":
        return self

    async def __anext__(self) -> Chunk:
        try:
            chunk = await self._stream.__anext__()
        except StopAsyncIteration:
            self._end()
            raise
        except BaseException:
            self._cache._land(self._plan, shared=True)
            raise
        if self._room > 0:
            raw = chunk.raw
            self._named = chunk.named
            self._room -= len(raw) + CHUNK
            if self._room > 0:
                self._chunks.append(raw)
            else:  # too long to keep: those that wait need not do so any longer
                self._chunks.clear()
                self._cache.counts["too_large"] += 1
                self._cache._land(self._plan, shared=False)
        return chunk

    def _end(self) -> None:
        meter = self._reply.meter
        if self._chunks and (meter is None or meter.finished):
            self._cache._keep(self._plan, tuple(self._chunks), self._reply, streamed=True, named=self._named)
        self._chunks.clear()
        self._cache._land(self._plan, shared=False)

    async def aclose(self) -> None:
        """Left before the end: nothing is stored, and the stream below is closed."""
        self._chunks.clear()
        self._room = 0
        self._cache._land(self._plan, shared=True)
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


class Replay:
    """A stored stream, chunk by chunk as it once came."""

    def __init__(self, entry: Entry) -> None:
        self._chunks = iter(entry.chunks)
        self._named = entry.named

    def __aiter__(self) -> "Replay":
        return self

    async def __anext__(self) -> Chunk:
        for raw in self._chunks:
            return Chunk(raw, named=self._named)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._chunks = iter(())


# -- what a call says --------------------------------------------------------------------------------------------------


def key_of(call: Call, namespace: str = "", own_namespace: str = "") -> bytes:
    """A hash of everything that the answer depends on.

    That is the caller and what the caller may use, the configuration, the dialect, the model group, the tags (they
    choose deployments), and the body without the fields that change nothing.
    """
    caller, body = call.principal, call.body
    if not NO_EFFECT.isdisjoint(body):
        body = {name: value for name, value in body.items() if name not in NO_EFFECT}
    config = getattr(call.snapshot, "config", None)
    headers = call.ingress.headers
    identity = (
        namespace, own_namespace, getattr(config, "fingerprint", ""),
        caller.key_id, caller.user_id, caller.team_id, caller.org_id, caller.role, caller.models,
        call.dialect, call.op, call.model, call.stream, call.strict, call.options.get("tags"),
        [str(headers.get(name)) for name in HEADERS],
    )  # fmt: skip
    return hashlib.sha256(_canonical((identity, body))).digest()


def wishes_of(call: Call) -> Wishes:
    """The request's `cache` object, its `caching` and its `Cache-Control`. Raises `BadRequest`."""
    options = call.options
    said: dict[str, Any] = options.get("cache") or {}
    header = call.ingress.headers.get(b"cache-control")
    if not said and header is None and "caching" not in options and "mock_response" not in options:
        return NO_WISHES
    directives = (header or b"").decode("latin-1").lower()
    named = {part.partition("=")[0].strip(): part.partition("=")[2].strip() for part in directives.split(",")}
    age = named.get("s-maxage", "")
    off = options.get("caching") is False or "mock_response" in options
    namespace = said.get("namespace", "")
    if not isinstance(namespace, str):
        raise BadRequest("Invalid type for 'cache.namespace': expected a string.", param="cache.namespace")
    return Wishes(
        read=not (off or _flag(said, "no-cache") or "no-cache" in named or "no-store" in named),
        write=not (off or _flag(said, "no-store") or "no-store" in named),
        ttl=_seconds(said, "ttl"),
        max_age=_seconds(said, "s-maxage") if "s-maxage" in said else float(age) if age.isdecimal() else None,
        namespace=namespace,
        use=_flag(said, "use-cache") or options.get("caching") is True,
    )


def _flag(said: dict[str, Any], name: str) -> bool:
    value = said.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"Invalid type for 'cache.{name}': expected a boolean.", param=f"cache.{name}")
    return value is True


def _seconds(said: dict[str, Any], name: str) -> float | None:
    value = said.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 10**9:
        raise BadRequest(f"Invalid 'cache.{name}': expected a number of seconds.", param=f"cache.{name}")
    return float(value)


def _size_of(call: Call) -> int:
    if call.raw is not None:
        return len(call.raw)
    length = call.ingress.headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else LARGE + 1


def _loop_deadline(call: Call) -> float:
    return asyncio.get_running_loop().time() + call.remaining()


def whole(reply: Reply) -> bool:
    """Whether a whole answer is worth keeping: no error in it, and finished."""
    if reply.media_type != "application/json":
        return True
    body = reply.body
    if type(body) is not dict or body.get("error"):
        return False
    return not any(type(one) is dict and one.get("finish_reason") == "error" for one in body.get("choices") or ())


def policy(settings: CacheMemory.Settings, tianji: Any) -> Policy:
    """The settings of the section, over those of `tianji_settings.cache_params`. Raises `ConfigError`."""
    params: dict[str, Any] = getattr(tianji, "cache_params", None) or {}
    ours = params.get("type") in TYPES
    active = bool(getattr(tianji, "cache", False)) and ours if settings.enabled is None else settings.enabled
    if not active:
        return Policy()
    params = params if ours else {}
    ttl = settings.ttl
    if ttl is None:
        ttl = _number(params, "ttl", _number(params, "default_in_memory_ttl", TTL))
    mode = settings.mode or params.get("mode") or "default_on"
    if mode not in ("default_on", "default_off"):
        raise ConfigError(f"{mode!r} is neither default_on nor default_off", path="tianji_settings.cache_params.mode")
    if min(ttl, settings.max_entries, settings.max_bytes, settings.max_entry_bytes) <= 0:
        raise ConfigError("ttl, max_entries, max_bytes and max_entry_bytes must be more than 0", path="cache_memory")
    types = settings.supported_call_types
    if types is None:
        types = tuple(params.get("supported_call_types") or DEFAULT_OPS)
    namespace = settings.namespace if settings.namespace is not None else str(params.get("namespace") or "")
    return Policy(
        True, ttl, namespace, mode == "default_off", settings.max_entries, settings.max_bytes,
        settings.max_entry_bytes, settings.single_flight_wait, frozenset(map(_op, types)),
    )  # fmt: skip


def _number(params: dict[str, Any], name: str, default: float) -> float:
    value = params.get(name)
    if value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError("expected seconds", path=f"tianji_settings.cache_params.{name}") from None


def _op(name: str) -> Op:
    try:
        return CALL_TYPES.get(name) or Op(name)
    except ValueError:
        known = ", ".join([*Op, *CALL_TYPES])
        raise ConfigError(f"{name!r} is no op; known: {known}", path="supported_call_types") from None


async def _administrator(request: Any) -> None:
    scope = request.scope
    peer = request.client.host if request.client else ""
    ingress = Ingress(scope["method"], scope["path"], dict(scope["headers"]), peer)
    if not (await request.app.state.gateway.pipeline.identify(ingress)).is_admin:
        raise Forbidden("Only an administrator may do this.")
