"""Recorded traffic of the Messages API, against a reader that shares nothing with the plugin and the dialect."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tianji_provider_anthropic import Anthropic

from tianji import Call, Deployment, Failure, dialects
from tianji.dialects.chat_stream import ChatStreamer
from tianji.model import sse_encode
from tianji.testing import make_call, make_deployment, read_stream, summarise

CORPUS = Path(os.environ.get("TIANJI_CORPUS", Path(__file__).parents[4] / "shared/corpus")) / "providers"
ANTHROPIC = Anthropic(Anthropic.Settings(), instance="anthropic", gateway=None)
DIALECT = dialects.get("anthropic-messages")
FINISH = {"end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length",
          "tool_use": "tool_calls", "refusal": "content_filter"}  # fmt: skip

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="the recorded traffic (TIANJI_CORPUS) is not here"),
]


def records() -> Iterator[tuple[str, dict[str, Any]]]:
    paths = sorted(CORPUS.glob("*/messages/*.json"))
    assert paths
    for path in paths:
        yield path.name, json.loads(path.read_text(encoding="utf-8"))


def streams() -> Iterator[tuple[str, str]]:
    """Every recorded stream; a file that holds the turns of a conversation one after the other counts for several."""
    for name, record in records():
        text = record["response"].get("body_text") or ""
        if record["stream"] and record["response"]["status"] == 200:
            yield from ((name, part) for part in re.split(r"(?=event: message_start)", text) if part.strip())


def message_of(text: str) -> dict[str, Any]:
    """The message that a stream adds up to."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.startswith("data:") or line.endswith("[DONE]"):
            continue
        event = json.loads(line[5:])
        if event["type"] == "message_start":
            message = event["message"]
            blocks = dict(enumerate(message["content"]))
        elif event["type"] == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif event["type"] == "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            if delta["type"] == "input_json_delta":
                inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            elif delta["type"] != "citations_delta":
                key = delta["type"].removesuffix("_delta")
                block[key] += delta[key]
        elif event["type"] == "message_delta":
            message.update(event["delta"])
            message["usage"] |= {key: value for key, value in event["usage"].items() if value is not None}
    for index, written in inputs.items():
        if written:
            blocks[index]["input"] = json.loads(written)
    message["content"] = [blocks[index] for index in sorted(blocks)]
    return message


