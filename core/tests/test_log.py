"""Finished calls on their way to callbacks: batches, retries, the circuit, bounded queues, the flush at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from kernel import VirtualLoop, virtually

from tianji.log import BATCH, FAILURES, INTERVAL, OPEN_FOR, QUEUE, RETRIES, TIMEOUT, Log, Outlet
from tianji.model import Record
from tianji.registry import Step
from tianji.testing import make_record

Export = Callable[[Sequence[Record]], Awaitable[None]]


class Sink:
    """An export that keeps what it gets, and fails as told."""

    def __init__(self, *outcomes: BaseException | None, slow: float = 0.0) -> None:
        self.batches: list[list[Record]] = []
        self.times: list[float] = []
        self.outcomes = list(outcomes)
        self.always: BaseException | None = None
        self.slow = slow

    async def __call__(self, records: Sequence[Record]) -> None:
        self.times.append(asyncio.get_running_loop().time())
        if self.slow:
            await asyncio.sleep(self.slow)
        outcome = self.outcomes.pop(0) if self.outcomes else self.always
        if outcome is not None:
            raise outcome
        self.batches.append(list(records))

    @property
    def got(self) -> list[str]:
        return [one.id for batch in self.batches for one in batch]


def outlet(sink: Export, when: str = "all") -> Outlet:
    return Outlet(Step(0, "callbacks:sink", sink), when=when)


def records(count: int, start: int = 0, **fields: Any) -> list[Record]:
    return [make_record(id=str(number), **fields) for number in range(start, start + count)]


def fill(target: Outlet | Log, many: Sequence[Record]) -> None:
    for one in many:
        target.put(one)


def test_a_batch_is_what_came_in_an_interval_or_as_many_as_fit() -> None:
    async def main(loop: VirtualLoop) -> None:
        sink = Sink()
        out = outlet(sink)
        began = loop.time()
        fill(out, records(3))
        await asyncio.sleep(INTERVAL + 0.01)
        assert [len(batch) for batch in sink.batches] == [3]
        assert sink.times[0] - began == pytest.approx(INTERVAL)
        fill(out, records(BATCH + 10, 3))
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)  # a full batch does not wait
        assert [len(batch) for batch in sink.batches] == [3, BATCH, 10]
        await out.stop(1.0)
        assert sink.got == [str(number) for number in range(BATCH + 13)]
        assert (out.delivered, out.dropped, out.state) == (BATCH + 13, 0, "ok")

    virtually(main)


@pytest.mark.parametrize(("when", "got"), [("all", "abc"), ("success", "a"), ("failure", "bc")])
def test_each_callback_gets_the_calls_it_asked_for(when: str, got: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        sink = Sink()
        out = outlet(sink, when)
        for name, status in zip("abc", ("success", "failure", "cancelled"), strict=True):
            out.put(make_record(id=name, status=status))
        await out.stop(1.0)
        assert "".join(sink.got) == got

    virtually(main)


@pytest.mark.parametrize("error", [OSError("down"), TimeoutError(), ValueError("bad"), asyncio.CancelledError()])
def test_a_batch_that_fails_is_tried_again_with_growing_pauses(error: BaseException) -> None:
    async def main(loop: VirtualLoop) -> None:
        sink = Sink(*[error] * (RETRIES - 1))
        out = outlet(sink)
        fill(out, records(2))
        await asyncio.sleep(10)
        assert sink.got == ["0", "1"]
        pauses = [later - sooner for sooner, later in zip(sink.times, sink.times[1:], strict=False)]
        assert pauses == pytest.approx([0.2, 0.4])
        assert (out.delivered, out.dropped, out.failures) == (2, 0, 0)
        assert type(error).__name__ in out.last_error
        await out.stop(1.0)

    virtually(main)


def test_a_batch_that_cannot_be_delivered_is_dropped_and_counted() -> None:
    async def main(loop: VirtualLoop) -> None:
        sink = Sink(*[OSError("down")] * RETRIES)
        out = outlet(sink)
        fill(out, records(5))
        await asyncio.sleep(10)
        fill(out, records(1, 5))
        await asyncio.sleep(10)
        assert (sink.got, out.dropped, out.delivered) == (["5"], 5, 1)
        assert out.last_error == "OSError: down"
        await out.stop(1.0)

    virtually(main)


def test_a_callback_that_hangs_is_cut_off() -> None:
    async def main(loop: VirtualLoop) -> None:
        sink = Sink(slow=3600.0)
        out = outlet(sink)
        fill(out, records(1))
        await asyncio.sleep(INTERVAL + RETRIES * TIMEOUT + 5)
        assert len(sink.times) == RETRIES
        assert (out.dropped, out.failures) == (1, 1)
        await out.stop(1.0)

    virtually(main)


def test_the_circuit_opens_and_closes_again() -> None:
    async def main(loop: VirtualLoop) -> None:
        sink = Sink()
        sink.always = OSError("down")
        out = outlet(sink)
        for number in range(FAILURES):
            assert out.state == "ok"
            fill(out, records(1, number))
            await asyncio.sleep(5)
        assert out.state == "open"
        tried = len(sink.times)
        for number in range(4):
            fill(out, records(1, 100 + number))
            await asyncio.sleep(INTERVAL + 0.1)
        assert len(sink.times) == tried == FAILURES * RETRIES
        assert out.dropped == FAILURES + 4
        await asyncio.sleep(OPEN_FOR)
        assert out.state == "ok"
        fill(out, records(1, 200))  # the probe fails, and one failure is enough
        await asyncio.sleep(5)
        assert out.state == "open"
        await asyncio.sleep(OPEN_FOR)
        sink.always = None
        fill(out, records(1, 300))
        await asyncio.sleep(5)
        assert (sink.got, out.failures, out.state) == (["300"], 0, "ok")
        await out.stop(1.0)

    virtually(main)


def test_a_full_queue_drops_the_newcomers_and_counts_them() -> None:
    async def main(loop: VirtualLoop) -> None:
        sink = Sink(slow=1.0)
        out = outlet(sink)
        fill(out, records(QUEUE + 500))
        assert (len(out.queue), out.dropped) == (QUEUE, 500)
        await out.stop(3600.0)
        assert sink.got == [str(number) for number in range(QUEUE)]

    virtually(main)


class TestStop:
    def test_flushes_at_once(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            sink = Sink()
            out = outlet(sink)
            fill(out, records(700))
            began = loop.time()
            await out.stop(10.0)
            assert loop.time() == began
            assert [len(batch) for batch in sink.batches] == [BATCH, 700 - BATCH]

        virtually(main)

    def test_waits_no_longer_than_its_grace_and_counts_what_is_lost(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            sink = Sink(slow=20.0)
            out = outlet(sink)
            fill(out, records(BATCH * 2 + 7))
            began = loop.time()
            await out.stop(25.0)
            assert loop.time() - began == pytest.approx(25.0)
            assert out.delivered == BATCH
            # Both what was in the queue and what was on its way.
            assert out.dropped == BATCH + 7

        virtually(main)

    def test_without_records_is_nothing(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            await Log([outlet(Sink())]).stop(1.0)

        virtually(main)

    def test_a_record_that_comes_late_is_delivered_still(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            sink = Sink()
            out = outlet(sink)
            fill(out, records(1))
            await out.stop(1.0)
            fill(out, records(1, 1))
            await asyncio.sleep(0.1)
            assert sink.got == ["0", "1"]

        virtually(main)


def test_one_callback_does_not_hurt_another() -> None:
    async def main(loop: VirtualLoop) -> None:
        bad, good = Sink(slow=3600.0), Sink()
        log = Log([outlet(bad), outlet(good)])
        assert log
        fill(log, records(10))
        await asyncio.sleep(INTERVAL + 0.1)
        assert len(good.got) == 10
        await log.stop(0.5)

    virtually(main)


def test_no_outlet_means_no_record_is_made() -> None:
    assert not Log([])
