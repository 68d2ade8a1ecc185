"""Golden files: what cannot be used is refused, and what they compare is compared."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tianji import Op, OpenAICompatible
from tianji.errors import ConfigError, ProtocolError, Throttled
from tianji.framing.eventstream import encode
from tianji.testing import corruption
from tianji.testing.generic import generic_goldens
from tianji.testing.goldens import (
    BadGolden,
    FailurePart,
    compare_failure,
    compare_reply,
    events_of,
    load_goldens,
    parse_golden,
    states_usage,
    summarise,
    usage_found,
    whole_answer,
)

GOOD: dict[str, Any] = {
    "source": "docs:https://docs.example.invalid/chat",
    "call": {"body": {"model": "m", "messages": []}},
    "request": {"url": "https://api.example.invalid/chat"},
    "upstream": {"body": {"choices": []}},
    "reply": {"body": {"choices": []}},
}


def but(path: str, value: Any) -> dict[str, Any]:
    """The good golden with one thing changed."""
    data = copy.deepcopy(GOOD)
    *steps, last = path.split(".")
    place = data
    for step in steps:
        place = place[step]
    place[last] = value
    return data


def test_defaults() -> None:
    golden = parse_golden("g", GOOD)
    call = golden.make_call()
    assert (call.op, call.dialect, call.model, call.stream) == (Op.CHAT, "openai-chat", "m", False)
    assert golden.upstream.status == 200
    assert not golden.streams
    call.body["messages"].append(1)
    assert golden.make_call().body == {"model": "m", "messages": []}, "each call has a body of its own"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (but("source", "somewhere"), "docs:<url>"),
        (but("replay", {}), "replay"),
        (but("request.heders", {}), "heders"),
        (but("reply", {}), "could be compared"),
        (but("reply", {"failure": {"class": "Throttled"}}), "status"),
        (but("upstream", {"events_b64": ["not base64!"]}), "g: "),
        (but("call", {"op": "chat"}), "body"),
        ([], "one JSON object"),
    ],
)
def test_a_golden_that_would_compare_nothing_is_refused(data: Any, says: str) -> None:
    with pytest.raises(BadGolden, match=says):
        parse_golden("g", data)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadGolden, match="no golden files"):
        load_goldens(tmp_path)
    (tmp_path / "b.json").write_text(json.dumps(GOOD))
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    assert [golden.name for golden in load_goldens(tmp_path)] == ["a", "b"]
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(BadGolden, match=r"c\.json"):
        load_goldens(tmp_path)


def test_settings_become_the_plugins_struct() -> None:
    class Provider(OpenAICompatible):
        name = "p"

    golden = parse_golden("g", {**GOOD, "deployment": {"model": "up", "drop": ["seed"], "region": "eu"}})
    deployment = golden.make_deployment(Provider)
    assert (deployment.model, deployment.drop, deployment.region) == ("up", frozenset({"seed"}), "eu")
    assert isinstance(deployment.settings, Provider.Settings)
    with pytest.raises(ConfigError, match="version"):
        parse_golden("g", {**GOOD, "deployment": {"settings": {"version": 1}}}).make_deployment(Provider)


def test_event_streams_are_given_in_base64() -> None:
    frames = [encode({":event-type": "delta", ":message-type": "event"}, b'{"n": %d}' % n) for n in range(2)]
    golden = parse_golden("g", but("upstream", {"events_b64": [base64.b64encode(frame).decode() for frame in frames]}))
    events = events_of("aws-eventstream", golden.upstream.pieces())
    assert [(event.name, event.data) for event in events] == [("delta", {"n": 0}), ("delta", {"n": 1})]


def test_done_is_an_event_of_text() -> None:
    events = events_of("sse", [b'data: {"a": 1}\n\nda', b"ta: [DONE]\n\n"])
    assert [event.data for event in events] == [{"a": 1}, "[DONE]"]


@pytest.mark.parametrize("raw", [b"[]", b'"text"', b"", b"<html>", b"[1, 2]"])
def test_only_objects_reach_decode(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        whole_answer(raw)


def test_a_list_of_one_object_is_that_object() -> None:
    assert whole_answer(b'[{"a": 1}]') == {"a": 1}


def test_summary_of_a_stream_joins_texts_and_tools() -> None:
    def delta(**fields: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}

    def tool(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
        name = {"name": fields.pop("name")} if "name" in fields else {}
        return delta(tool_calls=[{"index": index, "function": {"arguments": arguments, **name}, **fields}])

    chunks = [
        delta(role="assistant", content=None),
        delta(content="Hel"),
        tool(1, "{", id="call_b", name="b"),
        tool(0, '{"x":', id="call_a", name="a"),
        delta(content="lo"),
        tool(0, "1}"),
        tool(1, "}"),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"total_tokens": 3}},
    ]
    assert summarise(chunks) == {
        "text": "Hello",
        "tool_calls": [
            {"id": "call_a", "name": "a", "arguments": {"x": 1}},
            {"id": "call_b", "name": "b", "arguments": {}},
        ],
        "finish_reason": "tool_calls",
        "usage": {"total_tokens": 3},
    }


@pytest.mark.parametrize(
    "reply",
    [{"body": {"choices": [1]}}, {"chunks": []}, {"text": "x"}, {"finish_reason": "stop"}, {"usage": {}}],
)
def test_differences_fail(reply: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        compare_reply(parse_golden("g", but("reply", reply)), {"choices": []})


@pytest.mark.parametrize(
    "expected",
    [
        {"kind": "Rejected", "status": 429},
        {"kind": "Throttled", "status": 503},
        {"kind": "Throttled", "status": 429, "code": "b"},
        {"kind": "Throttled", "status": 429, "message": "fast"},
    ],
)
def test_other_failures_fail(expected: dict[str, Any]) -> None:
    compare_failure(FailurePart("Throttled", 429, "a", "slow"), Throttled("too slow", code="a"))
    with pytest.raises(AssertionError):
        compare_failure(FailurePart(**expected), Throttled("too slow", code="a"))


@pytest.mark.parametrize(
    ("body", "stated"),
    [
        ({"usage": {"prompt_tokens": 1}}, True),
        ([{"usageMetadata": {"promptTokenCount": 4}}], True),
        ({"prompt_eval_count": 4}, True),
        ({"message": {"usage": {"input_tokens": 1}}}, True),
        ({"usage": {"prompt_tokens": 0}}, False),
        ({"usage": None, "max_tokens": None}, False),
        ("tokens", False),
    ],
)
def test_whether_usage_is_stated(body: Any, stated: bool) -> None:
    assert states_usage(body) is stated


def test_whether_usage_can_be_read() -> None:
    assert usage_found([{"choices": []}, {"usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}}])
    assert not usage_found([{"choices": []}, {"usage": None}])
    assert not usage_found({"usage": {"tokens_in": 4}})


def test_generic_goldens_follow_the_attributes() -> None:
    class Quirky(OpenAICompatible):
        name = "quirky"
        ops = frozenset({Op.CHAT, Op.EMBEDDINGS})
        auth = "header:x-key"
        drop = frozenset({"temperature"})
        rename = {"max_tokens": "limit"}
        stream_usage = False

    goldens = {golden.name: golden for golden in generic_goldens(Quirky, "https://api.example.invalid/")}
    assert set(goldens) == {"generic-chat", "generic-chat-stream", "generic-throttled", "generic-embeddings"}
    request = goldens["generic-chat"].request
    assert request is not None
    assert request.url == "https://api.example.invalid/chat/completions"
    assert request.headers["x-key"] == "sk-test-key"
    assert request.body["limit"] == 20
    assert not {"temperature", "max_tokens"} & request.body.keys()
    assert goldens["generic-chat"].dropped == ["temperature"]
    stream = goldens["generic-chat-stream"].request
    assert stream is not None
    assert "stream_options" not in stream.body


def test_damage_covers_every_field() -> None:
    value = {"a": {"b": [{"c": 1}]}, "d": "x"}
    cases = dict(corruption.damaged(value))
    assert cases["a.b.0.c: missing"] == {"a": {"b": [{}]}, "d": "x"}
    assert cases["a.b.0: null"] == {"a": {"b": [None]}, "d": "x"}
    assert cases["d: null"] == {"a": {"b": [{"c": 1}]}, "d": None}
    assert len(cases) == 9
    assert value == {"a": {"b": [{"c": 1}]}, "d": "x"}
    assert corruption.shape({"type": "x", "n": 1}) != corruption.shape({"type": "y", "n": 1})
    assert corruption.shape({"n": 1}) == corruption.shape({"n": 2})
