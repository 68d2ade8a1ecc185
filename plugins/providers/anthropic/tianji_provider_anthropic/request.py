"""A chat request as a Messages request: everything but the messages themselves.

https://platform.claude.com/docs/en/api/messages, .../build-with-claude/structured-outputs, .../adaptive-thinking
"""

from __future__ import annotations

import re
from typing import Any

from tianji import BadRequest, Call, Deployment
from tianji.dialects.anthropic.wire import as_dicts

from .messages import Conversation

# OpenAI's own fields that Messages has no counterpart for: left out and named.
_REFUSED = frozenset(
    {"audio", "best_of", "echo", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
     "modalities", "n", "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_retention", "seed", "store",
     "suffix", "top_logprobs", "verbosity"}
)  # fmt: skip
_NEUTRAL = (("n", 1), ("frequency_penalty", 0), ("presence_penalty", 0), ("logprobs", False), ("store", False))
_READ = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "stop", "tools",
     "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "thinking", "output_config", "user",
     "metadata", "safety_identifier", "service_tier", "stream", "stream_options", "web_search_options"}
)  # fmt: skip
OPENAI_ONLY = _REFUSED | {
    "max_completion_tokens", "parallel_tool_calls", "reasoning_effort", "response_format", "safety_identifier", "stop",
    "stream_options", "user", "web_search_options",
}  # fmt: skip
"""Fields that mean nothing in a Messages request."""

_MAX_TOKENS = 4096
_ADAPTIVE_MAX_TOKENS = 16384  # thinking counts against the limit, and its depth is the model's to choose
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 8192}
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_SEARCHES = {"low": 1, "medium": 5, "high": 10}

_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2})(?!\d))?(?!\d)")
_NEWEST = (99, 0)

THINKS = (3, 7)
ONE_SAMPLING_FIELD = (4, 1)  # `temperature` or `top_p`, not both
ADAPTIVE = (4, 6)  # thinking without a budget, `output_config.effort`
NO_SAMPLING = (4, 7)  # `temperature`, `top_p`, `top_k` are refused


def version_of(model: str) -> tuple[int, int] | None:
    """The generation that a model's name states: `(4, 5)` for `claude-sonnet-4-5-20250929`. None: it states none."""
    match = _VERSION.search(model)
    return None if match is None else (int(match[1]), int(match[2] or 0))


def to_messages(call: Call, deployment: Deployment) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The Messages request for a chat call, and the beta features that it needs."""
    chat = {**deployment.defaults, **call.body}
    for field in deployment.drop & chat.keys():
        del chat[field]
        call.drop(field)
    conversation = Conversation(call)
    conversation.read(chat.get("messages") or ())
    body: dict[str, Any] = {"model": deployment.model, "messages": conversation.messages}
    if conversation.system:
        body["system"] = conversation.system
    _tools(call, chat, body)
    _format(call, chat, body)
    _thinking(call, chat, body, deployment)
    _sampling(call, chat, body, version_of(deployment.model))
    _identity(call, chat, body)
    if chat.get("stream"):
        body["stream"] = True
    for field, value in chat.items():
        if field in _REFUSED:
            if value is not None and (field, value) not in _NEUTRAL:
                call.drop(field)
        elif field not in _READ and value is not None:
            body[field] = value  # Anthropic's own fields, and those that are newer than this file
    body.update(deployment.extra_body)
    return body, tuple(conversation.betas)


# -- tools -------------------------------------------------------------------------------------------------------------


def _tools(call: Call, chat: dict[str, Any], body: dict[str, Any]) -> None:
    tools = [made for tool in as_dicts(chat.get("tools")) if (made := _tool(call, tool)) is not None]
    if type(search := chat.get("web_search_options")) is dict:
        tools.append(_web_search(search))
    if not tools:
        return
    body["tools"] = tools
    wanted = chat.get("tool_choice")
    choice: dict[str, Any] = {}
    if wanted in ("auto", "none"):
        choice = {"type": wanted}
    elif wanted == "required":
        choice = {"type": "any"}
    elif type(wanted) is dict and type(function := wanted.get("function")) is dict:
        choice = {"type": "tool", "name": function.get("name")}
    elif type(wanted) is dict and wanted.get("type") in ("auto", "any", "tool", "none"):
        choice = dict(wanted)
    elif wanted is not None:
        call.drop("tool_choice")
    if chat.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice:
        body["tool_choice"] = choice


def _tool(call: Call, tool: dict[str, Any]) -> dict[str, Any] | None:
    function = tool.get("function")
    if type(function) is not dict:
        if type(tool.get("name")) is str:
            return tool  # already one of Anthropic's
        call.drop("tools")
        return None
    made: dict[str, Any] = {"name": function.get("name")}
    if function.get("description"):
        made["description"] = function["description"]
    made["input_schema"] = function.get("parameters") or {"type": "object", "properties": {}}
    if function.get("strict") is True:
        made["strict"] = True
    if cache := tool.get("cache_control") or function.get("cache_control"):
        made["cache_control"] = cache
    return made


def _web_search(options: dict[str, Any]) -> dict[str, Any]:
    tool: dict[str, Any] = {"type": "web_search_20250305", "name": "web_search"}
    if uses := _SEARCHES.get(str(options.get("search_context_size"))):
        tool["max_uses"] = uses
    location = options.get("user_location")
    if type(location) is dict and type(place := location.get("approximate", location)) is dict:
        tool["user_location"] = {**place, "type": "approximate"}
    return tool


# -- output and thinking -----------------------------------------------------------------------------------------------


def _format(call: Call, chat: dict[str, Any], body: dict[str, Any]) -> None:
    if type(config := chat.get("output_config")) is dict:
        body["output_config"] = dict(config)
    wanted = chat.get("response_format")
    kind = wanted.get("type") if type(wanted) is dict else None
    schema = wanted.get("json_schema") if type(wanted) is dict else None
    if kind == "json_schema" and type(schema) is dict and type(schema.get("schema")) is dict:
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": _closed(schema["schema"])}
    elif wanted is not None and kind != "text":
        call.drop("response_format")


def _closed(schema: Any) -> Any:
    """The schema with every object closed where it does not say: Anthropic refuses open ones, OpenAI's default."""
    if type(schema) is list:
        return [_closed(item) for item in schema]
    if type(schema) is not dict:
        return schema
    made = {key: _closed(value) if key not in ("const", "enum", "default") else value for key, value in schema.items()}
    if made.get("type") == "object" and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


