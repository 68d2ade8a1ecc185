"""Size: a file fits into one head.

A file has at most 400 lines, in plugins, in the kernel and in the tools. A provider that is `OpenAICompatible` has at
most 60: what no class attribute can say is rare, and a longer one either has a wire format of its own (`HTTPProvider`)
or says a quirk twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tools.audit.model import Plugin, Problem, Repo

MOST = 400
MOST_COMPATIBLE = 60
KERNEL = ("core/tianji", "tools", "bench")
"""Folders of the repository's own code."""


def validate(plugin: Plugin) -> Iterable[Problem]:
    for path in (*plugin.files, *plugin.tests):
        if (lines := count(path)) > MOST:
            yield Problem(f"{lines} lines", f"at most {MOST}", path)
    if "OpenAICompatible" in plugin.bases and plugin.cls is not None:
        lines = sum(count(path) for path in plugin.files)
        if lines > MOST_COMPATIBLE:
            yield Problem(f"{lines} lines for an OpenAICompatible", f"at most {MOST_COMPATIBLE}", plugin.cls[0])


def validate_repo(repo: Repo) -> Iterable[Problem]:
    excused = repo.exempt("size")
    for path in sorted(path for folder in KERNEL for path in (repo.root / folder).rglob("*.py")):
        place = path.relative_to(repo.root).as_posix()
        if (lines := count(path)) > MOST and place not in excused:
            yield Problem(f"{lines} lines", f'split it, or root pyproject.toml: exempt.size."{place}"', path)
        if lines <= MOST and place in excused:
            yield Problem("excused, and needs no excuse", "take it out of the root's exempt.size", path)


def count(path: Path) -> int:
    return len(path.read_text().splitlines())
