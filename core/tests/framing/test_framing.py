"""The front of the package, and recorded streams of real providers through it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import pytest

from tianji.errors import ProtocolError
from tianji.framing import LIMIT, Frame, Splitter, decoder
from tianji.framing.eventstream import encode

Corpus = list[tuple[str, str, bytes]]
SMALL = 64 * 1024


@pytest.mark.parametrize(
    ("framing", "stream"),
    [
        ("sse", b'data: {"a": 1}\n\n'),
        ("json-lines", b'{"a": 1}\n'),
        ("aws-eventstream", encode({":event-type": "message"}, b'{"a": 1}')),
    ],
)
def test_a_decoder_for_each_framing(framing: str, stream: bytes) -> None:
    first, second = decoder(framing), decoder(framing)
    (frame,) = first.feed(stream)
    assert (frame.name, frame.data) == ("message", b'{"a": 1}')
    assert first.end() == []
    assert second.feed(stream[:5]) == []


def test_an_unknown_framing_names_the_known() -> None:
    with pytest.raises(ValueError, match="unknown framing 'xml'; known are sse, json-lines, aws-eventstream"):
        decoder("xml")


def test_the_limit_is_sixteen_mebibytes() -> None:
    assert LIMIT == 16 * 1024 * 1024


def test_frames_are_values() -> None:
    frame = Frame("message", b"x")
    assert frame == Frame("message", b"x", None)
    with pytest.raises(AttributeError):
        frame.name = "y"  # type: ignore[misc]


def _decode(framing: str, body: bytes, step: int) -> tuple[list[Frame], str | None]:
    """The frames, and the fault that ended them if one did."""
    machine = decoder(framing)
    frames: list[Frame] = []
    try:
        for at in range(0, len(body), step):
            frames += machine.feed(body[at : at + step])
        frames += machine.end()
    except ProtocolError as fault:
        return frames, fault.message
    return frames, None


def _replay(framing: str, record: str, body: bytes) -> tuple[list[Frame], str | None]:
    """The outcome of a recorded body, after showing that the reads' sizes do not matter."""
    whole = _decode(framing, body, len(body) or 1)
    assert _decode(framing, body, 7) == whole, record
    if len(body) < SMALL:
        assert _decode(framing, body, 1) == whole, record
    return whole


@pytest.mark.corpus
def test_recorded_event_streams(corpus: Corpus, reference: Callable[[bytes], list[tuple[str, str]]]) -> None:
    records = [(record, body) for record, kind, body in corpus if kind == "text/event-stream"]
    assert records
    for record, body in records:
        frames, fault = _replay("sse", record, body)
        if fault:  # legitimate only where the recording itself stops within a line that is not whole
            last = body[body.rindex(b"\n") + 1 :].removeprefix(b"data: ")
            with pytest.raises(json.JSONDecodeError):
                json.loads(last)
        ended = body if fault or body.endswith((b"\n", b"\r")) else body + b"\n\n"
        assert [(frame.name, frame.data.decode()) for frame in frames] == reference(ended), record
        assert frames, record
        splitter = Splitter()
        passed = [splitter.feed(body[at : at + 7]) for at in range(0, len(body), 7)]
        assert b"".join(passed) + splitter.tail == body, record
        apart = [frame for piece in [*passed, splitter.tail] for frame in _decode("sse", piece, len(piece) or 1)[0]]
        assert apart == frames, record


@pytest.mark.corpus
def test_recorded_aws_event_streams(corpus: Corpus) -> None:
    records = [(record, body) for record, kind, body in corpus if kind == "application/vnd.amazon.eventstream"]
    assert records
    for record, body in records:
        payloads, at = [], 0
        while at < len(body):
            total, header_bytes = struct.unpack_from(">II", body, at)
            payloads.append(body[at + 12 + header_bytes : at + total - 4])
            at += total
        frames, fault = _replay("aws-eventstream", record, body)
        assert fault is None, record
        assert [frame.data for frame in frames] == payloads, record
        for frame in frames:
            assert frame.headers is not None, record
            kind = frame.headers[":message-type"]
            assert frame.name == frame.headers[f":{kind}-type"], record


@pytest.mark.corpus
def test_recorded_json_lines_and_arrays(corpus: Corpus) -> None:
    lines = {"application/x-ndjson", "application/stream+json"}
    seen = {"lines": 0, "arrays": 0}
    for record, kind, body in corpus:
        if kind in lines:
            expected = [json.loads(line) for line in body.split(b"\n") if line.strip()]
            seen["lines"] += 1
        elif kind == "application/json" and body.startswith(b"[{"):
            expected = json.loads(body)
            seen["arrays"] += 1
        else:
            continue
        frames, fault = _replay("json-lines", record, body)
        assert fault is None, record
        assert [json.loads(frame.data) for frame in frames] == expected, record
    assert all(seen.values()), seen
