"""`tianji bench` hands on to the repository's benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tianji.cli import main

MAIN = """
import json, pathlib, sys
given = sys.argv[1:]
if "--json" in given:
    pathlib.Path(given[given.index("--json") + 1]).write_text(json.dumps({"given": given[:-2]}))
print("TABLE", *given)
sys.exit(3)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout"
    (folder / "core" / "tianji").mkdir(parents=True)
    (folder / "bench").mkdir()
    (folder / "bench" / "__main__.py").write_text(MAIN)
    monkeypatch.chdir(folder)
    return folder


def test_arguments_and_status_are_passed_on(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "--only", "floor"]) == 3
    assert capfd.readouterr().out == "TABLE --quick --only floor\n"


def test_json_is_alone_on_standard_output(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", "--quick"]) == 3
    out, err = capfd.readouterr()
    assert json.loads(out) == {"given": ["--quick"]}
    assert err.startswith("TABLE --quick --json")


def test_without_a_checkout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tianji.cli.bench.checkout", lambda *parts: None)
    assert main(["bench"]) == 2
    out, err = capsys.readouterr()
    assert (out, "Clone the repository" in err, err.count("\n")) == ("", True, 1)
