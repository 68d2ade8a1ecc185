"""Anthropic's streams: chat chunks said as events, and native streams watched without changing a byte."""

from __future__ import annotations

from typing import Any

import pytest

from tianji.dialects.anthropic import AnthropicMessages
from tianji.errors import ContextWindow, Failure, ProtocolError, Throttled, Unavailable
from tianji.model import Usage, decode_json, encode_json, sse_encode
from tianji.testing import make_call

DIALECT = AnthropicMessages()
Events = list[dict[str, Any]]


def said(*deltas: dict[str, Any], finish: str | None = "stop", **choice: Any) -> Events:
    """The events for a stream of deltas, checked for the order that Anthropic's clients rely on."""
    call = make_call({"model": "m", "max_tokens": 5, "messages": []}, dialect="anthropic-messages")
    stream = DIALECT.stream_from_chat(call)
    assert next(stream) == []
    events: Events = []
    for delta in deltas:
        events += stream.send({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    if finish:
        events += stream.send({"choices": [{"index": 0, "delta": {}, "finish_reason": finish, **choice}]})
    events += stream.send({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}})
    events += stream.send(None)
    in_order(events)
    return events


def in_order(events: Events) -> None:
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    index, is_open = -1, False
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert not is_open
            index, is_open = index + 1, True
        elif event["type"] == "content_block_stop":
            assert is_open
            is_open = False
        else:
            assert event["type"] == "content_block_delta"
            assert is_open
        assert event["index"] == index
    assert not is_open


def blocks(events: Events) -> list[dict[str, Any]]:
    """What a client puts together from the events."""
    found: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            found.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            for key, value in event["delta"].items():
                if key != "type":
                    found[-1][key] = found[-1].get(key, "") + value
    for block in found:
        if block["type"] == "tool_use":
            block["input"] = decode_json(block.pop("partial_json", "{}"))
    return found


def tool(index: int, arguments: str, id: str | None = None, name: str | None = None) -> dict[str, Any]:
    part: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if id:
        part["id"], part["type"], part["function"]["name"] = id, "function", name
    return {"tool_calls": [part]}


# -- from chat ---------------------------------------------------------------------------------------------------------


def test_text() -> None:
    events = said({"role": "assistant", "content": ""}, {"content": "Hi"}, {"content": "!"})
    assert [event["type"] for event in events] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    start = events[0]["message"]
    assert (start["id"], start["model"], start["content"], start["stop_reason"]) == ("msg_chatcmpl-1", "m", [], None)
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["input_tokens"] == 9
    assert events[-2]["usage"]["output_tokens"] == 4
    assert blocks(events) == [{"type": "text", "text": "Hi!"}]


def test_deltas_are_sent_at_once() -> None:
    call = make_call({"model": "m", "max_tokens": 5, "messages": []}, dialect="anthropic-messages")
    stream = DIALECT.stream_from_chat(call)
    next(stream)
    assert [event["type"] for event in stream.send({"choices": []})] == ["message_start"]
    for delta in ({"content": "a"}, {"reasoning_content": "b"}, tool(0, '{"a"', "t", "f"), tool(0, ":1}")):
        assert any(
            event["type"] == "content_block_delta"
            for event in stream.send({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        )


def test_thinking_then_text_then_tools() -> None:
    block = {"type": "thinking", "thinking": "Hm. So.", "signature": "c2ln"}
    hidden = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
    events = said(
        {"reasoning_content": "Hm. "}, {"reasoning_content": "So."}, {"thinking_blocks": [block]},
        {"thinking_blocks": [hidden]}, {"reasoning_content": "More."}, {"content": "Then"},
        tool(0, "", "t1", "f"), tool(0, '{"a":1}'),
        finish="tool_calls",
    )  # fmt: skip
    assert blocks(events) == [
        block,
        hidden,
        {"type": "thinking", "thinking": "More.", "signature": ""},
        {"type": "text", "text": "Then"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_thinking_blocks_without_reasoning_text_are_told_in_full() -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    assert blocks(said({"thinking_blocks": [block]}, {"content": "x"}))[0] == block


def test_interleaved_tool_calls_come_one_after_the_other() -> None:
    events = said(
        tool(0, "", "t1", "f"), tool(1, "", "t2", "g"), tool(0, '{"a"'), tool(1, '{"b"'),
        tool(0, ":1}"), tool(1, ":2}"),
        finish="tool_calls",
    )  # fmt: skip
    assert blocks(events) == [
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {"b": 2}},
    ]


def test_a_call_without_arguments_does_not_hold_up_the_end() -> None:
    events = said(tool(0, "", "t1", "f"), {"content": "after"}, tool(1, "{}", "t2", "g"), finish="stop")
    assert [block["type"] for block in blocks(events)] == ["tool_use", "text", "tool_use"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use", "clients act on the reason alone"


def test_whole_calls_without_an_index() -> None:
    whole = [{"id": f"t{n}", "function": {"name": "f", "arguments": f'{{"n":{n}}}'}} for n in (1, 2)]
    events = said({"tool_calls": whole}, finish="tool_calls")
    assert [block["input"] for block in blocks(events)] == [{"n": 1}, {"n": 2}]


def test_other_choices_and_an_empty_answer() -> None:
    assert blocks(said()) == []
    call = make_call({"model": "m", "max_tokens": 5, "messages": []}, dialect="anthropic-messages")
    stream = DIALECT.stream_from_chat(call)
    next(stream)
    events = stream.send({"choices": [{"index": 1, "delta": {"content": "second"}, "finish_reason": "stop"}]})
    assert [event["type"] for event in events] == ["message_start"]


def test_stop_sequence_and_refusal() -> None:
    assert said({"content": "x"}, stop_sequence="END")[-2]["delta"] == {
        "stop_reason": "stop_sequence",
        "stop_sequence": "END",
    }
    events = said({"refusal": "No."}, finish="content_filter")
    assert blocks(events) == [{"type": "text", "text": "No."}]
    assert events[-2]["delta"]["stop_reason"] == "refusal"


# -- native streams ----------------------------------------------------------------------------------------------------

MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": []}
START = {
    "type": "message_start",
    "message": {**MESSAGE, "usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 1}},
}
WORDS = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": '{"type":"error"} message_stop'},
}
DELTA = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"input_tokens": 0, "output_tokens": 7},
}
STOP = {"type": "message_stop"}


def watch() -> Any:
    return DIALECT.monitor(make_call({"model": "group", "max_tokens": 5, "messages": []}, dialect="anthropic-messages"))


def frame(*events: dict[str, Any]) -> bytes:
    return sse_encode(list(events), named=True)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_bytes_pass_untouched_and_usage_is_read(newline: bytes) -> None:
    monitor = watch()
    for events in ([START, {"type": "ping"}], [WORDS, WORDS], [WORDS, DELTA], [STOP]):
        raw = frame(*events).replace(b"\n", newline)
        assert monitor.feed(raw) is raw
    assert monitor.feed(b"event: data\ndata: [DONE]\n\n") == b"event: data\ndata: [DONE]\n\n"
    assert monitor.end() == b""
    assert monitor.usage == Usage(input_tokens=100, output_tokens=7, cache_read_tokens=90)
    assert (monitor.model, monitor.delivered, monitor.finished) == ("claude-x", 3, True)


def test_the_closing_count_wins_over_the_first() -> None:
    monitor = watch()
    monitor.feed(frame(START))
    assert monitor.usage == Usage(input_tokens=100, output_tokens=1, cache_read_tokens=90)
    usage = {"input_tokens": 500, "output_tokens": 70, "server_tool_use": {"web_search_requests": 2}}
    monitor.feed(frame({**DELTA, "usage": usage}))
    assert monitor.usage == Usage(input_tokens=590, output_tokens=70, cache_read_tokens=90, web_searches=2)


@pytest.mark.parametrize("cut", range(3))
def test_a_stream_that_breaks_off_is_an_error(cut: int) -> None:
    monitor = watch()
    for event in (START, WORDS, WORDS)[: cut + 1]:
        monitor.feed(frame(event))
    with pytest.raises(ProtocolError):
        monitor.end()


def test_an_end_without_message_stop_is_an_end() -> None:
    monitor = watch()
    monitor.feed(frame(START, WORDS, DELTA))
    assert monitor.end() == b""


@pytest.mark.parametrize(
    ("kind", "message", "failure", "status"),
    [
        ("overloaded_error", "Overloaded", Unavailable, 529),
        ("rate_limit_error", "Slow down.", Throttled, 429),
        ("api_error", "Oh.", Unavailable, 500),
        ("invalid_request_error", "prompt is too long: 9 > 8", ContextWindow, 400),
        ("brand_new_error", "Hm.", Unavailable, 500),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_error_events_are_raised(kind: str, message: str, failure: type[Failure], status: int, begun: bool) -> None:
    monitor = watch()
    if begun:
        monitor.feed(frame(START, WORDS))
    with pytest.raises(failure) as caught:
        monitor.feed(frame({"type": "error", "error": {"type": kind, "message": message}}))
    assert type(caught.value) is failure
    assert (caught.value.status, caught.value.message) == (status, message)


@pytest.mark.parametrize("raw", [b"data: <html>\n\n", b"data: 3\n\n", b'event: error\ndata: {"a\n\n'])
def test_what_is_no_event_is_an_error(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        watch().feed(raw)


def test_plain_deltas_are_not_decoded() -> None:
    monitor = watch()
    monitor.feed(frame(START))
    broken = b'event: content_block_delta\ndata: {"type":"content_block_delta", broken\n\n'
    assert monitor.feed(broken) is broken
    assert monitor.delivered == 1


# -- damage ------------------------------------------------------------------------------------------------------------


def damaged(value: Any) -> list[Any]:
    """Copies of a JSON value with each of its parts in turn replaced by something of another type."""
    copies: list[Any] = []

    def walk(holder: Any, rebuild: Any) -> None:
        pairs = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, item in pairs:

            def put(new: Any, holder: Any = holder, key: Any = key) -> Any:
                copy = dict(holder) if isinstance(holder, dict) else list(holder)
                copy[key] = new
                return rebuild(copy)

            odds: tuple[Any, ...] = (None, 1, "x", [], [None], {}, True)
            copies.extend(put(odd) for odd in odds)
            walk(item, put)

    walk(value, lambda new: new)
    return copies


REQUEST = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "text", "text": "r"}],
                    "is_error": True,
                },
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A"}},
                {
                    "type": "document",
                    "title": "t",
                    "source": {"type": "content", "content": [{"type": "text", "text": "d"}]},
                },
                {"type": "search_result", "title": "t", "source": "u", "content": [{"type": "text", "text": "d"}]},
            ],
        },
    ],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "tool", "name": "f"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {
        "effort": "low",
        "format": {"type": "json_schema", "schema": {"type": "object", "required": ["a"]}},
    },
    "metadata": {"user_id": "u"},
    "stop_sequences": ["x"],
}


def test_damaged_requests_are_refused_or_translated() -> None:
    refused = 0
    for body in damaged(REQUEST):
        try:
            DIALECT.check(body)
        except Failure:
            refused += 1
            continue
        call = make_call(body, dialect="anthropic-messages")
        encode_json(DIALECT.to_chat(call))
        DIALECT.texts(body)
    assert refused > 20


COMPLETION = {
    "id": "c",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "content": "x",
                "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
                "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}],
                "function_call": {"name": "f", "arguments": "{}"},
            },
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


def test_damaged_answers_do_not_crash() -> None:
    for body in damaged(COMPLETION):
        call = make_call({"model": "m", "max_tokens": 5, "messages": []}, dialect="anthropic-messages")
        try:
            encode_json(DIALECT.from_chat(call, body))
        except Failure:
            pass
        delta = decode_json(encode_json(body).replace(b'"message"', b'"delta"'))
        stream = DIALECT.stream_from_chat(call)
        next(stream)
        encode_json([*stream.send(delta), *stream.send(None)])
