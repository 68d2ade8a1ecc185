"""`from_chat`: a whole chat completion said as an Anthropic Message.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from typing import Any

from tianji.dialects.anthropic.wire import STOP_OF_FINISH, as_dict, as_dicts, as_str, usage_to_anthropic
from tianji.dialects.usage import from_openai
from tianji.model import Call, decode_json


def from_chat(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    """The first choice of a completion as a Message, in the order thinking, text, tool use."""
    choice = next(iter(as_dicts(body.get("choices"))), {})
    message = as_dict(choice.get("message"))
    content = thinking_blocks(message)
    if text := text_of(message.get("content")) or text_of(message.get("refusal")):
        content.append({"type": "text", "text": text})
    id = as_str(body.get("id")) or call.id
    tools = [tool_use(tool) for tool in as_dicts(message.get("tool_calls"))]
    if not tools and type(legacy := message.get("function_call")) is dict:
        tools = [tool_use({"id": f"toolu_{id}", "function": legacy})]
    content += tools
    reason, sequence = stop_reason(choice, tools=bool(tools))
    if message.get("refusal") and not message.get("content"):
        reason = "refusal"
    return {
        "id": message_id(id),
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage_to_anthropic(from_openai(body.get("usage"))),
    }


def thinking_blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The signed blocks where the provider gave them, else its reasoning as one unsigned block."""
    blocks = [block for block in as_dicts(message.get("thinking_blocks")) if block.get("type")]
    if blocks:
        return blocks
    reasoning = reasoning_of(message)
    return [{"type": "thinking", "thinking": reasoning, "signature": ""}] if reasoning else []


def reasoning_of(message: dict[str, Any]) -> str:
    """The reasoning text of a message or delta, under either name that is in use."""
    for name in ("reasoning_content", "reasoning"):
        if type(text := message.get(name)) is str and text:
            return text
    return ""


def text_of(content: Any) -> str:
    """The text of a chat content, a string or a list of parts."""
    if type(content) is str:
        return content
    return "".join(as_str(part.get("text")) for part in as_dicts(content))


def tool_use(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool call as a `tool_use` block.

    `input` must be an object. Arguments that are none are kept under `raw_arguments`: a client that checks its schema
    refuses them, where an empty object could pass for a call without arguments.
    """
    function = as_dict(tool.get("function"))
    arguments = function.get("arguments")
    parsed: Any = arguments if type(arguments) is dict else {}
    if type(arguments) is str and arguments.strip():
        try:
            parsed = decode_json(arguments)
        except ValueError:
            parsed = None
        if type(parsed) is not dict:
            parsed = {"raw_arguments": arguments}
    return {"type": "tool_use", "id": as_str(tool.get("id")), "name": as_str(function.get("name")), "input": parsed}


def stop_reason(choice: dict[str, Any], *, tools: bool) -> tuple[str, str | None]:
    """Anthropic's stop reason and stop sequence for a choice.

    vLLM names the sequence in `stop_reason`, our Anthropic provider in `stop_sequence`. Servers that say `stop` for an
    answer with tool calls are put right, as clients of this dialect act on the reason alone.
    """
    sequence = choice.get("stop_sequence") or choice.get("stop_reason")
    if type(sequence) is str and sequence and choice.get("finish_reason") in ("stop", "stop_sequence"):
        return "stop_sequence", sequence
    reason = STOP_OF_FINISH.get(as_str(choice.get("finish_reason")) or "stop", "end_turn")
    return ("tool_use" if tools and reason == "end_turn" else reason), None


def message_id(id: str) -> str:
    return id if id.startswith("msg_") else f"msg_{id}"
