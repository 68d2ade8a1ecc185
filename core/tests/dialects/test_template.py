"""A frame that is not examined is sent exactly as an examined one would be."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tianji.dialects.chat_stream import ChatMonitor
from tianji.dialects.template import learn
from tianji.errors import Failure
from tianji.testing import make_call

MODELS = ("gpt-4o-mini", "group", "o1")
_texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ['"', "\\", '\\"', "a\\", '"model":"x"', '","model":"gpt-4o-mini', "[DONE]", '"usage":{', "\n", "\r\n\r\n",
         '"},"finish_reason":"stop', "data: ", "event: error", "\u2028", "😀", ""]
    ),
)  # fmt: skip


def frame(
    text: str, *, model: str = MODELS[0], padding: str | None = None, field: str = "content", ascii: bool = True,
    finish: str | None = None, index: int = 0, spaced: bool = False,
) -> bytes:  # fmt: skip
    event = {
        "id": "c1", "model": model,
        "choices": [{"index": index, "delta": {field: text}, "logprobs": None, "finish_reason": finish}],
    }  # fmt: skip
    if padding is not None:
        event["obfuscation"] = padding
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(event, ensure_ascii=ascii, separators=separators).encode() + b"\n\n"


_frames = st.builds(
    frame, _texts, model=st.sampled_from(MODELS), padding=st.sampled_from([None, None, "x1Y", "a b", '"', ""]),
    field=st.sampled_from(["content", "content", "content", "refusal", "reasoning_content"]), ascii=st.booleans(),
    finish=st.sampled_from([None, None, None, "stop"]),
    index=st.sampled_from([0, 0, 0, 1]), spaced=st.sampled_from([False] * 5 + [True]),
)  # fmt: skip
_reads = st.lists(
    st.one_of(
        _frames,
        st.tuples(_frames, _frames).map(b"".join),
        st.sampled_from(
            [b": heartbeat\n\n", b'data: {"usage":null,"choices":[]}\n\n', b'data: {"error":{"message":"x"}}\n\n',
             b"event: error\ndata: {}\n\n"]
        ),
    ),
    max_size=14,
)  # fmt: skip


def watched(reads: list[bytes], *, templates: bool, body: dict[str, object]) -> tuple[list[bytes | str], int, object]:
    call = make_call({"model": "group", "stream": True, "messages": [], **body})
    monitor = ChatMonitor(call)
    out: list[bytes | str] = []
    for raw in reads:
        if not templates:
            monitor._template = None
        try:
            out.append(monitor.feed(raw))
        except Failure as failure:
            out.append(f"{type(failure).__name__}: {failure}")
            break
    return out, monitor.delivered, (monitor.model, monitor.finished, monitor.usage)


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(_reads, st.sampled_from([{}, {"n": 2}, {"stream_options": {"include_usage": True}}]))
@example([frame("a", padding="x"), frame("b", padding="")], {})
@example([frame("a"), frame('b","finish_reason":"stop')], {})
def test_with_and_without_templates(reads: list[bytes], body: dict[str, object]) -> None:
    assert watched(reads, templates=True, body=body) == watched(reads, templates=False, body=body)


def test_ordinary_frames_are_not_examined() -> None:
    """The usual stream of a provider is covered; otherwise this would all be for nothing."""
    for padding, usage in ((None, b""), ("Xy7", b""), (None, b',"usage":null'), ("Xy7", b',"usage":null')):
        first = (
            frame("Hello", padding=padding).replace(b"}],", b"}]" + usage + b",").replace(b"}]}", b"}]" + usage + b"}")
        )
        monitor = ChatMonitor(make_call({"model": "group", "stream": True, "messages": []}))
        monitor.feed(first)
        template = monitor._template
        assert template is not None
        for text in ("world", "", "line\n", "tab\t", "Ünïcode", "'quoted'"):
            raw = frame(text, padding=padding and "q2w3")
            raw = raw.replace(b"}],", b"}]" + usage + b",").replace(b"}]}", b"}]" + usage + b"}")
            said = template.said(raw)
            assert said == frame(text, model="group", padding=padding and "q2w3")


def test_what_cannot_be_learnt() -> None:
    for raw in (frame("x", field="refusal"), frame("a") + frame("b"), frame("x\\"), b"data: {}\n\n", b": x\n\n"):
        assert learn(raw, raw) is None
