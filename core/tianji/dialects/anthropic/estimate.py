"""A token count without a tokenizer, for providers that have no counting endpoint."""

from __future__ import annotations

from math import ceil
from typing import Any

from tianji.model import encode_json

_BYTES_PER_TOKEN = 3.5  # English prose has four or more, code and most other scripts about three
_PER_MESSAGE = 4
_PER_BLOCK = 2
_TOOLS = 350  # the hidden system prompt that tools bring along
_IMAGE = 1600  # the most that an image costs after it was scaled down
_BASE64_PER_TOKEN = 40  # a PDF page is some 100 kB of base64 and 1,500 to 3,000 tokens
_DOCUMENT = 2500  # one that is only named by URL or id


def estimate_tokens(body: dict[str, Any]) -> int:
    """Input tokens of a Messages request, from the number of its bytes.

    On the high side on purpose, as clients use it to decide when a prompt no longer fits. Typical text comes out
    10–30 % over; images count as the largest, files by their size.
    """
    total = _content(body.get("system"))
    for message in body.get("messages") or ():
        total += _PER_MESSAGE + _content(message.get("content"))
    if tools := body.get("tools"):
        total += _TOOLS + _text(encode_json(tools))
    return ceil(total)


def _content(content: Any) -> float:
    if type(content) is str:
        return _text(content.encode())
    if type(content) is not list:
        return 0.0
    return sum(_PER_BLOCK + _block(block) for block in content if type(block) is dict)


def _block(block: dict[str, Any]) -> float:
    kind = block.get("type")
    if kind == "text":
        return _text(str(block.get("text") or "").encode())
    if kind == "image":
        return _IMAGE
    if kind == "document":
        source = block.get("source")
        source = source if type(source) is dict else {}
        data = source.get("data")
        if source.get("type") == "content":
            return _content(source.get("content"))
        if type(data) is not str:
            return _DOCUMENT
        return _text(data.encode()) if source.get("type") == "text" else len(data) / _BASE64_PER_TOKEN
    if kind == "tool_result":
        return _content(block.get("content"))
    return _text(encode_json(block))


def _text(data: bytes) -> float:
    return len(data) / _BYTES_PER_TOKEN
