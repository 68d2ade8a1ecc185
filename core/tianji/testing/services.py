"""In-memory services for tests: what `FakeGateway.need` gives where a test provides nothing else."""

from __future__ import annotations

from tianji.model import Entry, Principal
from tianji.services import KV, Counters, Ledger


class FakeClock:
    """A clock that moves when told to. Call it as `time.monotonic` would be; seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self.now += seconds


class MemoryKV(KV):
    """Bytes by key. An entry is gone once its `ttl` has passed on `clock`."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.entries: dict[str, tuple[bytes, float]] = {}

    async def get(self, key: str) -> bytes | None:
        value, until = self.entries.get(key, (None, 0.0))
        return value if self.clock() < until else None

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self.entries[key] = (value, float("inf") if ttl is None else self.clock() + ttl)

    async def delete(self, *keys: str) -> int:
        return sum(self.entries.pop(key, None) is not None for key in keys)


class MemoryCounters(Counters):
    """An exact sliding window: every amount is kept until it is older than the window."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.added: dict[str, list[tuple[float, int]]] = {}

    async def add(self, key: str, amount: int, window: float) -> int:
        self.added.setdefault(key, []).append((self.clock(), amount))
        return await self.read(key, window)

    async def read(self, key: str, window: float) -> int:
        since = self.clock() - window
        return sum(amount for at, amount in self.added.get(key, ()) if at > since)


class MemoryLedger(Ledger):
    """Keeps the entries in the order in which they came; refuses nothing."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    async def reserve(self, entry: Entry, principal: Principal) -> None:
        self.entries.setdefault(entry.entry_id, entry)

    async def settle(self, entry: Entry) -> None:
        self.entries.setdefault(entry.entry_id, entry)

    def spend(self, key_id: str) -> int:
        return sum(e.nano or 0 for e in self.entries.values() if e.key_id == key_id and e.kind == "settle")
