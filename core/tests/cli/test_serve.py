"""`tianji serve` as a process: what it prints, that it answers, how it ends."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def has(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_echo = pytest.mark.skipif(not has("tianji-provider-echo"), reason="tianji-provider-echo is not installed")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `tianji serve` on any port, in an empty folder with a bare environment."""
    started: list[subprocess.Popen[str]] = []
    folder = tmp_path / "empty"
    folder.mkdir()

    def start(*words: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tianji.cli", "serve", "--port", "0", *words],
            cwd=folder, env={"PATH": os.environ["PATH"], "HOME": str(folder), **environ},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def lines_until(process: subprocess.Popen[str], last: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if re.match(last, lines[-1]):
            return lines
    raise AssertionError(f"it ended: {lines} {process.communicate(timeout=10)[1]}")


def post(address: str, key: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )  # fmt: skip
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as answer:
        return json.load(answer)


@needs_echo
@pytest.mark.parametrize("workers", ["1", "2"])
def test_from_nothing_to_an_answer_and_a_clean_end(serve: Any, workers: str) -> None:
    process = serve("--workers", workers)
    lines = lines_until(process, r"\d+ models?: ")
    address = lines[0].removeprefix("Tianji is listening on ")
    (key_line,) = (line for line in lines if "Master key" in line)
    key = key_line.rpartition(" ")[2]
    assert key.startswith("sk-")
    assert len(key) > 30
    assert "echo/echo" in lines[-1]
    answer = post(address, key, {"model": "echo/echo", "messages": [{"role": "user", "content": "Hello"}]})
    assert "Hello" in answer["choices"][0]["message"]["content"]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=15)
    assert process.returncode == 0, err
    assert key not in out + err
    assert "Traceback" not in err


@needs_echo
def test_a_chosen_master_key_is_never_printed(serve: Any) -> None:
    process = serve(TIANJI_MASTER_KEY="sk-chosen-by-me")
    lines = lines_until(process, r"\d+ models?: ")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=15)
    assert process.returncode == 0
    assert "sk-chosen-by-me" not in "\n".join(lines) + out + err


@needs_echo
def test_json(serve: Any) -> None:
    process = serve("--json")
    data = json.loads("\n".join(lines_until(process, r"\}$")))
    assert data.keys() == {"address", "config", "master_key", "models"}
    assert data["config"] is None
    assert "echo/echo" in data["models"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 0


def test_a_configuration_that_cannot_be_used_is_one_line(serve: Any) -> None:
    process = serve("-c", "none.yaml")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("tianji: none.yaml: there is no file")


@pytest.mark.parametrize("variable", ["PORT", "NUM_WORKERS"])
def test_a_variable_that_is_no_number(
    site: Any, tianji: Any, config: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    site.everything()
    monkeypatch.setenv(variable, "many")
    result = tianji("serve", "-c", config())
    assert (result.status, result.out) == (2, "")
    assert f"${variable}: 'many' is not a whole number" in result.err
