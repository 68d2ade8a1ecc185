"""docs/reference/cli.md: every command and every option."""

from __future__ import annotations

import argparse
from importlib import import_module

from tianji.cli import COMMANDS, parser
from tools.docs.source import HEAD, code, doc, joined, table, tick, tree

MODULE = "tianji.cli"


def page() -> str:
    parts = ["# Command line", HEAD, doc(tree(MODULE)).partition("\n\n")[2]]
    parts.append(
        table(
            ("command", "what it does"),
            [(f"[`tianji {name}`](#tianji-{name})", what) for name, what in COMMANDS.items()],
        )
    )
    for name in COMMANDS:
        command = commands(name)
        about = doc(tree(f"{MODULE}.{name}")).partition(": ")[2]
        parts += [
            f"## tianji {name}",
            code(usage(command), "text"),
            about[:1].upper() + about[1:],
            table(("argument", "meaning"), rows(command)),
        ]
    return joined(parts)


def commands(name: str) -> argparse.ArgumentParser:
    """A command's own parser."""
    import_module(f"{MODULE}.{name}")
    for action in parser(name)._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = action.choices[name]
            assert isinstance(found, argparse.ArgumentParser)
            return found
    raise LookupError(f"tianji has no commands, so no {name}")


def usage(command: argparse.ArgumentParser) -> str:
    """The line that calls it; not argparse's own, which differs between versions and terminals."""
    words = [command.prog]
    for action in command._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        shown = (f"{action.option_strings[0]} {value(action)}" if action.option_strings else value(action)).strip()
        words.append(shown if not action.option_strings and action.nargs is None else f"[{shown}]")
    return " ".join(words)


def value(action: argparse.Action) -> str:
    """The placeholder of an argument's value; empty for a switch."""
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        return str(action.metavar)
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def rows(command: argparse.ArgumentParser) -> list[tuple[str, str]]:
    found = []
    for action in command._actions:
        names = [f"{name} {value(action)}".strip() for name in action.option_strings] or [value(action)]
        found.append((", ".join(map(tick, names)), (action.help or "").replace("%%", "%")))
    return found
