"""The file that workers share: the two suites, bounds, faults, forks."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kernel import assembled, config

from tianji import sqlite
from tianji.gateway import Gateway
from tianji.hookspecs import hookimpl
from tianji.plugin import Extension
from tianji.services import KV, Counters
from tianji.sqlite import SQLiteCounters, SQLiteKV, SQLiteStore, private_folder, services
from tianji.testing import CountersSuite, FakeClock, KVSuite


class Shared:
    """How a suite gets at a file."""

    kind: Any

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "shared.sqlite3"
        self.clock = FakeClock(1_700_000_000.0)

    async def make(self) -> Any:
        return self.kind(SQLiteStore(self.path, clock=self.clock, patience=30))

    async def another(self, first: Any) -> Any:
        return self.kind(SQLiteStore(self.path, clock=self.clock, patience=30))

    def elsewhere(self, first: Any) -> str:
        return (
            "from tianji.sqlite import SQLiteCounters, SQLiteStore\n"
            f"store = SQLiteCounters(SQLiteStore({str(self.path)!r}, clock=lambda: {self.clock.now}, patience=30))"
        )

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)


class TestSQLiteKV(Shared, KVSuite):
    kind = SQLiteKV


class TestSQLiteCounters(Shared, CountersSuite):
    kind = SQLiteCounters


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    made = SQLiteStore(tmp_path / "s", clock=FakeClock(1000.0), entries=20, max_bytes=10_000)
    yield made
    await made.aclose()


def rows(store: SQLiteStore, table: str) -> int:
    with sqlite3.connect(store.path) as db:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    db.close()
    return int(count)


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_rows_that_are_too_old_are_removed(store: SQLiteStore) -> None:
    kv, counters = SQLiteKV(store), SQLiteCounters(store)
    for number in range(10):
        await kv.set(f"old-{number}", b"x", ttl=5.0)
        await counters.add(f"old-{number}", 1, 5.0)
    await kv.set("new", b"x", ttl=500.0)
    await kv.set("for ever", b"x")
    await counters.add("new", 1, 500.0)
    store._clock.advance(10.0)  # type: ignore[attr-defined]
    assert (rows(store, "kv"), rows(store, "counters")) == (12, 10 + 1)
    await store.ask(store.sweep)
    assert (rows(store, "kv"), rows(store, "counters")) == (2, 1)
    assert await kv.many(["new", "for ever"]) == [b"x", b"x"]


async def test_rows_that_are_too_many_are_removed_the_oldest_first(store: SQLiteStore) -> None:
    kv, counters = SQLiteKV(store), SQLiteCounters(store)
    for number in range(50):
        await kv.set(f"{number}", b"x")
        await counters.add(f"{number}", 1, 60)
        await kv.set("busy", b"x")
        await counters.add("busy", 1, 60)
    await store.ask(store.sweep)
    assert (rows(store, "kv"), rows(store, "counters")) == (20, 20)
    assert await kv.many(["0", "busy", "49"]) == [None, b"x", b"x"]
    assert [await counters.read(key, 60) for key in ("0", "busy", "49")] == [0, 50, 1]


async def test_bytes_are_bounded(store: SQLiteStore) -> None:
    kv = SQLiteKV(store)
    for number in range(15):
        await kv.set(f"{number}", b"x" * 1000)
    await kv.set("too large", b"x" * 10_001)
    await store.ask(store.sweep)
    kept = [await kv.get(f"{number}") is not None for number in range(15)]
    assert kept == [False] * 5 + [True] * 10
    assert await kv.get("too large") is None


async def test_it_sweeps_by_itself(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kv = SQLiteKV(store)
    for number in range(100):
        await kv.set(f"{number}", b"x" * 500)
    await store.ask(lambda db, now: None)  # behind the last sweep
    assert rows(store, "kv") <= 22, "10,000 bytes, and an eighth of it before the next look"
    monkeypatch.setattr(sqlite, "SWEEP", 0.0)
    store._clock.advance(1e6)  # type: ignore[attr-defined]
    await kv.set("short", b"x", ttl=1.0)
    store._clock.advance(2.0)  # type: ignore[attr-defined]
    await kv.get("any")
    await store.ask(lambda db, now: None)
    assert await store.ask(lambda db, now: db.execute("SELECT count(*) FROM kv WHERE key = 'short'").fetchone()) == (0,)


async def test_how_the_file_is_opened(store: SQLiteStore) -> None:
    def look(db: sqlite3.Connection, now: float) -> list[Any]:
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "busy_timeout")]

    assert await store.ask(look) == ["wal", 1, 100]


# -- faults ------------------------------------------------------------------------------------------------------------


async def test_a_file_that_cannot_be_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = services(tmp_path / "absent")
    kv, counters = both[KV], both[Counters]
    await kv.set("a", b"1")
    assert await kv.many(["a", "b"]) == [b"1", None]
    assert await kv.delete("a") == 1
    assert [await counters.add("a", 2, 60) for _ in range(3)] == [2, 4, 6], "counted in memory"
    assert await counters.read("a", 60) == 6
    (line,) = (one for one in caplog.records if one.levelno >= logging.WARNING)
    assert "cannot be used, each worker goes by its own memory" in line.getMessage()
    assert kv.store.failures == 7
    await kv.aclose()


async def test_it_comes_back_and_the_memory_of_the_outage_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PAUSE", 0.0)
    kv = SQLiteKV(SQLiteStore(tmp_path / "later" / "s"))
    await kv.set("a", b"of the outage")
    assert await kv.get("a") == b"of the outage"
    (tmp_path / "later").mkdir()
    assert await kv.get("a") is None
    await kv.set("a", b"1")
    await kv.aclose()
    kv.store.path = tmp_path / "absent" / "s"
    assert await kv.get("a") is None, "stale by now"
    kv.store.path = tmp_path / "later" / "s"
    assert await kv.get("a") == b"1"
    await kv.aclose()


async def test_a_lock_that_is_held_costs_one_wait(store: SQLiteStore, caplog: pytest.LogCaptureFixture) -> None:
    counters, kv = SQLiteCounters(store), SQLiteKV(store)
    assert await counters.add("a", 5, 60) == 5
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    begin = loop.time()
    sums = await asyncio.gather(*(counters.add("a", 1, 60) for _ in range(20)))
    assert loop.time() - begin < 0.5, "not twenty waits"
    assert sorted(sums) == list(range(1, 21)), "counted in memory"
    await kv.set("a", b"1")
    assert await kv.get("a") == b"1"
    other.execute("COMMIT")
    other.close()
    store._broken_until = 0.0
    assert await counters.read("a", 60) == 5
    assert sum("database is locked" in one.getMessage() for one in caplog.records) == 1


async def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"not a database, but long enough to be looked at" * 100)
    counters = SQLiteCounters(SQLiteStore(tmp_path / "s"))
    assert [await counters.add("a", 1, 60) for _ in range(2)] == [1, 2]
    await counters.aclose()


async def test_a_full_file_makes_room_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PAUSE", 0.0)
    store = SQLiteStore(tmp_path / "s", max_bytes=1_000_000)
    kv = SQLiteKV(store)
    await kv.set("a", b"1")
    await store.ask(lambda db, now: db.execute("PRAGMA max_page_count=100").fetchone())
    failed = 0
    for number in range(10):
        before = store.failures
        await kv.set(f"{number}", bytes(90_000))
        failed += store.failures - before
        if store.failures > before:
            break
    assert failed == 1, "400 KiB were full"
    await kv.set("after", b"2")
    assert await kv.get("after") == b"2", "the connection is a new one, with the limit of the settings"
    await kv.aclose()


async def test_calls_that_wait_are_bounded(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "QUEUE", 5)
    counters = SQLiteCounters(store)
    sums = await asyncio.gather(*(counters.add("a", 1, 60) for _ in range(12)))
    assert sorted(sums) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7], "five by the file, seven by memory"
    assert store.failures == 7


async def test_a_call_that_is_cancelled_leaves_nothing_behind(store: SQLiteStore) -> None:
    counters = SQLiteCounters(store)
    await counters.add("a", 1, 60)
    tasks = [asyncio.create_task(counters.add("a", 1, 60)) for _ in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert store._waiting == 0
    assert 1 <= await counters.read("a", 60) <= 51


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_child_opens_the_file_anew(tmp_path: Path) -> None:
    """The parent used it already, which `serve` does not; the child must still not touch the parent's connection."""
    both = services(tmp_path)

    async def use(expected: int) -> None:
        assert await both[Counters].add("a", 1, 60) == expected

    asyncio.run(use(1))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(use(2))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    async def end() -> None:
        await use(3)
        await both[KV].aclose()
        await both[Counters].aclose()

    asyncio.run(end())


