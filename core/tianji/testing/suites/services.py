"""`KVSuite` and `CountersSuite`: what every `KV` and every `Counters` must do, wherever it keeps its data.

    class TestRedisKV(KVSuite):
        async def make(self) -> KV: ...

`make` gives a store that no other test has written to; `another` a second client of the same store, where there is such
a thing. Time passes by `wait`: override it where the store goes by a clock that a test can set.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from tianji.services import KV, Counters

ODD_KEYS = (
    "", " ", "a b", "a:b", "a{b}c", "*", "%", "'; DROP TABLE kv; --", "\r\n", "\0", "ключ", "🗝️", "\ud800", "x" * 5000,
)  # fmt: skip
"""Keys that a store may stumble over; the last but one is not valid Unicode."""


class _Suite:
    tianji_suite: ClassVar[bool] = True
    """Tells the pytest plugin to keep this class's tests off the network."""

    async def make(self) -> Any:
        """A store that is empty."""
        raise NotImplementedError

    async def another(self, first: Any) -> Any:
        """A second client of the same store, as another process would have. None: it is for one process only."""
        return None

    def elsewhere(self, first: Any) -> str:
        """Python code that binds `store` to a client of the same store, in another process. Empty: for one only."""
        return ""

    async def wait(self, seconds: float) -> None:
        """Let time pass for the store."""
        await asyncio.sleep(seconds)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        store = await self.make()
        try:
            yield store
        finally:
            await _close(store)

    @asynccontextmanager
    async def two(self) -> AsyncIterator[tuple[Any, Any]]:
        """Two clients of one store, or a skipped test."""
        async with self.opened() as first:
            second = await self.another(first)
            if second is None:
                pytest.skip("it is for one process only")
            try:
                yield first, second
            finally:
                await _close(second)


async def _close(store: Any) -> None:
    if hasattr(store, "aclose"):
        await store.aclose()


class KVSuite(_Suite):
    """Subclass it with `make`, and `another` where processes share the store."""

    TTL: ClassVar[float] = 0.1
    """A short time to live, in seconds; longer than a few calls take."""

    @pytest.mark.asyncio
    async def test_it_is_the_service(self) -> None:
        """A method of `KV` is missing."""
        async with self.opened() as kv:
            assert isinstance(kv, KV)

    @pytest.mark.asyncio
    async def test_set_get_overwrite_delete(self) -> None:
        """What was written last is not what is read, or `delete` counts what was not there."""
        async with self.opened() as kv:
            assert await kv.get("a") is None
            assert await kv.delete("a") == 0
            await kv.set("a", b"1")
            await kv.set("a", b"2")
            await kv.set("b", b"3", ttl=60.0)
            assert await kv.get("a") == b"2"
            assert await kv.delete("a", "b", "a", "c") == 2
            assert await kv.get("a") is None
            assert await kv.get("b") is None

    @pytest.mark.asyncio
    async def test_many_keeps_the_order(self) -> None:
        """`many` mixes values up, leaves out misses, or fails for no key, for the same key twice or for very many."""
        async with self.opened() as kv:
            await kv.set("a", b"1")
            await kv.set("b", b"2")
            assert await kv.many(["b", "x", "a", "b"]) == [b"2", None, b"1", b"2"]
            assert await kv.many([]) == []
            assert await kv.many(("x",)) == [None]
            found = await kv.many([*(f"none-{number}" for number in range(2000)), "a"])
            assert found == [*[None] * 2000, b"1"]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)), b"\r\n$-1\r\n", b"\xff\xfe", "ü".encode() * 9])
    async def test_values_are_bytes(self, value: bytes) -> None:
        """A value does not come back as it was; an empty one is not a miss."""
        async with self.opened() as kv:
            await kv.set("a", value)
            assert await kv.get("a") == value
            assert type(await kv.get("a")) is bytes
            assert await kv.many(["a"]) == [value]

    @pytest.mark.asyncio
    async def test_a_large_value(self) -> None:
        """Two mebibytes do not come back."""
        async with self.opened() as kv:
            value = bytes(range(256)) * 8192
            await kv.set("a", value)
            assert await kv.get("a") == value

    @pytest.mark.asyncio
    @pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
    async def test_any_string_is_a_key(self, key: str) -> None:
        """A key is changed on its way, so that it is not found or another one's value is."""
        async with self.opened() as kv:
            await kv.set(key, b"odd")
            await kv.set(key + "2", b"other")
            assert await kv.get(key) == b"odd"
            assert await kv.many([key, key + "2"]) == [b"odd", b"other"]
            assert await kv.delete(key) == 1
            assert await kv.get(key + "2") == b"other"

    @pytest.mark.asyncio
    async def test_values_end_with_their_time(self) -> None:
        """An expired value is read or counted, or one that was written again kept its old time."""
        async with self.opened() as kv:
            await kv.set("short", b"1", ttl=self.TTL)
            await kv.set("renewed", b"1", ttl=self.TTL)
            await kv.set("renewed", b"2", ttl=60.0)
            await kv.set("for ever", b"1", ttl=self.TTL)
            await kv.set("for ever", b"2")
            assert await kv.get("renewed") == b"2"
            await self.wait(self.TTL * 2)
            assert await kv.get("short") is None
            assert await kv.many(["short", "renewed", "for ever"]) == [None, b"2", b"2"]
            assert await kv.delete("short", "renewed") == 1

    @pytest.mark.asyncio
    @pytest.mark.parametrize("ttl", [0.0, -1.0])
    async def test_no_time_to_live(self, ttl: float) -> None:
        """A value without time is kept, or the one before it is."""
        async with self.opened() as kv:
            await kv.set("a", b"1")
            await kv.set("a", b"2", ttl=ttl)
            assert await kv.get("a") is None

    @pytest.mark.asyncio
    async def test_the_smallest_and_the_longest_time(self) -> None:
        """A time that is shorter than a millisecond, or centuries long, fails."""
        async with self.opened() as kv:
            await kv.set("a", b"1", ttl=0.0001)
            await kv.set("b", b"2", ttl=1e12)
            await self.wait(0.05)
            assert await kv.many(["a", "b"]) == [None, b"2"]

    @pytest.mark.asyncio
    async def test_many_writers_at_once(self) -> None:
        """Values of concurrent writers get lost or mixed up."""
        async with self.opened() as kv:
            await asyncio.gather(*(kv.set(f"key-{number}", b"%d" % number) for number in range(200)))
            found = await asyncio.gather(*(kv.get(f"key-{number}") for number in range(200)))
            assert found == [b"%d" % number for number in range(200)]

    @pytest.mark.asyncio
    async def test_clients_see_each_other(self) -> None:
        """What one process writes or deletes is not what another one reads."""
        async with self.two() as (first, second):
            await first.set("a", b"1")
            assert await second.get("a") == b"1"
            await second.set("a", b"2")
            assert await first.many(["a"]) == [b"2"]
            assert await second.delete("a") == 1
            assert await first.get("a") is None


