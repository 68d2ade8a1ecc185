"""The inner language: request shapes, where texts are, and chat streams that are watched or put together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import DONE, STREAM, USAGE, chunk, events

from tianji import dialects
from tianji.dialects.openai import chunk as made_chunk
from tianji.dialects.openai import completion
from tianji.errors import BadRequest, ContentPolicy, Failure, ProtocolError, Throttled, Unavailable
from tianji.framing import Splitter
from tianji.model import Ingress, Usage
from tianji.server.ingress import make_call as parse
from tianji.testing import make_call, make_principal

CHAT = dialects.get("openai-chat")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "model", "messages", "role", "content", "tools", "tool_calls", "temperature", "max_tokens", "stream", "guardrails",
    "tags", "fallbacks", "num_retries", "timeout", "metadata", "cache", "user", "stream_options", "n", "text", "type",
    "input", "prompt", "tianji_metadata", "request_timeout", "disable_fallbacks", "system", "tool_choice",
)  # fmt: skip
bodies = st.dictionaries(
    st.sampled_from(FIELDS),
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["user", "x", ""]),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=6,
)


@settings(max_examples=400)
@given(bodies, st.sampled_from(["openai-chat", "openai-completions", "openai-embeddings", "anthropic-messages"]))
def test_no_body_makes_the_parser_fall_over(body: dict[str, Any], name: str) -> None:
    """A request is a call, or a `BadRequest` that names the field."""
    dialect = dialects.get(name)
    raw = json.dumps({"model": "m", "messages": [], "prompt": "p", "input": "i", "max_tokens": 1, **body}).encode()
    ingress = Ingress("POST", "/", {}, "")
    try:
        call = parse(ingress, make_principal(), dialect, raw, path_model=None, guardrails=frozenset({"x"}))
    except BadRequest as refused:
        assert refused.param  # noqa: PT017 - either outcome is right, and each has its own promise
        return
    assert all(type(box[key]) is str for box, key in dialect.texts(call.body))
    assert all(type(tag) is str for tag in call.options.get("tags", ()))
    assert None not in call.options.values()
    assert isinstance(dialect.estimate(call.body), int)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "future-role", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        {"messages": [{"role": "user", "content": ["x", {"type": "new_part"}]}]},
        {"messages": [], "temperature": None, "future": {"a": 1}},
    ],
)
def test_what_is_new_passes(body: dict[str, Any]) -> None:
    CHAT.check(body)


def test_where_the_texts_are() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "image_url"}, "c"]},
            {"role": "assistant", "content": None}, "odd", {"role": "user", "content": ""},
        ]
    }  # fmt: skip
    assert [box[key] for box, key in CHAT.texts(body)] == ["a", "b", "c"]
    message = {
        "content": "a", "reasoning_content": "b", "refusal": "c",
        "tool_calls": [{"function": {"arguments": "d"}}, {"function": {"arguments": {}}}, None],
    }  # fmt: skip
    reply = {"choices": [{"message": message}, {"delta": {"content": "e"}}, None, {"message": None}]}
    assert [box[key] for box, key in CHAT.reply_texts(reply)] == list("abcde")


@given(st.dictionaries(st.sampled_from(["choices", "usage", "model"]), values), st.lists(values, max_size=2))
def test_an_odd_answer_has_no_texts_and_breaks_nothing(body: dict[str, Any], choices: list[Any]) -> None:
    for reply in (body, {"choices": choices}, {"choices": [{"message": one, "delta": one} for one in choices]}):
        assert all(type(box[key]) is str for box, key in CHAT.reply_texts(reply))


def test_answers_are_built_in_openais_shape() -> None:
    body = completion(id="1", model="m", message={"content": "x"}, finish_reason="stop", usage=Usage(1, 2), extra=3)
    assert body["choices"] == [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]
    assert (body["usage"]["total_tokens"], body["extra"], body["object"]) == (3, 3, "chat.completion")
    assert made_chunk({"content": "x"}, logprobs=None)["choices"][0]["logprobs"] is None


# -- streams that are forwarded ----------------------------------------------------------------------------------------


def watched(frames: list[bytes], *, model: str = "fast", usage: bool = False, size: int = 0) -> tuple[bytes, Any]:
    """What a monitor lets through of a stream, cut into reads of `size` bytes; and the monitor."""
    body: dict[str, Any] = {"model": model, "messages": [], "stream": True}
    if usage:
        body["stream_options"] = {"include_usage": True}
    monitor, splitter, out = CHAT.monitor(make_call(body)), Splitter(), b""
    data = b"".join(frames)
    for part in [data[at : at + size] for at in range(0, len(data), size)] if size else frames:
        whole = splitter.feed(part)
        out += monitor.feed(whole) if whole else b""
    return out + monitor.end(), monitor


@given(st.integers(1, 400), st.booleans())
def test_any_cut_gives_the_same_events(size: int, usage: bool) -> None:
    out, monitor = watched(STREAM, usage=usage, size=size)
    assert events(out.decode()) == events(watched(STREAM, usage=usage)[0].decode())
    assert out.endswith(DONE)
    assert out.count(b"[DONE]") == 1
    assert (out.count(b'"usage"') > 0) is usage
    assert (monitor.usage, monitor.model, monitor.finished) == (Usage(9, 3), "gpt-4o-mini-2024-07-18", True)
    assert {event["model"] for event in events(out.decode())} == {"fast"}


def test_nothing_else_is_touched() -> None:
    odd = [chunk({"content": 'say "model":"x" and \\"usage\\":{'}, extra=[1.50]), chunk({}, "stop"), DONE]
    out, _ = watched(odd, model="gpt-4o-mini-2024-07-18")
    assert out == b"".join(odd)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ([chunk({"content": "x"}), DONE], ProtocolError),
        ([b"data: nothing\n\n"], ProtocolError),
        ([b"data: [1]\n\n"], ProtocolError),
        ([b'data: {"error":{"message":"m","code":429}}\n\n'], Throttled),
        ([b'data: {"error":{"message":"m","code":"content_filter"}}\n\n'], ContentPolicy),
        ([b'data: {"error":"text"}\n\n'], Unavailable),
        ([chunk({"content": "x"}), b'data: {"error":{"message":"m","code":"503"}}\n\n'], Unavailable),
        ([chunk({}, "error")], ProtocolError),
    ],
)
def test_a_break_is_a_failure_and_no_done(broken: list[bytes], kind: type[Failure]) -> None:
    with pytest.raises(kind):
        watched(broken)


def test_what_came_before_an_error_in_one_read_goes_out_first() -> None:
    monitor = CHAT.monitor(make_call({"model": "fast", "messages": [], "stream": True}))
    good, bad = chunk({"content": "x"}), b'data: {"error":{"message":"m","code":500}}\n\n'
    assert events(monitor.feed(good + bad).decode())[0]["choices"][0]["delta"] == {"content": "x"}
    with pytest.raises(Failure):
        monitor.feed(chunk({"content": "y"}))


def test_usage_that_was_asked_for_is_made_up_of_what_is_known() -> None:
    finish = chunk({}, "stop", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    out, _ = watched([chunk({"content": "x"}), finish], usage=True)
    last = events(out.decode())[-1]
    assert (last["choices"], last["usage"]["total_tokens"], last["model"]) == ([], 3, "fast")


def test_servers_that_go_on_after_the_usage_chunk() -> None:
    out, _ = watched([chunk({}, "stop"), USAGE, chunk({"content": "late"}), DONE], usage=True)
    assert [bool(event.get("usage")) for event in events(out.decode())] == [False, False, True]


@settings(max_examples=300)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["choices", "usage", "error", "model", "id", "finish_reason"]), values),
        max_size=4,
    )
)
def test_any_events_pass_or_fail_as_failures(given: list[dict[str, Any]]) -> None:
    try:
        out, _ = watched(
            [b"data: %b\n\n" % json.dumps(one).encode() for one in given] + [chunk({}, "stop")], usage=True
        )
    except Failure:
        return
    assert out.endswith(DONE)


# -- streams that are translated ---------------------------------------------------------------------------------------


def streamer(**body: Any) -> Any:
    from tianji.dialects.chat_stream import ChatStreamer

    return ChatStreamer(make_call({"model": "fast", "messages": [], **body}), id="our-id", created=7)


def test_translated_chunks_get_one_identity() -> None:
    put = streamer()
    first, second = (
        put.push(made_chunk({"content": "a"}, id="their-id", model="theirs")),
        put.push(made_chunk({"content": "b"}, id="other")),
    )
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert second["choices"][0]["delta"] == {"content": "b"}
    assert {(one["id"], one["created"], one["model"]) for one in (first, second)} == {("their-id", 7, "fast")}
    assert put.model == "theirs"


@pytest.mark.parametrize("wanted", [True, False])
def test_translated_usage_comes_once_at_the_end_iff_asked_for(wanted: bool) -> None:
    put = streamer(stream_options={"include_usage": wanted})
    pushed = [
        put.push(made_chunk({"content": "a"}, usage=Usage(1, 1))),
        put.push(made_chunk({}, "stop", usage=Usage(1, 2))),
    ]
    assert all("usage" not in one for one in pushed)
    assert put.push({"usage": {"prompt_tokens": 1, "completion_tokens": 5}}) is None
    assert put.finished
    closing = put.closing()
    assert len(closing) == wanted
    if wanted:
        assert (closing[0]["usage"]["completion_tokens"], closing[0]["choices"]) == (5, [])
