"""The kept answers: bounded in number and in bytes, the least recently used one goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from time import monotonic

import msgspec

from tianji import Chunk, Cost, Reply, Usage

OVERHEAD = 600
"""Bytes that an entry takes besides its content; `CHUNK` for each chunk of a stream."""
CHUNK = 60


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


class Store:
    """Entries by key. `counts` says what became of them."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = monotonic
        self.counts = dict.fromkeys(("hits", "misses", "waits", "stored", "evicted", "expired", "too_large"), 0)
        self.bytes = 0
        self.generation = 0
        """Goes up with each flush: what was asked for before it is not stored after it."""
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, max_age: float | None = None) -> Entry | None:
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

    def has(self, key: bytes, max_age: float | None = None) -> bool:
        """Whether `find` would find something. Changes nothing."""
        entry = self._entries.get(key)
        now = self.clock()
        return entry is not None and entry.until > now and (max_age is None or now - entry.stored <= max_age)

    def keep(self, key: bytes, entry: Entry, *, max_entries: int, max_bytes: int) -> None:
        """Store an entry, in place of an older one, and let others go until there is room."""
        if key in self._entries:
            self._drop(key)
        self._entries[key] = entry
        self.bytes += entry.size
        self.counts["stored"] += 1
        while len(self._entries) > max_entries or self.bytes > max_bytes:
            self._drop(next(iter(self._entries)))
            self.counts["evicted"] += 1

    def flush(self) -> int:
        """Drop everything; the number of entries dropped."""
        count = len(self._entries)
        self._entries.clear()
        self.bytes = 0
        self.generation += 1
        return count

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key).size

    def entry(
        self, chunks: tuple[bytes, ...], reply: Reply, ttl: float, *, streamed: bool = False, named: bool = False
    ) -> Entry:
        """An answer as it is kept from now on."""
        now = self.clock()
        usage = reply.usage if reply.usage is not None else reply.meter.usage if reply.meter is not None else None
        size = OVERHEAD + sum(map(len, chunks)) + CHUNK * len(chunks)
        return Entry(chunks, streamed, named, reply.media_type, reply.model, usage, now, now + ttl, size)

    def reply(self, entry: Entry) -> Reply:
        """A kept answer on its way out again. It costs nothing; its usage is what the first caller was told."""
        headers = {"x-cache": "HIT", "age": str(int(self.clock() - entry.stored))}
        stream: AsyncIterator[Chunk] | None = Replay(entry) if entry.streamed else None
        raw = None if entry.streamed else entry.chunks[0]
        reply = Reply(
            raw=raw, stream=stream, headers=headers, usage=entry.usage, source="cache", model=entry.model,
            media_type=entry.media_type,
        )  # fmt: skip
        reply.cost = Cost(0)
        return reply


class Replay:
    """A stored stream, chunk by chunk as it once came."""

    def __init__(self, entry: Entry) -> None:
        self._chunks = iter(entry.chunks)
        self._named = entry.named

    def __aiter__(self) -> Replay:
        return self

    async def __anext__(self) -> Chunk:
        for raw in self._chunks:
            return Chunk(raw, named=self._named)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._chunks = iter(())
