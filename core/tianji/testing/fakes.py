"""`FakeGateway` and `FakeAssembly`: what a plugin is given in a test in place of the running gateway.

    gateway = FakeGateway()
    gateway.answer(503, b"busy")                 # for the next request; `gateway.handler = fn` answers all of them
    plugin = Webhook(settings, instance="webhook", gateway=gateway)
    with pytest.raises(Exception): await plugin.export([make_record()])
    assert gateway.requests[0].json()[0]["status"] == "success"

A request that nothing was scripted for is sent when its address is loopback (`Upstream`), and fails the test otherwise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from tianji.errors import Failure, PluginError, Unavailable
from tianji.health_state import GatewayHealth
from tianji.ledger import MemoryLedger
from tianji.memory import MemoryCounters, MemoryKV
from tianji.model import Call, Chunk, Deployment, Reply, Wire, decode_json, encode_json
from tianji.services import KV, OFFERED_BY, Assembly, Counters, Ledger
from tianji.testing.clock import FakeClock

if TYPE_CHECKING:
    import httpx

    from tianji.providers import HTTPProvider

T = TypeVar("T")


class Sent(msgspec.Struct, frozen=True):
    """One request that left through the fake. Header names are lower-case."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return decode_json(self.body)


class Answer(msgspec.Struct, frozen=True):
    """What a scripted peer says."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = MappingProxyType({"content-type": "application/json"})


Handler = Callable[[Sent], Answer]
"""Answers requests; may raise what a connection would (`ConnectionError`, `TimeoutError`)."""


class Job(msgspec.Struct, frozen=True):
    """A background job that was asked for. `seconds` is None for a one-off."""

    name: str
    seconds: float | None
    run: Callable[[], Awaitable[None]]


class FakeGateway:
    """A `GatewayAPI` in which nothing happens by itself.

    Args:
        config: What `gateway.config` is to be.
        services: Implementations by Protocol. KV, Counters and Ledger are the kernel's own where nothing else is given.
        clock: What KV and Counters go by.
    """

    def __init__(
        self, config: Any = None, *, services: Mapping[type[Any], Any] | None = None, clock: FakeClock | None = None
    ) -> None:
        self.config: Any = {} if config is None else config
        self.clock = clock or FakeClock()
        self.services: dict[type[Any], Any] = {
            KV: MemoryKV(clock=self.clock),
            Counters: MemoryCounters(clock=self.clock),
            Ledger: MemoryLedger(),
            **(services or {}),
        }
        self.requests: list[Sent] = []
        """Everything that was sent, in order, scripted or not."""
        self.handler: Handler | None = None
        self.jobs: list[Job] = []
        """What `every` was given; `await job.run()` is one turn."""
        self.needed: set[type[Any]] = set()
        self.asked: list[Call] = []
        """What was given to `ask`, in order."""
        self.replies: deque[Reply | Failure] = deque()
        """What `ask` answers, one after the other."""
        self.known = GatewayHealth((), retries_left=20.0, retries_denied=0)
        """What `health` answers."""
        self._answers: deque[Answer | Exception] = deque()
        self._spawned: list[tuple[str, Awaitable[None]]] = []
        self._http: httpx.AsyncClient | None = None

    # -- for the test --------------------------------------------------------------------------------------------------

    def answer(self, status: int = 200, body: bytes | Any = b"{}", headers: Mapping[str, str] | None = None) -> None:
        """Script the next answer; a body that is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else encode_json(body)
        self._answers.append(Answer(status, raw, headers or {"content-type": "application/json"}))

    def fail(self, error: Exception) -> None:
        """Let the next request end in `error` instead of an answer."""
        self._answers.append(error)

    def provide(self, service: type[T], implementation: T) -> None:
        self.services[service] = implementation

    async def ask(self, call: Call) -> Reply:
        """The next of `replies`; a `Failure` is raised, and so is `Unavailable` where none is left."""
        self.asked.append(call)
        reply = self.replies.popleft() if self.replies else Unavailable("No reply was scripted.")
        if isinstance(reply, Failure):
            raise reply
        return reply

    async def run_spawned(self) -> None:
        """Run what `spawn` collected, to its end, in order."""
        while self._spawned:
            await self._spawned.pop(0)[1]

    async def aclose(self) -> None:
        """Drop jobs that were never run and close the client."""
        for _, job in self._spawned:
            if asyncio.iscoroutine(job):
                job.close()  # never awaited on purpose; without this Python warns
        self._spawned.clear()
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def __aenter__(self) -> FakeGateway:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- for the plugin: GatewayAPI ------------------------------------------------------------------------------------

    @property
    def http(self) -> httpx.AsyncClient:
        if self._http is None:
            from tianji.testing.fake_http import client

            self._http = client(self)
        return self._http

    def need(self, service: type[T]) -> T:
        self.needed.add(service)
        found = self.services.get(service)
        if found is None:
            offers = ", ".join(OFFERED_BY.get(service, ())) or "no distribution of this repository"
            raise PluginError(f"nothing provides {service.__name__} (offered by: {offers})")
        return found  # type: ignore[no-any-return]

    async def fetch(self, wire: Wire, *, timeout: float = 30.0) -> tuple[int, Mapping[str, str], bytes]:
        body = wire.body if isinstance(wire.body, bytes) else b"" if wire.body is None else encode_json(wire.body)
        headers = {name.lower(): value for name, value in wire.headers.items()}
        answer = self.scripted(Sent(wire.method, wire.url, headers, body))
        if answer is not None:
            return answer.status, answer.headers, answer.body
        response = await self.http.request(
            wire.method,
            wire.url,
            content=body,
            headers=headers,
            timeout=timeout,
            extensions={"tianji_recorded": True},
        )
        return response.status_code, dict(response.headers), response.content

    async def exchange(self, provider: HTTPProvider, call: Call, deployment: Deployment) -> Reply:
        """One attempt, read to its end before the reply is returned: the order of I/O is not what a fake can show."""
        from tianji.testing.goldens import decode_body, read_stream, whole_answer

        wire = provider.encode(call, deployment)
        if provider.authorizes:
            wire = await provider.authorize(wire, deployment)
        status, _, body = await self.fetch(wire)
        if status >= 400:
            raise provider.failure(status, decode_body(body))
        if call.stream:
            chunks = read_stream(provider, call, body, framing=wire.framing)
            return Reply(stream=_replay(chunks), media_type="text/event-stream")
        return Reply(provider.decode(call, whole_answer(body)))

    def health(self) -> GatewayHealth:
        return self.known

    def spawn(self, job: Awaitable[None], *, name: str) -> None:
        self._spawned.append((name, job))

    def every(self, seconds: float, fn: Callable[[], Awaitable[None]], *, name: str) -> None:
        self.jobs.append(Job(name, seconds, fn))

    # -- how requests are answered -------------------------------------------------------------------------------------

    def scripted(self, sent: Sent) -> Answer | None:
        """Note a request and answer it from the script. None: it may really be sent, as it goes to loopback."""
        self.requests.append(sent)
        if self._answers:
            answer = self._answers.popleft()
            if isinstance(answer, Exception):
                raise answer
            return answer
        if self.handler is not None:
            return self.handler(sent)
        host = urlsplit(sent.url).hostname or ""
        if host in ("127.0.0.1", "::1", "localhost"):
            return None
        raise AssertionError(
            f"nothing was scripted for {sent.method} {host}; call gateway.answer(...), set gateway.handler, or send "
            "the plugin to an Upstream"
        )


async def _replay(chunks: list[dict[str, Any]]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield Chunk(events=[chunk])


class FakeAssembly(Assembly):
    """What `configure` is given. Keeps what was added, for the test to look at."""

    def __init__(self, config: Any = None) -> None:
        self.config = {} if config is None else config
        self.provided: dict[type[Any], Any] = {}
        self.routes: list[Any] = []
        self.commands: list[Any] = []
        self.sections: dict[str, type[Any]] = {}

    def provide(self, service: type[T], implementation: T) -> None:
        if service in self.provided:
            raise PluginError(f"{service.__name__} is provided twice")
        self.provided[service] = implementation

    def add_route(self, *handlers: Any) -> None:
        self.routes.extend(handlers)

    def add_command(self, command: Any) -> None:
        self.commands.append(command)

    def add_section(self, name: str, schema: type[Any]) -> None:
        self.sections[name] = schema
