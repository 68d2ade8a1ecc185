"""Reading Python without running it: imports, and what an import runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tools.audit.model import Plugin


def statements(tree: ast.AST, top: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import, and whether it runs when the module is imported (what is under TYPE_CHECKING does not)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, top
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        yield from statements(node, top and not late and not typing)


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The absolute modules that a statement names; a relative import names none."""
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if not node.level else []
    return [alias.name for alias in node.names]


def eager_files(plugin: Plugin) -> Iterator[Path]:
    """The files that importing the plugin's class runs: its module, and what that imports relatively at the top."""
    todo, seen = plugin.files[:1], set(plugin.files[:1])
    while todo:
        path = todo.pop()
        yield path
        for node, top in statements(plugin.tree(path)):
            if not top or not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            folder = path.parents[node.level - 1]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                place = folder.joinpath(*name.split("."))
                for found in (place.with_suffix(".py"), place / "__init__.py"):
                    if found.is_file() and found not in seen:
                        seen.add(found)
                        todo.append(found)
