"""Settings: frozen, documented, and secret where they look so.

`class Settings(PluginSettings, frozen=True)`, a string literal below every field (it becomes the field's documentation
in `tianji plugins` and in the reference), and the type `Secret` for whatever is a credential, so that it is never seen
in a repr, a log line or an error.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from tools.audit.model import Plugin, Problem

CREDENTIAL = re.compile(
    r"(?:^|_)(?:api_?key|secret|password|passphrase|token|(?:access|private|secret|license|signing|shared)_key"
    r"|credentials?|connection_string)$"
)


def validate(plugin: Plugin) -> Iterable[Problem]:
    if plugin.settings is None or plugin.cls is None:
        return
    path, node = plugin.cls[0], plugin.settings
    frozen = any(word.arg == "frozen" and ast.unparse(word.value) == "True" for word in node.keywords)
    if not frozen:
        yield Problem("Settings is not frozen", "class Settings(PluginSettings, frozen=True)", path, node.lineno)
    for field, doc in plugin.fields():
        name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
        if not doc.strip():
            yield Problem(f"Settings.{name} is not documented", "a string literal below it", path, field.lineno)
        if CREDENTIAL.search(name) and "Secret" not in kind:
            yield Problem(f"Settings.{name} looks like a credential", f"{name}: Secret", path, field.lineno)
