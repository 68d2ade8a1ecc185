"""`tianji plugins`: what is installed, what one plugin is, and what a call meets.

With `--json`:

- `tianji plugins`: `{"plugins": [{family, name, aliases, distribution, version, summary, entry_point, requires, state,
  reason}]}`; `state` is `installed`, `in use`, `disabled` or `broken`.
- `tianji plugins --chain`: `{"row": [{order, label, distribution, hooks, on_failure}], "stages": {hook: [label]},
  "broken": {callback: reason}}`; guardrails have `modes` and `default_on`, too.
- `tianji plugins info NAME`: `{family, name, aliases, summary, docs, distribution, version, requires, entry_point,
  order, hooks, state, reason, settings: [{name, type, default, required, secret, doc}], settings_in}`; providers have
  `provider: {base_url, ops, native, api_key_env, api_base_env, needs_key}`, too.

Status 1: the plugin that was asked about is broken.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from tianji.cli import COMMANDS
from tianji.cli.common import (
    assemble,
    colored,
    config_arguments,
    config_path,
    console,
    counted,
    filters,
    heading,
    indented,
    json_argument,
    load_config,
    make_catalogue,
    print_json,
    say,
    show,
    table,
    wrong_use,
)
from tianji.cli.inventory import Row, fault, inventory
from tianji.config import Config
from tianji.discovery import Catalogue, Found, normal, scan
from tianji.plugin import FAMILIES, SINGULAR

_STATE_STYLE = {"in use": "ok", "broken": "error", "disabled": "dim"}
_NARROW = 100
"""Columns below which the list has no summaries."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "plugins",
        help=COMMANDS["plugins"],
        description="List the plugins that are installed (nothing is imported), explain one, or show the row of "
        "plugins that a call meets. With a configuration, the list says which ones are in use.",
    )
    parser.add_argument("what", nargs="?", choices=("list", "info"), default="list", help="default: list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="for info: a plugin, as NAME or family.NAME")
    parser.add_argument("--family", metavar="FAMILY", help=f"only these: {', '.join(FAMILIES)}")
    parser.add_argument("--chain", action="store_true", help="the row that a call meets, in order")
    config_arguments(parser)
    json_argument(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    family = _family(arguments.family)
    if arguments.what == "info":
        if arguments.name is None:
            raise wrong_use("which plugin?", "Write `tianji plugins info NAME`; `tianji plugins` lists the names")
        return _info(arguments, family)
    if arguments.name is not None:
        raise wrong_use(f"what is {arguments.name!r}?", f"Did you mean `tianji plugins info {arguments.name}`?")
    return _chain(arguments) if arguments.chain else _list(arguments, family)


def _family(given: str | None) -> str | None:
    """A family's name; its singular is understood."""
    if given is None or given in FAMILIES:
        return given
    for family, single in SINGULAR.items():
        if given == single:
            return family
    raise wrong_use(f"there is no family {given!r}", f"The families are {', '.join(FAMILIES)}")


def _found(arguments: argparse.Namespace) -> tuple[Found, ...]:
    """Everything installed, and what the `--plugin` files define."""
    local = Catalogue(())
    for file in arguments.plugin:
        local.add_file(file)
    return (*scan(), *local.__iter__())


# -- list --------------------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace, family: str | None) -> int:
    path = config_path(arguments.config)
    config: Config | None = load_config(path) if path else None
    rows = inventory(_found(arguments), filters=filters(config), config=config)
    rows = [row for row in rows if family in (None, row.family)]
    if arguments.json:
        print_json({"plugins": [msgspec.to_builtins(row) for row in rows]})
        return 0
    if not rows:
        say("No plugins are installed. Begin with: pip install tianji")
        return 0
    narrow = console().width < _NARROW
    columns = ["name", "distribution", "version", "state", *([] if narrow else ["summary"])]
    table(columns, _cells(rows, narrow), cut=("summary",))
    for row in rows:
        if row.state == "broken":
            say(f"\n{row.label} is broken: {row.reason}")
    parts = [counted(len(rows), "plugin")]
    for state in ("in use", "disabled", "broken"):
        number = sum(row.state == state for row in rows)
        if number:
            parts.append(f"{number} {state}")
    say(f"\n{', '.join(parts)}. More about one: tianji plugins info NAME")
    return 0


def _cells(rows: Sequence[Row], narrow: bool) -> list[list[Any]]:
    """Table rows; each family begins with a line of its own."""
    out: list[list[Any]] = []
    blank = [""] * (3 if narrow else 4)
    before = ""
    for row in rows:
        if row.family != before:
            out += [["", *blank]] if before else []
            out.append([colored(row.family, "bold"), *blank])
        name = colored(f"  {row.name}")
        for alias in row.aliases:
            name.append(f"\n    {alias}", style="dim")
        state = colored(row.state, _STATE_STYLE.get(row.state, ""))
        out.append([name, row.distribution, row.version, state, *([] if narrow else [row.summary])])
        before = row.family
    return out


# -- chain -------------------------------------------------------------------------------------------------------------


def _chain(arguments: argparse.Namespace) -> int:
    from tianji.cli.describe import STAGES, chain

    config = load_config(config_path(arguments.config))
    catalogue = make_catalogue(config, arguments.plugin)
    gateway = assemble(config, catalogue)
    origin = {(one.family, one.name): one.dist for one in catalogue.__iter__()}
    data = chain(gateway.sealed, origin)
    if arguments.json:
        print_json(data)
        return 0
    heading("The row, in the order in which a call meets it")
    table(
        ("order", "plugin", "hooks", "when it fails"),
        [
            (entry["order"], entry["label"], _hooks_cell(entry), entry["on_failure"])
            for entry in data["row"]
        ],
        whole=("plugin",),
    )  # fmt: skip
    say()
    heading("The stages of a call")
    table(("stage", "who"), [(stage, ", ".join(data["stages"][stage]) or "-") for stage in STAGES])
    for name, reason in data["broken"].items():
        say(f"\ncallbacks:{name} is left out: {reason}")
    return 0


def _hooks_cell(entry: dict[str, Any]) -> str:
    text = ", ".join(entry["hooks"]) or "-"
    if "modes" in entry:
        text += f" (mode {', '.join(entry['modes'])}; {'always' if entry['default_on'] else 'where asked for'})"
    return text


# -- info --------------------------------------------------------------------------------------------------------------


def _info(arguments: argparse.Namespace, family: str | None) -> int:
    from tianji.cli.describe import info

    path = config_path(arguments.config)
    config: Config | None = load_config(path) if path else None
    found = _found(arguments)
    row = _pick(inventory(found, filters=filters(config), config=config), arguments.name, family)
    one = next(one for one in found if (one.family, one.name, one.dist) == (row.family, row.name, row.distribution))
    reason = fault(one)
    if reason:
        row.state, row.reason = "broken", reason
        if arguments.json:
            print_json({**msgspec.to_builtins(row), "settings": []})
        else:
            say(f"{row.label}, {row.distribution} {row.version}, is broken: {reason}")
        return 1
    data = info(row, Catalogue([one]).load(one.family, one.name))
    if arguments.json:
        print_json(data)
    else:
        _print_info(data)
    return 0


def _pick(rows: Sequence[Row], asked: str, family: str | None) -> Row:
    """The one plugin of that name: its own, an alias, `family.name`, or its distribution."""
    prefix, dot, rest = asked.partition(".")
    if dot and (prefix in FAMILIES or prefix in SINGULAR.values()):
        family, asked = _family(prefix), rest
    mine = [row for row in rows if family in (None, row.family)]
    hits = [row for row in mine if asked in (row.name, *row.aliases) or normal(row.distribution) == normal(asked)]
    if len(hits) == 1:
        return hits[0]
    if hits:
        labels = ", ".join(dict.fromkeys(row.label for row in hits))
        if len({row.label for row in hits}) == 1:
            labels = f"{labels} of {' and '.join(row.distribution for row in hits)}"
        raise wrong_use(f"{asked!r} is ambiguous: {labels}", "Write family.NAME, or the distribution's name")
    known = sorted({name for row in mine for name in (row.name, *row.aliases)})
    near = get_close_matches(asked, known, n=3)
    mend = f"Did you mean {' or '.join(near)}?" if near else "`tianji plugins` lists what is"
    raise wrong_use(f"no plugin {asked!r} is installed", mend)


def _print_info(data: dict[str, Any]) -> None:
    heading(f"{data['family']}.{data['name']}: {data['summary']}")
    say()
    facts: list[tuple[str, Any]] = [
        ("documentation", data["docs"] or "-"),
        ("distribution", f"{data['distribution']} {data['version']}"),
        ("requires", ", ".join(data["requires"]) or "-"),
        ("entry point", data["entry_point"]),
        ("also called", ", ".join(data["aliases"])),
        ("state", data["state"] + (f": {data['reason']}" if data["reason"] else "")),
        ("order", data["order"]),
        ("hooks", ", ".join(data["hooks"]) or "-"),
    ]
    if provider := data.get("provider"):
        facts += [
            ("base URL", provider["base_url"] or "each deployment's own"),
            ("ops", ", ".join(provider["ops"])),
            ("native dialects", ", ".join(provider["native"])),
            ("key", ", ".join(provider["api_key_env"]) or ("api_key" if provider["needs_key"] else "none needed")),
        ]
    table(("", ""), [(colored(name, "bold"), value) for name, value in facts if value != ""], header=False)
    say()
    if not data["settings"]:
        say("It has no settings.")
        return
    heading(f"Settings, in {data['settings_in']}")
    narrow = console().width < _NARROW
    rows = []
    for field in data["settings"]:
        default = "required" if field["required"] else field["default"]
        if narrow:
            say(f"{field['name']}  ({field['type']}; {default})")
            show(indented(field["doc"]))
        else:
            rows.append((field["name"], field["type"], default, field["doc"]))
    if rows:
        table(("setting", "type", "default", "meaning"), rows, whole=("setting",))
