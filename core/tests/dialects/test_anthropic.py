"""`anthropic-messages`: checks, and requests said as chat."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tianji import dialects
from tianji.dialects.anthropic import AnthropicCountTokens, AnthropicMessages
from tianji.errors import BadRequest
from tianji.model import Call
from tianji.testing import make_call

DIALECT = AnthropicMessages()
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]


def ask(**body: Any) -> Call:
    return make_call({"model": "m", "max_tokens": 5, "messages": HELLO, **body}, dialect="anthropic-messages")


def to_chat(**body: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    call = ask(**body)
    before = deepcopy(call.body)
    chat = DIALECT.to_chat(call)
    assert call.body == before, "the client's body must stay as it is"
    dialects.get("openai-chat").check(chat)
    return chat, call.dropped


def messages_of(*blocks: Any, role: str = "user") -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    chat, dropped = to_chat(messages=[{"role": role, "content": list(blocks)}])
    return chat["messages"], dropped


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


# -- checks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"model": None}, "model", "model: Field required"),
        ({"model": 3}, "model", "model: Input should be a valid string"),
        ({"messages": None}, "messages", "messages: Field required"),
        ({"messages": []}, "messages", "messages: at least one message is required"),
        ({"messages": "x"}, "messages", "messages: Input should be a valid list"),
        ({"messages": ["x"]}, "messages[0]", "messages.0: Input should be a valid dictionary"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "messages.0.role: Field required"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages.0.content: Field required"),
        (
            {"messages": [*HELLO, {"role": "user", "content": [text("a"), {"x": 1}]}]},
            "messages[1].content[1].type",
            "messages.1.content.1.type: Field required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "messages.0.content.0.text: Field required",
        ),
        ({"max_tokens": None}, "max_tokens", "max_tokens: Field required"),
        ({"max_tokens": True}, "max_tokens", "max_tokens: Input should be a valid integer"),
        ({"system": 1}, "system", "system: Input should be a valid string or list"),
        ({"tools": [1]}, "tools[0]", "tools.0: Input should be a valid dictionary"),
        ({"tool_choice": "auto"}, "tool_choice", "tool_choice: Input should be a valid dictionary"),
        ({"stream": "yes"}, "stream", "stream: Input should be a valid boolean"),
        ({"temperature": "hot"}, "temperature", "temperature: Input should be a valid number"),
    ],
)
def test_check_names_the_field(change: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        DIALECT.check({"model": "m", "max_tokens": 5, "messages": HELLO, **change})
    assert caught.value.param == param
    assert caught.value.message == message


def test_check_accepts_what_providers_may_understand() -> None:
    DIALECT.check({"model": "m", "max_tokens": 1, "messages": HELLO})
    later = {"role": "system", "content": [{"type": "tool_addition", "tool": {}}]}
    DIALECT.check({"model": "m", "max_tokens": 1, "messages": [*HELLO, later], "unheard_of": 1, "system": []})
    AnthropicCountTokens().check({"model": "m", "messages": HELLO})


# -- to chat -----------------------------------------------------------------------------------------------------------


def test_plain_request() -> None:
    chat, dropped = to_chat(
        system="Be brief.", temperature=0.5, top_p=0.9, stop_sequences=["END"], metadata={"user_id": "u"}, stream=True
    )
    assert chat == {
        "model": "m",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "stop": ["END"],
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert dropped == ()


def test_what_chat_cannot_say_is_named() -> None:
    _, dropped = to_chat(top_k=5, mcp_servers=[{}], context_management={}, container=None, **{"bad\r\nname": 1})
    assert dropped == ("top_k", "mcp_servers", "context_management", "unknown")


def test_system_blocks_are_joined_unless_they_are_marked() -> None:
    chat, _ = to_chat(system=[text("One."), text("Two.")])
    assert chat["messages"][0]["content"] == "One.\n\nTwo."
    marked = [text("One.", cache_control={"type": "ephemeral"}), text("Two.")]
    chat, _ = to_chat(system=marked)
    assert chat["messages"][0]["content"] == marked


def test_a_system_message_in_between_stays_there() -> None:
    chat, _ = to_chat(messages=[*HELLO, {"role": "system", "content": "Be formal."}])
    assert [message["role"] for message in chat["messages"]] == ["user", "system"]


def test_images_and_documents() -> None:
    messages, dropped = messages_of(
        text("Look."),
        text(""),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}, "cache_control": {"type": "e"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
            "title": "t",
        },
        {"type": "document", "source": {"type": "text", "data": "body"}, "title": "t", "citations": {"enabled": True}},
        {"type": "document", "source": {"type": "content", "content": [text("a"), text("b")]}},
        {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_2"}},
        {"type": "search_result", "title": "T", "source": "https://x.example", "content": [text("found")]},
        {"type": "container_upload", "file_id": "f"},
    )
    assert messages[0]["content"] == [
        text("Look."),
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}, "cache_control": {"type": "e"}},
        {"type": "file", "file": {"filename": "t", "file_data": "data:application/pdf;base64,JVBE"}},
        text("t\n\nbody"),
        text("a\n\nb"),
        {"type": "file", "file": {"filename": "document.pdf", "file_data": "https://x.example/a.pdf"}},
        {"type": "file", "file": {"file_id": "file_2"}},
        text("T\nhttps://x.example\nfound"),
    ]
    assert dropped == ("messages.image", "messages.document.citations", "messages.container_upload")


def test_assistant_turn_with_thinking_text_and_tools() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    hidden = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
    tool = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}, "cache_control": {"type": "ephemeral"}}
    server = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}
    messages, dropped = messages_of(thinking, hidden, text("So "), text("then."), server, tool, role="assistant")
    assert messages == [
        {
            "role": "assistant",
            "content": "So then.",
            "thinking_blocks": [thinking, hidden],
            "reasoning_content": "Hm.",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a":1}'},
                    "cache_control": {"type": "ephemeral"},
                }
            ],
        }
    ]
    assert dropped == ("messages.server_tool_use",)


def test_tool_results_come_before_the_rest_of_the_turn() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    messages, _ = messages_of(
        text("And this."),
        {"type": "tool_result", "tool_use_id": "t1", "content": "4 degrees"},
        {"type": "tool_result", "tool_use_id": "t2", "content": [text("a"), text("b"), image]},
        {"type": "tool_result", "tool_use_id": "t3", "content": "no such city", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t4", "content": [image]},
        {"type": "tool_result", "tool_use_id": "t5"},
    )
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert [(message["role"], message.get("tool_call_id"), message["content"]) for message in messages[:-1]] == [
        ("tool", "t1", "4 degrees"),
        ("tool", "t2", "a\nb"),
        ("tool", "t3", "Error: no such city"),
        ("tool", "t4", "The result is in the next message."),
        ("tool", "t5", ""),
    ]
    assert messages[-1] == {
        "role": "user",
        "content": [
            text("The files that tool call t2 returned:"),
            url,
            text("The files that tool call t4 returned:"),
            url,
            text("And this."),
        ],
    }


def test_tools_and_choices() -> None:
    schema = {"type": "object", "properties": {}}
    custom = {"name": "f", "description": "d", "input_schema": schema, "strict": True, "cache_control": {"type": "e"}}
    search = {"type": "web_search_20250305", "name": "web_search"}
    chat, dropped = to_chat(tools=[custom, search], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    function = {"name": "f", "description": "d", "parameters": schema, "strict": True}
    assert chat["tools"] == [{"type": "function", "function": function, "cache_control": {"type": "e"}}]
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == ("required", False)
    assert dropped == ("tools.web_search_20250305",)
    chat, _ = to_chat(tools=[custom], tool_choice={"type": "tool", "name": "f"})
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    for kind in ("auto", "none"):
        assert to_chat(tools=[custom], tool_choice={"type": kind})[0]["tool_choice"] == kind
    chat, dropped = to_chat(tools=[custom, search], tool_choice={"type": "tool", "name": "web_search"})
    assert "tool_choice" not in chat
    assert "tool_choice" in dropped
    chat, dropped = to_chat(tools=[search], tool_choice={"type": "auto"})
    assert "tools" not in chat
    assert dropped == ("tools.web_search_20250305", "tool_choice")


@pytest.mark.parametrize(
    ("thinking", "config", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, {}, "low"),
        ({"type": "enabled", "budget_tokens": 2048}, {}, "low"),
        ({"type": "enabled", "budget_tokens": 8192}, {}, "medium"),
        ({"type": "enabled", "budget_tokens": 8193}, {}, "high"),
        ({"type": "adaptive"}, {}, None),
        ({"type": "adaptive"}, {"effort": "max"}, "xhigh"),
        (None, {"effort": "low"}, "low"),
        ({"type": "disabled"}, {"effort": "high"}, None),
        (None, {}, None),
    ],
)
def test_thinking_becomes_an_effort(thinking: Any, config: dict[str, Any], effort: str | None) -> None:
    chat, dropped = to_chat(thinking=thinking, output_config=config)
    assert chat.get("reasoning_effort") == effort
    assert "thinking" not in chat
    assert dropped == ()


def test_structured_output_is_strict_where_openai_could_take_it_so() -> None:
    closed = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    chat, _ = to_chat(output_config={"format": {"type": "json_schema", "schema": closed}, "task_budget": {}})
    wanted = {"name": "response", "schema": closed, "strict": True}
    assert chat["response_format"] == {"type": "json_schema", "json_schema": wanted}
    loose = {**closed, "required": []}
    chat, _ = to_chat(output_format={"type": "json_schema", "schema": {"anyOf": [closed, loose]}})
    assert "strict" not in chat["response_format"]["json_schema"]


def test_long_user_ids_stay_distinct_and_short_enough() -> None:
    users = [to_chat(metadata={"user_id": "x" * 80 + end})[0]["user"] for end in "ab"]
    assert len(set(users)) == 2
    assert all(len(user) == 64 for user in users)


def test_service_tier() -> None:
    assert to_chat(service_tier="standard_only")[0]["service_tier"] == "default"
    assert to_chat(service_tier="auto")[0]["service_tier"] == "auto"
