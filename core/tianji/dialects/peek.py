"""What the gateway must know of a whole OpenAI-shaped answer, read without decoding the rest.

A typed decoder skips the content instead of building it: a fraction of the cost for a long answer. Whatever does not
have exactly the usual shape is left to the general readers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tianji.dialects.usage import MOST
from tianji.model import Usage


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _Usage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Answer(msgspec.Struct, gc=False):
    usage: _Usage
    model: str
    error: Any = None


class Peek(msgspec.Struct, gc=False):
    """Model and usage of an answer that is not an error."""

    model: str
    usage: Usage


_decode = msgspec.json.Decoder(_Answer).decode
_NONE = _Details()


def _sound(total: int, details: _Details) -> bool:
    """Whether these can be numbers of tokens, none above its total; `from_openai` makes the best of others."""
    if not 0 <= total <= MOST:
        return False
    if details is _NONE:
        return True
    return (
        0 <= (details.cached_tokens or 0) <= total
        and 0 <= (details.cache_write_tokens or 0) <= total
        and 0 <= (details.reasoning_tokens or 0) <= MOST
        and 0 <= (details.audio_tokens or 0) <= total
        and 0 <= (details.image_tokens or 0) <= total
    )


def peek(raw: bytes) -> Peek | None:
    """The facts, or None for an answer that is an error, or unusual in any way. Accepts exactly valid JSON."""
    try:
        answer = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    usage = answer.usage
    if answer.error:
        return None
    given, made = usage.prompt_tokens_details or _NONE, usage.completion_tokens_details or _NONE
    if not (_sound(usage.prompt_tokens, given) and _sound(usage.completion_tokens, made)):
        return None
    if (given.cached_tokens or 0) + (given.cache_write_tokens or 0) > usage.prompt_tokens:
        return None
    return Peek(
        answer.model,
        Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            given.cached_tokens or 0,
            given.cache_write_tokens or 0,
            0,
            made.reasoning_tokens or 0,
            given.audio_tokens or 0,
            made.audio_tokens or 0,
            given.image_tokens or 0,
            made.image_tokens or 0,
        ),
    )
