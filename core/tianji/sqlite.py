"""`KV` and `Counters` that the worker processes of one machine share: one SQLite file.

Each process has one thread and one connection for it, made at first use, which is after the fork. The file is in WAL
mode: readers do not wait, and a writer waits for another one's transaction, which takes microseconds. Nothing has to
survive a power cut, so nothing waits for the disk. Where the file cannot be used (disk full, locked for too long), each
process goes on in its own memory and tries the file again a second later.

Docs: https://www.sqlite.org/wal.html
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tianji.memory import Cell, Cells, MemoryCounters, MemoryKV, check
from tianji.services import KV, Counters

logger = logging.getLogger("tianji.sqlite")

T = TypeVar("T")

FILE = "shared.sqlite3"
QUEUE = 10_000
"""Calls of one process that may wait for its thread; more are answered from memory."""
ENTRIES = 100_000
BYTES = 256 * 1024 * 1024
LOCKED = 0.1
"""Seconds to wait for the transaction of another process."""
PAUSE = 1.0
"""Seconds without the file after a failure."""
SWEEP = 10.0
"""Seconds between two looks for rows that are too old or too many."""
_QUIET = 60.0
"""Seconds between two log lines about failures."""
_PAGE = 4096
_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, until REAL, size INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS kv_until ON kv (until, size);
CREATE TABLE IF NOT EXISTS counters (key BLOB NOT NULL UNIQUE, cells BLOB NOT NULL, until REAL NOT NULL);
CREATE INDEX IF NOT EXISTS counters_until ON counters (until);
"""
_inherited: list[Any] = []
"""Connections and threads of a parent process. Closing one here would disturb it."""


class NotNow(Exception):
    """The file cannot be asked at present."""


