"""Metapackage: `pip install tianji` brings what the repository holds.

`make generate` writes the dependencies, the extras and the workspace sources of the root's `pyproject.toml` from the
plugins' own, between the markers `generated: <part>` and `end of <part>`, and the kernel's version in the plugin
template. There is an extra for each plugin, and `all`.

A plugin that does not belong to the standard set says `[tool.tianji] standard = false`; it is then only an extra.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tools.audit.generated import between, stale
from tools.audit.model import Plugin, Problem, Repo


def validate(plugin: Plugin) -> Iterable[Problem]:
    return ()


def validate_repo(repo: Repo) -> Iterable[Problem]:
    return stale(generate(repo))


def generate(repo: Repo) -> dict[Path, str]:
    """The root's pyproject.toml and the template's answers, as they should be."""
    pyproject, template = repo.root / "pyproject.toml", repo.root / "cookiecutter-plugin" / "cookiecutter.json"
    files = {pyproject: metapackage(repo, pyproject.read_text())}
    if template.is_file():
        answers = json.loads(template.read_text()) | {"__version": repo.version, "__requirement": repo.requirement}
        files[template] = json.dumps(answers, indent=4, ensure_ascii=False) + "\n"
    return files


def metapackage(repo: Repo, text: str) -> str:
    """The root's pyproject.toml with its three tables filled in."""
    bounds = repo.requirement
    known = {str(plugin.project.get("name")): plugin for plugin in repo.plugins}
    standard = [
        name
        for name, plugin in known.items()
        if plugin.pyproject.get("tool", {}).get("tianji", {}).get("standard") is not False
    ]
    wanted = [f"tianji-core{bounds}", *(f"{name}{bounds}" for name in standard)]
    text = between(text, "dependencies", _array("dependencies", wanted))
    extras = [_array(name.removeprefix("tianji-"), [f"{name}{bounds}"]) for name in known]
    extras.append(_array("all", [f"{name}{bounds}" for name in known]))
    text = between(text, "extras", "\n".join(extras))
    sources = [f"{name} = {{workspace = true}}" for name in ("tianji-core", *known)]
    return between(text, "sources", "\n".join(sources))


def _array(name: str, items: list[str]) -> str:
    if len(items) < 2:
        return f"{name} = {json.dumps(items)}"
    return "\n".join([f"{name} = [", *(f"    {json.dumps(item)}," for item in items), "]"])
