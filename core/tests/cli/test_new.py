"""`tianji new`, with a small template of the same shape as the repository's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cookiecutter", reason="cookiecutter is not installed")

FOLDER = "{{ cookiecutter.family.split('-')[0] }}-{{ cookiecutter.name }}"


@pytest.fixture
def template(tmp_path: Path) -> Path:
    folder = tmp_path / "template"
    (folder / FOLDER).mkdir(parents=True)
    questions = {
        "family": ["provider-openai", "provider-custom", "guardrail", "callback", "strategy", "extension"],
        "name": "acme", "description": "A description", "author": "Somebody", "github_username": "somebody",
        "in_monorepo": ["no", "yes"],
    }  # fmt: skip
    (folder / "cookiecutter.json").write_text(json.dumps(questions))
    answers = {name: f"{{{{ cookiecutter.{name} }}}}" for name in questions}
    (folder / FOLDER / "answers.json").write_text(json.dumps(answers))
    return folder


def answers(folder: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((Path(folder) / "answers.json").read_text())
    return found


@pytest.mark.parametrize(
    ("given", "family"),
    [
        ("provider", "provider-openai"),
        ("providers", "provider-openai"),
        ("provider-custom", "provider-custom"),
        ("strategies", "strategy"),
        ("guardrail", "guardrail"),
    ],
)
def test_it_bakes(tianji: Any, template: Path, given: str, family: str) -> None:
    result = tianji("new", given, "acme-two", "--dir", "out", "--author", "Ann", "--template", str(template), "--json")
    assert result.status == 0
    data = result.data
    assert data.keys() == {"path", "family", "name", "next"}
    assert (data["family"], data["name"]) == (family, "acme-two")
    made = answers(data["path"])
    assert made == {
        "family": family, "name": "acme-two", "description": "A description", "author": "Ann",
        "github_username": "somebody", "in_monorepo": "no",
    }  # fmt: skip


def test_it_says_what_is_next(tianji: Any, template: Path) -> None:
    result = tianji("new", "callback", "acme", "--template", str(template))
    assert result.out.startswith("Made callback-acme\nNext:\n  pip install -e callback-acme\n")
    again = tianji("new", "callback", "acme", "--template", str(template))
    assert (again.status, again.err.count("\n")) == (2, 1)
    assert "already exists" in again.err


def test_inside_a_checkout_it_goes_to_its_family(
    tianji: Any, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkout"
    (root / "core" / "tianji").mkdir(parents=True)
    (root / "docs").mkdir()
    template.rename(root / "cookiecutter-plugin")
    monkeypatch.chdir(root / "docs")
    path = tianji("new", "strategy", "acme", "--json").data["path"]
    assert Path(path) == root / "plugins" / "strategies" / "strategy-acme"
    assert answers(path)["in_monorepo"] == "yes"
    alone = tianji("new", "strategy", "acme", "--standalone", "--json").data["path"]
    assert Path(alone) == root / "docs" / "strategy-acme"
    assert answers(alone)["in_monorepo"] == "no"


@pytest.mark.parametrize("name", ["Acme", "a b", "-x", "9lives", "a--b", "../up", ""])
def test_a_name_that_cannot_be_one(tianji: Any, template: Path, name: str) -> None:
    result = tianji("new", "callback", "--template", str(template), "--", name)
    assert result.status == 2
    assert not list(Path().iterdir())


def test_an_unknown_family(tianji: Any) -> None:
    assert "provider-openai, provider-custom, guardrail" in tianji("new", "gods", "zeus").err


def test_without_cookiecutter(tianji: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cookiecutter.main", None)
    result = tianji("new", "callback", "acme")
    assert (result.status, "pip install cookiecutter" in result.err) == (2, True)


def test_without_a_checkout(tianji: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tianji.cli.new.checkout", lambda *parts: None)
    result = tianji("new", "callback", "acme")
    assert result.status == 2
    assert "--directory cookiecutter-plugin" in result.err
