"""docs/reference/bases.md: the base classes that authors subclass, and the services that plugins offer one another."""

from __future__ import annotations

import ast

from tianji.services import OFFERED_BY
from tools.docs.source import (
    HEAD,
    attributes,
    class_of,
    code,
    decorators,
    doc,
    joined,
    methods,
    signature,
    table,
    tick,
    tree,
)

BASES = {
    "Plugin": "tianji.plugin.base",
    "PluginSettings": "tianji.plugin.base",
    "Provider": "tianji.plugin.provider",
    "HTTPProvider": "tianji.providers.http",
    "OpenAICompatible": "tianji.providers.openai",
    "Guardrail": "tianji.plugin.guardrail",
    "Content": "tianji.plugin.guardrail",
    "Verdict": "tianji.plugin.guardrail",
    "Callback": "tianji.plugin.callback",
    "Strategy": "tianji.plugin.strategy",
    "Extension": "tianji.plugin.extension",
}
SERVICES = "tianji.services"
GIVEN = ("GatewayAPI", "Assembly")
"""What plugins are given rather than offer."""


def page() -> str:
    parts = [
        "# Base classes and services",
        HEAD,
        "What a plugin's author subclasses and is given. The bases and services are imported from `tianji`. What the "
        "bases make of it is in [hooks.md](hooks.md); every public name with its signature is in [api.txt](api.txt). "
        "Methods marked `@final` belong to the kernel and are left out here.",
    ]
    for name, module in BASES.items():
        parts += described(name, module, "##")
    parts += ["## What plugins are given"]
    for name in GIVEN:
        parts += described(name, SERVICES, "###")
    parts += ["## Services", doc(tree(SERVICES))]
    offered = {service.__name__: names for service, names in OFFERED_BY.items()}
    for one in tree(SERVICES).body:
        if isinstance(one, ast.ClassDef) and one.name not in GIVEN:
            parts += described(one.name, SERVICES, "###")
            if one.name in offered:
                parts.append(f"Offered by {', '.join(map(tick, offered[one.name]))}.")
    return joined(parts)


def described(name: str, module: str, level: str) -> list[str]:
    """A class: its docstring, its attributes, and the methods that an author may write or call."""
    node = class_of(module, name)
    bases = [ast.unparse(base) for base in node.bases if ast.unparse(base) not in ("Protocol", "msgspec.Struct")]
    parts = [f"{level} {name}{'(' + ', '.join(bases) + ')' if bases else ''}", doc(node)]
    rows = [
        (tick(one.name), tick(one.annotation.removeprefix("ClassVar[").removesuffix("]") if
         one.annotation.startswith("ClassVar[") else one.annotation), tick(one.default), one.doc)
        for one in attributes(node)
    ]  # fmt: skip
    if rows:
        parts.append(table(("attribute", "type", "default", "meaning"), rows))
    for method in methods(node):
        if "final" not in decorators(method):
            marks = "".join(f"@{mark}\n" for mark in sorted(decorators(method)))
            parts += [code(marks + signature(method)), doc(method)]
    return parts
