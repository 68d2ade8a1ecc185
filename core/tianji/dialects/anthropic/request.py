"""`to_chat`: a Messages request said as an OpenAI chat request.

https://platform.claude.com/docs/en/api/messages

What a chat request cannot say is named with `call.drop`. Thinking blocks travel on the assistant message as
`thinking_blocks` (whole, with their signatures) beside `reasoning_content`, so that a provider which speaks Anthropic
behind chat can put them back; `cache_control` stays on the parts and tools that carried it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

from tianji.dialects.anthropic.wire import as_dict, as_dicts, as_str
from tianji.model import Call, encode_json

_SAME = ("model", "max_tokens", "temperature", "top_p")
_READ = frozenset(
    {*_SAME, "messages", "system", "stop_sequences", "tools", "tool_choice", "thinking", "metadata", "output_format",
     "output_config", "service_tier", "stream"}
)  # fmt: skip
_EFFORT = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}
_NAME = re.compile(r"[\w.-]{1,64}")
_LONGEST_USER = 64


def to_chat(call: Call) -> dict[str, Any]:
    """The Messages request in `call.body` as a chat request."""
    body = call.body
    messages: list[dict[str, Any]] = []
    if (system := body.get("system")) and (content := _parts(call, _blocks(system))):
        messages.append({"role": "system", "content": _plain(content, "\n\n")})
    for message in as_dicts(body.get("messages")):
        role = message.get("role")
        blocks = _blocks(message.get("content"))
        if role == "assistant":
            messages.append(_assistant(call, blocks))
        elif role == "system":
            if content := _parts(call, blocks):
                messages.append({"role": "system", "content": _plain(content, "\n\n")})
        else:
            messages.extend(_user(call, blocks))
    chat: dict[str, Any] = {key: body[key] for key in _SAME if body.get(key) is not None}
    chat["messages"] = messages
    if stops := body.get("stop_sequences"):
        chat["stop"] = stops
    _tools(call, body, chat)
    _output(call, body, chat)
    metadata = body.get("metadata")
    if type(metadata) is dict and type(user := metadata.get("user_id")) is str and user:
        # OpenAI refuses longer ids; a digest still tells users apart.
        chat["user"] = user if len(user) <= _LONGEST_USER else sha256(user.encode()).hexdigest()
    if tier := body.get("service_tier"):
        chat["service_tier"] = "default" if tier == "standard_only" else tier
    if body.get("stream"):
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    for field, value in body.items():
        if field not in _READ and value is not None:
            call.drop(_named(field))
    return chat


def _output(call: Call, body: dict[str, Any], chat: dict[str, Any]) -> None:
    """Effort and structured output."""
    config = as_dict(body.get("output_config"))
    form = as_dict(config.get("format") or body.get("output_format"))
    if form.get("type") == "json_schema":
        schema = as_dict(form.get("schema"))
        wanted: dict[str, Any] = {"name": "response", "schema": schema}
        if _strict(schema):
            wanted["strict"] = True
        chat["response_format"] = {"type": "json_schema", "json_schema": wanted}
    elif form:
        call.drop("output_config.format")
    for field in config:
        if field not in ("format", "effort"):
            call.drop("output_config." + _named(field))
    thinking = as_dict(body.get("thinking"))
    if thinking.get("type") == "enabled":
        chat["reasoning_effort"] = _effort_of(thinking.get("budget_tokens"))
    elif thinking.get("type") != "disabled" and (effort := _EFFORT.get(str(config.get("effort")))):
        chat["reasoning_effort"] = effort
    # `adaptive` leaves the depth to the model, which is what a chat request without an effort does too.


def _effort_of(budget: Any) -> str:
    if type(budget) is not int or budget <= 2048:
        return "low"
    return "medium" if budget <= 8192 else "high"


def _strict(schema: Any) -> bool:
    """Whether OpenAI would take the schema as strict: every object closed, and every property of it required."""
    if type(schema) is list:
        return all(_strict(item) for item in schema)
    if type(schema) is not dict:
        return True
    if schema.get("type") == "object" or "properties" in schema:
        required = schema.get("required")
        names = [name for name in required if type(name) is str] if type(required) is list else []
        if schema.get("additionalProperties") is not False or set(names) != as_dict(schema.get("properties")).keys():
            return False
    return all(_strict(value) for value in schema.values())


# -- tools -------------------------------------------------------------------------------------------------------------


def _tools(call: Call, body: dict[str, Any], chat: dict[str, Any]) -> None:
    tools, left_out = [], set()
    for tool in as_dicts(body.get("tools")):
        kind = tool.get("type")
        if kind not in (None, "custom"):
            call.drop("tools." + _named(kind))
            left_out.add(as_str(tool.get("name")))
            continue
        function = {"name": tool.get("name"), "description": tool.get("description"),
                    "parameters": tool.get("input_schema"), "strict": tool.get("strict")}  # fmt: skip
        fresh: dict[str, Any] = {
            "type": "function",
            "function": {key: value for key, value in function.items() if value is not None},
        }
        if tool.get("cache_control"):
            fresh["cache_control"] = tool["cache_control"]
        for field in sorted(tool.keys() - function.keys() - {"type", "input_schema", "cache_control"}):
            call.drop("tools." + _named(field))
        tools.append(fresh)
    if tools:
        chat["tools"] = tools
    choice = as_dict(body.get("tool_choice"))
    kind, name = choice.get("type"), choice.get("name")
    if not tools or (kind == "tool" and as_str(name) in left_out):
        if choice:
            call.drop("tool_choice")
        return
    if kind == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in ("auto", "any", "none"):
        chat["tool_choice"] = "required" if kind == "any" else kind
    if choice.get("disable_parallel_tool_use") is True:
        chat["parallel_tool_calls"] = False


# -- messages ----------------------------------------------------------------------------------------------------------


def _assistant(call: Call, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    thinking = [block for block in blocks if block.get("type") in ("thinking", "redacted_thinking")]
    calls = [_tool_call(block) for block in blocks if block.get("type") == "tool_use"]
    rest = [block for block in blocks if block.get("type") not in ("thinking", "redacted_thinking", "tool_use")]
    content = _parts(call, rest)
    message: dict[str, Any] = {"role": "assistant", "content": _plain(content, "") if content else None}
    if message["content"] is None and not calls:
        message["content"] = ""
    if thinking:
        message["thinking_blocks"] = thinking
        if reasoning := "".join(as_str(block.get("thinking")) for block in thinking):
            message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = encode_json(block.get("input") or {}).decode()
    made: dict[str, Any] = {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }
    if block.get("cache_control"):
        made["cache_control"] = block["cache_control"]
    return made


def _user(call: Call, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One user turn: first a `tool` message per result, then whatever else there was.

    Chat's tool messages hold text only, so a result's images and files open the user message that follows.
    """
    messages, parts = [], []
    for block in blocks:
        if block.get("type") == "tool_result":
            message, media = _tool_result(call, block)
            messages.append(message)
            parts += media
    parts += _parts(call, [block for block in blocks if block.get("type") != "tool_result"])
    if parts or not messages:
        messages.append({"role": "user", "content": _plain(parts, None) if parts else ""})
    return messages


