"""The recorded exchanges: where they are, how one is asked for through the gateway, and which ones nobody can ask for.

`TIANJI_CORPUS` names the folder; without it, `../shared/corpus` beside the repository is looked for. Its README has
the format. Nothing of it is copied into the repository.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.corpus.wire import Json, box
from tianji.discovery import scan

CORPUS = Path(os.environ.get("TIANJI_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
ENDPOINTS = ("chat", "messages", "generateContent", "converse", "completions", "embeddings", "count_tokens")
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
OWN = frozenset({"openai", "azure", "groq", "mistral", "deepseek", "cerebras", "xai", "openrouter", "together_ai"})
"""Providers with OpenAI's format and a plugin of their own (used where it is installed). The rest are like OpenAI."""
SOMEONE_ELSE = {
    ("anthropic", "completions"): "Anthropic's Text Completions API, which its plugin does not use",
    ("bedrock", "count_tokens"): "a counting API that its plugin does not use",
    ("gemini", "count_tokens"): "a counting API that its plugin does not use",
    ("openai", "count_tokens"): "a counting API that its plugin does not use",
    ("vertex_ai", "count_tokens"): "a counting API that no plugin uses",
    ("vertex_ai", "embeddings"): "Vertex AI's own embeddings; there is no plugin for it yet",
    ("aleph_alpha", "completions"): "Aleph Alpha's own completions; there is no plugin for it",
    ("aleph_alpha", "embeddings"): "Aleph Alpha's own embeddings; there is no plugin for it",
    ("cohere", "chat"): "Cohere's own chat; there is no plugin for it yet",
    ("cohere", "completions"): "Cohere's own completions; there is no plugin for it",
    ("cohere", "embeddings"): "Cohere's own embeddings; there is no plugin for it yet",
    ("cloudflare", "chat"): "Cloudflare's own `run`; there is no plugin for it yet",
    ("gigachat", "chat"): "the second version of GigaChat's API, whose answers are lists of messages",
    ("huggingface", "embeddings"): "Hugging Face's own feature extraction; there is no plugin for it",
    ("ollama", "completions"): "Ollama's own completions, which its plugin does not use",
    ("ollama", "embeddings"): "Ollama's older embeddings, which its plugin does not use",
    ("gemini", "embeddings"): "the call for one text; the plugin asks for batches",
    ("openai", "embeddings"): "a report on an account's use, no answer of a model",
    ("openai", "completions"): "a report on an account's use, no answer of a model",
    ("portkey", "completions"): "a stored prompt of Portkey's; there is no plugin for it",
    ("voyage", "embeddings"): "multimodal embeddings; there is no plugin for it",
}
"""Provider and endpoint of records that are not in a format which an installed plugin reads, and why."""


@dataclass(frozen=True)
class Record:
    """One exchange. `raw` are the response's bytes as they were received."""

    id: str
    provider: str
    endpoint: str
    stream: bool
    model: str
    features: frozenset[str]
    path: str
    request: Json | None
    """The request's body; None where it was not recorded."""
    status: int
    headers: dict[str, str]
    raw: bytes


@dataclass(frozen=True)
class Route:
    """How to ask: the plugin, the format that it reads, and the client's endpoint."""

    plugin: str
    form: str
    path: str
    recorded: bool = False
    """The recorded request is in the endpoint's own format."""


@cache
def installed() -> frozenset[str]:
    return frozenset(found.name for found in scan() if found.family == "providers")


def manifest() -> list[Json]:
    """One line for each record of the endpoints in question; empty where there is no corpus."""
    path = CORPUS / "manifest.jsonl"
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["endpoint"] in ENDPOINTS]


def records(provider: str) -> Iterator[Record]:
    """All exchanges with one provider. A recorder that wrote the streams of several turns into one file is undone."""
    for line in manifest():
        if line["provider"] == provider:
            record = load(line)
            turns = re.split(rb"(?=event: message_start)", record.raw)[1:] if record.endpoint == "messages" else []
            if len(turns) < 2:
                yield record
            else:
                yield from (replace(record, id=f"{record.id}#{n}", raw=turn) for n, turn in enumerate(turns))


