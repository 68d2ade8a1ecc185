"""AWS event streams: round trips, every header type, every corruption."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji.errors import ProtocolError
from tianji.framing import Frame
from tianji.framing.eventstream import EventStreamDecoder, encode

EVENT = {":message-type": "event", ":event-type": "chunk", ":content-type": "application/json"}
headers = st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=20), max_size=4)
messages = st.lists(st.tuples(headers, st.binary(max_size=40)), max_size=4)


def raw(header_block: bytes, payload: bytes = b"") -> bytes:
    """A message around any header bytes, written from the specification."""
    lengths = struct.pack(">II", 16 + len(header_block) + len(payload), len(header_block))
    body = lengths + struct.pack(">I", zlib.crc32(lengths)) + header_block + payload
    return body + struct.pack(">I", zlib.crc32(body))


def outcome(reads: Iterable[bytes], limit: int = 1 << 20) -> tuple[list[Frame], str | None]:
    decoder = EventStreamDecoder(limit)
    frames: list[Frame] = []
    try:
        for read in reads:
            frames += decoder.feed(read)
        frames += decoder.end()
    except ProtocolError as fault:
        return frames, fault.message
    return frames, None


@settings(max_examples=120, deadline=None)
@given(messages, st.lists(st.integers(0, 400), max_size=6))
def test_round_trip_in_any_pieces(items: list[tuple[dict[str, str], bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode(*item) for item in items)
    at = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for reads in (
        [stream],
        [stream[a:b] for a, b in pairwise(at)],
        [stream[i : i + 1] for i in range(len(stream))],
    ):
        frames, fault = outcome(reads)
        assert fault is None
        assert [(frame.headers, frame.data) for frame in frames] == items


def test_the_empty_message_is_the_published_one() -> None:
    assert encode({}, b"").hex() == "000000100000000005c248eb7d98c8ff"


def test_every_split_point() -> None:
    stream = encode(EVENT, b'{"a": 1}') + encode(EVENT, b"") + encode(EVENT, b"\x00" * 30)
    whole = outcome([stream])
    assert [frame.data for frame in whole[0]] == [b'{"a": 1}', b"", b"\x00" * 30]
    assert whole[0][0].name == "chunk"
    for cut in range(len(stream) + 1):
        assert outcome([stream[:cut], stream[cut:]]) == whole


def test_every_truncation_is_a_fault() -> None:
    first, second = encode(EVENT, b"1"), encode(EVENT, b"2")
    for cut in range(1, len(second)):
        frames, fault = outcome([first + second[:cut]])
        assert [frame.data for frame in frames] == [b"1"]
        assert fault == "aws-eventstream: the stream ends in the middle of a message"


def test_every_flipped_bit_is_a_fault_and_costs_no_earlier_frame() -> None:
    first, second = encode(EVENT, b"1"), encode(EVENT, b'{"a": 1}')
    for bit in range(8 * len(second)):
        broken = bytearray(second)
        broken[bit // 8] ^= 1 << bit % 8
        frames, fault = outcome([first + bytes(broken)])
        assert [frame.data for frame in frames] == [b"1"]
        part = "prelude" if bit < 96 else "message"
        assert fault == f"aws-eventstream: the checksum of a {part} does not match"


def test_all_header_types() -> None:
    identifier = bytes(range(16))
    block = (
        b"\x01t\x00"
        b"\x01f\x01"
        b"\x01b\x02\xff"
        b"\x01s\x03\xff\xfe"
        b"\x01i\x04\x00\x01\x00\x00"
        b"\x01l\x05\xff\xff\xff\xff\xff\xff\xff\xfd"
        b"\x01y\x06\x00\x03\x00\xff\x10"
        b"\x05:text\x07\x00\x03\xe2\x82\xac"
        b"\x01d\x08\x00\x00\x01\x8b\xcf\xe5\x68\x00"
        b"\x01u\x09" + identifier
    )
    (frame,) = EventStreamDecoder().feed(raw(block, b"payload"))
    assert frame.data == b"payload"
    assert frame.headers == {
        "t": "true",
        "f": "false",
        "b": "-1",
        "s": "-2",
        "i": "65536",
        "l": "-3",
        "y": "AP8Q",
        ":text": "€",
        "d": "1700000000000",
        "u": "00010203-0405-0607-0809-0a0b0c0d0e0f",
    }


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"\x01a\x0a", "a header has the unknown type 10"),
        (b"\x00\x00", "a header is malformed"),
        (b"\x09a", "a header is malformed"),
        (b"\x01a", "a header is malformed"),
        (b"\x01a\x07\x00", "a header is malformed"),
        (b"\x01a\x07\x00\x05abcd", "a header is malformed"),
        (b"\x01a\x05\x00\x00", "a header is malformed"),
        (b"\x01\xff\x00", "a header is malformed"),
        (b"\x01a\x07\x00\x01\xff", "a header is malformed"),
    ],
)
def test_bad_headers_are_faults(block: bytes, message: str) -> None:
    assert outcome([raw(block, b"xxxxxxxxxxxx")]) == ([], f"aws-eventstream: {message}")


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ({":message-type": "event", ":event-type": "metadata"}, "metadata"),
        ({":message-type": "exception", ":exception-type": "throttlingException"}, "throttlingException"),
        ({":message-type": "error", ":error-code": "InternalError", ":error-message": "no"}, "InternalError"),
        ({":message-type": "exception"}, "exception"),
        ({":message-type": "error"}, "error"),
        ({":event-type": "chunk"}, "chunk"),
        ({}, "message"),
    ],
)
def test_the_name_says_what_kind_of_frame_it_is(sent: dict[str, str], name: str) -> None:
    assert EventStreamDecoder().feed(encode(sent, b"{}")) == [Frame(name, b"{}", sent)]


def test_lengths_that_contradict_each_other() -> None:
    for total, block in ((15, 0), (16, 1), (0, 0), (20, 0xFFFFFFFF)):
        lengths = struct.pack(">II", total, block)
        _, fault = outcome([lengths + struct.pack(">I", zlib.crc32(lengths)) + bytes(40)])
        assert fault == "aws-eventstream: the lengths of a message contradict each other"


def test_a_message_over_the_limit_is_refused_by_its_prelude() -> None:
    message = encode(EVENT, bytes(100))
    assert outcome([message], len(message))[1] is None
    decoder = EventStreamDecoder(len(message) - 1)
    with pytest.raises(ProtocolError, match="a frame is larger than"):
        decoder.feed(message[:12])


def test_encode_refuses_what_the_format_cannot_hold() -> None:
    for bad in ({"": "x"}, {"n" * 256: "x"}, {"n": "x" * 65_536}):
        with pytest.raises(ValueError, match="does not fit"):
            encode(bad, b"")
    assert outcome([encode({"n" * 255: "x" * 65_535}, b"")])[1] is None


def test_a_large_message_byte_by_byte_takes_linear_time() -> None:
    message = encode(EVENT, bytes(1 << 20))
    frames, fault = outcome((message[i : i + 1] for i in range(len(message))), 1 << 24)
    assert fault is None
    assert [frame.data for frame in frames] == [bytes(1 << 20)]
