"""docs/reference/hooks.md: every hook, with its exact signature and its docstring."""

from __future__ import annotations

import ast

from tianji import hookspecs
from tianji.cli.describe import HOOKS, hooks
from tianji.plugin import FAMILIES
from tools.docs.source import HEAD, Function, code, definition, doc, joined, plugins, signature, table, tree

MODULE = "tianji.hookspecs"


def page() -> str:
    rows = []
    for name in HOOKS:
        kind = "async" if isinstance(node(name), ast.AsyncFunctionDef) else "plain"
        rows.append((f"[`{name}`](#{name})", kind, ends(name), ", ".join(users(name)) or "-"))
    parts = [
        "# Hooks",
        HEAD,
        doc(tree(MODULE)),
        "Bases and services: [bases.md](bases.md). The row that your own configuration makes of them: "
        "`tianji plugins --chain`.",
        table(("hook", "kind", "ends at", "implemented by"), rows),
    ]
    for name in HOOKS:
        parts += [f"## {name}", code(signature(node(name))), doc(node(name))]
    return joined(parts)


def node(name: str) -> Function:
    found = definition(MODULE, name)
    assert not isinstance(found, ast.ClassDef)
    return found


def ends(name: str) -> str:
    """What of several implementations is called."""
    if getattr(hookspecs, name).tianji_spec["firstresult"]:
        return "the one that is named" if name in ("route", "provider_call") else "the first that answers"
    return "the first reply" if name == "pre_call" else "all are called"


def users(name: str) -> list[str]:
    """The bases that turn an author's method into the hook, and the plugins of the repository that write it."""
    bases = [f"`{base.__name__}`" for base in FAMILIES.values() if name in hooks(base)]
    own = [
        f"[{one.name}]({one.readme})"
        for one in plugins()
        if name in hooks(one.cls) and name not in hooks(FAMILIES[one.family])
    ]
    return [*bases, *own]