class CountersSuite(_Suite):
    """Subclass it with `make`, and `another` and `elsewhere` where processes share the store."""

    @pytest.mark.asyncio
    async def test_it_is_the_service(self) -> None:
        """A method of `Counters` is missing."""
        async with self.opened() as counters:
            assert isinstance(counters, Counters)

    @pytest.mark.asyncio
    async def test_adding_and_reading(self) -> None:
        """A sum is wrong, or keys share one."""
        async with self.opened() as counters:
            assert await counters.read("a", 60) == 0
            assert await counters.add("a", 2, 60) == 2
            assert await counters.add("a", 3, 60) == 5
            assert await counters.add("b", 10, 60) == 10
            assert await counters.read("a", 60) == 5
            assert type(await counters.read("a", 60)) is int

    @pytest.mark.asyncio
    async def test_zero_changes_nothing(self) -> None:
        """Adding 0 is not the same as reading."""
        async with self.opened() as counters:
            assert await counters.add("a", 0, 60) == 0
            await counters.add("a", 4, 60)
            assert await counters.add("a", 0, 60) == 4

    @pytest.mark.asyncio
    async def test_giving_back(self) -> None:
        """A negative amount is not taken off, or leaves less than nothing, which would let too much pass later."""
        async with self.opened() as counters:
            assert await counters.add("a", -5, 60) == 0
            await counters.add("a", 10, 60)
            assert await counters.add("a", -4, 60) == 6
            assert await counters.add("a", -100, 60) == 0
            assert await counters.add("a", 3, 60) == 3

    @pytest.mark.asyncio
    async def test_large_amounts_are_exact(self) -> None:
        """An amount is rounded. Tokens and nano-dollars are whole numbers."""
        async with self.opened() as counters:
            assert await counters.add("a", 2**52 + 1, 60) == 2**52 + 1
            assert await counters.add("a", 2, 60) == 2**52 + 3
            assert await counters.add("a", -(2**52), 60) == 3

    @pytest.mark.asyncio
    @pytest.mark.parametrize("window", [0, -1.0, float("inf"), float("nan")])
    async def test_windows_that_are_none(self, window: float) -> None:
        """A window that cannot be is taken, with whatever sum comes out."""
        async with self.opened() as counters:
            with pytest.raises(ValueError, match="window"):
                await counters.add("a", 1, window)
            with pytest.raises(ValueError, match="window"):
                await counters.read("a", window)

    @pytest.mark.asyncio
    async def test_amounts_that_are_too_large(self) -> None:
        """An amount that some stores would round is taken."""
        async with self.opened() as counters:
            for amount in (2**53 + 1, -(2**53) - 1):
                with pytest.raises(ValueError, match="amount"):
                    await counters.add("a", amount, 60)
            assert await counters.read("a", 60) == 0

    @pytest.mark.asyncio
    @pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
    async def test_any_string_is_a_key(self, key: str) -> None:
        """A key is changed on its way, so that it shares its sum with another."""
        async with self.opened() as counters:
            assert await counters.add(key, 1, 60) == 1
            assert await counters.add(key + "2", 5, 60) == 5
            assert await counters.read(key, 60) == 1

    @pytest.mark.asyncio
    @pytest.mark.parametrize("window", [0.5, 60, 90, 100.5, 3600, 86_400, 2_592_000])
    async def test_any_length_of_window(self, window: float) -> None:
        """A window that is not a whole number, or is a month, fails."""
        async with self.opened() as counters:
            assert await counters.add("a", 1, window) == 1
            assert await counters.add("a", 2, window) == 3
            assert await counters.read("a", window) == 3

    @pytest.mark.asyncio
    async def test_a_window_slides(self) -> None:
        """What was added is forgotten within the window, or not within a second after it.

        A limit over *any* such stretch of time would be exceeded, or refuse too much.
        """
        async with self.opened() as counters:
            await counters.add("a", 3, 3.0)
            await counters.add("back", 3, 3.0)
            await self.wait(2.4)
            assert await counters.read("a", 3.0) == 3
            assert await counters.add("a", 2, 3.0) == 5
            assert await counters.add("back", 2, 3.0) == 5
            assert await counters.add("back", -4, 3.0) == 1, "given back is what was added first"
            await self.wait(1.7)
            assert await counters.read("a", 3.0) == 2
            assert await counters.read("back", 3.0) == 1
            assert await counters.add("a", 1, 3.0) == 3

    @pytest.mark.asyncio
    async def test_adds_at_once(self) -> None:
        """Of many that add at once one is lost, or two are told the same sum: both would be let through."""
        async with self.opened() as counters:
            sums = await asyncio.gather(*(counters.add("a", 1, 60) for _ in range(300)))
            assert sorted(sums) == list(range(1, 301))

    @pytest.mark.asyncio
    async def test_adds_of_two_clients(self) -> None:
        """Of adds through two clients of the same store one is lost."""
        async with self.two() as (first, second):
            sums = await asyncio.gather(*(one.add("a", 1, 60) for _ in range(100) for one in (first, second)))
            assert sorted(sums) == list(range(1, 201))

    @pytest.mark.asyncio
    async def test_adds_of_several_threads(self) -> None:
        """Of adds from event loops in several threads one is lost."""
        async with self.two() as (first, second):

            async def count() -> list[int]:
                own = await self.another(first)
                try:
                    return [await own.add("a", 1, 60) for _ in range(50)]
                finally:
                    await _close(own)

            parts = await asyncio.gather(*(asyncio.to_thread(asyncio.run, count()) for _ in range(4)))
            assert sorted(one for part in parts for one in part) == list(range(1, 201))
            assert await second.read("a", 60) == 200

    @pytest.mark.asyncio
    async def test_adds_of_several_processes(self) -> None:
        """Of adds from several processes one is lost."""
        async with self.opened() as counters:
            made = self.elsewhere(counters)
            if not made:
                pytest.skip("it is for one process only")
            code = f"{made}\n{_COUNT}"
            said = await asyncio.gather(*(asyncio.to_thread(_run, code) for _ in range(3)))
            assert sorted(int(word) for text in said for word in text.split()) == list(range(1, 301))
            assert await counters.read("a", 60) == 300


def _run(code: str) -> str:
    """What another process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


_COUNT = """
import asyncio
async def main():
    print(*[await store.add("a", 1, 60) for _ in range(100)])
    await store.aclose()
asyncio.run(main())
"""
