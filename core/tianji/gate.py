"""The commit gate: a stream goes to the client only after it has flowed for a moment.

Until the first byte leaves, a break is an ordinary failed attempt, and the attempt loop goes on elsewhere without
anybody noticing. Many streams that break do so soon after their first event, so a short wait there mends most of them
for the price of that wait. What came in the meantime is delivered first, in order and unchanged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from tianji.errors import Timeout
from tianji.model import Chunk, Reply

FULL = 64 * 1024
"""Bytes after which a stream is committed, however little time has passed."""


async def hold(reply: Reply, delay: float, *, first: float | None = None) -> None:
    """Read `reply.stream` ahead for `delay` seconds, to its end or until 64 KiB are there, whichever is first.

    `first`: seconds for the first event, where it was not waited for yet. Raises what the stream raises, and
    `Timeout` for a first event that does not come; the stream is then closed.
    """
    if reply.stream is None:
        return
    held = Held(reply.stream, reply.upstream)
    try:
        await held.fill(delay, first)
    except BaseException:
        await held.aclose()
        raise
    source: object = reply.stream
    if reply.upstream is source:
        reply.upstream = held
    reply.stream = held


class Held:
    """A stream with what was read ahead of it. In place of its source also where that is the upstream itself."""

    __slots__ = ("_ahead", "_chunks", "_over", "_source", "_upstream")

    def __init__(self, source: AsyncIterator[Chunk], upstream: Any = None) -> None:
        self._source = source
        self._upstream = upstream
        self._chunks: deque[Chunk] = deque()
        self._ahead: asyncio.Task[Chunk | None] | None = None
        """A read that was under way when the time was up."""
        self._over = False

    async def fill(self, delay: float, first: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        if first is not None and not await self._took(first):
            raise Timeout("The provider did not begin its answer in time.", code="idle_timeout")
        until = loop.time() + delay
        size = sum(len(chunk.raw) for chunk in self._chunks)
        while not self._over and size < FULL and (left := until - loop.time()) > 0:
            if not await self._took(left):
                return
            if not self._over:
                size += len(self._chunks[-1].raw)

    async def _took(self, seconds: float) -> bool:
        """One read; False when the time was up before it. The read itself is not disturbed by that."""
        task = self._ahead
        if task is None:
            task = self._ahead = asyncio.get_running_loop().create_task(self._read(), name="commit gate")
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            return False
        self._ahead = None
        chunk = task.result()
        if chunk is None:
            self._over = True
        else:
            self._chunks.append(chunk)
        return True

    async def _read(self) -> Chunk | None:
        return await anext(self._source, None)

    def __aiter__(self) -> Held:
        return self

    async def __anext__(self) -> Chunk:
        if self._chunks:
            return self._chunks.popleft()
        if self._over:
            raise StopAsyncIteration
        if self._ahead is None:
            return await self._source.__anext__()
        task, self._ahead = self._ahead, None
        chunk = await task  # a reader that is cancelled cancels the read, as it would without a gate
        if chunk is None:
            self._over = True
            raise StopAsyncIteration
        return chunk

    # -- as the upstream end of a stream -------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        return bool(self._upstream.ended) if self._upstream is not None else self._over

    @ended.setter
    def ended(self, ended: bool) -> None:
        self._upstream.ended = ended

    async def drain(self) -> None:
        """Read to the end for the usage alone."""
        self._chunks.clear()
        if self._ahead is not None:
            task, self._ahead = self._ahead, None
            await task
        await self._upstream.drain()

    def close(self) -> None:
        self._chunks.clear()
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None
        if self._upstream is not None:
            self._upstream.close()

    async def aclose(self) -> None:
        """Nobody reads on. The upstream, where it is another object, is closed by whoever holds it."""
        self._chunks.clear()
        task, self._ahead = self._ahead, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()
