"""Recorded traffic of Converse and ConverseStream, against a reader that shares nothing with the plugin."""

from __future__ import annotations

import json
import os
import struct
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tianji_provider_bedrock import Bedrock

from tianji import Failure
from tianji.testing import make_call, read_stream, summarise

CORPUS = Path(os.environ.get("TIANJI_CORPUS", Path(__file__).parents[4] / "shared/corpus")) / "providers"
BEDROCK = Bedrock(None, instance="bedrock", gateway=None)  # what is tested asks the gateway nothing

REASONS = {
    "end_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "guardrail_intervened": "content_filter",
}
ERRORS = {400: "Rejected", 403: "BadCredentials", 404: "UpstreamNotFound"}


def _payloads(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """An event stream, read by its lengths alone: names and payloads."""
    found = []
    while data:
        total, headers = struct.unpack_from(">II", data)
        block = data[12 : 12 + headers]
        marker = b":event-type\x07"
        at = block.index(marker) + len(marker)
        length = int.from_bytes(block[at : at + 2], "big")
        name = block[at + 2 : at + 2 + length].decode()
        found.append((name, json.loads(data[12 + headers : total - 4])))
        data = data[total:]
    return found


def _expected(payloads: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """An independent reading of a stream."""
    found: dict[str, Any] = {"text": "", "calls": [], "thoughts": "", "signed": 0, "citations": 0}
    own: set[int] = set()
    for name, data in payloads:
        delta, start = data.get("delta", {}), data.get("start", {})
        if "toolUse" in start and start["toolUse"].get("type") is None:
            own.add(data["contentBlockIndex"])
            found["calls"].append([start["toolUse"]["name"], start["toolUse"]["toolUseId"], ""])
        if "toolUse" in delta and data["contentBlockIndex"] in own:
            found["calls"][-1][2] += delta["toolUse"]["input"]
        found["text"] += delta.get("text", "")
        found["thoughts"] += delta.get("reasoningContent", {}).get("text", "")
        found["signed"] += "signature" in delta.get("reasoningContent", {})
        found["citations"] += "citation" in delta
        if name == "messageStop":
            found["reason"] = data["stopReason"]
        if name == "metadata":
            found |= {"usage": data["usage"], "trace": data.get("trace")}
    found["calls"] = [[name, id, json.loads(text or "{}")] for name, id, text in found["calls"]]
    return found


def _of_whole(body: dict[str, Any]) -> dict[str, Any]:
    """The same of a whole answer."""
    content = body["output"]["message"]["content"]
    uses = [block["toolUse"] for block in content if "toolUse" in block]
    thoughts = [block["reasoningContent"]["reasoningText"] for block in content if "reasoningContent" in block]
    cited = [block["citationsContent"] for block in content if "citationsContent" in block]
    texts = [block.get("text") or "".join(part["text"] for part in block.get("citationsContent", {}).get("content", ()))
             for block in content]  # fmt: skip
    return {
        "text": "".join(texts),
        "calls": [[use["name"], use["toolUseId"], use["input"]] for use in uses if "type" not in use],
        "thoughts": "".join(thought["text"] for thought in thoughts),
        "signed": sum("signature" in thought for thought in thoughts),
        "citations": sum(len(block.get("citations", ())) for block in cited),
        "reason": body["stopReason"],
        "usage": body["usage"],
        "trace": body.get("trace"),
    }


def _parts(answer: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """What `summarise` leaves out."""
    found: dict[str, Any] = {"thoughts": "", "signed": 0, "citations": 0, "trace": None}
    for body in answer if isinstance(answer, list) else [answer]:
        for choice in body["choices"]:
            part = choice.get("message") or choice["delta"]
            found["thoughts"] += part.get("reasoning_content", "")
            found["signed"] += len(part.get("thinking_blocks", ()))
            found["citations"] += len(part.get("citations", ()))
            found["trace"] = part.get("provider_specific_fields", {}).get("trace") or found["trace"]
    return found


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the recorded traffic (TIANJI_CORPUS) is not here")
def test_recorded_traffic() -> None:
    seen: Counter[str] = Counter()
    for path in sorted((CORPUS / "bedrock" / "converse").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        response = record["response"]
        answer: dict[str, Any] | list[Any]
        if response["status"] >= 400:
            failure = BEDROCK.failure(response["status"], response["body"])
            assert isinstance(failure, Failure)
            invalid = "model identifier is invalid" in response["body"]["message"]
            wanted = "UpstreamNotFound" if invalid else ERRORS[response["status"]]
            assert (type(failure).__name__, failure.message) == (wanted, response["body"]["message"]), path.name
            seen["error"] += 1
            continue
        if "body_b64" in response:
            data = b64decode(response["body_b64"])
            expected, answer = _expected(_payloads(data)), read_stream(BEDROCK, make_call(), data)
            assert read_stream(BEDROCK, make_call(), [data[at : at + 7] for at in range(0, len(data), 7)]) == answer
            seen["stream"] += 1
        else:
            expected, answer = _of_whole(response["body"]), BEDROCK.decode(make_call(), response["body"])
            seen["whole"] += 1
        found, usage = summarise(answer), expected["usage"]
        assert found["text"] == expected["text"], path.name
        assert [[c["name"], c["id"], c["arguments"]] for c in found["tool_calls"]] == expected["calls"], path.name
        assert found["finish_reason"] == REASONS[expected["reason"]], path.name
        cached = usage.get("cacheReadInputTokens", 0) + usage.get("cacheWriteInputTokens", 0)
        assert found["usage"]["prompt_tokens"] == usage["inputTokens"] + cached, path.name
        assert found["usage"]["completion_tokens"] == usage["outputTokens"], path.name
        assert found["usage"]["total_tokens"] == usage["totalTokens"], path.name
        assert _parts(answer) == {key: expected[key] for key in ("thoughts", "signed", "citations", "trace")}, path.name
    assert all(seen[kind] for kind in ("error", "stream", "whole")), seen
