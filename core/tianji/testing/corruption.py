"""Damaged copies of what an upstream sends: fields missing, fields null, things that are no object at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tianji.model import Event, decode_json, encode_json

NOT_OBJECTS: tuple[Any, ...] = (None, "", "text", 0, 1.5, True, [], [None], ["text"], {})

GARBAGE: tuple[Event, ...] = (
    *(Event("message", data) for data in NOT_OBJECTS),
    *(Event("an-event-nobody-knows", data) for data in (None, {}, {"type": "an-event-nobody-knows", "n": 1})),
    Event("message", {"type": None}),
    Event("message", {"choices": None}),
    Event("message", {"choices": []}),
    Event("message", {"an_unknown_field": {"nested": [1, 2]}}),
    Event("ping", {"type": "ping"}),
)
"""Events that no decoder has to understand, and every one has to survive."""


def damaged(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a decoded JSON value with one field gone or null, and what was done to each (`choices.0.delta: null`).

    Of a list's items only the first two are damaged: the others are like them.
    """
    source = encode_json(value)
    for path in _paths(value):
        for what in ("missing", "null"):
            copy = decode_json(source)
            holder = copy
            for step in path[:-1]:
                holder = holder[step]
            if what == "null":
                holder[path[-1]] = None
            elif isinstance(holder, dict):
                del holder[path[-1]]
            else:
                continue
            yield f"{'.'.join(map(str, path))}: {what}", copy


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        inner: Any = value.items()
    elif isinstance(value, list):
        inner = enumerate(value[:2])
    else:
        return
    for key, item in inner:
        yield (*before, key)
        yield from _paths(item, (*before, key))


def shape(value: Any) -> str:
    """What makes two events alike: the keys, not the texts (but for `type`, which tells events apart)."""
    if isinstance(value, dict):
        members = (f"{key}={item}" if key == "type" else f"{key}:{shape(item)}" for key, item in value.items())
        return "{" + ",".join(sorted(members)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted({shape(item) for item in value})) + "]"
    return type(value).__name__
