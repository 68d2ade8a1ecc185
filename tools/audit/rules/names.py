"""Names: everything derives from the family and the name.

The name is what operators write in the configuration. It is the entry point's name and the class attribute `name`. From
it follow the folder (with dashes), the distribution `tianji-<family>-<folder>`, the module (the same with underscores)
and the class (in CamelCase; capitals are free: `OpenAI`). A second name that must be understood is a second entry point
to the same class.

Outside of this repository only the entry point's name, the class attribute and the class have to agree.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from tianji.plugin import FAMILIES
from tools.audit.model import Plugin, Problem


def validate(plugin: Plugin) -> Iterable[Problem]:
    pyproject = plugin.root / "pyproject.toml"
    if list(plugin.groups) != [plugin.family] or plugin.family not in FAMILIES:
        wanted = f'[project.entry-points."tianji.{plugin.family if plugin.ours else "<family>"}"]'
        yield Problem(
            f"entry points in {list(plugin.groups) or 'no family'}", f"exactly one group: {wanted}", pyproject
        )
        return
    if len(set(plugin.names.values())) != 1:
        yield Problem("entry points lead to several classes", "one plugin, one class; the rest are aliases", pyproject)
        return
    if plugin.cls is None:
        yield Problem(f"no class {plugin.cls_name} in {plugin.module}", "entry point = module:Class", pyproject)
        return
    path, node = plugin.cls
    attribute = plugin.attribute("name")
    if not isinstance(attribute, ast.Constant) or attribute.value != plugin.name:
        yield Problem(
            f"the class attribute `name` is not {plugin.name!r}", f'name = "{plugin.name}"', path, node.lineno
        )
    if _letters(node.name) != _letters(plugin.name):
        yield Problem(
            f"class {node.name} is not named for {plugin.name!r}", f"class {camel(plugin.name)}", path, node.lineno
        )
    if not plugin.ours:
        return
    folder = plugin.root.name
    if folder != plugin.name.replace("_", "-") or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", folder):
        yield Problem(f"no entry point is named {folder!r}", "the folder is the name, with dashes", plugin.root)
    distribution = f"tianji-{plugin.singular}-{folder}"
    if plugin.project.get("name") != distribution:
        yield Problem(f"the distribution is {plugin.project.get('name')!r}", f'name = "{distribution}"', pyproject)
    if plugin.module != distribution.replace("-", "_"):
        yield Problem(f"the module is {plugin.module!r}", f"name it {distribution.replace('-', '_')}", pyproject)


def camel(name: str) -> str:
    """`least-busy` as `LeastBusy`."""
    return "".join(part.capitalize() for part in re.split(r"[-_]", name))


def _letters(name: str) -> str:
    return re.sub(r"[-_]", "", name).lower()