class SQLiteStore:
    """The file, and this process's thread for it.

    Args:
        path: The file. It is made at first use; its folder must be there.
        clock: Seconds since the epoch; the same for all processes.
        entries: Keys kept at most, and counters as well; those written longest ago go first.
        max_bytes: What the values may take together.
    """

    def __init__(
        self, path: str | Path, *, clock: Callable[[], float] = time.time, entries: int = ENTRIES,
        max_bytes: int = BYTES, patience: float = LOCKED,
    ) -> None:  # fmt: skip
        self.path = Path(path)
        self.patience = patience
        """Seconds that a call waits for another process's lock."""
        self.max_bytes = max_bytes
        self.failures = 0
        """Calls that the file could not answer."""
        self._clock = clock
        self._entries = entries
        self._pid = 0
        self._thread: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._waiting = 0
        self._broken_until = 0.0
        self._told = -_QUIET
        self._swept = time.monotonic()
        self._written = 0

    async def ask(self, work: Callable[[sqlite3.Connection, float], T]) -> T:
        """Run `work` in the thread, with the connection and the time. Raises `NotNow`."""
        if self._pid != os.getpid():
            self._forget()
        if self._waiting >= QUEUE or time.monotonic() < self._broken_until:
            self.failures += 1
            raise NotNow
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "tianji-sqlite")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)
        except NotNow:
            self.failures += 1
            raise
        except (sqlite3.Error, OSError) as error:
            self.failures += 1
            if time.monotonic() - self._told >= _QUIET:
                self._told = time.monotonic()
                logger.warning(
                    "%s cannot be used, each worker goes by its own memory: %s: %s",
                    self.path, type(error).__name__, error,
                )  # fmt: skip
            raise NotNow from error
        finally:
            self._waiting -= 1

    async def aclose(self) -> None:
        """Close this process's connection and end its thread. A later call opens both again."""
        thread, self._thread = self._thread, None
        if thread is None or self._pid != os.getpid():
            return
        await asyncio.get_running_loop().run_in_executor(thread, self._close)
        thread.shutdown(wait=False)

    def _forget(self) -> None:
        """This is another process than the one that opened it."""
        _inherited.extend(one for one in (self._thread, self._db) if one is not None)
        self._thread = self._db = None
        self._pid = os.getpid()
        self._waiting = 0
        self._broken_until = 0.0

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _work(self, work: Callable[[sqlite3.Connection, float], T]) -> T:
        if time.monotonic() < self._broken_until:
            raise NotNow
        try:
            if self._db is None:
                self._db = self._open()
            answer = work(self._db, self._clock())
            if time.monotonic() - self._swept >= SWEEP or self._written > self.max_bytes // 8:
                self._swept, self._written = time.monotonic(), 0
                if self._thread is not None:
                    self._thread.submit(self._sweep)
            return answer
        except (sqlite3.Error, OSError):
            self._broken_until = time.monotonic() + PAUSE
            self._written = self.max_bytes  # it may be full: sweep as soon as it works again
            self._close()
            raise

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=self.patience, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(f"PRAGMA max_page_count={2 * self.max_bytes // _PAGE + 16_384}")
            db.execute("PRAGMA journal_size_limit=16777216")
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        return db

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def wrote(self, size: int) -> None:
        """A value of so many bytes was written."""
        self._written += size

    def _sweep(self) -> None:
        """Drop the rows that are too old, and the oldest of those that are too many."""
        try:
            if self._db is not None:
                self.sweep(self._db, self._clock())
        except sqlite3.Error as error:
            logger.warning("%s was not swept: %s", self.path, error)

    def sweep(self, db: sqlite3.Connection, now: float) -> None:
        with transaction(db):
            db.execute("DELETE FROM kv WHERE until <= ?", (now,))
            db.execute("DELETE FROM counters WHERE until <= ?", (now,))
            (count,) = db.execute("SELECT count(*) FROM counters").fetchone()
            self._oldest(db, "counters", count - self._entries)
            count, size = db.execute("SELECT count(*), total(size) FROM kv").fetchone()
            self._oldest(db, "kv", count - self._entries)
            count = min(count, self._entries)
            while size > self.max_bytes:
                self._oldest(db, "kv", max(1, count // 10))
                count, size = db.execute("SELECT count(*), total(size) FROM kv").fetchone()

    def _oldest(self, db: sqlite3.Connection, table: str, many: int) -> None:
        """Drop rows that were written longest ago: a row that is replaced gets a new id, above all others."""
        if many > 0:
            db.execute(f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} ORDER BY rowid LIMIT {many})")  # noqa: S608


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Alone with the file, from the start; all of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


class SQLiteKV:
    """`KV` in the file."""

    def __init__(self, store: SQLiteStore) -> None:
        self.store = store
        self._memory: MemoryKV | None = None
        """While the file cannot be used."""

    async def get(self, key: str) -> bytes | None:
        return (await self.many((key,)))[0]

    async def many(self, keys: Sequence[str]) -> list[bytes | None]:
        names = [_name(key) for key in keys]

        def work(db: sqlite3.Connection, now: float) -> list[bytes | None]:
            found: dict[bytes, bytes] = {}
            for start in range(0, len(names), 500):  # an older SQLite takes 999 parameters
                part = names[start : start + 500]
                marks = ",".join("?" * len(part))
                found |= db.execute(
                    f"SELECT key, value FROM kv WHERE key IN ({marks}) AND (until IS NULL OR until > ?)",  # noqa: S608
                    (*part, now),
                ).fetchall()
            return [found.get(name) for name in names]

        return await self._ask(work, lambda memory: memory.many(keys))

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        name = _name(key)

        def work(db: sqlite3.Connection, now: float) -> None:
            if len(value) > self.store.max_bytes or (ttl is not None and not ttl > 0):
                db.execute("DELETE FROM kv WHERE key = ?", (name,))
                return
            row = (name, value, None if ttl is None else now + ttl, len(value))
            db.execute("REPLACE INTO kv (key, value, until, size) VALUES (?, ?, ?, ?)", row)
            self.store.wrote(len(value))

        await self._ask(work, lambda memory: memory.set(key, value, ttl))

    async def delete(self, *keys: str) -> int:
        names = {_name(key) for key in keys}

        def work(db: sqlite3.Connection, now: float) -> int:
            gone = 0
            with transaction(db):
                for name in names:
                    row = db.execute("DELETE FROM kv WHERE key = ? RETURNING until", (name,)).fetchone()
                    gone += row is not None and (row[0] is None or row[0] > now)
            return gone

        return await self._ask(work, lambda memory: memory.delete(*keys))

    async def _ask(self, work: Callable[[sqlite3.Connection, float], T], instead: Callable[[MemoryKV], Any]) -> T:
        try:
            answer = await self.store.ask(work)
        except NotNow:
            self._memory = self._memory or MemoryKV()
            found: T = await instead(self._memory)
            return found
        self._memory = None
        return answer

    async def aclose(self) -> None:
        await self.store.aclose()


class SQLiteCounters:
    """`Counters` in the file: a row for each, with its cells."""

    def __init__(self, store: SQLiteStore) -> None:
        self.store = store
        self._memory = MemoryCounters()
        """While the file cannot be used."""

    async def add(self, key: str, amount: int, window: float) -> int:
        check(amount, window)
        if amount == 0:
            return await self.read(key, window)
        name = _name(key)

        def work(db: sqlite3.Connection, now: float) -> int:
            with transaction(db):
                cells = _cells(db, name)
                total = cells.add(amount, window, now)
                row = (name, msgspec.msgpack.encode(tuple(cells.cells)), now + window)
                db.execute("REPLACE INTO counters (key, cells, until) VALUES (?, ?, ?)", row)
            return total

        try:
            return await self.store.ask(work)
        except NotNow:
            return await self._memory.add(key, amount, window)

    async def read(self, key: str, window: float) -> int:
        check(0, window)
        name = _name(key)
        try:
            return await self.store.ask(lambda db, now: _cells(db, name).sum(window, now))
        except NotNow:
            return await self._memory.read(key, window)

    async def aclose(self) -> None:
        await self.store.aclose()


_decode = msgspec.msgpack.Decoder(tuple[Cell, ...]).decode


def _cells(db: sqlite3.Connection, name: bytes) -> Cells:
    row = db.execute("SELECT cells FROM counters WHERE key = ?", (name,)).fetchone()
    return Cells(_decode(row[0]) if row is not None else ())


def _name(key: str) -> bytes:
    """A key as bytes: any string can be one, also what is not valid Unicode."""
    return key.encode("utf-8", "surrogatepass")


def services(folder: str | Path) -> dict[type[Any], Any]:
    """`KV` and `Counters` over one file in a folder. Nothing is opened yet."""
    store = SQLiteStore(Path(folder) / FILE)
    return {KV: SQLiteKV(store), Counters: SQLiteCounters(store)}


@contextlib.contextmanager
def private_folder(wanted: bool) -> Iterator[Path | None]:
    """A folder of our own for as long as the block lasts; None where none is wanted, or there is no place for one.

    The lock on it keeps systemd-tmpfiles from clearing it away (https://systemd.io/TEMPORARY_DIRECTORIES/).
    """
    if not wanted:
        yield None
        return
    import fcntl

    try:
        folder = Path(tempfile.mkdtemp(prefix="tianji-"))
    except OSError as error:
        logger.warning("workers share no state, as there is no temporary directory: %s", error)
        yield None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)
