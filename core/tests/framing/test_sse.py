"""The SSE decoder against the standard, under every way of cutting the bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji.errors import ProtocolError
from tianji.framing import Frame
from tianji.framing.sse import SSEDecoder

Reference = Callable[[bytes], list[tuple[str, str]]]

BOM = b"\xef\xbb\xbf"
EMOJI = "\U0001f600".encode()
TOKENS = [
    *(b"data: ", b"data:", b"data", b"event: ", b"event:", b"id: 7", b"retry: 10", b": comment", b":", b" ", b"x"),
    *(b"\n", b"\n", b"\n\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\r\r"),
    *(b'data: {"a": "b"}\n\n', b"event: ping\ndata: {}\n\n", b"data: [DONE]\n\n", b"data\n", b"database: 1\n"),
    *(BOM, EMOJI, "\u2028".encode(), "\u0085".encode(), b"\x0b", b"\x0c", b"\x1c", b"\x00", b"\xff", b"\xf0\x9f"),
]
streams = st.lists(st.sampled_from(TOKENS), max_size=24).map(b"".join)
lf_streams = st.lists(st.sampled_from([t for t in TOKENS if b"\r" not in t]), max_size=24).map(b"".join)
cut_points = st.lists(st.integers(0, 200), max_size=8)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(at)]


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def feed(reads: Iterable[bytes]) -> list[Frame]:
    decoder = SSEDecoder()
    return [frame for read in reads for frame in decoder.feed(read)]


def outcome(reads: Iterable[bytes], limit: int) -> tuple[list[Frame], str | None]:
    """All frames up to the end, and the fault if there was one."""
    decoder = SSEDecoder(limit)
    frames: list[Frame] = []
    try:
        for read in reads:
            frames += decoder.feed(read)
        frames += decoder.end()
    except ProtocolError as fault:
        return frames, fault.message
    return frames, None


def as_text(frames: Iterable[Frame]) -> list[tuple[str, str]]:
    return [(frame.name, frame.data.decode("utf-8", "replace")) for frame in frames]


@settings(max_examples=1500, deadline=None)
@given(streams, cut_points)
def test_any_stream_in_any_pieces_reads_as_the_standard_says(
    reference: Reference, stream: bytes, cuts: list[int]
) -> None:
    expected = reference(stream)
    assert as_text(feed([stream])) == expected
    assert as_text(feed(pieces(stream, cuts))) == expected
    assert as_text(feed(bytewise(stream))) == expected


def test_twenty_thousand_streams_read_as_the_standard_says(reference: Reference) -> None:
    rng = random.Random(4)
    events = 0
    for _ in range(20_000):
        stream = b"".join(rng.choices(TOKENS, k=rng.randrange(30)))
        cuts = [rng.randrange(len(stream) + 1) for _ in range(rng.randrange(6))]
        expected = reference(stream)
        assert as_text(feed(pieces(stream, cuts))) == expected, (stream, cuts)
        events += len(expected)
    assert events > 20_000


@settings(max_examples=600, deadline=None)
@given(lf_streams)
def test_the_fast_path_equals_the_general_path(stream: bytes) -> None:
    fast, general = SSEDecoder(), SSEDecoder()
    fast._start = None  # past the place where a BOM would be removed, which the general path does not do
    frames: list[Frame] = []
    general._take_lines(stream, frames)
    assert fast.feed(stream) == frames
    assert (fast._partial, fast._kept, fast._size) == (general._partial, general._kept, general._size)


@settings(max_examples=600, deadline=None)
@given(streams, cut_points, st.integers(1, 24))
def test_limit_and_end_do_not_depend_on_the_pieces(stream: bytes, cuts: list[int], limit: int) -> None:
    expected = outcome([stream], limit)
    assert outcome(pieces(stream, cuts), limit) == expected
    assert outcome(bytewise(stream), limit) == expected


def test_every_split_point_of_a_mixed_stream(reference: Reference) -> None:
    stream = (
        BOM
        + b': hello\r\nevent: a\r\ndata: {"t": "\xe2\x80\xa8\xc2\x85 '
        + EMOJI
        + b'"}\r\n\r\ndata: 1\rdata:2\r\rdata\n\nid: 4\nevent: b\ndata:  x\n\r\n'
    )
    expected = [
        ("a", '{"t": "\u2028\u0085 \U0001f600"}'),
        ("message", "1\n2"),
        ("message", ""),
        ("b", " x"),
    ]
    assert reference(stream) == expected
    for cut in range(len(stream) + 1):
        assert as_text(feed([stream[:cut], stream[cut:]])) == expected, cut
        assert as_text(feed([stream[:cut], b"", stream[cut : cut + 1], stream[cut + 1 :]])) == expected, cut


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [("message", "a"), ("message", "b")]),
        (b"data:a\n\n", [("message", "a")]),
        (b"data:  a\n\n", [("message", " a")]),
        (b"data\n\ndata\ndata\n\ndata:", [("message", ""), ("message", "\n")]),
        (b"data: a\ndata: b\n\n", [("message", "a\nb")]),
        (b"event: x\n\ndata: a\n\n", [("message", "a")]),
        (b"event: x\nevent: y\ndata: a\n\n", [("y", "a")]),
        (b"Data: a\n data: a\ndata : a\n\n", []),
        (b": only\n: comments\n\n", []),
        (b"\n\n\ndata: a\n\n\n\n", [("message", "a")]),
        (BOM + b"data: a\n\n" + BOM + b"data: b\n\n", [("message", "a")]),
        (b"data: a" + BOM + b"\n\n", [("message", "a\ufeff")]),
        (b"data: a: b\n\n", [("message", "a: b")]),
    ],
)
def test_the_standard_case_by_case(stream: bytes, expected: list[tuple[str, str]]) -> None:
    assert as_text(feed([stream])) == expected
    assert as_text(feed(bytewise(stream))) == expected


def test_an_event_is_delivered_by_the_byte_that_completes_it() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == [Frame("message", b"a")]
    assert decoder.feed(b"\ndata: b\n") == []
    assert decoder.feed(b"\n") == [Frame("message", b"b")]


def test_data_is_the_exact_bytes() -> None:
    assert feed([b"data: \xff\xf0\x9f\n\n"]) == [Frame("message", b"\xff\xf0\x9f")]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []),
        (b"data: a\n\n", []),
        (b": bye", []),
        (b"id: 1", []),
        (b"data: a\n", [Frame("message", b"a")]),
        (b"data: a\r", [Frame("message", b"a")]),
        (b"event: x\ndata: a\ndata: b\n", [Frame("x", b"a\nb")]),
        (b"data: a\n: bye", [Frame("message", b"a")]),
        (b"data: [DONE]", [Frame("message", b"[DONE]")]),
        (b'event: x\ndata: {"a": 1}', [Frame("x", b'{"a": 1}')]),
        (b'data: {"a":\ndata: 1}', [Frame("message", b'{"a":\n1}')]),
    ],
)
def test_an_end_without_a_blank_line_still_delivers(stream: bytes, expected: list[Frame]) -> None:
    for reads in ([stream], bytewise(stream)):
        decoder = SSEDecoder()
        for read in reads:
            decoder.feed(read)
        assert decoder.end() == expected


@pytest.mark.parametrize(
    "stream",
    [
        b'data: {"a": ',
        b"data: [DON",
        b"data:",
        b"da",
        b"event: x",
        b"event: x\n",
        b"data: {}\nevent: x",
        b'{"error": "not an event stream"}',
        BOM[:2],
    ],
)
def test_a_torn_end_is_a_fault(stream: bytes) -> None:
    decoder = SSEDecoder()
    assert decoder.feed(stream) == []
    with pytest.raises(ProtocolError, match=r"^sse: the stream ends in the middle"):
        decoder.end()


def test_a_stream_cut_anywhere_never_ends_in_a_wrong_frame() -> None:
    stream = b'event: x\r\ndata: {"a": [1, "\xe2\x80\xa8"]}\r\n\r\nevent: y\r\ndata: {"b": {}}\r\n\r\n'
    whole = feed([stream])
    assert len(whole) == 2
    for cut in range(len(stream)):
        frames, fault = outcome([stream[:cut]], 1000)
        assert frames == whole[: len(frames)], cut
        assert fault is None or len(frames) < 2


def test_frames_before_a_fault_are_delivered_and_the_fault_stays() -> None:
    decoder = SSEDecoder(limit=16)
    assert decoder.feed(b"data: a\n\ndata: " + b"x" * 20 + b"\n\ndata: b\n\n") == [Frame("message", b"a")]
    with pytest.raises(ProtocolError, match="larger than 16 bytes"):
        decoder.feed(b"data: c\n\n")
    for _ in range(2):
        with pytest.raises(ProtocolError, match="larger than 16 bytes"):
            decoder.end()


def test_the_limit_is_for_one_event_not_for_a_read_or_a_stream() -> None:
    line = b"data: 0123456789\n"
    assert len(SSEDecoder(limit=16).feed((line + b"\n") * 50)) == 50
    assert len(SSEDecoder(limit=16).feed(b": ping\n" * 50 + line + b"\n")) == 1
    with pytest.raises(ProtocolError):
        SSEDecoder(limit=31).feed(line + line + b"\n")
    assert SSEDecoder(limit=32).feed(line + line + b"\n") == [Frame("message", b"0123456789\n0123456789")]
    with pytest.raises(ProtocolError):
        SSEDecoder(limit=16).feed(b": a comment without end")


def test_a_large_event_byte_by_byte_takes_linear_time() -> None:
    value = b"x" * (1 << 20)
    assert feed(bytewise(b"data: " + value + b"\n\n")) == [Frame("message", value)]
    many = b"data: x\n" * (1 << 17)
    assert feed(pieces(many + b"\n", range(0, len(many), 3))) == [Frame("message", b"\n".join([b"x"] * (1 << 17)))]
