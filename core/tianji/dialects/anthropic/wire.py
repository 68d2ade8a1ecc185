"""Small facts of Anthropic's wire format that both directions need: usage objects, error types, stop reasons.

https://platform.claude.com/docs/en/api/messages and .../api/errors
"""

from __future__ import annotations

from typing import Any

from tianji.errors import ContextWindow, Failure, from_status
from tianji.model import Usage

# The published pairs of status and error type.
STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
TYPE_OF_STATUS = {status: kind for kind, status in STATUS_OF_TYPE.items()} | {408: "timeout_error"}

# To the chat dialect's finish reasons, and back.
FINISH_OF_STOP = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
STOP_OF_FINISH = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
    "stop_sequence": "stop_sequence",
}


def usage_from_anthropic(usage: Any) -> Usage | None:
    """Read Anthropic's `usage`; None for anything else.

    Anthropic's `input_tokens` leaves out what was read from or written to the prompt cache; ours are totals.
    """
    if type(usage) is not dict or ("input_tokens" not in usage and "output_tokens" not in usage):
        return None
    read = _int(usage.get("cache_read_input_tokens"))
    created = as_dict(usage.get("cache_creation"))
    one_hour = _int(created.get("ephemeral_1h_input_tokens"))
    written = _int(usage.get("cache_creation_input_tokens")) or (
        one_hour + _int(created.get("ephemeral_5m_input_tokens"))
    )
    return Usage(
        input_tokens=_int(usage.get("input_tokens")) + read + written,
        output_tokens=_int(usage.get("output_tokens")),
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(one_hour, written),
        reasoning_tokens=_int(as_dict(usage.get("output_tokens_details")).get("thinking_tokens")),
        web_searches=_int(as_dict(usage.get("server_tool_use")).get("web_search_requests")),
    )


def usage_to_anthropic(usage: Usage | None) -> dict[str, Any]:
    """Write Anthropic's `usage`. Unknown usage becomes zeros, as clients require the two counts."""
    if usage is None:
        usage = Usage()
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    body: dict[str, Any] = {
        "input_tokens": max(0, usage.input_tokens - cached),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.cache_write_tokens:
        body["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    if usage.reasoning_tokens:
        body["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.web_searches:
        body["server_tool_use"] = {"web_search_requests": usage.web_searches}
    return body


def merge_usage(first: dict[str, Any], later: Any) -> dict[str, Any]:
    """The `usage` of `message_start` brought up to date by that of a `message_delta`, whose counts are cumulative.

    A null or a zero in the later one does not undo a count: some servers of this format only fill in the output.
    """
    if type(later) is not dict:
        return first
    news = {key: value for key, value in later.items() if value is not None and (value != 0 or not first.get(key))}
    return {**first, **news}


def failure_of(event: Any, *, provider: str | None = None) -> Failure:
    """The failure that an error body stands for, whether it came as an event of a stream or with status 200."""
    error = event.get("error") if type(event) is dict else event
    if type(error) is not dict:
        error = {"message": str(error)}
    kind = str(error.get("type") or "api_error")
    message = str(error.get("message") or "The provider reported an error.")[:4000]
    status = STATUS_OF_TYPE.get(kind, 500)
    if status in (400, 413) and "prompt is too long" in message:
        return ContextWindow(message, provider=provider)
    return from_status(status, message, code=kind, provider=provider)


def error_type(failure: Failure) -> str:
    """Anthropic's error type for a failure."""
    if failure.type == "overloaded_error":
        return "overloaded_error"
    return TYPE_OF_STATUS.get(failure.status) or ("invalid_request_error" if failure.status < 500 else "api_error")


def _int(value: object) -> int:
    return value if type(value) is int and value > 0 else int(value) if type(value) is float and value > 0 else 0


def as_str(value: object) -> str:
    return value if type(value) is str else ""


def as_dict(value: object) -> dict[str, Any]:
    return value if type(value) is dict else {}


def as_dicts(value: object) -> list[dict[str, Any]]:
    """The objects in a list; empty for anything else."""
    return [item for item in value if type(item) is dict] if type(value) is list else []
