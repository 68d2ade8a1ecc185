"""Finished calls on their way to the callbacks, off the request path.

Each callback has a bounded queue and one worker. A batch that fails is tried again with growing pauses; after
`FAILURES` in a row the circuit opens and what arrives is dropped and counted, until a probe gets through. No callback
can slow a call, fill the memory, or hurt another callback.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from time import monotonic

from tianji.model import Record
from tianji.registry import Step

logger = logging.getLogger("tianji.log")

QUEUE = 10_000
BATCH = 512
INTERVAL = 1.0
TIMEOUT = 30.0
RETRIES = 3
FAILURES = 5
OPEN_FOR = 30.0


class Outlet:
    """One callback's queue, worker and circuit."""

    def __init__(self, step: Step, *, when: str = "all", interval: float = INTERVAL) -> None:
        self.label = step.label
        self._export = step.fn
        self._when = when
        self._interval = interval
        self.queue: deque[Record] = deque()
        self.dropped = 0
        self.delivered = 0
        self.failures = 0
        self.last_error = ""
        self._open_until = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def serves(self, step: Step, when: str) -> bool:
        """Whether it is the same callback instance's, so that its queue and circuit go on after a reload."""
        return self._export == step.fn and self._when == when

    @property
    def state(self) -> str:
        """`ok`, or `open` while the circuit keeps batches away from a failing callback."""
        return "open" if self._open_until > monotonic() else "ok"

    def put(self, record: Record) -> None:
        """Queue one record, without waiting. A full queue drops the newcomer and counts it."""
        if (self._when == "success" and record.status != "success") or (
            self._when == "failure" and record.status == "success"
        ):
            return
        if len(self.queue) >= QUEUE:
            self.dropped += 1
            return
        self.queue.append(record)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work(), name=f"log {self.label}")
        if len(self.queue) == BATCH:
            self._wake.set()

    async def _work(self) -> None:
        while not (self._stopping and not self.queue):
            if not self._stopping:
                try:
                    async with asyncio.timeout(self._interval):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
            while self.queue:
                batch = [self.queue.popleft() for _ in range(min(BATCH, len(self.queue)))]
                try:
                    await self._deliver(batch)
                except asyncio.CancelledError:
                    self.dropped += len(batch)
                    raise

    async def _deliver(self, batch: Sequence[Record]) -> None:
        if self._open_until > monotonic():
            self.dropped += len(batch)
            return
        for attempt in range(RETRIES):
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._export(batch)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _cancelling():
                    raise
                self.last_error = f"{type(error).__name__}: {error}"[:500]
                if attempt + 1 < RETRIES and not self._stopping:
                    await asyncio.sleep(0.2 * 2**attempt)
            else:
                self.delivered += len(batch)
                self.failures = 0
                return
        self.failures += 1
        self.dropped += len(batch)
        logger.warning("%s lost %d records: %s", self.label, len(batch), self.last_error)
        if self.failures >= FAILURES:
            self._open_until = monotonic() + OPEN_FOR

    async def stop(self, grace: float) -> None:
        """Deliver what is queued, for at most `grace` seconds."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            try:
                async with asyncio.timeout(grace):
                    await self._task
            except TimeoutError:
                self.dropped += len(self.queue)
                logger.warning("%s: %d records were not delivered before the stop", self.label, len(self.queue))


def _cancelling() -> bool:
    """Whether this task is being cancelled, rather than shown a cancellation that leaked out of a callback."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Log:
    """All outlets of one configuration."""

    def __init__(self, outlets: Sequence[Outlet], *, content: bool = False) -> None:
        self.outlets = tuple(outlets)
        self.content = content
        """A callback wants request and response, so the pipeline keeps them."""

    def __bool__(self) -> bool:
        return bool(self.outlets)

    def put(self, record: Record) -> None:
        for outlet in self.outlets:
            outlet.put(record)

    async def stop(self, grace: float = 10.0, keep: Sequence[Outlet] = ()) -> None:
        """Deliver what is queued and end the workers, but for the outlets that another configuration has taken over."""
        await asyncio.gather(*(outlet.stop(grace) for outlet in self.outlets if outlet not in keep))
