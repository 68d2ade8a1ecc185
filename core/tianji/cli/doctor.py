"""`tianji doctor`: what is loose or broken on this machine, and the mend.

It looks at Python, the kernel and its libraries, imports every plugin that is not switched off, checks the
configuration, and tries the address that the gateway would listen on. It changes nothing and asks no network.

With `--json`: `{"ok", "version", "checks": [{check, level, message, mend}]}`; the levels are `ok`, `info`, `warning`
and `error`. Status 1: there is a warning or an error.
"""

from __future__ import annotations

import argparse
import os

import msgspec

from tianji import __version__
from tianji.cli import COMMANDS, symptoms
from tianji.cli.check import Examination, examine
from tianji.cli.common import (
    STYLES,
    colored,
    config_arguments,
    config_path,
    counted,
    filters,
    json_argument,
    print_json,
    quiet,
    say,
    show,
    usual_file,
)
from tianji.cli.inventory import inventory
from tianji.cli.symptoms import Symptom
from tianji.config import GeneralSettings
from tianji.discovery import scan


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help=COMMANDS["doctor"],
        description="Look for what is loose or broken on this machine: versions, plugins that cannot be imported, the "
        "configuration, keys, permissions, limits. Nothing is changed.",
    )
    config_arguments(parser)
    json_argument(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    path = config_path(arguments.config)
    with quiet():
        seen = examine(path, arguments.plugin)
        found = look(seen, path)
    ok = symptoms.worst(found) in ("ok", "info")
    if arguments.json:
        print_json({"ok": ok, "version": __version__, "checks": [msgspec.to_builtins(one) for one in found]})
        return 0 if ok else 1
    _print(found)
    if path is None and (name := usual_file()):
        say(f"{name} is here and was not looked at; to do so: tianji doctor -c {name}")
    bad = sum(one.level in ("warning", "error") for one in found)
    say("Nothing is loose." if ok else f"{counted(bad, 'thing')} to mend.")
    return 0 if ok else 1


def look(seen: Examination, path: str | None) -> list[Symptom]:
    """Everything that can be seen, in order."""
    installed = scan()
    rows = inventory(installed, filters=filters(seen.config))
    general = seen.config.general_settings if seen.config is not None else GeneralSettings()
    port = os.environ.get("PORT", "")
    return [
        *symptoms.python(),
        *symptoms.kernel(),
        *symptoms.plugins(rows, installed),
        *symptoms.keys(rows, os.environ),
        *symptoms.configuration(seen, path),
        *symptoms.ledger(seen),
        *symptoms.permissions(path),
        *symptoms.data(seen.config),
        *symptoms.address(general.host, int(port) if port.isdecimal() else general.port),
        *symptoms.files(),
    ]


_SIGNS = {"ok": "✓", "info": "i", "warning": "!", "error": "✗"}


def _print(found: list[Symptom]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    before = ""
    for one in found:
        text = Text(one.message)
        if one.mend:
            text.append(f"\n→ {one.mend}", style=STYLES["ok"])
        name = one.check if one.check != before else ""
        grid.add_row(colored(_SIGNS[one.level], one.level), name, text)
        before = one.check
    show(grid)
    say()
