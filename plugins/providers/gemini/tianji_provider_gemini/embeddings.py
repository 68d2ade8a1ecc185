"""OpenAI embeddings over `batchEmbedContents`.

Docs: https://ai.google.dev/api/embeddings
"""

import base64
import struct
from typing import Any

from tianji import BadRequest, Call, Deployment, ProtocolError, must_be_object, usage_to_openai

from .models import resource
from .reply import read_usage
from .request import asked
from .shapes import an_object

FIELDS = {
    "dimensions": "outputDimensionality",
    "outputDimensionality": "outputDimensionality",
    "task_type": "taskType",
    "taskType": "taskType",
    "input_type": "taskType",
    "title": "title",
}


def embed_request(call: Call, deployment: Deployment) -> dict[str, Any]:
    """One request for each text of `input`. Raises `BadRequest` for token arrays, which Gemini cannot take."""
    body = asked(call, deployment)
    texts = body.pop("input", None)
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadRequest("Gemini embeds texts: a string or a list of strings, not tokens.", param="input")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise BadRequest("Expected float or base64.", param="encoding_format")
    common: dict[str, Any] = {"model": resource(deployment.model)}
    for field, value in body.items():
        if ours := FIELDS.get(field):
            common[ours] = value.upper() if ours == "taskType" and isinstance(value, str) else value
        elif field not in ("model", "encoding_format"):
            call.drop(field if field.isidentifier() and field.isascii() else "unknown")
    requests = [{**common, "content": {"parts": [{"text": text}]}} for text in texts]
    return {"requests": requests, **deployment.extra_body}


def embed_reply(call: Call, data: Any) -> dict[str, Any]:
    """The vectors in order; packed where the client asked for base64. Usage only where Gemini states it."""
    body = must_be_object(data)
    vectors = body.get("embeddings")
    if not isinstance(vectors, list):
        raise ProtocolError("The answer holds no embeddings.")
    pack = call.body.get("encoding_format") == "base64"
    items = []
    for index, vector in enumerate(vectors):
        values = an_object(vector).get("values")
        if not isinstance(values, list):
            raise ProtocolError(f"Embedding {index} of the answer has no values.")
        if not all(isinstance(value, (int, float)) for value in values):
            raise ProtocolError(f"Embedding {index} of the answer holds something else than numbers.")
        items.append({"object": "embedding", "index": index, "embedding": packed(values) if pack else values})
    reply: dict[str, Any] = {"object": "list", "data": items, "model": call.model}
    if usage := read_usage(body.get("usageMetadata")):
        reply["usage"] = usage_to_openai(usage)
    return reply


def packed(values: list[float]) -> str:
    """Little-endian 32-bit floats in base64, as OpenAI sends them."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")
