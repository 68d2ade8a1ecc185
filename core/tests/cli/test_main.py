"""The command line as a whole: help, errors, and what is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tianji import __version__
from tianji.cli import COMMANDS


def test_help_has_one_line_for_each_command(tianji: Any) -> None:
    result = tianji("--help")
    lines = result.out.splitlines()
    for name, summary in COMMANDS.items():
        assert sum(line.split() == [name, *summary.split()] for line in lines) == 1


def test_version(tianji: Any) -> None:
    assert tianji("--version").out == f"tianji {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_offers_json(tianji: Any, name: str) -> None:
    result = tianji(name, "--help")
    assert result.status == 0
    assert "--json" in result.out


@pytest.mark.parametrize("words", [("nonsense",), ("check", "--nonsense"), ()])
def test_a_wrong_command_line_is_status_2(tianji: Any, words: tuple[str, ...]) -> None:
    result = tianji(*words)
    assert result.status == 2
    assert result.out == ""


def imported(*words: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    code = (
        "import sys\nfrom tianji.cli import main\n"
        f"try:\n    main({list(words)!r})\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.splitlines()[-1].split())


def test_serve_starts_light() -> None:
    modules = imported("serve", "--help")
    assert not modules & {"litestar", "httpx", "rich", "uvicorn", "httptools", "tianji.gateway", "tianji.cli.plugins"}
    assert "tianji.cli.serve" in modules


def test_help_imports_no_command() -> None:
    modules = imported("--help")
    assert not {name for name in modules if name.startswith("tianji.cli.")}
    assert not modules & {"litestar", "httpx", "rich", "yaml"}


def test_the_plain_list_imports_no_plugin() -> None:
    modules = imported("plugins")
    assert not {name for name in modules if name.startswith(("tianji_", "litestar", "httpx", "tianji.gateway"))}


def test_a_reader_that_leaves_and_a_terminal_without_arrows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tianji.cli", "plugins"]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command[:-1], "check"], capture_output=True, cwd=tmp_path, env=environ, timeout=60)
    assert b"Traceback" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    gone = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (gone.returncode, gone.stderr) == (0, b"")
