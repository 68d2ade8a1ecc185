"""The `tianji` command.

Each sub-command is a module with `add(commands)`, which declares it, and a function that runs it and returns an exit
status: 0 well, 1 something was found, 2 it cannot be used like that. Tables are rich's; `--json` prints data instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from tianji import __version__
from tianji.errors import TianjiError

COMMANDS = ("serve",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that Tianji raises on purpose are one line on standard error, never a traceback."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except TianjiError as error:
        print(f"tianji: {error}", file=sys.stderr)  # noqa: T201 - a command speaks on its streams
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="tianji", description="The LLM gateway in which everything is a plugin.")
    top.add_argument("--version", action="version", version=f"tianji {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"tianji.cli.{name}").add(commands)
    return top
