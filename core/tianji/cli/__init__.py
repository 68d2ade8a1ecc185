"""The `tianji` command.

Each sub-command is a module with `add(commands)`, which declares it, and a function that runs it and returns an exit
status: 0 well, 1 something was found, 2 it cannot be used like that. Only the module of the command that was asked
for is imported, so that `tianji serve` starts light. Tables are rich's; `--json` prints data instead, in the shape that
the command's module documents.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from tianji import __version__
from tianji.errors import TianjiError

COMMANDS = {
    "serve": "run the gateway",
    "check": "say what is wrong with a configuration, and how to mend it",
    "explain": "say what would happen to a request, without doing it",
    "plugins": "list the plugins, explain one, or show the row that a call meets",
    "doctor": "look for what is loose or broken on this machine",
    "new": "start a plugin from the template",
    "bench": "measure what the gateway costs",
}
"""Every command, with the line that `tianji --help` shows for it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that Tianji raises on purpose are one line on standard error, never a traceback."""
    given = list(sys.argv[1:] if argv is None else argv)
    top = parser(next((word for word in given if not word.startswith("-")), ""))
    arguments, rest = top.parse_known_args(given)
    if rest and not hasattr(arguments, "rest"):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no arrows shall still show the rest
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except TianjiError as error:
        print(f"tianji: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - a command speaks on its streams
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has left (`tianji plugins | head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def parser(command: str) -> argparse.ArgumentParser:
    """The command line: `command` with all its options, the others by name and summary only."""
    top = argparse.ArgumentParser(prog="tianji", description="The LLM gateway in which everything is a plugin.")
    top.add_argument("--version", action="version", version=f"tianji {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        if name == command:
            import_module(f"tianji.cli.{name}").add(commands)
        else:
            commands.add_parser(name, help=summary)
    return top
