"""`tianji bench`: the repository's benchmark (`bench/`), which measures the gateway between a client and an upstream.

It is not part of the installed distribution: without a checkout the command says how to get one, with status 2.
`--json` prints what `python -m bench` writes to its result file; its shape is told in `bench/README.md`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tianji.cli import COMMANDS
from tianji.cli.common import checkout, say, wrong_use


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        help=COMMANDS["bench"],
        description="Measure what the gateway costs, with the benchmark of a checkout of the repository. Other options "
        "go to `python -m bench`: --quick (under a minute, rough), --only ROW, --write-docs.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the data instead of the tables")
    parser.set_defaults(run=run, rest=[])


def run(arguments: argparse.Namespace) -> int:
    root = checkout("bench", "__main__.py")
    if root is None:
        raise wrong_use(
            "the benchmark is the folder bench/ of Tianji's repository, and there is no checkout here",
            "Clone the repository, change to it, and run: tianji bench",
        )
    command = [sys.executable, "-m", "bench", *arguments.rest]
    if not arguments.json:
        return subprocess.run(command, cwd=root, check=False).returncode  # noqa: S603 - this very Python
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        # Its tables go to standard error, so that standard output is the data alone.
        done = subprocess.run([*command, "--json", str(file)], cwd=root, check=False, stdout=2)  # noqa: S603
        if file.is_file():
            say(file.read_text().rstrip())
        return done.returncode
