"""`tianji serve` as a process: signals, reloads, workers, and starts that fail in one line."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("tianji_provider_echo")

KEY = "sk-of-the-tests"
GOOD = f"""\
general_settings: {{master_key: {KEY}}}
model_list:
  - model_name: first
    tianji_params: {{model: echo/echo}}
  - model_name: slow
    tianji_params: {{model: echo/slow-stream}}
"""


class Served:
    """A running `tianji serve`, its standard error collected."""

    def __init__(self, folder: Path, *words: str, **environ: str) -> None:
        bare = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONUNBUFFERED": "1", **environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tianji.cli", "serve", "--port", "0", *words],
            cwd=folder, env=bare, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.url = ""
        self.key = KEY

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line.rstrip("\n"))

    def ready(self) -> Served:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if re.match(r"\d+ models?: ", line):
                break
        else:
            raise AssertionError(f"it ended: {self.lines} {self.errors}")
        self.url = self.lines[0].rpartition(" ")[2]
        return self

    def ask(self, model: str = "first", text: str = "Hello", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=20, trust_env=False)

    def models(self) -> set[str]:
        reply = httpx.get(f"{self.url}/v1/models", headers={"authorization": f"Bearer {self.key}"}, trust_env=False)
        return {one["id"] for one in reply.json()["data"]}

    def said(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.errors)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        status = self.process.wait(timeout=20)
        self._reading.join(timeout=10)
        return status

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its workers, too
        self.process.wait(timeout=10)
        self._reading.join(timeout=10)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


Start = Callable[..., Served]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Served] = []

    def begin(*words: str, **environ: str) -> Served:
        running.append(Served(tmp_path, *words, **environ))
        return running[-1]

    yield begin
    for one in running:
        one.kill()


def write(folder: Path, text: str = GOOD, name: str = "c.yaml") -> Path:
    """Replace a file in one step, as deployment tools do."""
    fresh = folder / f"{name}.new"
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.rename(folder / name)
    return folder / name


def until(met: Callable[[], bool], seconds: float = 15.0) -> None:
    limit = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


def test_an_empty_folder_is_enough(start: Start) -> None:
    served = start().ready()
    (line,) = (one for one in served.lines if "Master key" in one)
    served.key = line.rpartition(" ")[2]
    assert len(served.key) > 30
    assert sum(served.key in one for one in served.lines) == 2  # once told, once in the example
    answer = served.ask("echo/echo", "Say it again")
    assert answer.json()["choices"][0]["message"]["content"] == "Say it again"
    assert answer.json()["model"] == "echo/echo"
    assert httpx.get(f"{served.url}/v1/models", trust_env=False).status_code == 401
    served.send(signal.SIGTERM)
    assert served.end() == 0
    assert not served.said(re.escape(served.key))


def test_sigterm_lets_a_running_stream_end(start: Start, tmp_path: Path) -> None:
    write(tmp_path)
    served = start("-c", "c.yaml").ready()
    words = " ".join(f"word{number}" for number in range(12))
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": words}]}
    headers = {"authorization": f"Bearer {KEY}"}
    url = f"{served.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=20, trust_env=False) as reply:
        text = ""
        for part in reply.iter_text():
            if not text:
                served.send(signal.SIGTERM)
            text += part
    assert text.endswith("data: [DONE]\n\n")
    assert all(f"word{number}" in text for number in range(12))
    assert served.end() == 0
    assert not served.said("Traceback")
    with pytest.raises(httpx.ConnectError):
        served.ask()


def test_reloads_take_effect_and_bad_ones_change_nothing(start: Start, tmp_path: Path) -> None:
    write(tmp_path)
    served = start("-c", "c.yaml").ready()
    assert served.models() == {"first", "slow"}
    write(tmp_path, GOOD.replace("first", "second"))
    until(lambda: served.models() == {"second", "slow"})  # by itself
    for bad in (GOOD.replace("echo/echo", "absent/x"), "model_list: 5\n", "a: [\n", GOOD.replace(KEY, '""')):
        seen = len(served.errors)
        write(tmp_path, bad)
        served.send(signal.SIGHUP)
        until(lambda seen=seen: any("was not reloaded" in line for line in served.errors[seen:]))  # type: ignore[misc]
        assert served.models() == {"second", "slow"}
    assert served.ask("second").status_code == 200
    write(tmp_path, GOOD.replace("first", "third"))
    served.send(signal.SIGHUP)
    until(lambda: served.models() == {"third", "slow"})
    assert served.ask("third").status_code == 200
    assert served.ask("second").status_code == 404
    assert not served.said("Traceback")
    served.send(signal.SIGTERM)
    assert served.end() == 0


def test_sighup_without_a_file_is_survived(start: Start) -> None:
    served = start(TIANJI_MASTER_KEY=KEY).ready()
    served.send(signal.SIGHUP)  # maybe before anyone listens for it
    assert served.ask("echo/echo").status_code == 200
    served.send(signal.SIGHUP)
    until(lambda: served.said("reloaded"))
    assert served.ask("echo/echo").status_code == 200


BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    "a syntax error": ("model_list:\n  - a: [\n", ("c.yaml:",)),
    "a wrong type": ("model_list:\n  - model_name: a\n    tianji_params: 5\n", ("c.yaml:3", "tianji_params")),
    "no model": ("model_list:\n  - model_name: a\n    tianji_params: {}\n", ("c.yaml:3", "provider/model")),
    "an unknown provider": (
        GOOD.replace("echo/echo", "ecco/x"),
        ("c.yaml:3", "model_list[0]", "Did you mean echo?", "pip install tianji-provider-ecco"),
    ),
    "an unknown guardrail": (
        GOOD + "guardrails:\n  - guardrail_name: g\n    tianji_params: {guardrail: absent, mode: pre_call}\n",
        ("c.yaml:8", "guardrails[0]", "pip install tianji-guardrail-absent"),
    ),
    "no master key": (GOOD.replace(KEY, '""'), ("general_settings.master_key", "TIANJI_MASTER_KEY")),
    "a plugin that is required": (
        GOOD + "plugins: {require: ['tianji-provider-echo>=99']}\n",
        ("tianji-provider-echo", ">=99 is wanted", "pip install -U"),
    ),
    "a provider that is switched off": (GOOD + "plugins: {disable: ['providers.*']}\n", ("c.yaml:3", "switched off")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_configuration_is_one_line_that_says_where_and_how_to_mend_it(
    start: Start, tmp_path: Path, name: str
) -> None:
    text, parts = BAD[name]
    write(tmp_path, text)
    served = start("-c", "c.yaml")
    assert served.end() == 2
    assert served.process.stdout is not None
    assert served.process.stdout.read() == ""
    lines = [line for line in served.errors if line.startswith("tianji: ")]
    assert len(lines) == 1, served.errors
    assert not served.said("Traceback")
    for part in parts:
        assert part in lines[0]


def test_two_workers_serve_and_both_end(start: Start, tmp_path: Path) -> None:
    write(tmp_path)
    served = start("-c", "c.yaml", "--workers", "2").ready()
    until(lambda: len(_children(served.process.pid)) == 2)
    children = _children(served.process.pid)
    for number in range(20):
        assert served.ask(text=str(number)).json()["choices"][0]["message"]["content"] == str(number)
    os.kill(children[0], signal.SIGKILL)  # one that dies is replaced
    until(lambda: len(_children(served.process.pid)) == 2 and children[0] not in _children(served.process.pid))
    assert served.ask().status_code == 200
    children = _children(served.process.pid)
    served.send(signal.SIGTERM)
    assert served.end() == 0
    until(lambda: not any(_alive(child) for child in children))
    assert not served.said("Traceback")


def test_a_reload_reaches_every_worker(start: Start, tmp_path: Path) -> None:
    write(tmp_path)
    served = start("-c", "c.yaml", "--workers", "2").ready()
    write(tmp_path, GOOD.replace("first", "second"))
    served.send(signal.SIGHUP)
    until(lambda: all(served.models() == {"second", "slow"} for _ in range(8)))
    served.send(signal.SIGTERM)
    assert served.end() == 0


def test_a_worker_that_replaces_another_has_the_configuration_of_today(start: Start, tmp_path: Path) -> None:
    write(tmp_path)
    served = start("-c", "c.yaml", "--workers", "2").ready()
    until(lambda: len(_children(served.process.pid)) == 2)
    write(tmp_path, GOOD.replace("first", "second"))
    until(lambda: all(served.models() == {"second", "slow"} for _ in range(8)))
    before = _children(served.process.pid)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(set(_children(served.process.pid)) - set(before)) == 1)
    os.kill(before[1], signal.SIGKILL)  # so that the new ones answer alone
    until(lambda: len(set(_children(served.process.pid)) - set(before)) == 2)
    assert served.models() == {"second", "slow"}


def test_workers_end_with_their_parent(start: Start, tmp_path: Path) -> None:
    write(tmp_path)
    served = start("-c", "c.yaml", "--workers", "2").ready()
    assert served.ask().status_code == 200
    children = _children(served.process.pid)
    served.process.kill()
    until(lambda: not any(_alive(child) for child in children))


def test_a_port_in_use_is_one_line(start: Start, tmp_path: Path) -> None:
    write(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = start("-c", "c.yaml", "--port", str(port))
        assert served.end() == 2
    (line,) = (line for line in served.errors if line.startswith("tianji: "))
    assert line == f"tianji: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert not served.said("Traceback")


def test_a_plugin_from_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_text(
        "from tianji import Guardrail, Verdict\n"
        "class Shout(Guardrail):\n"
        "    name = 'shout'\n"
        "    async def check(self, content, call):\n"
        "        return Verdict.rewrite(content.map(str.upper))\n"
    )
    params = "{guardrail: shout, mode: pre_call, default_on: true}"
    write(tmp_path, f"{GOOD}guardrails:\n  - guardrail_name: loud\n    tianji_params: {params}\n")
    served = start("-c", "c.yaml", "--plugin", "shout.py").ready()
    reply = served.ask(text="quiet")
    assert reply.json()["choices"][0]["message"]["content"] == "QUIET"
    assert reply.headers["x-tianji-applied-guardrails"] == "loud"


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
