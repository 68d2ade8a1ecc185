"""The rules, in the order in which they are reported."""

from __future__ import annotations

from types import ModuleType

from tools.audit.rules import (
    catalogue,
    deps,
    docs,
    imports,
    layout,
    metadata,
    metapackage,
    names,
    pages,
    sealed,
    settings,
    size,
    tests,
)

RULES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        layout,
        names,
        metadata,
        deps,
        imports,
        size,
        docs,
        settings,
        sealed,
        tests,
        catalogue,
        metapackage,
        pages,
    )
}
