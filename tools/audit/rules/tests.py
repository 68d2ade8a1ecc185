"""Tests: every plugin passes its family's suite, and providers show their wire format.

The test file subclasses `ProviderSuite`, `GuardrailSuite`, `CallbackSuite`, `StrategySuite` or `ExtensionSuite` with
`plugin = <the class>`; a selector's suite is `SelectorSuite`, a filter's `FilterSuite`. A provider that is not
`OpenAICompatible` has at least one golden exchange in `wire/` for each op that it declares; chat has one that streams
and one that does not. A golden says honestly where it is from: `docs:<url>` (transcribed from the reference) or
`recorded:<date>`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable

from tools.audit.model import Plugin, Problem

SUITES = {
    "providers": "ProviderSuite",
    "guardrails": "GuardrailSuite",
    "callbacks": "CallbackSuite",
    "strategies": "StrategySuite",
    "extensions": "ExtensionSuite",
}
BASES = {"Selector": "SelectorSuite", "Filter": "FilterSuite"}
"""Bases that have a suite of their own within their family."""


def validate(plugin: Plugin) -> Iterable[Problem]:
    suite = next((BASES[base] for base in plugin.bases if base in BASES), SUITES.get(plugin.family, ""))
    if plugin.tests and plugin.cls_name not in set(_tested(plugin, suite)):
        mend = f"class Test{plugin.cls_name}({suite}): plugin = {plugin.cls_name}"
        yield Problem("the family's suite is not run", mend, plugin.tests[0])
    if plugin.family != "providers" or not {"HTTPProvider"} & set(plugin.bases):
        return
    shown: set[str] = set()
    for path in sorted(plugin.root.glob("wire/*.json")):
        try:
            golden = json.loads(path.read_bytes())
            call, status = golden["call"], golden["upstream"].get("status", 200)
        except (ValueError, KeyError, TypeError, AttributeError):
            yield Problem("not a golden exchange", "see tianji.testing.goldens", path)
            continue
        if status < 400:
            op = call.get("op", "chat")
            shown |= {op, f"{op}, streamed" if call.get("body", {}).get("stream") else f"{op}, whole"}
    for op in _ops(plugin):
        for wanted in (f"{op}, whole", f"{op}, streamed") if op == "chat" else (op,):
            if wanted not in shown and op != "models":
                yield Problem(f"no golden exchange for {wanted}", "add wire/<name>.json", plugin.root)


def _tested(plugin: Plugin, suite: str) -> Iterable[str]:
    """The classes that subclasses of the suite test."""
    for path in plugin.tests:
        for node in ast.walk(plugin.tree(path)):
            if not isinstance(node, ast.ClassDef) or suite not in {
                ast.unparse(base).split(".")[-1] for base in node.bases
            }:
                continue
            for line in node.body:
                if isinstance(line, ast.Assign) and any(ast.unparse(target) == "plugin" for target in line.targets):
                    yield ast.unparse(line.value).split(".")[-1]


def _ops(plugin: Plugin) -> list[str]:
    """The ops that the class declares; chat alone where it says nothing."""
    value = plugin.attribute("ops")
    if value is None:
        return ["chat"]
    return [
        node.attr.lower()
        for node in ast.walk(value)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Op"
    ]
