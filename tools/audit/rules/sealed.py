"""Sealed: nobody overrides a hook that the family's base has sealed.

The bases turn one method (`check`, `export`, `rank`, `encode`) into the hook. pluggy would silently ignore an override
without its marker, so the author would believe in a check that never runs. mypy reports it too, where it is used.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

import tianji
from tianji.plugin import FAMILIES
from tools.audit.model import Plugin, Problem


def validate(plugin: Plugin) -> Iterable[Problem]:
    if plugin.cls is None or plugin.family not in FAMILIES:
        return
    path, node = plugin.cls
    base: type[object] = FAMILIES[plugin.family]
    for name in plugin.bases:
        named = getattr(tianji, name, None) if name in tianji.__all__ else None
        if isinstance(named, type) and issubclass(named, FAMILIES[plugin.family]):
            base = named
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and is_sealed(base, method.name):
            mend = f"write the method that {base.__name__} documents"
            yield Problem(f"`{method.name}` is sealed in {base.__name__}", mend, path, method.lineno)


def is_sealed(base: type[object], name: str) -> bool:
    """Whether `typing.final` marks a base's method or property."""
    member = getattr(base, name, None)
    return bool(getattr(getattr(member, "fget", member), "__final__", False))
