"""Docs: the first line says what it is, the third where its wire format is documented.

The module's docstring begins with one line `Name: what it offers.`, and has a line `Docs: <URL>` of the vendor's own
reference (for what has no vendor, of the behaviour that operators know). The README has the distribution's name as its
heading, the three sections Install, Configure and Limits, `pip install` with the right name, and every setting.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from tools.audit.model import Plugin, Problem

SECTIONS = ("Install", "Configure", "Limits")


def validate(plugin: Plugin) -> Iterable[Problem]:
    if plugin.files:
        path = plugin.cls[0] if plugin.cls else plugin.files[0]
        doc = ast.get_docstring(plugin.tree(path)) or ""
        first = doc.partition("\n")[0]
        if ": " not in first or not first.endswith(".") or len(first) > 118:
            yield Problem(f"the docstring begins {first!r}", '"""Name: what it offers.', path, 1)
        if not re.search(r"^Docs: https?://\S+", doc, re.MULTILINE):
            yield Problem("the docstring does not say where the wire format is documented", "Docs: <URL>", path, 1)
    readme = plugin.root / "README.md"
    if not readme.is_file():
        return
    text = readme.read_text()
    name = plugin.project.get("name", "")
    if not text.startswith(f"# {name}\n"):
        yield Problem("the heading is not the distribution's name", f"# {name}", readme, 1)
    headings = re.findall(r"^## (.+?)\s*$", text, re.MULTILINE)
    for section in SECTIONS:
        if section not in headings:
            yield Problem(f"no section {section}", f"## {section}", readme)
    if not re.search(rf"pip install (?:\S+ )*['\"]?{re.escape(str(name))}\b", text):
        yield Problem("it does not say how to install it", f"pip install {name}", readme)
    for field, _ in plugin.fields():
        setting = ast.unparse(field.target)
        if not re.search(rf"\b{re.escape(setting)}\b", text):
            yield Problem(f"the setting `{setting}` is not explained", "a row of the table under Configure", readme)
