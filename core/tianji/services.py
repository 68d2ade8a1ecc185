"""Services: what extensions provide to one another and to the kernel, as Protocols.

An extension offers one with `app.provide(KV, self)` in `configure` and asks for one with `gateway.need(KV)`. Where
nobody offers a service the kernel's own default is used, if there is one (`Ledger`, `KV`, `Counters`: in memory);
otherwise the start stops and names the distributions that offer it (`OFFERED_BY`). `KV` and `Counters` are a file that
all workers share where there are several (`tianji.sqlite`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import httpx

    from tianji.health_state import GatewayHealth
    from tianji.model import Call, Deployment, Entry, Principal, Reply, Wire

T = TypeVar("T")


@runtime_checkable
class Ledger(Protocol):
    """The spend ledger. Entries are immutable; balances are sums of entries."""

    async def reserve(self, entry: Entry, principal: Principal) -> None:
        """Hold `entry.nano` (an upper bound; None: price unknown) before the request goes out.

        Raises `OverBudget` where a hard budget of the caller cannot carry it. Writing the same id twice is a no-op.
        """

    async def settle(self, entry: Entry) -> None:
        """Replace the hold of the same call and attempt by what it cost (`settle`) or by nothing (`void`).

        Exactly one of the two follows every `reserve`. Never raises for an unknown hold; the same id twice is a no-op.
        """

    def spend(self, key_id: str) -> int:
        """What a key has spent so far, in nano-dollars, without I/O."""


@runtime_checkable
class KV(Protocol):
    """Bytes by key, with a time to live. A miss is None.

    A cache, not an archive: what is there may be gone before its time. Any string is a key, any bytes a value. A store
    that cannot be reached raises nothing: each process then goes by its own memory, as long as that lasts. A store that
    only one process sees says so with a class attribute `shared = False`.
    """

    async def get(self, key: str) -> bytes | None: ...
    async def many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of several keys, in their order, by one request to the store."""

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Keep a value for `ttl` seconds. None: until room is needed; 0 or less: not at all. The last writer wins."""

    async def delete(self, *keys: str) -> int:
        """Drop keys; how many of them were there."""


@runtime_checkable
class Counters(Protocol):
    """Shared counters over a sliding window of seconds.

    One key has one window: give the same one in every call. An amount counts for the whole window, and then for one
    second at most, or a sixtieth of a window that is longer than a minute: a limit is never exceeded. A store that
    cannot be reached raises nothing: each process then counts for itself, as long as that lasts.
    """

    async def add(self, key: str, amount: int, window: float) -> int:
        """Add in one atomic step, and return the sum over the last `window` seconds.

        A negative amount gives back: it is taken from what was added first, and never leaves less than 0. 0 changes
        nothing. Raises `ValueError` for a window that is not a finite number above 0 and for an amount beyond 2**53.
        """

    async def read(self, key: str, window: float) -> int:
        """The sum over the last `window` seconds, 0 for an unknown key. Raises `ValueError` as `add` does."""


@runtime_checkable
class ResponseCache(Protocol):
    """Stored replies, as the `cache-*` extensions keep them."""

    async def flush(self) -> int:
        """Drop everything; the number of entries dropped."""


@runtime_checkable
class Tokenizer(Protocol):
    """Counts tokens. `model` chooses the vocabulary; an unknown model gets an upper bound."""

    def count(self, text: str, model: str) -> int: ...


@runtime_checkable
class SecretSource(Protocol):
    """Resolves references (`vault://…`) that the environment cannot."""

    scheme: str

    async def fetch(self, reference: str) -> str: ...


@runtime_checkable
class KeyStore(Protocol):
    """Virtual keys by their hash."""

    async def find(self, key_hash: str) -> Principal | None: ...


@runtime_checkable
class Database(Protocol):
    """The entities' store; extensions that need tables ask for it."""

    url: str


@runtime_checkable
class Embedder(Protocol):
    """Texts to vectors."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]: ...


OFFERED_BY: dict[type[Any], tuple[str, ...]] = {
    ResponseCache: ("tianji-extension-cache-memory",),
    KV: ("tianji-extension-redis",),
    Counters: ("tianji-extension-redis",),
    Embedder: ("tianji-extension-embedder-local",),
}
"""Which distributions of this repository offer a service; named in the error when it is missing."""


class Assembly(Protocol):
    """What `configure` is given."""

    config: Any

    def provide(self, service: type[T], implementation: T) -> None:
        """Offer a service. Two offers for one service stop the start."""

    def add_route(self, *handlers: Any) -> None:
        """Add Litestar route handlers, controllers or routers (management routes)."""

    def add_command(self, command: Any) -> None:
        """Add a sub-command to the `tianji` CLI: a function that takes an `argparse` sub-parsers object."""

    def add_section(self, name: str, schema: type[Any]) -> None:
        """Own a top-level section of the configuration, so that `tianji check` knows its keys."""


class GatewayAPI(Protocol):
    """What plugins may ask of the gateway. `plugin.gateway` is one."""

    config: Any

    @property
    def http(self) -> httpx.AsyncClient:
        """An ordinary httpx client over the kernel's own connection pool, for everything off the hot path."""

    def need(self, service: type[T]) -> T:
        """The implementation of a service; `PluginError` where nobody offers it."""

    async def exchange(self, provider: Any, call: Call, deployment: Deployment) -> Reply:
        """Make one HTTP attempt for a sans-I/O provider: encode, authorise, send, frame, decode."""

    async def ask(self, call: Call) -> Reply:
        """Send a call of the plugin's own to the model group that it names: routed, attempted, paid for by its
        principal and logged as any other, without the hooks around it. A stream is read to its end.

        Raises the `Failure` that ended it.
        """

    async def fetch(self, wire: Wire, *, timeout: float = 30.0) -> tuple[int, Mapping[str, str], bytes]:
        """One small HTTP request through the kernel's transport (token endpoints): status, headers, body."""

    def health(self) -> GatewayHealth:
        """What this process knows now of the deployments in use, and of the retries left. For reports, not for routing:
        it looks at every deployment. Call it on the event loop; the answer may go to a thread.
        """

    def spawn(self, job: Awaitable[None], *, name: str) -> None:
        """Run a background job that ends with the gateway; an exception is logged."""

    def every(self, seconds: float, fn: Callable[[], Awaitable[None]], *, name: str) -> None:
        """Run `fn` every so often until the gateway stops, or the plugin goes whose `startup` asked for it."""
