"""The splitter changes no byte and cuts only, and always, at blank lines."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji.errors import ProtocolError
from tianji.framing import Frame, Splitter
from tianji.framing.sse import SSEDecoder

TOKENS = [b"data: x", b"event: y", b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", "\u2028\u0085".encode(), b"\xff"]
reads = st.lists(st.lists(st.sampled_from(TOKENS), max_size=5).map(b"".join), max_size=8)


def last_boundary(received: bytes) -> int:
    """By definition: where the last empty line ends, except for a CR at the end whose LF may be still to come."""
    last = start = 0
    for line_end in re.finditer(rb"\r\n|\r|\n", received):
        undecided = line_end.end() == len(received) and (b"\n" + received).endswith(b"\n\r")
        if line_end.start() == start and not undecided:
            last = line_end.end()
        start = line_end.end()
    return last


def check(parts: list[bytes]) -> tuple[list[bytes], bytes]:
    splitter = Splitter()
    received, returned = b"", b""
    pieces = []
    for part in parts:
        piece = splitter.feed(part)
        received += part
        returned += piece
        assert len(returned) == last_boundary(received), (parts, part)
        assert returned + splitter.tail == received
        pieces.append(piece)
    return pieces, splitter.tail


@settings(max_examples=600, deadline=None)
@given(reads)
def test_pieces_join_to_the_stream_and_end_at_the_last_boundary(parts: list[bytes]) -> None:
    check(parts)
    stream = b"".join(parts)
    check([stream[i : i + 1] for i in range(len(stream))])


@settings(max_examples=300, deadline=None)
@given(reads)
def test_each_piece_is_a_stream_of_its_own(parts: list[bytes]) -> None:
    frames: list[Frame] = []
    pieces, tail = check(parts)
    for piece in pieces:
        decoder = SSEDecoder()
        frames += decoder.feed(piece)
        assert decoder.end() == []
    frames += SSEDecoder().feed(tail)
    assert frames == SSEDecoder().feed(b"".join(parts))


@pytest.mark.parametrize("data", [b"data: a\n\n", b"data: a\n\ndata: b\n\n", b"data: a\r\n\r\n"])
def test_whole_frames_pass_uncopied(data: bytes) -> None:
    splitter = Splitter()
    assert splitter.feed(data) is data
    assert splitter.feed(data) is data
    assert splitter.tail == b""


def test_a_boundary_split_between_reads() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: a\r\n\r") == b""
    assert splitter.tail == b"data: a\r\n\r"
    assert splitter.feed(b"\n") == b"data: a\r\n\r\n"
    assert splitter.feed(b"data: b\n") == b""
    assert splitter.feed(b"\ndata: c") == b"data: b\n\n"
    assert splitter.feed(b"\n\n") == b"data: c\n\n"
    assert splitter.feed(b"data: d\r\r") == b"data: d\r\r"
    assert splitter.feed(b"\ndata: e\n\r") == b"\n"
    assert splitter.feed(b"data: f") == b"data: e\n\r"
    assert splitter.tail == b"data: f"


def test_what_is_held_is_bounded() -> None:
    splitter = Splitter(limit=16)
    assert splitter.feed(b"data: 0123456789") == b""
    with pytest.raises(ProtocolError, match="larger than 16 bytes"):
        splitter.feed(b"0")


def test_a_large_frame_byte_by_byte_takes_linear_time() -> None:
    splitter = Splitter()
    frame = b"data: " + b"x" * (1 << 19) + b"\n\n"
    pieces = [splitter.feed(frame[i : i + 1]) for i in range(len(frame))]
    assert pieces[-1] == frame
    assert not any(pieces[:-1])
