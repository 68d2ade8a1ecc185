"""`tianji serve --workers 2`: the workers share one file, which goes with the server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tianji import sqlite

pytest.importorskip("tianji_provider_echo")

PLUGIN = """
import os
from litestar import get
from tianji import KV, Counters, Extension, hookimpl

class Counting(Extension):
    name = "counting"

    @hookimpl
    def configure(self, app):
        @get("/counting")
        async def count() -> dict[str, int | str]:
            kv = self.gateway.need(KV)
            seen = await kv.get("seen") or b""
            await kv.set("seen", b"%d" % os.getpid())
            total = await self.gateway.need(Counters).add("calls", 1, 600)
            return {"worker": os.getpid(), "total": total, "seen": seen.decode()}

        app.add_route(count)
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Start `tianji serve` with so many workers; its temporary files are in `tmp_path`."""
    running: list[subprocess.Popen[str]] = []

    def start(workers: int) -> subprocess.Popen[str]:
        (tmp_path / "counting.py").write_text(PLUGIN)
        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"),
                   "TIANJI_MASTER_KEY": "sk-of-the-tests"}  # fmt: skip
        (tmp_path / "tmp").mkdir()
        words = ["--port", "0", "--workers", str(workers), "--plugin", "counting.py", "--json"]
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "tianji.cli", "serve", *words],
                cwd=tmp_path,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


def address(process: subprocess.Popen[str]) -> str:
    text = ""
    assert process.stdout is not None
    for line in process.stdout:
        text += line
        with contextlib.suppress(ValueError):
            return str(json.loads(text)["address"])
    raise AssertionError(f"it ended: {process.communicate()}")


def count(url: str) -> dict[str, Any]:
    headers = {"authorization": "Bearer sk-of-the-tests"}
    answer: dict[str, Any] = httpx.get(f"{url}/counting", headers=headers, timeout=20, trust_env=False).json()
    return answer


def until(met: Callable[[], bool], seconds: float = 15.0) -> None:
    limit = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


def test_two_workers_count_together(tmp_path: Path, served: Callable[[int], subprocess.Popen[str]]) -> None:
    process = served(2)
    url = address(process)
    (folder,) = (tmp_path / "tmp").glob("tianji-*")
    answers: list[dict[str, Any]] = []
    until(lambda: answers.append(count(url)) or len({one["worker"] for one in answers}) == 2)  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(8) as pool:
        answers += pool.map(lambda _: count(url), range(100))
    assert sorted(one["total"] for one in answers) == list(range(1, len(answers) + 1)), "no sum is told twice"
    workers = {one["worker"] for one in answers}
    assert len(workers) == 2
    assert {int(one["seen"]) for one in answers[1:] if one["seen"]} == workers
    os.kill(min(workers), signal.SIGKILL)  # the worker that takes its place shares, too
    more: list[dict[str, Any]] = []

    def replaced() -> bool:
        with contextlib.suppress(httpx.TransportError):
            more.append(count(url))
        return any(one["worker"] not in workers for one in more)

    until(replaced)
    assert all(one["total"] > len(answers) for one in more)
    assert (folder / sqlite.FILE).exists()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not folder.exists(), "the file goes with the server"


def test_workers_without_a_parent_clear_up(tmp_path: Path, served: Callable[[int], subprocess.Popen[str]]) -> None:
    process = served(2)
    assert count(address(process))["total"] == 1
    (folder,) = (tmp_path / "tmp").glob("tianji-*")
    process.kill()
    until(lambda: not folder.exists())


def test_one_worker_needs_no_file(tmp_path: Path, served: Callable[[int], subprocess.Popen[str]]) -> None:
    url = address(served(1))
    assert [count(url)["total"] for _ in range(3)] == [1, 2, 3]
    assert not list((tmp_path / "tmp").glob("tianji-*"))
