"""JSON lines and JSON arrays, under every way of cutting the bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji.errors import ProtocolError
from tianji.framing import Frame
from tianji.framing.json_lines import JSONLinesDecoder

tricky = st.text(alphabet='ab\\"{}[],:\n\r\u2028\u0085\U0001f600é ', max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | tricky,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky, inner, max_size=3),
    max_leaves=6,
)
objects = st.lists(st.dictionaries(tricky, values, max_size=3), max_size=5)
cut_points = st.lists(st.integers(0, 300), max_size=8)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(at)]


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def outcome(reads: Iterable[bytes], limit: int = 1 << 20) -> tuple[list[bytes], str | None]:
    decoder = JSONLinesDecoder(limit)
    frames: list[Frame] = []
    fault = None
    try:
        for read in reads:
            frames += decoder.feed(read)
        frames += decoder.end()
    except ProtocolError as error:
        fault = error.message
    assert {frame.name for frame in frames} <= {"message"}
    return [frame.data for frame in frames], fault


def check(stream: bytes, cuts: list[int], expected: list[Any]) -> None:
    whole, fault = outcome([stream])
    assert fault is None
    assert [json.loads(data) for data in whole] == expected
    assert outcome(pieces(stream, cuts)) == (whole, None)
    assert outcome(bytewise(stream)) == (whole, None)


@settings(max_examples=250, deadline=None)
@given(objects, st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\r\n"]), st.booleans(), st.booleans(), cut_points)
def test_lines(items: list[Any], separator: str, ascii_only: bool, terminated: bool, cuts: list[int]) -> None:
    stream = separator.join(json.dumps(item, ensure_ascii=ascii_only) for item in items)
    check((stream + (separator if terminated else "")).encode(), cuts, items)


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.dictionaries(tricky, values, max_size=3) | st.lists(values, max_size=3), max_size=5),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.sampled_from(["", "\n", " \r\n\t"]),
    cut_points,
)
def test_arrays(items: list[Any], indent: int | None, ascii_only: bool, around: str, cuts: list[int]) -> None:
    stream = around + json.dumps(items, indent=indent, ensure_ascii=ascii_only) + around
    check(stream.encode(), cuts, items)


@settings(max_examples=250, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b",", b"\n", b"\r\n", b" ", b"1", b"x"]), max_size=30
    ),
    cut_points,
    st.integers(1, 12),
)
def test_nonsense_and_limits_do_not_depend_on_the_pieces(tokens: list[bytes], cuts: list[int], limit: int) -> None:
    stream = b"".join(tokens)
    expected = outcome([stream], limit)
    assert outcome(pieces(stream, cuts), limit) == expected
    assert outcome(bytewise(stream), limit) == expected


def test_an_element_is_delivered_by_its_last_byte() -> None:
    decoder = JSONLinesDecoder()
    assert decoder.feed(b'[{"a": "]}\\"') == []
    assert decoder.feed(b'"}') == [Frame("message", b'{"a": "]}\\""}')]
    assert decoder.feed(b"\n,\n") == []
    assert decoder.feed(b"{}") == [Frame("message", b"{}")]
    assert decoder.feed(b"\n]") == []
    assert decoder.feed(b"\n") == []
    assert decoder.end() == []


def test_a_backslash_takes_any_byte_with_it() -> None:
    stream = b'[{"a": "\\\n\\"]}"}, {}]'  # a raw line feed is not JSON; framing still finds where elements end
    for reads in ([stream], bytewise(stream)):
        assert outcome(reads) == ([b'{"a": "\\\n\\"]}"}', b"{}"], None)


def test_a_cut_array_is_always_a_fault() -> None:
    stream = b'[{"a": [1, "\\\\"]},\r\n{"b": {"c": "\xe2\x80\xa8]"}}\n]'
    whole, fault = outcome([stream])
    assert (len(whole), fault) == (2, None)
    for cut in range(1, len(stream)):
        frames, fault = outcome([stream[:cut]])
        assert frames == whole[: len(frames)]
        assert fault == "json-lines: the stream ends in the middle of an array"


def test_a_cut_line_is_a_fault_unless_it_is_whole() -> None:
    line = b'{"a": [1, "x"]}'
    assert outcome([line]) == ([line], None)
    for cut in range(1, len(line)):
        assert outcome([b"{}\n" + line[:cut]]) == ([b"{}"], "json-lines: the stream ends in the middle of a line")


@pytest.mark.parametrize("stream", [b"[1, 2]", b'["a"]', b"[{}] {}", b"[{}]]", b"[}"])
def test_an_array_of_anything_else_is_a_fault(stream: bytes) -> None:
    for reads in ([stream], bytewise(stream)):
        _, fault = outcome(reads)
        assert fault is not None
        assert fault.startswith("json-lines: the array holds something other than objects")


@pytest.mark.parametrize("stream", [b"", b" \r\n\t", b"[]", b" [ ] "])
def test_an_empty_stream_has_no_frames(stream: bytes) -> None:
    assert outcome([stream]) == ([], None)
    assert outcome(bytewise(stream)) == ([], None)


@pytest.mark.parametrize(("start", "end"), [(b'{"a":"', b'"}\n'), (b'[{"a":"', b'"}]'), (b'[{"a":[', b"0]}]")])
def test_a_large_value_byte_by_byte_takes_linear_time(start: bytes, end: bytes) -> None:
    filling = b"{},[]," * (1 << 15) if b"[" in start[1:] else b"\\n" * (1 << 18)
    stream = start + filling + end
    frames, fault = outcome(bytewise(stream), 1 << 24)
    assert fault is None
    assert [len(frame) for frame in frames] == [len(stream.strip()) - (2 if stream[:1] == b"[" else 0)]