def expected(message: dict[str, Any]) -> dict[str, Any]:
    blocks, usage = message["content"], message["usage"]
    cached = (usage.get("cache_read_input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
    return {
        "text": "".join(block["text"] for block in blocks if block["type"] == "text"),
        "tool_calls": [
            {"id": block["id"], "name": block["name"], "arguments": block["input"]}
            for block in blocks
            if block["type"] == "tool_use"
        ],
        "finish_reason": FINISH[message["stop_reason"]],
        "usage": (usage["input_tokens"] + cached, usage["output_tokens"], usage.get("cache_read_input_tokens") or 0),
        "thinking": [block for block in blocks if "thinking" in block["type"]],
    }


def found(answer: Any) -> dict[str, Any]:
    """The same of a chat answer, whole or streamed."""
    summary, thinking = summarise(answer), []
    for body in answer if isinstance(answer, list) else [answer]:
        for choice in body["choices"]:
            thinking += (choice.get("message") or choice["delta"]).get("thinking_blocks", [])
    usage = summary["usage"]
    cached = usage.get("cache_read_input_tokens", 0)
    counts = (usage["prompt_tokens"], usage["completion_tokens"], cached)
    return {**summary, "usage": counts, "thinking": thinking}


def anthropic_call(**body: Any) -> Call:
    return make_call({"model": "group", "max_tokens": 1, "messages": [], **body}, dialect="anthropic-messages")


def deployment(model: str) -> Deployment:
    return make_deployment(provider="anthropic", model=model, settings=Anthropic.Settings())


def test_streams_mean_what_they_say() -> None:
    for name, text in streams():
        message = message_of(text)
        raw = text.encode()
        chunks = read_stream(ANTHROPIC, make_call({"model": "group", "stream": True}), raw)
        assert found(chunks) == expected(message), name
        for size in (1, 7):
            pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
            assert read_stream(ANTHROPIC, make_call({"model": "group", "stream": True}), pieces) == chunks, name
        # Said as chat and back again, as for a client of this dialect with a provider behind chat.
        asked = make_call({"model": "group", "stream_options": {"include_usage": True}})
        streamer = ChatStreamer(asked, id="x", created=1)
        stream = DIALECT.stream_from_chat(anthropic_call(stream=True))
        events = next(stream)
        for chunk in [*filter(None, map(streamer.push, chunks)), *streamer.closing(), None]:
            events = events + stream.send(chunk)
        again = message_of(sse_encode(events, named=True).decode())
        assert expected(again) == expected(message), name
        assert (again["stop_reason"], again["stop_sequence"]) == (message["stop_reason"], message["stop_sequence"])


def test_streams_pass_the_monitor_and_are_errors_when_cut() -> None:
    for name, text in streams():
        message = message_of(text)
        frames = [frame + "\n\n" for frame in text.replace("\r\n", "\n").split("\n\n") if frame.strip()]
        monitor = DIALECT.monitor(anthropic_call(stream=True))
        assert b"".join(monitor.feed(frame.encode()) for frame in frames).decode() == "".join(frames)
        assert monitor.end() == b""
        usage = monitor.usage
        assert usage is not None
        counted = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)
        assert counted == expected(message)["usage"], name
        assert monitor.model == message["model"]
        last = next((n for n, frame in enumerate(frames) if "event: message_delta" in frame), 1)
        for cut in range(1, last + 1):
            monitor = DIALECT.monitor(anthropic_call(stream=True))
            monitor.feed("".join(frames[:cut]).encode())
            with pytest.raises(Failure):
                monitor.end()


def test_whole_answers_and_errors() -> None:
    for name, record in records():
        response = record["response"]
        body = response.get("body")
        if response["status"] >= 400:
            failure = ANTHROPIC.failure(response["status"], body)
            assert failure.status == response["status"], name
            assert DIALECT.error(failure)["error"]["type"] == body["error"]["type"], name
        elif not record["stream"]:
            completion = ANTHROPIC.decode(make_call(), body)
            assert found(completion) == expected(body), name
            again = DIALECT.from_chat(anthropic_call(), completion)
            assert expected(again) == expected(body), name
            assert (again["stop_reason"], again["stop_sequence"]) == (body["stop_reason"], body["stop_sequence"])


def test_requests_survive_chat() -> None:
    """Through chat and back: roles alternate, and calls, results and signed thinking are all there."""

    def blocks(body: dict[str, Any], kind: str, key: str) -> list[Any]:
        contents = [turn["content"] for turn in body["messages"] if isinstance(turn["content"], list)]
        return [block.get(key) for content in contents for block in content if block["type"] == kind]

    for name, record in records():
        body = record["request"].get("body")
        if not isinstance(body, dict) or "messages" not in body:
            continue
        body.setdefault("model", "group")
        DIALECT.check(body)
        chat = DIALECT.to_chat(anthropic_call(**body))
        dialects.get("openai-chat").check(chat)
        again = ANTHROPIC.encode(make_call(chat), deployment(body["model"])).body
        assert isinstance(again, dict)
        DIALECT.check(again)
        roles = [turn["role"] for turn in again["messages"]]
        assert all(roles[n] != roles[n + 1] for n in range(len(roles) - 1)), name
        for kind, key in (("tool_use", "id"), ("tool_use", "input"), ("tool_result", "tool_use_id"),
                          ("thinking", "signature"), ("redacted_thinking", "data")):  # fmt: skip
            assert blocks(again, kind, key) == blocks(body, kind, key), name
        native = anthropic_call(**body)
        native.raw = json.dumps(body).encode()
        sent = ANTHROPIC.encode(native, deployment("other")).body
        assert (json.loads(sent) if isinstance(sent, bytes) else sent) == {**body, "model": "other"}, name
