"""An independent reading of the SSE standard, and the recorded corpus where it is present."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def read_sse(stream: bytes) -> list[tuple[str, str]]:
    """(name, data) of each event, by the letter of WHATWG's algorithm: decode to text, then go line by line.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    events: list[tuple[str, str]] = []
    data, event_type = "", ""
    *lines, _unfinished = text.split("\n")
    for line in lines:
        if line == "":
            if data != "":
                events.append((event_type or "message", data.removesuffix("\n")))
            data, event_type = "", ""
        elif line.startswith(":"):
            continue
        else:
            field, colon, value = line.partition(":")
            if colon and value.startswith(" "):
                value = value[1:]
            if field == "event":
                event_type = value
            elif field == "data":
                data += value + "\n"
    return events


@pytest.fixture(scope="session")
def reference() -> Callable[[bytes], list[tuple[str, str]]]:
    return read_sse


def _records(root: Path) -> Iterator[tuple[str, str, bytes]]:
    for path in sorted(root.glob("providers/**/*.json")):
        response = json.loads(path.read_text())["response"]
        headers = {name.lower(): value for name, value in (response.get("headers") or {}).items()}
        if "body_text" in response:
            body = response["body_text"].encode()
        elif "body_b64" in response:
            body = b64decode(response["body_b64"])
        else:
            continue
        yield str(path.relative_to(root)), str(headers.get("content-type", "")).split(";")[0], body


@pytest.fixture(scope="session")
def corpus() -> list[tuple[str, str, bytes]]:
    """(record, content type, body) of every recorded answer whose bytes are known."""
    root = Path(os.environ.get("TIANJI_CORPUS") or Path(__file__).parents[4] / "shared" / "corpus")
    if not (root / "providers").is_dir():
        pytest.skip(f"no recorded corpus at {root}; set TIANJI_CORPUS")
    return list(_records(root))
