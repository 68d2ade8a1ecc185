"""The kernel's own KV and Counters: bounded, and exact at whole seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji.memory import MemoryCounters, MemoryKV
from tianji.services import KV, Counters
from tianji.testing import FakeClock


def test_they_are_the_services() -> None:
    assert isinstance(MemoryKV(), KV)
    assert isinstance(MemoryCounters(), Counters)


class TestKV:
    async def test_set_get_delete(self) -> None:
        kv = MemoryKV()
        await kv.set("a", b"1")
        await kv.set("a", b"2")
        assert await kv.get("a") == b"2"
        assert await kv.get("b") is None
        assert await kv.delete("a", "b", "a") == 1
        assert await kv.get("a") is None

    @pytest.mark.parametrize(("after", "there"), [(0.0, True), (4.9, True), (5.0, False), (500.0, False)])
    async def test_time_to_live(self, after: float, there: bool) -> None:
        clock = FakeClock()
        kv = MemoryKV(clock=clock)
        await kv.set("a", b"1", ttl=5.0)
        clock.advance(after)
        assert (await kv.get("a") is not None) is there

    async def test_writing_again_renews_or_ends_the_time(self) -> None:
        clock = FakeClock()
        kv = MemoryKV(clock=clock)
        await kv.set("a", b"1", ttl=5.0)
        await kv.set("a", b"1")
        clock.advance(1e6)
        assert await kv.get("a") == b"1"

    async def test_the_least_recently_used_goes_first(self) -> None:
        kv = MemoryKV(limit=3)
        for key in "abc":
            await kv.set(key, b"1")
        await kv.get("a")
        await kv.set("d", b"1")
        assert [await kv.get(key) is not None for key in "abcd"] == [True, False, True, True]
        assert kv.evicted == 1

    async def test_never_more_than_the_limit(self) -> None:
        kv = MemoryKV(limit=10)
        for number in range(1000):
            await kv.set(str(number), b"1")
        assert len(kv._data) == 10
        assert kv.evicted == 990


class TestCounters:
    async def test_a_window_slides(self) -> None:
        clock = FakeClock()
        counters = MemoryCounters(clock=clock)
        assert await counters.add("a", 2, 60) == 2
        clock.advance(30)
        assert await counters.add("a", 3, 60) == 5
        clock.advance(29)
        assert await counters.read("a", 60) == 5
        clock.advance(1)
        assert await counters.read("a", 60) == 3
        clock.advance(30)
        assert await counters.read("a", 60) == 0
        assert await counters.read("other", 60) == 0

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(-5, 20)), max_size=50), st.integers(1, 60))
    async def test_exact_at_whole_seconds(self, steps: list[tuple[int, int]], window: int) -> None:
        clock = FakeClock(1000.0)
        counters = MemoryCounters(clock=clock)
        done: list[tuple[float, int]] = []
        for seconds, amount in steps:
            clock.advance(seconds)
            done.append((clock.now, amount))
            expected = sum(one for at, one in done if at > clock.now - window)
            assert await counters.add("a", amount, window) == expected
            assert await counters.read("a", window) == expected

    async def test_memory_is_bounded_by_keys_and_by_seconds(self) -> None:
        clock = FakeClock()
        counters = MemoryCounters(limit=5, clock=clock)
        for number in range(50):
            await counters.add(f"key-{number}", 1, 60)
        assert len(counters._cells) == 5
        for _ in range(1000):
            clock.advance(0.25)
            await counters.add("key-49", 1, 10)
        assert len(counters._cells["key-49"]) <= 11

    async def test_a_busy_key_outlives_many_that_are_seen_once(self) -> None:
        counters = MemoryCounters(limit=5, clock=FakeClock())
        for number in range(50):
            await counters.add("busy", 1, 60)
            await counters.add(f"once-{number}", 1, 60)
        assert await counters.read("busy", 60) == 50


async def test_a_counter_that_is_only_read_stays() -> None:
    counters = MemoryCounters(limit=3)
    for key in "abc":
        await counters.add(key, 1, 60.0)
    assert await counters.read("a", 60.0) == 1
    await counters.add("d", 1, 60.0)
    assert [await counters.read(key, 60.0) for key in "abcd"] == [1, 0, 1, 1]
