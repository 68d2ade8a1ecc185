"""Mistral: chat and embeddings. Close to OpenAI's format, with a strict schema and answers that may be lists of parts.

Docs: https://docs.mistral.ai/api/endpoint/chat
"""

import re
from hashlib import blake2b
from typing import Any

from tianji import (
    Call,
    Decoder,
    Deployment,
    Failure,
    Op,
    OpenAICompatible,
    Unavailable,
    classify,
    error_fields,
    must_be_object,
)

_TOOL_ID = re.compile(r"[A-Za-z0-9]{9}")  # the only form of tool call id that every model there accepts
_MESSAGE = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}
"""The fields that Mistral knows in a message. It answers 422 to any other (`reasoning_content`, `refusal`, `name`)."""


class Mistral(OpenAICompatible):
    name = "mistral"
    base_url = "https://api.mistral.ai/v1"
    api_key_env = ("MISTRAL_API_KEY",)
    api_base_env = ("MISTRAL_API_BASE",)
    ops = frozenset({Op.CHAT, Op.EMBEDDINGS})
    prefill = True
    repeats_prefill = True  # "to force the model to start its answer by the content of the message"
    stream_usage = False  # refused; the last chunk of every stream states the usage
    rename = {
        "max_completion_tokens": "max_tokens",
        "seed": "random_seed",
        "dimensions": "output_dimension",  # of embeddings
    }
    drop = frozenset(  # OpenAI's fields that Mistral answers 422 to
        {
            "audio", "function_call", "functions", "logit_bias", "modalities", "prompt_cache_retention",
            "safety_identifier", "service_tier", "store", "user", "verbosity", "web_search_options",
        }
    )  # fmt: skip

    def prefills(self, call: Call, deployment: Deployment) -> bool:
        """Models that reason begin with their reasoning, and cannot go on with a text."""
        asked = {**deployment.defaults, **call.body, **deployment.extra_body}
        still = asked.get("reasoning_effort") in (None, "none") and asked.get("prompt_mode") is None
        return still and not deployment.model.startswith("magistral")

    def request_body(self, call: Call, deployment: Deployment) -> dict[str, Any]:
        body = super().request_body(call, deployment)
        body.pop("stream_options", None)  # nothing is lost: the gateway sends the usage chunk where it was asked for
        if body.get("tool_choice") == "required":
            body["tool_choice"] = "any"
        if isinstance(messages := body.get("messages"), list):
            body["messages"] = [_message(one) if isinstance(one, dict) else one for one in messages]
        return body

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        body = must_be_object(data)
        if body.get("object") == "error":
            raise self._reported(body)
        return _plain(super().decode(call, body))

    def decoder(self, call: Call) -> Decoder:
        inner = super().decoder(call)
        chunks = next(inner)
        while True:
            event = yield chunks
            if isinstance(event.data, dict) and event.data.get("object") == "error":
                raise self._reported(event.data)
            chunks = [_plain(chunk) for chunk in inner.send(event)]

    def _reported(self, error: dict[str, Any]) -> Failure:
        """An error inside a 200 answer or a stream."""
        status = error.get("raw_status_code")
        return self.failure(status if type(status) is int and status >= 400 else 500, error)

    def failure(self, status: int, data: Any) -> Failure:
        """Mistral's flat error object, or the list of findings of its request validation."""
        found = _findings(data)
        if not found:
            return super().failure(status, data)
        said = "; ".join(f"{'.'.join(where)}: {what}" if where else what for where, what in found)
        _, code, kind = error_fields(data)
        failure = classify(status, said[:4000], code=code, type=kind)
        failure.param = ".".join(found[0][0]) or None
        return failure


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message with the fields that Mistral knows, and tool call ids that it accepts."""
    role = message.get("role")
    if role == "developer":
        message, role = {**message, "role": "system"}, "system"
    known = _MESSAGE.get(str(role))
    if known is None:
        return message
    # A null is as unknown as any value where the field is not in the schema; where it is, it means "not given".
    kept = {name: value for name, value in message.items() if name in known and value is not None}
    if isinstance(content := kept.get("content"), list):
        kept["content"] = [_part(part) if isinstance(part, dict) else part for part in content]
    if isinstance(identity := kept.get("tool_call_id"), str):
        kept["tool_call_id"] = _tool_id(identity)
    if isinstance(calls := kept.get("tool_calls"), list):
        kept["tool_calls"] = [
            {**one, "id": _tool_id(one["id"])} if isinstance(one, dict) and isinstance(one.get("id"), str) else one
            for one in calls
        ]
    return kept


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """A content part without another vendor's cache mark; audio as the bare base64 text that Mistral wants."""
    audio = part.get("input_audio")
    if isinstance(audio, dict) and "data" in audio:
        return {"type": "input_audio", "input_audio": audio["data"]}
    return {name: value for name, value in part.items() if name != "cache_control"} if "cache_control" in part else part


def _tool_id(identity: str) -> str:
    """The id itself, or nine letters that stand for it: the same ones wherever a conversation repeats it."""
    if _TOOL_ID.fullmatch(identity):
        return identity
    return blake2b(identity.encode(), digest_size=5).hexdigest()[:9]


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    """An answer or a chunk as OpenAI's clients know them: text as a string, reasoning beside it, typed tool calls."""
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        if choice.get("finish_reason") == "error":
            raise Unavailable("The provider ended the answer with an error.", status=500)
        if choice.get("finish_reason") == "model_length":
            choice["finish_reason"] = "length"
        for message in (choice.get("message"), choice.get("delta")):
            if isinstance(message, dict):
                _flatten(message)
    return body


def _flatten(message: dict[str, Any]) -> None:
    if isinstance(message.get("content"), list):
        texts, thoughts = _texts(message["content"])
        message["content"] = texts or (None if thoughts else "")
        if thoughts:
            message["reasoning_content"] = thoughts
    tool_calls = message.get("tool_calls")
    for tool_call in tool_calls if isinstance(tool_calls, list) else ():
        if isinstance(tool_call, dict):
            tool_call.setdefault("type", "function")


def _texts(parts: list[Any]) -> tuple[str, str]:
    """What is said and what is thought in a list of content parts; references have no text and are left out."""
    said: list[str] = []
    thought: list[str] = []
    for part in parts:
        if not isinstance(part, dict):
            continue
        if isinstance(text := part.get("text"), str):
            said.append(text)
        inner = part.get("thinking")
        if isinstance(inner, str):
            thought.append(inner)
        elif isinstance(inner, list):
            thought += [one["text"] for one in inner if isinstance(one, dict) and isinstance(one.get("text"), str)]
    return "".join(said), "".join(thought)


def _findings(data: Any) -> list[tuple[list[str], str]]:
    """Where and what, for each complaint of the request validation. What was sent is left out: it may be long."""
    if not isinstance(data, dict):
        return []
    message = data.get("message")
    detail = data.get("detail") or (message.get("detail") if isinstance(message, dict) else message)
    found = []
    for one in detail if isinstance(detail, list) else ():
        if isinstance(one, dict) and isinstance(one.get("msg"), str) and one["msg"]:
            loc = one.get("loc")
            where = [str(step) for step in loc if step != "body"] if isinstance(loc, list) else []
            found.append((where, one["msg"]))
    return found
