"""`ChatMonitor` and `ChatStreamer` on streams that are not quite as usual, and usage that cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import DONE, chunk, events

from tianji.dialects.chat_stream import ChatMonitor, ChatStreamer, failure_of
from tianji.dialects.peek import peek
from tianji.dialects.usage import from_openai
from tianji.errors import Failure, ProtocolError, Unavailable
from tianji.model import Usage
from tianji.testing import make_call


def monitor(**body: Any) -> ChatMonitor:
    return ChatMonitor(make_call(body={"model": "fast", "messages": [], **body}))


def at(index: int, raw: bytes) -> bytes:
    return raw.replace(b'"index":0', b'"index":%d' % index)


class TestChoices:
    @pytest.mark.parametrize("cut", [0, 1])
    def test_each_choice_must_be_complete(self, cut: int) -> None:
        watch = monitor(n=2)
        for raw in (chunk({"content": "a"}), at(1, chunk({"content": "b"})), at(1 - cut, chunk({}, "stop"))):
            watch.feed(raw)
        assert not watch.finished
        with pytest.raises(ProtocolError):
            watch.end()
        watch.feed(at(cut, chunk({}, "stop")))
        assert watch.end() == DONE

    def test_also_where_the_request_did_not_say_how_many(self) -> None:
        watch = monitor()
        for raw in (chunk({"content": "a"}), chunk({}, "stop"), at(1, chunk({"content": "b"}))):
            watch.feed(raw)
        with pytest.raises(ProtocolError):
            watch.end()

    def test_the_index_of_a_tool_call_is_none_of_a_choice(self) -> None:
        watch = monitor()
        watch.feed(chunk({"tool_calls": [{"index": 1, "id": "x"}]}))
        watch.feed(chunk({}, "tool_calls"))
        assert watch.end() == DONE

    def test_translated_ones_too(self) -> None:
        streamer = ChatStreamer(make_call(body={"model": "fast", "messages": []}), id="x", created=1)
        for index, reason in ((0, None), (1, None), (0, "stop")):
            streamer.push({"choices": [{"index": index, "delta": {}, "finish_reason": reason}]})
        assert not streamer.finished
        streamer.push({"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]})
        assert streamer.finished


class TestFrames:
    LONG = (
        b'data: {"id":"1","model":"m",\ndata: "choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    )

    @pytest.mark.parametrize("before", [b"", chunk({"content": "x"})])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_data_in_several_lines_is_one_event(self, before: bytes, end: bytes) -> None:
        out = monitor().feed((before + self.LONG).replace(b"\n", end))
        assert [event["model"] for event in events(out.decode())] == ["fast"] * (2 if before else 1)
        assert events(out.decode())[-1]["choices"][0]["delta"] == {"content": "a"}

    @pytest.mark.parametrize("lines", [(b"event: error", b"data: %b"), (b"data: %b", b"event:error")])
    def test_an_error_by_its_name_alone(self, lines: tuple[bytes, bytes]) -> None:
        watch = monitor()
        watch.feed(chunk({"content": "a"}))
        with pytest.raises(Unavailable, match="boom") as caught:
            watch.feed(b"\n".join(lines) % b'{"message":"boom","code":503}' + b"\n\n")
        assert caught.value.status == 503

    def test_done_is_the_end(self) -> None:
        watch = monitor()
        out = watch.feed(chunk({"content": "a"}, "stop") + DONE + chunk({"content": "after"}))
        assert watch.done
        assert b"after" not in out
        assert b"[DONE]" not in out


class TestModel:
    def models(self, *reads: bytes, model: str = "fast") -> list[str]:
        watch = ChatMonitor(make_call(body={"model": model, "messages": []}))
        return [event["model"] for raw in reads for event in events(watch.feed(raw).decode())]

    def test_another_spacing_another_name(self) -> None:
        one = chunk({"content": "a"})
        spaced = one.replace(b'"model":', b'"model" : ')
        other = one.replace(b"gpt-4o-mini-2024-07-18", b'oth\\u0065r\\"s')
        assert self.models(one, spaced, other + one, spaced + other) == ["fast"] * 6
        assert self.models(spaced, one) == ["fast"] * 2

    def test_only_the_events_own(self) -> None:
        raw = chunk({"content": 'say "model":"z"'}, None, inner={"model": "kept"}).replace(b"2024-07-18", b"later")
        watch = monitor()
        watch.feed(chunk({"content": "a"}))
        (event,) = events(watch.feed(raw).decode())
        assert event["model"] == "fast"
        assert event["inner"] == {"model": "kept"}
        assert event["choices"][0]["delta"]["content"] == 'say "model":"z"'

    def test_a_name_that_is_ours_already(self) -> None:
        raw = chunk({"content": "a"})
        watch = ChatMonitor(make_call(body={"model": "gpt-4o-mini-2024-07-18", "messages": []}))
        assert watch.feed(raw) == raw


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"detail": [{"msg": "too long", "input": {"authorization": "c4n4ry"}}, {"msg": "too short"}]}, "too long; too short"),  # noqa: E501
        ({"message": {"headers": "c4n4ry"}}, "The provider reported an error."),
        ([{"input": "c4n4ry"}], "The provider reported an error."),
        ("gone", "The provider reported an error: gone"),
    ],
)  # fmt: skip
def test_of_an_error_only_what_it_says(error: Any, message: str) -> None:
    failure = failure_of(error)
    assert isinstance(failure, Failure)
    assert failure.message == message


class TestUsage:
    @pytest.mark.parametrize("number", [-1, 2**53 + 1, 10**40, float("inf"), float("nan"), "9", True, [1]])
    def test_a_number_that_cannot_be_one(self, number: Any) -> None:
        assert from_openai({"prompt_tokens": number}) is None
        assert from_openai({"prompt_tokens": number, "completion_tokens": 2}) == Usage(0, 2)

    def test_what_is_read_is_never_more_than_was_given(self) -> None:
        stated = {
            "prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 500},
            "completion_tokens_details": {"reasoning_tokens": 7}, "cache_creation_input_tokens": 3,
        }  # fmt: skip
        assert from_openai(stated) == Usage(9, 2, cache_read_tokens=9, reasoning_tokens=7)

    @given(
        st.integers(-5, 20) | st.just(2**60), st.integers(-5, 20), st.integers(-5, 20), st.integers(-5, 20),
        st.integers(-5, 20),
    )  # fmt: skip
    def test_the_short_way_says_the_same(self, a: int, b: int, cached: int, wrote: int, think: int) -> None:
        usage = {
            "prompt_tokens": a, "completion_tokens": b,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": wrote},
            "completion_tokens_details": {"reasoning_tokens": think},
        }  # fmt: skip
        seen = peek(json.dumps({"model": "m", "usage": usage}).encode())
        if seen is not None:
            assert seen.usage == from_openai(usage)
            assert seen.usage.cache_read_tokens + seen.usage.cache_write_tokens <= seen.usage.input_tokens
