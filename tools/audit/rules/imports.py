"""Imports: only public names, nothing heavy when the module is imported.

A plugin's module imports the standard library, names that `tianji` exports (`from tianji import ...`), and what it
declares as a dependency; its tests may import `tianji.testing` too. It imports no private name, no other part of the
kernel and no other plugin: whatever is needed from there belongs into `tianji/__init__.py`, on purpose.

With 150 plugins installed everybody pays for what a module imports at its top, so only a few small distributions may
stand there. Import the rest inside the function that needs it, under `if TYPE_CHECKING:`, or in a module of the package
that is itself imported late.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

import tianji
from tools.audit.code import eager_files, imported, statements
from tools.audit.model import Plugin, Problem
from tools.audit.rules.deps import name_of

LIGHT = {
    "msgspec": "structs and JSON; the kernel has loaded it already",
    "httptools": "the kernel has loaded it already",
}
"""Distributions that may be imported at the top of a module, and why."""
KERNEL = {"msgspec", "httptools", "pluggy", "yaml", "rich", "httpx", "litestar", "uvicorn", "importlib_metadata"}
"""What comes with the kernel (httpx with its extra); a plugin need not declare it."""
TESTS = {"pytest", "hypothesis", "httpx"}
SPELLED = {"pyyaml": "yaml", "opentelemetry-sdk": "opentelemetry", "google-auth": "google", "azure-identity": "azure"}
"""Distributions whose import name is another."""


def validate(plugin: Plugin) -> Iterable[Problem]:
    declared = {name_of(line) for line in plugin.project.get("dependencies", ())}
    own = {plugin.module, *KERNEL, *(SPELLED.get(name, name.replace("-", "_")).split(".")[0] for name in declared)}
    eager = set(eager_files(plugin))
    for path in plugin.files:
        for node, top in statements(plugin.tree(path)):
            yield from _judge(node, path, own)
            for module in imported(node) if top and path in eager else ():
                if module.split(".")[0] not in {*sys.stdlib_module_names, "tianji", plugin.module, *LIGHT}:
                    mend = "import it inside the function that needs it"
                    yield Problem(f"{module} is imported at the top", mend, path, node.lineno)
    for path in plugin.tests:
        for node, _ in statements(plugin.tree(path)):
            yield from _judge(node, path, own | TESTS, test=True)


def _judge(node: ast.Import | ast.ImportFrom, path: Path, own: set[str], *, test: bool = False) -> Iterable[Problem]:
    """The problems of one import statement, wherever it stands."""
    if isinstance(node, ast.ImportFrom) and node.level:
        return
    for module in imported(node):
        root = module.split(".")[0]
        if root == "tianji":
            yield from _judge_tianji(node, module, path, test=test)
        elif root.startswith("tianji_") and root not in own:
            yield Problem(f"{module} is another plugin", "meet through a service of tianji.services", path, node.lineno)
        elif root not in sys.stdlib_module_names and root not in own:
            yield Problem(f"{module} is not declared", "project.dependencies, or do without", path, node.lineno)


def _judge_tianji(node: ast.Import | ast.ImportFrom, module: str, path: Path, *, test: bool) -> Iterable[Problem]:
    public = {*tianji.__all__, "__version__"}
    names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
    if module == "tianji":
        for name in sorted(set(names) - public - ({"testing"} if test else set())):
            yield Problem(f"tianji does not export {name}", "use what tianji.__all__ lists", path, node.lineno)
    elif not (test and module.split(".")[:2] == ["tianji", "testing"]):
        yield Problem(f"{module} is not public", "`from tianji import ...` what it exports", path, node.lineno)
