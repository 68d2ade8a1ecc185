"""`anthropic-messages`: answers said back, usage, errors, texts, and the estimate of tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tianji.dialects.anthropic import AnthropicCountTokens, AnthropicMessages, usage_from_anthropic, usage_to_anthropic
from tianji.errors import (
    BadRequest,
    Blocked,
    ContextWindow,
    Failure,
    Overloaded,
    Throttled,
    Timeout,
    Unauthorized,
    Unavailable,
    UnknownModel,
)
from tianji.model import Usage
from tianji.testing import make_call

DIALECT = AnthropicMessages()


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


# -- from chat ---------------------------------------------------------------------------------------------------------


def from_chat(message: dict[str, Any], finish: str = "stop", **choice: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **choice}]
    return DIALECT.from_chat(
        make_call({"model": "m", "messages": []}, dialect="anthropic-messages"),
        {"id": "chatcmpl-1", "model": "up", "choices": choices, "usage": usage},
    )


def test_plain_answer() -> None:
    assert from_chat({"content": "Hi!"}) == {
        "id": "msg_chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [text("Hi!")],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 4,
        },
    }


def test_blocks_come_in_anthropics_order() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "Zg=="},
    ]
    calls = [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}]
    made = from_chat(
        {
            "content": [text("So "), text("then")],
            "tool_calls": calls,
            "thinking_blocks": blocks,
            "reasoning_content": "Hm.",
        },
        "tool_calls",
    )
    assert made["content"] == [
        *blocks,
        text("So then"),
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1]}},
    ]
    assert made["stop_reason"] == "tool_use"
    unsigned = from_chat({"content": None, "reasoning_content": "Hm."})
    assert unsigned["content"] == [{"type": "thinking", "thinking": "Hm.", "signature": ""}]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("", {}),
        (" ", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ('{"a":', {"raw_arguments": '{"a":'}),
        ("[1]", {"raw_arguments": "[1]"}),
    ],
)
def test_arguments_are_always_an_object(arguments: Any, given: dict[str, Any]) -> None:
    made = from_chat({"tool_calls": [{"id": "t", "function": {"name": "f", "arguments": arguments}}]}, "tool_calls")
    assert made["content"][0]["input"] == given


@pytest.mark.parametrize(
    ("finish", "choice", "message", "reason", "sequence"),
    [
        ("stop", {}, {"content": "x"}, "end_turn", None),
        ("length", {}, {"content": "x"}, "max_tokens", None),
        ("content_filter", {}, {"content": ""}, "refusal", None),
        ("stop", {}, {"refusal": "No."}, "refusal", None),
        ("stop", {}, {"tool_calls": [{"id": "t", "function": {"name": "f"}}]}, "tool_use", None),
        ("function_call", {}, {"function_call": {"name": "f", "arguments": "{}"}}, "tool_use", None),
        ("stop", {"stop_reason": "END"}, {"content": "x"}, "stop_sequence", "END"),
        ("stop", {"stop_sequence": "END"}, {"content": "x"}, "stop_sequence", "END"),
        ("stop", {"stop_reason": 128009}, {"content": "x"}, "end_turn", None),
        ("something_new", {}, {"content": "x"}, "end_turn", None),
    ],
)
def test_stop_reasons(finish: str, choice: Any, message: Any, reason: str, sequence: str | None) -> None:
    made = from_chat(message, finish, **choice)
    assert (made["stop_reason"], made["stop_sequence"]) == (reason, sequence)


def test_usage_both_ways() -> None:
    usage = Usage(
        input_tokens=1000, output_tokens=50, cache_read_tokens=600, cache_write_tokens=300, cache_write_1h_tokens=100,
        reasoning_tokens=20, web_searches=2,
    )  # fmt: skip
    said = usage_to_anthropic(usage)
    assert said["input_tokens"] == 100, "Anthropic's input leaves out what was cached"
    assert said["cache_creation"] == {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100}
    assert usage_from_anthropic(said) == usage
    assert DIALECT.usage({"usage": said}) == usage
    assert usage_from_anthropic({"input_tokens": None, "output_tokens": 3}) == Usage(0, 3)
    for nothing in (None, {}, "x", {"total_tokens": 3}):
        assert usage_from_anthropic(nothing) is None


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (ContextWindow("x"), "invalid_request_error"),
        (BadRequest("x", status=422), "invalid_request_error"),
        (Unauthorized("x"), "authentication_error"),
        (UnknownModel("x"), "not_found_error"),
        (BadRequest("x", status=413), "request_too_large"),
        (Throttled("x"), "rate_limit_error"),
        (Timeout("x"), "timeout_error"),
        (Unavailable("x", status=500), "api_error"),
        (Unavailable("x"), "api_error"),
        (Unavailable("x", status=529), "overloaded_error"),
        (Overloaded("x"), "overloaded_error"),
    ],
)
def test_error_types(failure: Failure, kind: str) -> None:
    assert DIALECT.error(failure) == {"type": "error", "error": {"type": kind, "message": "x"}}


def test_error_keeps_request_id_and_findings_and_frames() -> None:
    failure = Blocked("No.", headers={"llm_provider-request-id": "req_1"}, extra={"guardrail": "pii"})
    error = {"type": "invalid_request_error", "message": "No.", "guardrail": "pii"}
    assert DIALECT.error(failure) == {"type": "error", "error": error, "request_id": "req_1"}
    assert DIALECT.error_frame(Unavailable("x", status=529)) == (
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'
    )


# -- texts -------------------------------------------------------------------------------------------------------------


def test_texts_of_a_request_can_be_read_and_replaced() -> None:
    body: dict[str, Any] = {
        "system": [text("a")],
        "messages": [
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "secret", "signature": "s"}, text("c")]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "d"},
                    {"type": "tool_result", "tool_use_id": "t", "content": [text("e")]},
                    {"type": "document", "source": {"type": "text", "data": "f"}},
                    {"type": "search_result", "content": [text("g")]},
                ],
            },
        ],
    }
    slots = DIALECT.texts(body)
    assert [box[key] for box, key in slots] == list("abcdefg")
    for box, key in slots:
        box[key] = box[key].upper()
    assert [box[key] for box, key in DIALECT.texts(body)] == list("ABCDEFG")
    assert [box[key] for box, key in DIALECT.texts({"system": "s", "messages": [None]})] == ["s"]


def test_texts_of_an_answer_whole_and_streamed() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": "x", "b": [{"c": "y"}, 1]}}
    whole = {"content": [{"type": "thinking", "thinking": "h", "signature": "s"}, text("t"), tool]}
    assert [box[key] for box, key in DIALECT.reply_texts(whole)] == ["h", "t", "x", "y"]
    for kind, key in (("text_delta", "text"), ("thinking_delta", "thinking"), ("input_json_delta", "partial_json")):
        event = {"type": "content_block_delta", "index": 0, "delta": {"type": kind, key: "w"}}
        assert DIALECT.reply_texts(event) == [(event["delta"], key)]
    assert DIALECT.reply_texts({"type": "ping"}) == []


# -- counting ----------------------------------------------------------------------------------------------------------


def test_estimate_is_on_the_high_side_and_grows_with_everything() -> None:
    count = AnthropicCountTokens().estimate
    prose = "The quick brown fox jumps over the lazy dog. " * 100  # about 1,000 tokens
    base: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": prose}]}
    assert 1000 <= count(base) <= 1500
    image = {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 100_000}}
    more = [
        {**base, "system": "Be brief."},
        {**base, "tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        {**base, "messages": [*base["messages"], {"role": "user", "content": [image]}]},
        {**base, "messages": [*base["messages"], {"role": "user", "content": [pdf]}]},
    ]
    assert all(count(body) > count(base) for body in more)
    assert count(more[2]) - count(base) >= 1600
    assert AnthropicCountTokens.translates is False