def _thinking(call: Call, chat: dict[str, Any], body: dict[str, Any], deployment: Deployment) -> None:
    """`thinking`, `output_config.effort` and, as it has to exceed the budget, `max_tokens`."""
    version = version_of(deployment.model)
    thinking = chat.get("thinking")
    effort = asked if type(asked := chat.get("reasoning_effort")) is str else None
    if type(thinking) is dict:
        body["thinking"] = thinking
    elif effort in _BUDGETS and version is not None and version >= ADAPTIVE:
        grade = "high" if effort == "xhigh" and version < NO_SAMPLING else _EFFORTS[effort]
        body.setdefault("output_config", {}).setdefault("effort", grade)
        if not _forced(body):
            body["thinking"] = {"type": "adaptive", "display": "summarized"}
    elif effort in _BUDGETS and (version or _NEWEST) >= THINKS and not _forced(body) and _may_think(body["messages"]):
        body["thinking"] = {"type": "enabled", "budget_tokens": _BUDGETS[effort]}
    elif asked is not None and effort != "none":
        call.drop("reasoning_effort")
    state = body.get("thinking", {})
    budget: int = state["budget_tokens"] if type(state.get("budget_tokens")) is int else 0
    limit = chat.get("max_completion_tokens") or chat.get("max_tokens") or deployment.max_output_tokens
    if limit is not None and type(limit) is not int:
        raise BadRequest("The limit on output tokens must be an integer.", param="max_completion_tokens")
    if not limit:
        limit = _ADAPTIVE_MAX_TOKENS if state.get("type") == "adaptive" else _MAX_TOKENS + budget
    body["max_tokens"] = limit if limit > budget else limit + budget


def _forced(body: dict[str, Any]) -> bool:
    """A tool must be called, which cannot be combined with thinking."""
    return body.get("tool_choice", {}).get("type") in ("any", "tool")


def _may_think(messages: list[dict[str, Any]]) -> bool:
    """With a budget, a turn that called tools must begin with its thinking, which not every client kept."""
    turns = [message["content"] for message in messages if message["role"] == "assistant"]
    if not turns or not any(block["type"] == "tool_use" for block in turns[-1]):
        return True
    return turns[-1][0]["type"] in ("thinking", "redacted_thinking")


# -- the rest ----------------------------------------------------------------------------------------------------------


def _sampling(call: Call, chat: dict[str, Any], body: dict[str, Any], version: tuple[int, int] | None) -> None:
    values: dict[str, float] = {}
    for key in ("temperature", "top_p", "top_k"):
        value = chat.get(key)
        if isinstance(value, (int, float)) and value is not True and value is not False:
            values[key] = value
        elif value is not None:
            raise BadRequest(f"'{key}' must be a number.", param=key)
    thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    if version is not None and version >= NO_SAMPLING:
        refused = set(values)
    elif thinks:  # temperature must be 1, top_p between 0.95 and 1
        refused = {key for key, value in values.items() if key == "top_k" or value < (0.95 if key == "top_p" else 1)}
    elif version is not None and version >= ONE_SAMPLING_FIELD and "temperature" in values:
        refused = {"top_p"} & values.keys()
    else:
        refused = set()
    for key in ("temperature", "top_p", "top_k"):
        if key in refused:
            # The value that it has anyway is no loss.
            if values[key] != 1 or key == "top_k":
                call.drop(key)
        elif key in values:
            body[key] = values[key]
    if body.get("temperature", 0) > 1:  # OpenAI's scale ends at 2, Anthropic's at 1
        body["temperature"] = 1
        call.drop("temperature")
    stops = chat.get("stop")
    stops = [stops] if type(stops) is str else stops if type(stops) is list else []
    if kept := [stop for stop in stops if type(stop) is str and stop.strip()]:
        body["stop_sequences"] = kept
    if len(kept) != len(stops):
        call.drop("stop")  # sequences of white space are refused


def _identity(call: Call, chat: dict[str, Any], body: dict[str, Any]) -> None:
    metadata = chat.get("metadata") if type(chat.get("metadata")) is dict else {}
    user = (metadata or {}).get("user_id") or chat.get("user") or chat.get("safety_identifier")
    if type(user) is str:
        body["metadata"] = {"user_id": user}
    if metadata and metadata.keys() - {"user_id"}:
        call.drop("metadata")
    tier = chat.get("service_tier")
    if tier in ("auto", "standard_only"):
        body["service_tier"] = tier
    elif tier == "default":
        body["service_tier"] = "standard_only"
    elif tier is not None:
        call.drop("service_tier")