def load(line: Json) -> Record:
    data = json.loads((CORPUS / "providers" / line["path"]).read_text(encoding="utf-8"))
    request, response = data["request"], data["response"]
    return Record(
        id=line["id"],
        provider=line["provider"],
        endpoint=line["endpoint"],
        stream=line["stream"],
        model=str(line["model"] or "a-model"),
        features=frozenset(line["features"]),
        path=urlsplit(request["url"]).path,
        request=request["body"] if isinstance(request.get("body"), dict) else None,
        status=response["status"],
        headers={key: value for key, value in box(response.get("headers")).items() if "REDACTED" not in value},
        raw=_bytes(response),
    )


def _bytes(response: Json) -> bytes:
    if "body_text" in response:
        return str(response["body_text"]).encode()
    if "body_b64" in response:
        return base64.b64decode(response["body_b64"])
    return json.dumps(response["body"], ensure_ascii=False).encode()


def routes(record: Record) -> list[Route]:
    """Every way to ask for a record; none for one of `SOMEONE_ELSE`."""
    own = record.provider if record.provider in OWN & installed() else "openai_like"
    path, endpoint = record.path, record.endpoint
    if any(part in path for part in ("/organization/usage/", "/prompts/", "/ai/run/", "/api/v2/chat/completions")):
        return []
    if endpoint == "messages":
        return [Route("anthropic", "anthropic", CHAT), Route("anthropic", "anthropic", MESSAGES, recorded=True)]
    if endpoint == "count_tokens" and record.provider == "anthropic":
        return [Route("anthropic", "anthropic", COUNT, recorded=True)]
    if endpoint == "generateContent":
        return [Route("gemini", "gemini", CHAT)]
    if endpoint == "converse":
        return [Route("bedrock", "converse", CHAT)]
    if path.endswith("/api/chat"):
        return [Route("ollama", "ollama", CHAT)]
    if path.endswith("/api/embed"):
        return [Route("ollama", "ollama-embeddings", EMBEDDINGS, recorded=True)]
    if path.endswith(":batchEmbedContents"):
        return [Route("gemini", "gemini-embeddings", EMBEDDINGS)]
    if (
        endpoint == "chat"
        and path.endswith(("/chat/completions", "/v1/chat", "/openai"))
        and record.provider != "cohere"
    ):
        return [Route(own, "openai", CHAT, recorded=True)]
    if endpoint == "chat" and "/compatibility/" in path:
        return [Route(own, "openai", CHAT, recorded=True)]
    if endpoint == "completions" and path.endswith("/completions"):
        return [Route(own, "openai", COMPLETIONS, recorded=True)]
    if endpoint == "embeddings" and path.endswith("/embeddings") and not path.endswith("/api/embeddings"):
        return [Route(own, "embeddings", EMBEDDINGS, recorded=True)]
    return []


def deployment(record: Record, route: Route, group: str, base: str) -> Json:
    """The entry of `model_list` that leads to the upstream's answer for a record."""
    params: dict[str, Any] = {"model": f"{route.plugin}/{record.model}", "api_key": "sk-upstream", "api_base": base}
    if route.plugin == "azure" and "/openai/v1" in record.path:
        params["api_base"] += "/openai/v1"
    if route.plugin == "bedrock":
        params |= {"aws_region_name": "us-east-1"}
    return {"model_name": group, "tianji_params": params}


def question(record: Record, route: Route, group: str, *, minimal: bool = False) -> Json:
    """The client's request: the recorded one for another model, else the shortest one that has the same answer."""
    if route.recorded and record.request is not None and not minimal:
        body = {**record.request, "model": group}
        if record.stream:
            body["stream"] = True
        return body
    body = {"model": group, **_SHORTEST[route.path]}
    if route.path == MESSAGES:
        body["max_tokens"] = 100
    if record.stream:
        body["stream"] = True
    return body


_ASKED = {"messages": [{"role": "user", "content": "Hello"}]}
_SHORTEST: dict[str, Json] = {
    CHAT: _ASKED, MESSAGES: _ASKED, COUNT: _ASKED, COMPLETIONS: {"prompt": "Hello"}, EMBEDDINGS: {"input": ["Hello"]},
}  # fmt: skip