def test_the_folder_is_private_locked_and_removed() -> None:
    with private_folder(True) as folder:
        assert folder is not None
        assert folder.stat().st_mode & 0o777 == 0o700
        handle = os.open(folder, os.O_RDONLY)
        with pytest.raises(OSError, match="unavailable"):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
        (folder / "x").write_bytes(b"")
    assert not folder.exists()
    with private_folder(False) as none:
        assert none is None


def test_without_a_temporary_directory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(prefix: str) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(sqlite.tempfile, "mkdtemp", fail)
    with private_folder(True) as folder:
        assert folder is None
    assert "workers share no state" in caplog.text


class Store(Extension):
    name = "store"

    @hookimpl
    def configure(self, app: Any) -> None:
        app.provide(Counters, self)

    async def add(self, key: str, amount: int, window: float) -> int:
        return 0

    async def read(self, key: str, window: float) -> int:
        return 0


async def test_the_gateways_own_services(tmp_path: Path) -> None:
    catalogue = assembled(config()).catalogue
    gateway = Gateway(config(), catalogue, shared=tmp_path)
    kv: Any = gateway.need(KV)  # type: ignore[type-abstract]
    assert isinstance(kv, SQLiteKV)
    assert not list(tmp_path.iterdir()), "nothing is opened before it is used: workers fork first"
    await gateway.start()
    await kv.set("a", b"1")
    assert (tmp_path / sqlite.FILE).exists()
    await gateway.stop()
    assert kv.store._thread is None
    assert kv.store._db is None
    offered = Gateway(config(), assembled(config(), Store).catalogue, shared=tmp_path)
    counters: Any = offered.need(Counters)  # type: ignore[type-abstract]
    assert isinstance(counters, Store), "an extension goes before"
    await offered.stop()
