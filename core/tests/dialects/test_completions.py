"""Legacy completions: checked, said as chat, and said back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji import dialects
from tianji.errors import BadRequest
from tianji.model import Op
from tianji.testing import make_call

COMPLETIONS = dialects.get("openai-completions")
EMBEDDINGS = dialects.get("openai-embeddings")


def call(**body: Any) -> Any:
    return make_call({"model": "m", **body}, dialect="openai-completions")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": "x", "max_tokens": "5"}, "max_tokens"),
        ({"prompt": "x", "max_tokens": True}, "max_tokens"),
        ({"prompt": "x", "stream_options": []}, "stream_options"),
        ({"prompt": "x", "temperature": "hot"}, "temperature"),
        ({"prompt": "x"}, None),
        ({"prompt": ["x", "y"]}, None),
        ({"prompt": [1, 2]}, None),
        ({"prompt": ""}, None),
        ({"prompt": "x", "temperature": None}, None),
        ({"prompt": "x", "unknown": {}}, None),
    ],
)
def test_shapes(body: dict[str, Any], param: str | None) -> None:
    if param is None:
        COMPLETIONS.check(body)
        return
    with pytest.raises(BadRequest) as caught:
        COMPLETIONS.check(body)
    assert caught.value.param == param


def test_a_prompt_becomes_a_message_and_the_rest_is_kept_or_named() -> None:
    asked = call(prompt="Once", temperature=0.5, suffix="end", best_of=3, echo=False, future=[1])
    assert COMPLETIONS.to_chat(asked) == {
        "model": "m",
        "temperature": 0.5,
        "future": [1],
        "messages": [{"role": "user", "content": "Once"}],
    }
    assert set(asked.dropped) == {"suffix", "best_of"}


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1], [2]], []])
def test_several_prompts_cannot_be_said_as_chat(prompt: list[Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        COMPLETIONS.to_chat(call(prompt=prompt))
    assert caught.value.param == "prompt"


def test_one_prompt_in_a_list_can() -> None:
    assert COMPLETIONS.to_chat(call(prompt=["a"]))["messages"] == [{"role": "user", "content": "a"}]


def test_an_answer_is_said_back() -> None:
    body = {
        "id": "1",
        "object": "chat.completion",
        "model": "m",
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": None}, "finish_reason": "length"},
        ],
    }
    said = COMPLETIONS.from_chat(call(prompt="x"), body)
    assert said["object"] == "text_completion"
    assert [(one["index"], one["text"], one["finish_reason"]) for one in said["choices"]] == [
        (0, "hi", "stop"),
        (1, "", "length"),
    ]
    assert (said["id"], said["usage"]) == ("1", body["usage"])
    assert COMPLETIONS.usage(said) is not None


@given(st.lists(st.text(max_size=5), max_size=8))
def test_a_stream_is_said_back(pieces: list[str]) -> None:
    out = COMPLETIONS.stream_from_chat(call(prompt="x", stream=True))
    next(out)
    chunks: list[dict[str, Any]] = [
        {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]},
        *({"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces),
        {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"id": "1", "model": "m", "choices": [], "usage": {"prompt_tokens": 1}},
    ]
    events = [event for chunk in chunks for event in out.send(chunk)] + out.send(None)
    assert {event["object"] for event in events} == {"text_completion"}
    assert "".join(one["text"] for event in events for one in event["choices"]) == "".join(pieces)
    assert [one["finish_reason"] for event in events for one in event["choices"]].count("stop") == 1
    assert events[-1]["usage"] == {"prompt_tokens": 1}
    assert all(one["text"] or one["finish_reason"] for event in events for one in event["choices"])


def test_where_the_texts_are() -> None:
    for prompt, texts in (("a", ["a"]), (["a", 5, "b"], ["a", "b"]), ([1, 2], []), (None, [])):
        assert [box[key] for box, key in COMPLETIONS.texts({"prompt": prompt})] == texts
    body = {"choices": [{"text": "a"}, {"text": ""}, None, {"text": 5}, {"text": "b"}]}
    slots = COMPLETIONS.reply_texts(body)
    assert [box[key] for box, key in slots] == ["a", "b"]
    for box, key in slots:
        box[key] = "*"
    assert body["choices"][0] == {"text": "*"}


class TestEmbeddings:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "input"),
            ({"input": None}, "input"),
            ({"input": 5}, "input"),
            ({"input": ""}, "input"),
            ({"input": []}, "input"),
            ({"input": "x", "dimensions": "5"}, "dimensions"),
            ({"input": "x", "encoding_format": 1}, "encoding_format"),
            ({"input": ["x"]}, None),
            ({"input": [1, 2]}, None),
        ],
    )
    def test_shapes(self, body: dict[str, Any], param: str | None) -> None:
        if param is None:
            EMBEDDINGS.check(body)
            return
        with pytest.raises(BadRequest) as caught:
            EMBEDDINGS.check(body)
        assert caught.value.param == param

    def test_is_not_said_as_chat(self) -> None:
        assert (EMBEDDINGS.translates, EMBEDDINGS.op) == (False, Op.EMBEDDINGS)
        assert [box[key] for box, key in EMBEDDINGS.texts({"input": ["a", 1]})] == ["a"]
        assert EMBEDDINGS.estimate({"input": ["abcd", "e"]}) == 2
