"""Dialects: the client wire formats, as edge adapters around the one inner language, OpenAI chat.

A dialect knows how to check a request, say it as chat (`to_chat`), say a chat answer back (`from_chat`,
`stream_from_chat`), shape an error, find the texts in a body and watch a stream that is passed through unread.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from tianji.dialects.base import Dialect

_HOMES = {
    "openai-chat": ("tianji.dialects.openai", "OpenAIChat"),
    "openai-completions": ("tianji.dialects.completions", "OpenAICompletions"),
    "openai-embeddings": ("tianji.dialects.embeddings", "OpenAIEmbeddings"),
    "anthropic-messages": ("tianji.dialects.anthropic", "AnthropicMessages"),
    "anthropic-count-tokens": ("tianji.dialects.anthropic", "AnthropicCountTokens"),
}

NAMES = tuple(_HOMES)


@cache
def get(name: str) -> Dialect:
    """The dialect of that name; one shared, stateless instance."""
    module, attribute = _HOMES[name]
    dialect: Dialect = getattr(import_module(module), attribute)()
    return dialect


__all__ = ["NAMES", "Dialect", "get"]
