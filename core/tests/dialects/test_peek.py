"""The short look into an answer says the same as a full reading, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji.dialects.peek import peek
from tianji.dialects.usage import from_openai
from tianji.model import decode_json

PLAIN = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


def raw(**fields: Any) -> bytes:
    return json.dumps({"id": "1", "model": "m", "choices": [], "usage": PLAIN, **fields}).encode()


def test_model_and_usage() -> None:
    seen = peek(raw(usage={**PLAIN, "prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": None}))
    assert seen is not None
    assert (seen.model, seen.usage.input_tokens, seen.usage.output_tokens, seen.usage.cache_read_tokens) == (
        "m",
        9,
        2,
        3,
    )


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        raw()[:-1],
        raw() + b"x",
        b"\xff",
        raw(error={"message": "x"}),
        raw(error="x"),
        raw(usage=None),
        raw(usage={}),
        raw(usage={**PLAIN, "cache_read_input_tokens": 4}),
        raw(usage=[1]),
        raw(model=None),
        raw(usage={**PLAIN, "prompt_tokens": -1}),
        raw(usage={**PLAIN, "prompt_tokens": 1.5}),
        raw(model=5),
        b'{"choices":' + b"[" * 100_000,
    ],
    ids=range(19),
)
def test_what_is_unusual_is_left_to_others(odd: bytes) -> None:
    assert peek(odd) is None


def test_an_error_that_is_null_is_none() -> None:
    assert peek(raw(error=None)) is not None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 2**40) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
details = st.dictionaries(
    st.sampled_from(
        ["cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens", "image_tokens", "other"]
    ),
    st.none() | st.integers(0, 2**40),
)
usages = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 2**40)},
    optional={
        "completion_tokens": st.integers(0, 2**40),
        "total_tokens": st.integers(0, 2**40),
        "prompt_tokens_details": st.none() | details,
        "completion_tokens_details": st.none() | details,
        "prompt_cache_hit_tokens": st.integers(0, 5),
        "cost": st.floats(0, 1),
    },
)


@given(st.dictionaries(st.text(max_size=4), values, max_size=3), usages | values, st.text() | values)
def test_it_agrees_with_the_full_reading(other: dict[str, Any], usage: Any, model: Any) -> None:
    data = json.dumps({**other, "usage": usage, "model": model}).encode()
    seen = peek(data)
    if seen is None:
        return
    body = decode_json(data)
    assert seen.model == body["model"]
    assert seen.usage == from_openai(body["usage"])
    assert not body.get("error")


@given(st.binary(max_size=80))
def test_it_accepts_nothing_but_json(data: bytes) -> None:
    if peek(data) is not None:
        json.loads(data)


@given(st.integers(0, 200))
def test_a_cut_answer_is_not_accepted(cut: int) -> None:
    whole = raw(choices=[{"message": {"content": 'é\\u0000 "quoted" text'}}])
    assert (peek(whole[:cut]) is None) or cut >= len(whole)
