"""A connection that is always there, or known not to be.

Commands of all calls go through one connection, one after the other, without waiting for answers in between: there is
no pool to wait for, and no task for a call. The connection is made in the background, so that no call waits for that
either: while there is none, every call is told so at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextvars import Context
from typing import Any

from tianji_extension_redis.target import RedisSettings, Target

logger = logging.getLogger("tianji.redis")

WAITING = 10_000
"""Commands that may wait for their answers; more are refused."""
BATCH = 128
"""Commands that are written at once."""
STRIKES = 3
"""Stretches of `timeout` seconds in which calls got nothing, one after the other, until the connection is given up."""
LONGEST = 10
"""How many times `timeout` a call waits at most while answers to others keep coming."""
LATE = 0.005
"""Seconds by which the event loop may be late before that, and not the server, is taken for the reason."""

Word = bytes | int | str


class Down(Exception):
    """The server did not do it, as far as one can tell. A command that was sent may have been carried out."""


class Outage:
    """Whether the server can be used: one line in the log when that changes, for all of its lanes."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.count = 0
        """Outages so far."""
        self.fallbacks = 0
        """Calls that were answered without the server so far."""
        self._down: set[int] = set()
        self._since = 0.0
        self._before = 0

    def begin(self, lane: object, reason: str) -> None:
        if not self._down:
            self.count += 1
            self._since = asyncio.get_running_loop().time()
            self._before = self.fallbacks
            logger.warning("%s cannot be used: %s. Each process goes by its own memory now", self.target, reason)
        self._down.add(id(lane))

    def end(self, lane: object) -> None:
        if id(lane) not in self._down:
            return
        self._down.discard(id(lane))
        if not self._down:
            seconds = asyncio.get_running_loop().time() - self._since
            calls = self.fallbacks - self._before
            logger.warning("%s is back after %.1f s; %d calls were answered without it", self.target, seconds, calls)


class Entry:
    """A command and the call that waits for its answer."""

    __slots__ = ("answer", "at", "words")

    def __init__(self, answer: asyncio.Future[Any], words: tuple[Word, ...], at: float) -> None:
        self.answer = answer
        self.words = words
        self.at = at
        """When it was given."""


