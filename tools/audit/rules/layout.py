"""Layout: the same four files in every plugin's folder.

A plugin is `pyproject.toml`, `README.md`, one module and one test file; a provider may have golden exchanges in
`wire/*.json` as well. Whoever has seen one folder finds their way in all of them.

An extension may be a package where one file cannot hold it, and a package may have several test files
(`test_<name>_<part>.py`). Any other plugin that needs a second file says why in `[tool.tianji.exempt]`.

A plugin outside of this repository may also have a licence, a changelog and whatever else its own repository needs; it
is only asked for the four files.
"""

from __future__ import annotations

from collections.abc import Iterable

from tools.audit.model import LEFTOVERS, Plugin, Problem


def validate(plugin: Plugin) -> Iterable[Problem]:
    stem = (plugin.root.name if plugin.ours else plugin.name).replace("-", "_")
    present = {path.name: path for path in plugin.root.iterdir() if not LEFTOVERS.fullmatch(path.name)}
    single, package, test = f"{plugin.module}.py", plugin.module, f"test_{stem}.py"
    for name in ("pyproject.toml", "README.md"):
        if name not in present:
            yield Problem(f"no {name}", "bake it: make new", plugin.root)
    if not plugin.files:
        yield Problem("the entry point's module is not there", f"write {single or 'the module'}", plugin.root)
    if not plugin.tests or (plugin.ours and test not in present):
        yield Problem(f"no {test}", "subclass the family's suite from tianji.testing there", plugin.root)
    if not plugin.ours:
        return
    allowed = {"pyproject.toml", "README.md", single, test}
    if plugin.family == "providers":
        allowed.add("wire")
    if plugin.is_package and plugin.family == "extensions":
        allowed.add(package)
        allowed.update(name for name in present if name.startswith(f"test_{stem}_") and name.endswith(".py"))
    for name in sorted(present.keys() - allowed):
        yield Problem(f"{name} does not belong here", "one file, one integration; or exempt `layout`", present[name])
    wire = present.get("wire")
    for path in sorted(wire.iterdir()) if wire is not None and wire.is_dir() else ():
        if path.suffix != ".json":
            yield Problem("not a golden exchange", "only wire/*.json", path)
