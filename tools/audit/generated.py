"""What is common to the rules that generate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.audit.model import Problem


def stale(files: Mapping[Path, str]) -> Iterator[Problem]:
    """The files that are not as they should be."""
    for path, text in files.items():
        if not path.is_file() or path.read_text() != text:
            yield Problem("is not what is generated", "make generate", path)


def between(text: str, part: str, new: str) -> str:
    """The text with `new` between the two markers of a part; ValueError without them."""
    pattern = re.compile(rf"(^[^\n]*generated: {part}\b[^\n]*\n).*?(^[^\n]*end of {part}\b)", re.DOTALL | re.MULTILINE)
    if not pattern.search(text):
        raise ValueError(f"no markers `generated: {part}` and `end of {part}`")
    return pattern.sub(lambda found: f"{found[1]}{new}\n{found[2]}", text, count=1)
