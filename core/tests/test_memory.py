"""The kernel's own KV and Counters: bounded, and exact at whole seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji.memory import CELLS, Cells, MemoryCounters, MemoryKV
from tianji.services import KV, Counters
from tianji.testing import CountersSuite, FakeClock, KVSuite


class TestMemoryKV(KVSuite):
    async def make(self) -> KV:
        self.clock = FakeClock()
        return MemoryKV(clock=self.clock)

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)


class TestMemoryCounters(CountersSuite):
    async def make(self) -> Counters:
        self.clock = FakeClock()
        return MemoryCounters(clock=self.clock)

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)


class TestKV:
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

    async def test_never_more_bytes_than_the_limit(self) -> None:
        kv = MemoryKV(max_bytes=1000)
        for number in range(50):
            await kv.set(str(number % 20), b"x" * 100)
            assert kv.bytes == sum(len(value) for value, _ in kv._data.values()) <= 1000
        await kv.set("9", b"y" * 1001)
        assert await kv.get("9") is None, "larger than all of it; and the value before is not there any more"
        assert len(kv._data) == 9, "the others do not go for it"
        await kv.delete(*map(str, range(20)))
        assert kv.bytes == 0


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
        units: list[float] = []  # when each unit that still counts was added
        for seconds, amount in steps:
            clock.advance(seconds)
            units = [at for at in units if at > clock.now - window]
            units = units[-amount:] if amount < 0 else units + [clock.now] * amount
            assert await counters.add("a", amount, window) == len(units)
            assert await counters.read("a", window) == len(units)

    @given(
        st.lists(st.tuples(st.floats(0, 30), st.integers(0, 20)), max_size=60),
        st.sampled_from([0.3, 1.0, 10.5, 60.0, 90.0, 600.0]),
    )
    async def test_never_too_little_and_hardly_too_much(self, steps: list[tuple[float, int]], window: float) -> None:
        clock = FakeClock(1000.0)
        counters = MemoryCounters(clock=clock)
        done: list[tuple[float, int]] = []
        for seconds, amount in steps:
            clock.advance(seconds)
            done.append((clock.now, amount))
            total = await counters.add("a", amount, window)
            late = max(1.0, window / 60)
            assert total >= sum(one for at, one in done if at > clock.now - window)
            assert total <= sum(one for at, one in done if at > clock.now - window - late)
            assert len(counters._cells["a"].cells if total else ()) <= CELLS + 1

    def test_a_clock_that_is_set_back(self) -> None:
        cells = Cells()
        cells.add(5, 60, 10_000.0)
        assert cells.add(1, 60, 5_000.0) == 6, "nothing is forgotten"
        assert cells.add(1, 60, 5_059.0) == 7
        assert cells.add(1, 60, 5_061.0) == 2, "and nothing counts for ever"

    async def test_memory_is_bounded_by_keys_and_by_seconds(self) -> None:
        clock = FakeClock()
        counters = MemoryCounters(limit=5, clock=clock)
        for number in range(50):
            await counters.add(f"key-{number}", 1, 60)
        assert len(counters._cells) == 5
        for _ in range(1000):
            clock.advance(0.25)
            await counters.add("key-49", 1, 10)
        assert len(counters._cells["key-49"].cells) <= 11

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
