"""What rules look at and what they say: `Repo`, `Plugin`, `Problem`."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tianji.plugin import FAMILIES, SINGULAR

ROOT = Path(__file__).resolve().parents[2]
LEFTOVERS = re.compile(r"__pycache__|.*\.egg-info|dist|build|\..*")
"""What tools leave in a folder."""


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be, where, and what mends it."""

    message: str
    mend: str
    path: Path | None = None
    line: int = 0
    rule: str = ""
    plugin: str = ""

    @property
    def place(self) -> str:
        """Where to look, relative to the repository if it is in there."""
        if self.path is None:
            return self.plugin
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{path}:{self.line}" if self.line else str(path)


class Plugin:
    """One plugin's folder, read and never imported."""

    def __init__(self, root: Path, repo: Path = ROOT) -> None:
        self.root = root.resolve()
        self.ours = self.root.parent.parent == repo / "plugins"
        """A plugin of this repository. Outsiders choose their own distribution name, version, licence and files."""
        self._trees: dict[Path, ast.Module] = {}

    def __repr__(self) -> str:
        return self.label

    @property
    def label(self) -> str:
        return f"{self.root.parent.name}/{self.root.name}" if self.ours else self.root.name

    @cached_property
    def pyproject(self) -> dict[str, Any]:
        path = self.root / "pyproject.toml"
        return tomllib.loads(path.read_text()) if path.is_file() else {}

    @property
    def project(self) -> dict[str, Any]:
        found = self.pyproject.get("project", {})
        return found if isinstance(found, dict) else {}

    @cached_property
    def groups(self) -> dict[str, dict[str, str]]:
        """The entry points by family."""
        points = self.project.get("entry-points", {})
        return {group.removeprefix("tianji."): names for group, names in points.items() if group.startswith("tianji.")}

    @property
    def family(self) -> str:
        """Its family: of the folder that it lies in, or (outside of the repository) of its entry-point group."""
        return self.root.parent.name if self.ours else next(iter(self.groups), "")

    @property
    def singular(self) -> str:
        return SINGULAR.get(self.family, self.family)

    @cached_property
    def names(self) -> dict[str, str]:
        """Entry points: name to `module:Class`."""
        return self.groups.get(self.family, {})

    @property
    def name(self) -> str:
        """What operators write: the entry point that the folder is named for, else the first."""
        folded = [name for name in self.names if name.replace("_", "-") == self.root.name]
        return (folded or list(self.names) or [""])[0]

    @property
    def also(self) -> list[str]:
        """Further names for the same class."""
        return [name for name in self.names if name != self.name]

    @property
    def module(self) -> str:
        """The import name of the module or package."""
        return self.names.get(self.name, "").partition(":")[0].partition(".")[0]

    @property
    def cls_name(self) -> str:
        return self.names.get(self.name, "").partition(":")[2]

    @cached_property
    def exempt(self) -> dict[str, str]:
        """Rules that it is excused from, with the reason."""
        table = self.pyproject.get("tool", {}).get("tianji", {}).get("exempt", {})
        return {str(rule): str(reason) for rule, reason in table.items()}

    @property
    def is_package(self) -> bool:
        return bool(self.module) and (self.root / self.module / "__init__.py").is_file()

    @cached_property
    def files(self) -> list[Path]:
        """The code: the module, or the package's modules with `__init__` first."""
        if self.is_package:
            return sorted((self.root / self.module).rglob("*.py"), key=lambda path: (path.stem != "__init__", path))
        single = self.root / f"{self.module}.py"
        return [single] if self.module and single.is_file() else []

    @cached_property
    def tests(self) -> list[Path]:
        return sorted([*self.root.glob("test_*.py"), *self.root.glob("tests/**/test_*.py")])

    def tree(self, path: Path) -> ast.Module:
        """A file's syntax tree; an empty one where it cannot be parsed, which ruff reports better."""
        if path not in self._trees:
            try:
                self._trees[path] = ast.parse(path.read_text(), str(path))
            except SyntaxError:
                self._trees[path] = ast.Module([], [])
        return self._trees[path]

    @cached_property
    def cls(self) -> tuple[Path, ast.ClassDef] | None:
        """The plugin's class and the file that defines it."""
        for path in self.files:
            for node in self.tree(path).body:
                if isinstance(node, ast.ClassDef) and node.name == self.cls_name:
                    return path, node
        return None

    @property
    def bases(self) -> list[str]:
        """The names of the bases that the class statement gives."""
        if self.cls is None:
            return []
        return [base.id if isinstance(base, ast.Name) else ast.unparse(base) for base in self.cls[1].bases]

    def attribute(self, name: str) -> ast.expr | None:
        """What the class statement assigns to a name."""
        for node in self.cls[1].body if self.cls else ():
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return getattr(node, "value", None)
        return None

    @cached_property
    def settings(self) -> ast.ClassDef | None:
        """The nested class `Settings`."""
        body = self.cls[1].body if self.cls else ()
        return next((node for node in body if isinstance(node, ast.ClassDef) and node.name == "Settings"), None)

    def fields(self) -> Iterator[tuple[ast.AnnAssign, str]]:
        """The settings, each with the string literal below it ("" without one)."""
        body = self.settings.body if self.settings else []
        for node, after in zip_longest(body, body[1:]):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                value = after.value if isinstance(after, ast.Expr) else None
                text = value.value if isinstance(value, ast.Constant) else ""
                yield node, text if isinstance(text, str) else ""


class Repo:
    """The repository, or another one of the same shape (tests)."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    @cached_property
    def plugins(self) -> list[Plugin]:
        """Every plugin, by family (in the order of `tianji.plugin.FAMILIES`) and folder."""
        places = [path.parent for family in FAMILIES for path in self.root.glob(f"plugins/{family}/*/pyproject.toml")]
        return [
            Plugin(place, self.root)
            for place in sorted(places, key=lambda one: (list(FAMILIES).index(one.parent.name), one))
        ]

    @cached_property
    def pyproject(self) -> dict[str, Any]:
        return tomllib.loads((self.root / "pyproject.toml").read_text())

    @property
    def version(self) -> str:
        return str(self.pyproject["project"]["version"])

    @property
    def requirement(self) -> str:
        """What every plugin requires of the kernel, and the metapackage of every plugin: `>=0.1,<1`."""
        return requirement(self.version)

    def exempt(self, rule: str) -> dict[str, str]:
        """Paths of the repository itself that are excused from a rule, with the reason."""
        table = self.pyproject.get("tool", {}).get("tianji", {}).get("exempt", {}).get(rule, {})
        return {str(path): str(reason) for path, reason in table.items()}


def requirement(version: str) -> str:
    major, minor = (int(part) for part in version.split(".")[:2])
    return f">={major}.{minor},<{major + 1}"
