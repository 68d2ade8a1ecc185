"""`python -m tools.docs [--check]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tools.audit.model import ROOT
from tools.docs import api, bases, cli, errors, headers, hooks, settings

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/hooks.md": hooks.page,
    "docs/reference/bases.md": bases.page,
    "docs/reference/settings.md": settings.page,
    "docs/reference/cli.md": cli.page,
    "docs/reference/errors.md": errors.page,
    "docs/reference/headers.md": headers.page,
    "docs/reference/api.txt": api.page,
}
"""Every generated file, and what makes it."""


def stale() -> list[str]:
    """The files that are not what would be written."""
    return [name for name, make in PAGES.items() if not (ROOT / name).is_file() or (ROOT / name).read_text() != make()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description="Write docs/reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where something would change")
    arguments = parser.parse_args(argv)
    found = stale()
    for name in found:
        if arguments.check:
            print(f"{name} is not what is generated: make generate")
            continue
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGES[name]())
        print(f"wrote {name}")
    return 1 if arguments.check and found else 0


if __name__ == "__main__":
    sys.exit(main())
