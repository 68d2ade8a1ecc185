"""The reader that recorded traffic is judged by, on a few bytes written by hand."""

from __future__ import annotations

import json
import struct

import pytest

from tests.corpus.reader import read
from tests.corpus.wire import Usage, aws, json_values, message_of, sse


def events(*payloads: object, named: bool = False) -> bytes:
    lines = [f"event: {box['type']}\n" if named and isinstance(box := one, dict) else "" for one in payloads]
    return "".join(f"{line}data: {json.dumps(one)}\n\n" for line, one in zip(lines, payloads, strict=True)).encode()


def delta(finish: str | None = None, **fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def test_frames_of_every_newline() -> None:
    raw = b": hello\r\n\r\nevent: a\r\ndata: 1\r\ndata:2\r\n\r\ndata: 3\n\ndata: cut"
    assert [(frame.name, frame.data) for frame in sse(raw)] == [("a", "1\n2"), ("", "3"), ("", "cut")]
    assert raw[sse(raw)[1].start :].startswith(b"data: 3")


def test_values_one_after_the_other() -> None:
    for raw in (b'{"a": 1}\n{"a": 2}\n', b'[{"a": 1}\n,\r\n{"a": 2}]'):
        assert [json.loads(frame.data)["a"] for frame in json_values(raw)] == [1, 2]


def test_aws_messages() -> None:
    header = b"\x0b:event-type\x07\x00\x04stop"
    payload = b'{"x": 1}'
    one = struct.pack(">II", 16 + len(header) + len(payload), len(header)) + b"crc!" + header + payload + b"crc!"
    assert [(frame.name, frame.data, frame.start) for frame in aws(one + one)] == [
        ("stop", '{"x": 1}', 0),
        ("stop", '{"x": 1}', len(one)),
    ]


def test_openai_stream() -> None:
    first = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}
    raw = events(
        delta(content="He"),
        delta(content="y", reasoning="so"),
        delta(tool_calls=[first]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        delta("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    )
    answer = read("openai", raw + b"data: [DONE]\n\n", stream=True)
    choice = answer.choice()
    assert (choice.text, choice.reasoning, choice.finish, answer.done) == ("Hey", "so", "tool_calls", True)
    assert [(tool.name, tool.parsed) for tool in choice.tools] == [("f", {"a": 1})]
    assert answer.usage == Usage(3, 2, 0, 0)
    broken = read("openai", events(delta(content="He"), {"error": {"message": "no"}, **delta("stop")}), stream=True)
    assert broken.error == "no"


def test_anthropic_stream() -> None:
    raw = events(
        {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        named=True,
    )
    answer = read("anthropic", raw, stream=True)
    assert [(tool.name, tool.parsed) for tool in answer.choice().tools] == [("f", {"a": 1})]
    assert (answer.choice().finish, answer.usage) == ("tool_calls", Usage(1, 9, 0, 0))


def test_gemini_whole() -> None:
    parts = [{"text": "hm", "thought": True}, {"text": "a"}, {"functionCall": {"name": "f", "args": {"b": 2}}}]
    body = {
        "candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": 4},
    }
    answer = read("gemini", json.dumps(body).encode(), stream=False)
    choice = answer.choice()
    assert (choice.reasoning, choice.text, choice.finish) == ("hm", "a", "tool_calls")
    assert answer.usage == Usage(5, 6, 0, 4)


def test_ollama_stream_is_complete_only_when_it_says_so() -> None:
    lines = [{"message": {"content": "a"}, "done": False}, {"message": {"content": "b"}, "done": True, "eval_count": 2}]
    raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
    whole, part = read("ollama", raw, stream=True), read("ollama", raw[: raw.index(b"\n")], stream=True)
    assert (whole.choice().text, whole.complete, part.choice().text, part.complete) == ("ab", True, "a", False)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no"}},
        {"error": "no"},
        [{"error": {"message": "no"}}],
        {"detail": [{"msg": "no"}]},
        {"message": {"detail": "no"}},
        {"errors": ["no"]},
    ],
)
def test_words_of_errors(body: object) -> None:
    assert message_of(body) == "no"
