"""`python -m tools.audit [validate|generate] [--plugin PATH]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tools.audit.model import ROOT, Plugin, Problem, Repo
from tools.audit.report import print_report
from tools.audit.rules import RULES


def audit(plugin: Plugin) -> tuple[list[Problem], list[tuple[str, str, str]]]:
    """One plugin's problems, and its exemptions (plugin, rule, reason) that are in use."""
    problems: list[Problem] = []
    excused: list[tuple[str, str, str]] = []
    if not plugin.project:
        return [Problem("no pyproject.toml with a [project]", "make new", plugin.root, rule="layout")], []
    for name, rule in RULES.items():
        found = list(rule.validate(plugin))
        reason = plugin.exempt.get(name)
        if reason is None:
            problems += [replace(one, rule=name, plugin=plugin.label) for one in found]
        elif found and reason.strip():
            excused.append((plugin.label, name, reason))
        else:
            what = "is excused without a reason" if found else "is excused, and needs no excuse"
            mend = "a reason that others can judge" if found else "take the line out"
            problems.append(Problem(f"{name} {what}", mend, plugin.root / "pyproject.toml", rule=name))
    for name in plugin.exempt.keys() - RULES.keys():
        problems.append(
            Problem(f"there is no rule {name}", "see docs/rules", plugin.root / "pyproject.toml", rule=name)
        )
    return problems, excused


def audit_repo(repo: Repo) -> list[Problem]:
    """What concerns the repository as a whole."""
    found: list[Problem] = []
    for name, rule in RULES.items():
        if hasattr(rule, "validate_repo"):
            found += [replace(one, rule=name) for one in rule.validate_repo(repo)]
    return found


def validate(plugins: Iterable[Plugin], repo: Repo | None) -> int:
    """Print all problems; 1 if there are any."""
    problems: list[Problem] = []
    excused: list[tuple[str, str, str]] = []
    count = 0
    for count, plugin in enumerate(plugins, start=1):  # noqa: B007 - counted for the report
        found, allowed = audit(plugin)
        problems += found
        excused += allowed
    if repo is not None:
        problems += audit_repo(repo)
        excused += [(path, rule, reason) for rule in RULES for path, reason in repo.exempt(rule).items()]
    print_report(problems, excused, count)
    return 1 if problems else 0


def generate(repo: Repo) -> int:
    """Write what is generated and not as it should be."""
    for rule in RULES.values():
        for path, text in (rule.generate(repo) if hasattr(rule, "generate") else {}).items():
            if not path.is_file() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                print(f"wrote {path.relative_to(repo.root)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description="Keep every plugin alike.")
    parser.add_argument("action", nargs="?", choices=("validate", "generate"), default="validate")
    parser.add_argument("--plugin", metavar="PATH", help="one plugin, also outside of the repository")
    arguments = parser.parse_args(argv)
    repo = Repo(ROOT)
    if arguments.action == "generate":
        return generate(repo)
    if arguments.plugin:
        return validate([Plugin(Path(arguments.plugin))], None)
    return validate(repo.plugins, repo)


if __name__ == "__main__":
    sys.exit(main())
