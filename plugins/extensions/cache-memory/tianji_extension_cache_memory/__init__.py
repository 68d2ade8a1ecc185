"""Response cache: exact, in this process's memory, for whole answers and streams, with single flight.

The key is a hash of everything that the answer depends on, the caller included: nobody gets what another was told.
Equal calls at the same time are made once; the others wait for the first. Settings and the controls of a request are
LiteLLM's.

Docs: https://docs.litellm.ai/docs/proxy/caching
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec

from tianji import Call, Chunk, Extension, Forbidden, Ingress, PluginSettings, Reply, ResponseCache, hookimpl
from tianji_extension_cache_memory.policy import CacheSettings, Policy, policy
from tianji_extension_cache_memory.request import NO_WISHES, Wishes, key_of, wishes_of
from tianji_extension_cache_memory.store import CHUNK, Entry, Store

LARGE = 256 * 1024
"""Bytes of a request from which on its key is computed beside the event loop."""


class Flight:
    """A call that others wait for. `retry` tells them whether one of them shall try in its place."""

    __slots__ = ("done", "retry")

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.retry = True


class Plan(msgspec.Struct, frozen=True):
    """What is to become of one call's answer."""

    key: bytes
    ttl: float
    generation: int
    flight: Flight | None = None
    """Set where the call leads and others may wait for it."""