class Lane:
    """One connection to a server."""

    def __init__(self, target: Target, settings: RedisSettings, outage: Outage) -> None:
        self.target = target
        self.settings = settings
        self.outage = outage
        self.up = False
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._reset()

    def _reset(self) -> None:
        """The state of a connection."""
        self._queue: deque[Entry] = deque()
        self._sent: deque[Entry] = deque()
        self._some = asyncio.Event()
        self._over: asyncio.Future[str] | None = None
        """Why the connection is given up."""
        self._timer: asyncio.TimerHandle | None = None
        self._answered = 0.0
        self._strikes = 0
        self._struck = 0.0

    async def open(self) -> None:
        """Start connecting; return when that has succeeded or failed once."""
        self._start()
        await self._tried.wait()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._tried = asyncio.Event()
            # A context of its own: it outlives the call or the reload that it may be started in.
            self._task = asyncio.get_running_loop().create_task(self._run(), name="redis", context=Context())

    async def ask(self, *words: Word) -> Any:
        """Send a command and return its answer. Raises `Down`, and redis's `NoScriptError`."""
        if not self.up:
            self._start()
            self.outage.fallbacks += 1
            raise Down
        if len(self._queue) + len(self._sent) >= WAITING:
            self.outage.fallbacks += 1
            raise Down
        loop = asyncio.get_running_loop()
        entry = Entry(loop.create_future(), words, loop.time())
        self._queue.append(entry)
        self._some.set()
        if self._timer is None:
            self._watch(entry.at + self.settings.timeout)
        return await entry.answer

    # -- deadlines: one timer for all calls ----------------------------------------------------------------------------

    def _watch(self, at: float, *, again: bool = False) -> None:
        self._timer = asyncio.get_running_loop().call_at(at, self._look, at, again)

    def _look(self, at: float, again: bool) -> None:
        """Let those go that have waited for too long. `again`: the event loop's own lateness was allowed for."""
        timeout, now = self.settings.timeout, asyncio.get_running_loop().time()
        if now - at > LATE and not again:
            self._watch(now + LATE, again=True)  # the answers may be there, and nobody had time to read them
            return
        self._timer = None
        left = 0
        for entry in (*self._sent, *self._queue):
            if entry.answer.done():
                continue
            due = min(max(entry.at, self._answered) + timeout, entry.at + LONGEST * timeout)
            if due > now:
                self._watch(due)
                break
            self._fail(entry)
            left += 1
        if left and now - self._struck >= timeout:
            self._strike(f"no answer within {timeout} s")

    def _fail(self, entry: Entry) -> None:
        if not entry.answer.done():
            self.outage.fallbacks += 1
            entry.answer.set_exception(Down())

    def _strike(self, reason: str) -> None:
        """Something went wrong on a connection that is there."""
        self._strikes += 1
        self._struck = asyncio.get_running_loop().time()
        if self._strikes >= STRIKES and self._over is not None and not self._over.done():
            self.up = False
            self._over.set_result(reason)

    # -- the connection ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        from redis.exceptions import RedisError

        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await self._dial()
            except (RedisError, OSError, ValueError, EOFError) as error:  # TimeoutError is an OSError
                self.outage.begin(self, _reason(error, self.settings.connect_timeout))
                self._tried.set()
                await asyncio.sleep(self.settings.retry_after)
                continue
            self.outage.end(self)
            self._tried.set()
            began = loop.time()
            lost, reason = await self._serve(connection)
            # A connection that was simply closed is made anew at once: servers close idle ones, and restart.
            if not lost or loop.time() - began < self.settings.retry_after:
                self.outage.begin(self, reason)
                await asyncio.sleep(self.settings.retry_after)

    async def _dial(self) -> Any:
        """A connection that has proved itself: a value was written within the time that calls have."""
        from redis.asyncio.connection import Connection, SSLConnection

        target = self.target
        options: dict[str, Any] = {
            "host": target.host, "port": target.port, "db": target.db, "username": target.username,
            "password": target.password.reveal() if target.password is not None else None, "protocol": 2,
            "socket_timeout": None, "socket_connect_timeout": self.settings.connect_timeout,
        }  # fmt: skip
        if target.ssl:
            options["ssl_cert_reqs"] = "required" if target.ssl_verify else "none"
            options["ssl_check_hostname"] = target.ssl_verify
            options["ssl_ca_certs"] = target.ssl_ca_certs
        connection: Any = (SSLConnection if target.ssl else Connection)(**options)
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                await connection.connect()
                words = connection.pack_command(b"SET", self.settings.prefix + "trial", b"1", b"PX", 1000)
                await connection.send_packed_command(words, check_health=False)
                begun = asyncio.get_running_loop().time()
                await connection.read_response()
            seconds = asyncio.get_running_loop().time() - begun
            if seconds > max(self.settings.timeout, 2 * LATE):
                raise TimeoutError(f"an answer took {seconds:.3f} s, and `timeout` is {self.settings.timeout} s")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _serve(self, connection: Any) -> tuple[bool, str]:
        """Pass commands and answers on until the connection ends: whether it was lost, or given up; and why."""
        loop = asyncio.get_running_loop()
        self._reset()
        self._over = over = loop.create_future()
        jobs = [loop.create_task(self._write(connection)), loop.create_task(self._read(connection))]
        self.up = True
        try:
            waiting: list[asyncio.Future[Any]] = [*jobs, over]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                return False, over.result()
            errors = [error for job in jobs if job.done() and (error := job.exception()) is not None]
            return True, _reason(errors[0], self.settings.connect_timeout) if errors else "the connection ended"
        finally:
            self.up = False
            if self._timer is not None:
                self._timer.cancel()
            for entry in (*self._sent, *self._queue):
                self._fail(entry)
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await connection.disconnect(nowait=True)

    async def _write(self, connection: Any) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                batch = [entry for entry in batch if not entry.answer.done()]  # nobody waits any more
                if batch:
                    self._sent.extend(batch)
                    words = connection.pack_commands([entry.words for entry in batch])
                    await connection.send_packed_command(words, check_health=False)

    async def _read(self, connection: Any) -> None:
        from redis.exceptions import NoScriptError, ResponseError

        loop = asyncio.get_running_loop()
        while True:
            failure: ResponseError | None = None
            answer = None
            try:
                answer = await connection.read_response()
            except ResponseError as error:
                failure = error
            entry = self._sent.popleft()
            self._answered = now = loop.time()
            if isinstance(failure, NoScriptError):
                if not entry.answer.done():
                    entry.answer.set_exception(failure)
            elif failure is not None:
                self._fail(entry)
                if now - self._struck >= self.settings.timeout:
                    self._strike(_reason(failure, 0.0))
            elif not entry.answer.done():
                entry.answer.set_result(answer)
                self._strikes = 0


def _reason(error: BaseException, timeout: float) -> str:
    text = str(error) or (f"no connection within {timeout} s" if isinstance(error, TimeoutError) else "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
