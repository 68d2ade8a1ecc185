"""Function calls that arrive in pieces (`partialArgs`), which Gemini does where a request asks for it.

Docs: https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling#streaming-fc
"""

import re
from typing import Any

from .shapes import dicts

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[(?:'([^']*)'|\"([^\"]*)\")\]")
MAX_INDEX = 10_000
"""Elements that an array may have: the path is the upstream's word, and must not make us allocate at will."""


def merge(args: dict[str, Any], pieces: Any) -> None:
    """Write pieces of arguments to their places. A string that continues is appended to."""
    for piece in dicts(pieces):
        path = [_key(match) for match in _STEP.finditer(str(piece.get("jsonPath")))]
        if path:
            _put(args, path, piece)


def _key(match: re.Match[str]) -> str | int:
    name, index, single, double = match.groups()
    if index is not None:
        return min(int(index), MAX_INDEX)
    return name or single or double or ""


def _put(args: dict[str, Any], path: list[str | int], piece: dict[str, Any]) -> None:
    box: Any = args
    for key, following in zip(path, [*path[1:], None], strict=True):
        if isinstance(key, int):
            if not isinstance(box, list):
                return
            box.extend([None] * (key + 1 - len(box)))
        elif not isinstance(box, dict):
            return
        held = box[key] if isinstance(key, int) else box.get(key)
        if following is None:
            box[key] = _value(held, piece)
        elif held is None:
            box[key] = [] if isinstance(following, int) else {}
        box = box[key]


def _value(held: Any, piece: dict[str, Any]) -> Any:
    if "stringValue" in piece:
        return (held if isinstance(held, str) else "") + str(piece["stringValue"])
    return next((piece[kind] for kind in ("numberValue", "boolValue") if kind in piece), None)
