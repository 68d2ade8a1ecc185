"""Usage, between `model.Usage` and OpenAI's `usage` object (https://platform.openai.com/docs/api-reference/chat/object).

OpenAI's object has no place for cache writes; they travel under the names that Anthropic gave them and LiteLLM's
clients know (`cache_creation_input_tokens`, `cache_read_input_tokens`). Both directions carry every token class, so a
provider that builds its `usage` with `to_openai` loses nothing on the way to the ledger.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from tianji.model import Usage

MOST = 2**53
"""More tokens than this are a fault of the provider, and count as not stated."""


def from_openai(usage: Any) -> Usage | None:
    """Read an OpenAI-shaped `usage` object, in any of its known variants; None for anything else.

    A number that cannot be one of tokens counts as not stated; a class is never more than the total that includes it.
    """
    if type(usage) is not dict:
        return None
    prompt, completion = _stated(usage.get("prompt_tokens")), _stated(usage.get("completion_tokens"))
    if prompt is None and completion is None:
        prompt, completion = _stated(usage.get("input_tokens")), _stated(usage.get("output_tokens"))
        if prompt is None and completion is None:
            if (total := _int(usage.get("total_tokens"))) == 0:
                return None
            prompt = total
    prompt_details = _dict(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    completion_details = _dict(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    written = _dict(usage.get("cache_creation"))
    cached = prompt_details.get("cached_tokens")
    if cached is None:
        cached = usage.get("cache_read_input_tokens")
    if cached is None:
        cached = usage.get("prompt_cache_hit_tokens")  # DeepSeek
    if cached is None:
        cached = usage.get("cached_tokens")
    reasoning = completion_details.get("reasoning_tokens")
    if reasoning is None:
        reasoning = usage.get("reasoning_tokens")
    given, made = prompt or 0, completion or 0
    read = min(_int(cached), given)
    write = _int(
        usage.get("cache_creation_input_tokens")
        or prompt_details.get("cache_write_tokens")
        or prompt_details.get("cache_creation_tokens")
    )
    write = min(write, given - read)
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=min(_int(written.get("ephemeral_1h_input_tokens")), write),
        reasoning_tokens=_int(reasoning),  # some providers count it beside the completion, not within it
        input_audio_tokens=min(_int(prompt_details.get("audio_tokens")), given),
        output_audio_tokens=min(_int(completion_details.get("audio_tokens")), made),
        input_image_tokens=min(_int(prompt_details.get("image_tokens")), given),
        output_image_tokens=min(_int(completion_details.get("image_tokens")), made),
        web_searches=_int(_dict(usage.get("server_tool_use")).get("web_search_requests")),
    )


def to_openai(usage: Usage) -> dict[str, Any]:
    """Write an OpenAI `usage` object. Classes that are zero are left out, but for the three totals."""
    body: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage == Usage(usage.input_tokens, usage.output_tokens, estimated=usage.estimated):
        return body
    prompt = {
        "cached_tokens": usage.cache_read_tokens,
        "audio_tokens": usage.input_audio_tokens,
        "image_tokens": usage.input_image_tokens,
    }
    completion = {
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_tokens": usage.output_audio_tokens,
        "image_tokens": usage.output_image_tokens,
    }
    if any(prompt.values()):
        body["prompt_tokens_details"] = {key: value for key, value in prompt.items() if value}
    if any(completion.values()):
        body["completion_tokens_details"] = {key: value for key, value in completion.items() if value}
    if usage.cache_read_tokens or usage.cache_write_tokens:
        body["cache_read_input_tokens"] = usage.cache_read_tokens
        body["cache_creation_input_tokens"] = usage.cache_write_tokens
    if usage.cache_write_1h_tokens:
        body["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    if usage.web_searches:
        body["server_tool_use"] = {"web_search_requests": usage.web_searches}
    return body


def _stated(value: object) -> int | None:
    """A number of tokens, or None for what cannot be one."""
    if type(value) is float and isfinite(value):
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST else None


def _int(value: object) -> int:
    return _stated(value) or 0


def _dict(value: object) -> dict[str, Any]:
    return value if type(value) is dict else {}
