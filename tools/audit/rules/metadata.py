"""Metadata: a plugin's `pyproject.toml` is the template's.

Only the description, the dependencies, the entry points and `[tool.tianji]` are a plugin's own; everything else, the
version included, is what `cookiecutter-plugin` bakes. The description is one sentence of the form
`Groq for Tianji: what it offers.`: the catalogue prints it.

Outside of this repository the file must name a version, a description, a README and the Python that the kernel needs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from jinja2 import Environment, StrictUndefined

from tools.audit.model import ROOT, Plugin, Problem, Repo

TEMPLATE = ROOT / "cookiecutter-plugin" / "{{ cookiecutter.__directory }}" / "pyproject.toml"
OWN = ("project.name", "project.description", "project.dependencies", "project.entry-points", "tool.tianji")
"""What is not compared here. Other rules look after names, dependencies and entry points."""


def validate(plugin: Plugin) -> Iterable[Problem]:
    path = plugin.root / "pyproject.toml"
    if not plugin.ours:
        for key in ("version", "description", "readme", "requires-python"):
            if key not in plugin.project and key not in plugin.project.get("dynamic", ()):
                yield Problem(f"project.{key} is missing", "see cookiecutter-plugin", path)
        return
    description = str(plugin.project.get("description", ""))
    if " for Tianji: " not in description or not description.endswith(".") or len(description) > 120:
        yield Problem(
            f"description {description!r}", "`Name for Tianji: what it offers.`, at most 120 characters", path
        )
    wanted, found = dict(_flat(_rendered())), dict(_flat(plugin.pyproject))
    for key in sorted(wanted.keys() | found.keys()):
        if key.startswith(OWN) or wanted.get(key) == found.get(key):
            continue
        mend = f"{key} = {wanted[key]!r}" if key in wanted else "take it out"
        yield Problem(f"{key} differs from the template", mend, path)


@cache
def _rendered() -> dict[str, Any]:
    """The template's pyproject.toml, as the repository's own plugins get it."""
    repo = Repo()
    names = ("name", "description", "__title", "__distribution", "__group", "__module", "__class")
    context = dict.fromkeys(names, "x") | {
        "in_monorepo": "yes",
        "__version": repo.version,
        "__requirement": repo.requirement,
    }
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    return tomllib.loads(environment.from_string(TEMPLATE.read_text()).render(cookiecutter=context))


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves of a table by their dotted key."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
