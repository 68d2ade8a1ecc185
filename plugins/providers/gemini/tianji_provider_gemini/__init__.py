"""Google Gemini: chat and embeddings over the native `generateContent` API.

Docs: https://ai.google.dev/api/generate-content
"""

import re
from typing import Any

from tianji import Call, Decoder, Deployment, Failure, HTTPProvider, Op, Wire

from .embeddings import embed_reply, embed_request
from .errors import read_failure
from .models import resource
from .reply import chat_reply, chat_stream
from .request import chat_request

__all__ = ["Gemini"]

_VERSIONED = re.compile(r"/v\d+(?:alpha|beta)?\d*$")


class Gemini(HTTPProvider):
    name = "gemini"
    base_url = "https://generativelanguage.googleapis.com/v1beta"
    api_key_env = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    auth = "header:x-goog-api-key"
    ops = frozenset({Op.CHAT, Op.EMBEDDINGS})
    native = frozenset({"openai-embeddings"})  # cannot be said as chat; `encode` translates them

    def rewrites(self, call: Call) -> bool:
        return True

    def base(self, deployment: Deployment) -> str:
        base = super().base(deployment)
        return base if _VERSIONED.search(base) else f"{base}/v1beta"

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        base = self.base(deployment)
        body: dict[str, Any]
        if call.op == Op.EMBEDDINGS:
            verb, body = "batchEmbedContents", embed_request(call, deployment)
        else:
            verb = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
            body = chat_request(call, deployment, base)
        return Wire(f"{base}/{resource(deployment.model)}:{verb}", self.request_headers(deployment), body)

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        return embed_reply(call, data) if call.op == Op.EMBEDDINGS else chat_reply(call, data)

    def decoder(self, call: Call) -> Decoder:
        return chat_stream(call)

    def failure(self, status: int, data: Any) -> Failure:
        return read_failure(status, data)
