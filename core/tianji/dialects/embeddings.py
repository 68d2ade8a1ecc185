"""`openai-embeddings` (https://platform.openai.com/docs/api-reference/embeddings). Cannot be said as chat."""

from __future__ import annotations

from typing import Any

from tianji.dialects.base import Dialect, optional, type_name
from tianji.dialects.usage import from_openai
from tianji.errors import BadRequest
from tianji.model import Op, Usage


class OpenAIEmbeddings(Dialect):
    name = "openai-embeddings"
    op = Op.EMBEDDINGS
    peeks = True
    translates = False

    def check(self, body: dict[str, Any]) -> None:
        text = body.get("input")
        if text is None:
            raise BadRequest("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
        if not isinstance(text, (str, list)):
            raise BadRequest(
                f"Invalid type for 'input': expected a string or an array, got {type_name(text)}.",
                param="input",
                code="invalid_type",
            )
        if not text:
            raise BadRequest("'input' must not be empty.", param="input", code="invalid_value")
        optional(body, "dimensions", int, "an integer")
        optional(body, "encoding_format", str, "a string")

    def usage(self, body: dict[str, Any]) -> Usage | None:
        return from_openai(body.get("usage"))

    def texts(self, body: dict[str, Any]) -> list[tuple[Any, Any]]:
        text = body.get("input")
        if isinstance(text, str):
            return [(body, "input")]
        if isinstance(text, list):
            return [(text, index) for index, one in enumerate(text) if isinstance(one, str)]
        return []

    def unreadable(self, body: dict[str, Any]) -> str | None:
        value = body.get("input")
        return "input" if isinstance(value, list) and not all(isinstance(one, str) for one in value) else None
