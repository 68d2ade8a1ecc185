"""What the audit prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.audit.model import Problem


def print_report(problems: Sequence[Problem], excused: Sequence[tuple[str, str, str]], plugins: int) -> None:
    """A table of the problems with the mend of each, the exemptions with their reasons, and one closing line."""
    console = Console()
    if problems:
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("rule", "where", "what", "mend"):
            grid.add_column(column, overflow="fold")
        for one in problems:
            grid.add_row(*(Text(cell) for cell in (one.rule, one.place, one.message, one.mend)))
        console.print(grid)
        console.print()
    if excused:
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("excused", "from", "because"):
            grid.add_column(column, overflow="fold")
        for row in excused:
            grid.add_row(*(Text(cell) for cell in row))
        console.print(grid)
        console.print()
    found = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    console.print(f"{plugins} plugins, {found}, {len(excused)} exemptions.")
