"""Counting over a window: exact here, and together with others within a second."""

from __future__ import annotations

import pytest

from tianji.memory import MemoryCounters
from tianji.services import Counters
from tianji.tally import Tally
from tianji.testing import FakeClock, FakeGateway, captured_logs


def tally(clock: FakeClock, counters: object | None = None) -> Tally:
    gateway = FakeGateway(clock=clock, services={Counters: counters} if counters is not None else None)
    return Tally(gateway, "test", clock=clock)


class Down:
    """Counters that cannot be reached, until `up`."""

    def __init__(self, clock: FakeClock) -> None:
        self.own = MemoryCounters(clock=clock)
        self.up = False

    async def add(self, key: str, amount: int, window: float) -> int:
        if not self.up:
            raise ConnectionError("no store")
        return await self.own.add(key, amount, window)

    async def read(self, key: str, window: float) -> int:
        return await self.add(key, 0, window)


class TestHere:
    def test_the_sum_over_the_window(self) -> None:
        clock = FakeClock()
        counted = tally(clock)
        assert counted.add("a", 2) == 2
        clock.advance(30)
        assert counted.add("a", 3) == 5
        clock.advance(30)
        assert counted.sum("a") == 3
        clock.advance(30)
        assert counted.sum("a") == 0

    def test_nobody_counted(self) -> None:
        counted = tally(FakeClock())
        assert (counted.sum("a"), counted.frees("a", 0), counted.counts) == (0, 0.0, {})

    def test_when_there_is_room(self) -> None:
        clock = FakeClock()
        counted = tally(clock)
        for _ in range(3):
            counted.add("a", 10)
            clock.advance(5)
        assert [counted.frees("a", amount) for amount in (0, 1, 10, 11, 30)] == [0, 45, 45, 50, 55]
        assert counted.frees("a", 31) == 60, "more than was counted here: nobody knows when"

    def test_memory_does_not_grow_with_what_is_counted(self) -> None:
        clock = FakeClock()
        counted = tally(clock)
        for _ in range(20_000):
            counted.add("a", 1)
            clock.advance(0.01)
        assert counted.sum("a") == pytest.approx(6000, abs=10)
        assert len(counted.counts["a"].cells) <= 601


class TestTogether:
    async def test_others_are_known_after_an_exchange(self) -> None:
        clock = FakeClock()
        shared = MemoryCounters(clock=clock)
        one, other = tally(clock, shared), tally(clock, shared)
        one.add("a", 5)
        other.add("a", 1)
        assert (one.sum("a"), other.sum("a")) == (5, 1)
        for _ in range(2):
            await one.exchange()
            await other.exchange()
        assert (one.sum("a"), other.sum("a")) == (6, 6)
        one.add("a", 1)
        assert one.sum("a") == 7, "what is counted here is known at once"

    async def test_ones_own_counts_are_not_another_s(self) -> None:
        clock = FakeClock()
        counted = tally(clock)
        for _ in range(200):
            counted.add("a", 1)
            clock.advance(0.5)
            await counted.exchange()
            assert counted.counts["a"].others == 0
        assert counted.sum("a") == pytest.approx(120, abs=1)

    async def test_unused_keys_are_forgotten(self) -> None:
        clock = FakeClock()
        counted = tally(clock)
        counted.add("a", 1)
        await counted.exchange()
        clock.advance(62)
        await counted.exchange()
        assert counted.counts == {}

    async def test_a_store_that_is_down_loses_nothing(self) -> None:
        clock = FakeClock()
        store = Down(clock)
        counted = tally(clock, store)
        counted.add("a", 4)
        with captured_logs() as lines:
            await counted.exchange()
            await counted.exchange()
        assert len([line for line in lines if "cannot be exchanged" in line]) == 1, "said once"
        assert counted.sum("a") == 4
        store.up = True
        await counted.exchange()
        assert await store.own.read("test:a", 60.0) == 4

    async def test_what_others_counted_is_forgotten_with_the_window(self) -> None:
        clock = FakeClock()
        store = Down(clock)
        store.up = True
        await store.own.add("test:a", 50, 60.0)
        counted = tally(clock, store)
        counted.add("a", 1)
        await counted.exchange()
        assert counted.sum("a") == 51
        store.up = False
        clock.advance(60)
        assert counted.sum("a") == 0

    async def test_the_last_counts_are_told_at_the_end(self) -> None:
        clock = FakeClock()
        shared = MemoryCounters(clock=clock)
        counted = tally(clock, shared)
        counted.start()
        counted.add("a", 3)
        await counted.stop()
        counted.add("a", 3)
        await counted.gateway.jobs[0].run()  # type: ignore[attr-defined]
        assert await shared.read("test:a", 60.0) == 3