def _tool_result(call: Call, block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    parts = _parts(call, _blocks(block.get("content")))
    texts = [part for part in parts if part["type"] == "text"]
    media = [part for part in parts if part["type"] != "text"]
    if media:
        media.insert(0, {"type": "text", "text": f"The files that tool call {block.get('tool_use_id')} returned:"})
    content = _plain(texts, "\n") if texts else "The result is in the next message." if media else ""
    if block.get("is_error") is True:
        # Chat has no such flag; the model has to read it.
        if type(content) is str:
            content = content if "error" in content[:40].lower() else f"Error: {content}"
        else:
            content = [{"type": "text", "text": "Error:"}, *content]
    message = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}
    if block.get("cache_control"):
        message["cache_control"] = block["cache_control"]
    return message, media


def _parts(call: Call, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Content blocks as chat parts; empty texts are left out, blocks that chat has no word for are named."""
    parts = []
    for block in blocks:
        kind = block.get("type")
        made = _part(block)
        if made is None:
            if kind != "text":
                call.drop("messages." + _named(kind))
            continue
        if kind == "document" and as_dict(block.get("citations")).get("enabled"):
            call.drop("messages.document.citations")
        if block.get("cache_control"):
            made[-1]["cache_control"] = block["cache_control"]
        parts += made
    return parts


def _part(block: dict[str, Any]) -> list[dict[str, Any]] | None:
    kind = block.get("type")
    if kind == "text":
        return [{"type": "text", "text": text}] if (text := as_str(block.get("text"))) else None
    if kind == "image":
        url = _url(as_dict(block.get("source")))
        return None if url is None else [{"type": "image_url", "image_url": {"url": url}}]
    if kind == "document":
        return _document(block, as_dict(block.get("source")))
    if kind == "search_result":
        lines = [as_str(block.get("title")), as_str(block.get("source"))]
        lines += [as_str(item.get("text")) for item in _blocks(block.get("content"))]
        return [{"type": "text", "text": "\n".join(line for line in lines if line)}]
    return None


def _document(block: dict[str, Any], source: dict[str, Any]) -> list[dict[str, Any]] | None:
    title = block.get("title")
    if source.get("type") in ("text", "content"):
        texts = [source.get("data")] if source["type"] == "text" else []
        texts += [item.get("text") for item in _blocks(source.get("content"))]
        lines = [title, block.get("context"), *texts]
        return [{"type": "text", "text": "\n\n".join(line for line in lines if type(line) is str and line)}]
    if source.get("type") == "file":
        return [{"type": "file", "file": {"file_id": source.get("file_id")}}]
    data = _url(source)
    if data is None:
        return None
    # A URL goes where the data would: OpenAI's part has no place of its own for one.
    return [{"type": "file", "file": {"filename": title or "document.pdf", "file_data": data}}]


def _url(source: dict[str, Any]) -> str | None:
    if source.get("type") == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    url = source.get("url") if source.get("type") == "url" else None
    return url if type(url) is str else None


def _plain(parts: list[dict[str, Any]], glue: str | None) -> str | list[dict[str, Any]]:
    """A string where the parts are plain text (every server reads strings), the parts where they say more.

    With `glue` None several texts stay apart.
    """
    if any(len(part) != 2 or part["type"] != "text" for part in parts) or (glue is None and len(parts) > 1):
        return parts
    return (glue or "").join(part["text"] for part in parts)


def _blocks(content: Any) -> list[dict[str, Any]]:
    if type(content) is str:
        return [{"type": "text", "text": content}]
    return as_dicts(content)


def _named(field: Any) -> str:
    """A client's word, fit for a response header."""
    return field if type(field) is str and _NAME.fullmatch(field) else "unknown"