class CacheMemory(Extension):
    name = "cache-memory"
    order = 400
    Settings: ClassVar[type[PluginSettings]] = CacheSettings

    settings: CacheSettings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.policy = Policy()
        self.store = Store()
        self._flights: dict[bytes, Flight] = {}

    # -- assembly ------------------------------------------------------------------------------------------------------

    @hookimpl
    def configure(self, app: Any) -> None:
        self.policy = policy(self.settings, getattr(app.config, "tianji_settings", None))
        app.add_section("cache_memory", CacheSettings)
        self.active = self.policy.active
        if self.policy.active:
            app.provide(ResponseCache, self)
            app.add_route(*self._routes())
        else:
            self.store.flush()

    @hookimpl
    async def shutdown(self) -> None:
        self.store.flush()

    async def flush(self) -> int:
        """Drop everything; calls under way do not store what they bring."""
        return self.store.flush()

    def _routes(self) -> tuple[Any, ...]:
        from litestar import Request, get, post

        @get("/cache/ping", summary="The state of the response cache", tags=["cache"])
        async def ping(request: Request[Any, Any, Any]) -> dict[str, Any]:
            await _administrator(request)
            sizes = {"entries": len(self.store), "bytes": self.store.bytes, "under_way": len(self._flights)}
            return {"status": "healthy", "cache_type": "memory", **sizes, **self.store.counts}

        @post("/cache/flushall", summary="Empty the response cache", tags=["cache"], status_code=200)
        async def flush_all(request: Request[Any, Any, Any]) -> dict[str, Any]:
            await _administrator(request)
            return {"status": "success", "dropped": await self.flush()}

        return ping, flush_all

    # -- the hooks of a call -------------------------------------------------------------------------------------------

    @hookimpl
    async def pre_call(self, call: Call) -> Reply | None:
        own = self.policy
        wishes, left_out = self._wishes(call)
        if left_out:
            return None
        key = await self._key(call, own.namespace, wishes.namespace)
        if key is None:
            return None
        call.add_header("x-tianji-cache-key", key.hex())
        flight: Flight | None = None
        if wishes.read:
            entry = self.store.find(key, wishes.max_age)
            if entry is None and wishes.write and own.wait > 0:
                entry, flight = await self._wait_or_lead(call, key, wishes.max_age)
            if entry is not None:
                return await self._hit(call, entry)
            self.store.counts["misses"] += 1
        if wishes.write:
            ttl = own.ttl if wishes.ttl is None else wishes.ttl
            call.state[self.instance] = Plan(key, ttl, self.store.generation, flight)
        return None

    @hookimpl
    async def post_call(self, call: Call, reply: Reply) -> Reply | None:
        plan: Plan | None = call.state.get(self.instance)
        if plan is None:
            return None
        if reply.status == 200 and reply.source == "provider":
            if reply.stream is not None:
                reply.stream = Recorder(self, plan, reply)
                return reply
            if is_good(reply):
                self.keep(plan, self.store.entry((reply.raw,), reply, plan.ttl))
        self.land(plan.key, plan.flight, retry=False)
        return None

    def explain(self, call: Call) -> dict[str, Any]:
        """The key, and whether it would be looked up and the answer kept; never an answer."""
        wishes, why = self._wishes(call)
        if why:
            return {"looks_up": False, "keeps": False, "why": why}
        if _size_of(call) > LARGE:
            return {"looks_up": wishes.read, "keeps": wishes.write, "why": "its key is not computed here: too large"}
        try:
            key = key_of(call, self.policy.namespace, wishes.namespace)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return {"looks_up": False, "keeps": False, "why": "the body cannot be written down"}
        hit = wishes.read and self.store.has(key, wishes.max_age)
        return {"key": key.hex(), "looks_up": wishes.read, "keeps": wishes.write and not hit, "hit": hit}

    def _wishes(self, call: Call) -> tuple[Wishes, str]:
        """The request's wishes, and why the cache has nothing to do with the call (empty where it has)."""
        own = self.policy
        if not own.active:
            return NO_WISHES, "the cache is off"
        if call.op not in own.ops:
            return NO_WISHES, "calls of this op are not cached"
        wishes = wishes_of(call)
        if own.opt_in and not wishes.use:
            return wishes, "only requests that say `use-cache` are cached"
        return wishes, "" if wishes.read or wishes.write else "the request leaves the cache out"

    async def _key(self, call: Call, namespace: str, wished: str) -> bytes | None:
        """The call's key; None for a body that cannot be written down."""
        try:
            if _size_of(call) > LARGE:
                return await asyncio.to_thread(key_of, call, namespace, wished)
            return key_of(call, namespace, wished)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None

    async def _hit(self, call: Call, entry: Entry) -> Reply:
        # Checks that were to run beside the provider would be forgotten, as there is no provider call.
        watched, call.watched = call.watched or [], None
        try:
            while watched:
                await watched.pop(0)
        finally:
            for check in watched:
                check.close()  # type: ignore[attr-defined]  # a coroutine, in all that the kernel puts there
        self.store.counts["hits"] += 1
        return self.store.reply(entry)

    def keep(self, plan: Plan, entry: Entry) -> None:
        own = self.policy
        if entry.size > min(own.max_entry_bytes, own.max_bytes):
            self.store.counts["too_large"] += 1
        elif plan.generation == self.store.generation:
            self.store.keep(plan.key, entry, max_entries=own.max_entries, max_bytes=own.max_bytes)

    # -- single flight -------------------------------------------------------------------------------------------------

    async def _wait_or_lead(self, call: Call, key: bytes, max_age: float | None) -> tuple[Entry | None, Flight | None]:
        """The entry that was waited for, or the flight that this call now leads.

        Neither: the call goes its own way, after too long a wait, or because the answer that it waited for could not
        be kept. A leader that fails or leaves hands over to the next in the line.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + min(self.policy.wait, call.remaining())
        while (other := self._flights.get(key)) is not None:
            self.store.counts["waits"] += 1
            try:
                async with asyncio.timeout_at(until):
                    await other.done.wait()
            except TimeoutError:
                return None, None
            entry = self.store.find(key, max_age)
            if entry is not None or not other.retry:
                return entry, None
        flight = self._flights[key] = Flight()

        async def release() -> None:
            self.land(key, flight, retry=True)

        call.defer(release)
        return None, flight

    def land(self, key: bytes, flight: Flight | None, *, retry: bool) -> None:
        """A leader has come to its end. `retry`: it brought nothing, and one of those that wait is to try again."""
        if flight is None or flight.done.is_set():
            return
        del self._flights[key]
        flight.retry = retry
        flight.done.set()


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
            self._leave(retry=True)
            raise
        if self._room > 0:
            raw = chunk.raw
            self._named = chunk.named
            self._chunks.append(raw)
            self._room -= len(raw) + CHUNK
            if self._room <= 0:  # those that wait need not do so any longer
                self._cache.store.counts["too_large"] += 1
                self._leave(retry=False)
        return chunk

    def _end(self) -> None:
        meter, plan = self._reply.meter, self._plan
        if self._chunks and (meter is None or meter.finished):
            chunks = tuple(self._chunks)
            entry = self._cache.store.entry(chunks, self._reply, plan.ttl, streamed=True, named=self._named)
            self._cache.keep(plan, entry)
        self._leave(retry=False)

    def _leave(self, *, retry: bool) -> None:
        self._chunks.clear()
        self._room = 0
        self._cache.land(self._plan.key, self._plan.flight, retry=retry)

    async def aclose(self) -> None:
        """Left before the end: nothing is stored, and the stream below is closed."""
        self._leave(retry=True)
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


def is_good(reply: Reply) -> bool:
    """Whether a whole answer is worth keeping: no error in it, and finished."""
    if reply.media_type != "application/json":
        return True
    try:
        body = reply.body
    except ValueError:
        return False
    if type(body) is not dict or body.get("error"):
        return False
    return not any(type(one) is dict and one.get("finish_reason") == "error" for one in body.get("choices") or ())


def _size_of(call: Call) -> int:
    """Bytes of the request, as it came."""
    if call.raw is not None:
        return len(call.raw)
    length = call.ingress.headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else LARGE + 1


async def _administrator(request: Any) -> None:
    scope = request.scope
    peer = request.client.host if request.client else ""
    ingress = Ingress(scope["method"], scope["path"], dict(scope["headers"]), peer)
    if not (await request.app.state.gateway.pipeline.identify(ingress)).is_admin:
        raise Forbidden("Only an administrator may do this.")
