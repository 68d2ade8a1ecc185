"""Recorded traffic of the Gemini API and of Vertex AI, against a reader that shares nothing with the plugin."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tianji_provider_gemini import Gemini

from tianji import Failure
from tianji.testing import make_call, read_stream, summarise

CORPUS = Path(os.environ.get("TIANJI_CORPUS", Path(__file__).parents[4] / "shared/corpus")) / "providers"
GEMINI = Gemini(None, instance="gemini", gateway=None)  # what is tested asks the gateway nothing


def _expected(events: list[dict[str, Any]]) -> dict[str, Any]:
    """An independent reading of recorded responses: text (but for code), names of calls, usage."""
    found: dict[str, Any] = {"text": "", "calls": [], "usage": None, "code": False}
    for event in events:
        meta = event.get("usageMetadata") or {}
        if {"promptTokenCount", "candidatesTokenCount", "totalTokenCount"} & meta.keys():
            output = meta.get("candidatesTokenCount", 0) + meta.get("thoughtsTokenCount", 0)
            prompt = meta.get("promptTokenCount", 0) + meta.get("toolUsePromptTokenCount", 0)
            found["usage"] = (prompt or meta["totalTokenCount"] - output, output)
        for candidate in event.get("candidates") or ():
            for part in (candidate.get("content") or {}).get("parts") or ():
                found["code"] |= "executableCode" in part or "codeExecutionResult" in part
                found["text"] += "" if part.get("thought") else part.get("text", "")
                found["calls"] += [part["functionCall"]["name"]] if part.get("functionCall", {}).get("name") else []
    return found


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the recorded traffic (TIANJI_CORPUS) is not here")
@pytest.mark.parametrize("provider", ["gemini", "vertex_ai"])
def test_recorded_traffic(provider: str) -> None:
    paths = sorted((CORPUS / provider / "generateContent").glob("*.json"))
    assert paths
    for path in paths:
        record = json.loads(path.read_text(encoding="utf-8"))
        response, text = record["response"], record["response"].get("body_text")
        if response["status"] >= 400:
            body = response.get("body", text)
            assert isinstance(GEMINI.failure(response["status"], body), Failure), path.name
            continue
        array = text is not None and text.lstrip().startswith("[")
        if text is None or not record["stream"]:
            events = [response["body"]]
            found = summarise(GEMINI.decode(make_call(), response["body"]))
        else:
            lines = [line[5:] for line in text.splitlines() if line.startswith("data:")]
            events = json.loads(text) if array else [json.loads(line) for line in lines]
            chunks = read_stream(GEMINI, make_call(), text.encode(), framing="json-lines" if array else "sse")
            found = summarise(chunks)
        expected = _expected(events)
        assert found["finish_reason"], path.name
        assert expected["code"] or found["text"] == expected["text"], path.name
        assert [call["name"] for call in found["tool_calls"]] == expected["calls"], path.name
        usage = found["usage"]
        assert (usage and (usage["prompt_tokens"], usage["completion_tokens"])) == expected["usage"], path.name
