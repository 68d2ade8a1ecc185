"""Usage, to OpenAI's object and back, in all the variants that providers are known for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji.dialects.usage import from_openai, to_openai
from tianji.model import Usage

counts = st.integers(0, 2**40)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}, Usage(9, 2)),
        ({"input_tokens": 9, "output_tokens": 2}, Usage(9, 2)),  # the Responses API, and images
        ({"prompt_tokens": 4, "total_tokens": 4}, Usage(4)),  # embeddings
        ({"total_tokens": 7}, Usage(7)),  # embeddings of Voyage and Jina
        ({"prompt_tokens": 9, "completion_tokens": None}, Usage(9)),
        ({"completion_tokens": 3}, Usage(0, 3)),
        ({"prompt_tokens": 5.0, "completion_tokens": 2}, Usage(5, 2)),
        ({"prompt_tokens": -5, "completion_tokens": "2"}, None),
        ({"prompt_tokens": 3, "completion_tokens": float("inf")}, Usage(3)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(3, cache_read_tokens=3)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 6, "audio_tokens": 2},
            },
            Usage(9, 8, cache_read_tokens=4, reasoning_tokens=6, input_audio_tokens=1, output_audio_tokens=2),
        ),
        (
            {
                "input_tokens": 9,
                "output_tokens": 8,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 6},
            },
            Usage(9, 8, cache_read_tokens=4, reasoning_tokens=6),
        ),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 3}, Usage(9, cache_read_tokens=3)),  # DeepSeek
        ({"prompt_tokens": 9, "cached_tokens": 3}, Usage(9, cache_read_tokens=3)),  # Moonshot
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 3}, Usage(9)),
        ({"prompt_tokens": 9, "prompt_tokens_details": None}, Usage(9)),
        ({"prompt_tokens": 9, "prompt_tokens_details": [1]}, Usage(9)),
        (
            {
                "prompt_tokens": 9,
                "cache_read_input_tokens": 2,
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_1h_input_tokens": 4},
            },
            Usage(9, cache_read_tokens=2, cache_write_tokens=5, cache_write_1h_tokens=4),
        ),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cache_write_tokens": 5}}, Usage(9, cache_write_tokens=5)),
        ({"prompt_tokens": 9, "server_tool_use": {"web_search_requests": 2}}, Usage(9, web_searches=2)),
        ({}, None),
        (None, None),
        ([], None),
        ("x", None),
        ({"total_tokens": 0}, None),
        ({"queue_time": 1.5}, None),
    ],
)
def test_variants(given: Any, expected: Usage | None) -> None:
    assert from_openai(given) == expected


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Classes are parts of their total."""
    total, made = draw(counts), draw(counts)

    def part(of: int) -> int:
        return draw(st.integers(0, of))

    read = part(total)
    return Usage(
        total,
        made,
        cache_read_tokens=read,
        cache_write_tokens=part(total - read),
        reasoning_tokens=part(made),
        input_audio_tokens=part(total),
        output_audio_tokens=part(made),
        input_image_tokens=part(total),
        output_image_tokens=part(made),
        web_searches=draw(counts),
    )


@given(usages())
def test_nothing_is_lost_on_the_way_there_and_back(usage: Usage) -> None:
    body = to_openai(usage)
    assert from_openai(body) == usage
    assert body["total_tokens"] == usage.input_tokens + usage.output_tokens


@given(counts, counts)
def test_cache_writes_by_lifetime(short: int, long: int) -> None:
    usage = Usage(short + long, 1, cache_write_tokens=short + long, cache_write_1h_tokens=long)
    body = to_openai(usage)
    assert from_openai(body) == usage
    if long:
        assert body["cache_creation"] == {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}


def test_classes_that_are_zero_are_left_out() -> None:
    assert to_openai(Usage()) == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=3),
        lambda x: (
            st.lists(x, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "prompt_tokens",
                        "completion_tokens",
                        "prompt_tokens_details",
                        "cached_tokens",
                        "cache_creation",
                        "total_tokens",
                        "server_tool_use",
                        "reasoning_tokens",
                        "input_tokens",
                    ]
                ),
                x,
                max_size=4,
            )
        ),
    )
)
def test_any_value_is_read_or_refused(value: Any) -> None:
    usage = from_openai(value)
    assert usage is None or (usage.input_tokens >= 0 and usage.output_tokens >= 0)
