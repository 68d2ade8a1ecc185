"""Anthropic: Claude through the Messages API, native or as chat, and token counting.

Docs: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import re
from typing import Any

from tianji import (
    BadCredentials,
    BadRequest,
    Call,
    Decoder,
    Deployment,
    Failure,
    Headers,
    HTTPProvider,
    Op,
    PluginSettings,
    Wire,
    classify,
    encode_json,
    error_fields,
    must_be_object,
)
from tianji.dialects.anthropic import failure_of

from .messages import content_without_unsigned
from .reply import stream_to_chat, to_chat
from .request import ADAPTIVE, OPENAI_ONLY, to_messages, version_of

_STILL = (None, "none")  # values of `reasoning_effort` that make no model think
_PATHS = {Op.CHAT: "/v1/messages", Op.COUNT_TOKENS: "/v1/messages/count_tokens"}
_OAUTH = "sk-ant-oat"  # keys of a Claude subscription: another header, and a beta
_MODEL_KEY = re.compile(rb'"model"\s*:')
_ESCAPED_LETTER = b"\\u006"  # `"mo\u0064el"` is the same key; whoever writes that is encoded anew
_UNSIGNED = re.compile(rb'"signature"\s*:\s*""')


class Anthropic(HTTPProvider):
    name = "anthropic"
    base_url = "https://api.anthropic.com"
    api_base_env = ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE")
    api_key_env = ("ANTHROPIC_API_KEY",)
    auth = "header:x-api-key"
    ops = frozenset({Op.CHAT, Op.COUNT_TOKENS})
    native = frozenset({"anthropic-messages", "anthropic-count-tokens"})
    prefill = True

    class Settings(PluginSettings, frozen=True):
        anthropic_version: str = "2023-06-01"
        """Sent as `anthropic-version`; a client of the Messages API may send its own."""
        anthropic_beta: str = ""
        """Beta features to always ask for, comma-separated; the client's own are added."""

    # -- requests ------------------------------------------------------------------------------------------------------

    def prefills(self, call: Call, deployment: Deployment) -> bool:
        """Until Claude 4.5, and not while thinking; later models answer 400 to a conversation that does not end with
        the user (https://platform.claude.com/docs/en/about-claude/models/whats-new-claude-4-6)."""
        version = version_of(deployment.model)
        asked = {**deployment.defaults, **call.body, **deployment.extra_body}
        thinking = asked.get("thinking")
        thinks = type(thinking) is dict and thinking.get("type") != "disabled"
        return version is not None and version < ADAPTIVE and not thinks and asked.get("reasoning_effort") in _STILL

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        path = _PATHS.get(call.op)
        if path is None:
            raise BadRequest(f"Provider 'anthropic' does not offer {call.op}.", param="model")
        url = self.base(deployment) + path
        if call.dialect in self.native:
            return Wire(url, self._headers_for(call, deployment), _native_body(call, deployment))
        body, betas = to_messages(call, deployment)
        return Wire(url, self._headers_for(call, deployment, betas), body)

    def base(self, deployment: Deployment) -> str:
        """The root of the API, whether `api_base` was given with or without `/v1`."""
        return super().base(deployment).removesuffix("/messages").removesuffix("/v1")

    def credential(self, key: str) -> dict[str, str]:
        if key.startswith(_OAUTH):
            return {"authorization": f"Bearer {key}", "anthropic-dangerous-direct-browser-access": "true"}
        return super().credential(key)

    def own_headers(self, deployment: Deployment) -> dict[str, str]:
        settings: Anthropic.Settings = deployment.settings
        headers = {"anthropic-version": settings.anthropic_version}
        key = deployment.api_key.reveal() if deployment.api_key else ""
        if betas := _betas(settings.anthropic_beta, "oauth-2025-04-20" if key.startswith(_OAUTH) else ""):
            headers["anthropic-beta"] = betas
        return headers

    def _headers_for(self, call: Call, deployment: Deployment, betas: tuple[str, ...] = ()) -> Headers:
        """The deployment's shared headers, or a copy with what this call adds to them."""
        shared = self.request_headers(deployment)
        asked = call.ingress.header("anthropic-beta") or ""
        version = call.ingress.header("anthropic-version") if call.dialect in self.native else None
        if not asked and not betas and version in (None, shared["anthropic-version"]):
            return shared
        headers = Headers(shared)
        if wanted := _betas(shared.get("anthropic-beta", ""), asked, *betas):
            headers["anthropic-beta"] = wanted
        if version:
            headers["anthropic-version"] = version
        return headers

    # -- answers -------------------------------------------------------------------------------------------------------

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        body = must_be_object(data)
        if body.get("type") == "error":
            raise failure_of(body, provider=self.name)
        return body if call.dialect in self.native else to_chat(body)

    def decoder(self, call: Call) -> Decoder:
        return stream_to_chat(self.name)

    def failure(self, status: int, data: Any) -> Failure:
        message, _, kind = error_fields(data)
        message = message or f"Anthropic answered with status {status}."
        if status in (400, 403) and "credit balance is too low" in message:
            # Said with a 400; it is this account that cannot pay, and another deployment may.
            return BadCredentials(message, status=402, code="billing_error")
        failure = classify(status, message, type=kind)
        if failure.code is None and kind:
            failure.code = kind
        return failure


def _betas(*lists: str) -> str:
    """Comma-separated lists joined, each name once, in order."""
    names = [name.strip() for names in lists for name in names.split(",")]
    return ",".join(dict.fromkeys(name for name in names if name))


def _native_body(call: Call, deployment: Deployment) -> dict[str, Any] | bytes:
    """The client's own request for the deployment's model, its bytes kept wherever nothing else is to change.

    Thinking that another provider made (of the same conversation, before a failover) has no signature, and Anthropic
    refuses it; it is left out.
    """
    body, raw = call.body, call.raw
    defaults = {key: value for key, value in deployment.defaults.items() if key not in body and key not in OPENAI_ONLY}
    dropped = deployment.drop & body.keys()
    unsigned = raw is None or _UNSIGNED.search(raw) is not None
    if raw is not None and not (defaults or dropped or deployment.extra_body or unsigned):
        spliced = _splice(raw, body.get("model"), deployment.model)
        if spliced is not None:
            return spliced
    if call.op == Op.COUNT_TOKENS:
        defaults = {}  # the endpoint refuses `max_tokens` and the like
    fresh = {**defaults, **body, "model": deployment.model}
    for field in dropped:
        del fresh[field]
        call.drop(field)
    if unsigned and type(messages := fresh.get("messages")) is list:
        fresh["messages"] = [content_without_unsigned(message) for message in messages]
    fresh.update(deployment.extra_body)
    return fresh


def _splice(raw: bytes, requested: Any, model: str) -> bytes | None:
    """The bytes with only the model's name replaced; None when it cannot be told which place that is."""
    if len(_MODEL_KEY.findall(raw)) != 1 or _ESCAPED_LETTER in raw or type(requested) is not str:
        return None
    pattern = re.compile(rb'("model"\s*:\s*)' + re.escape(encode_json(requested)))
    spliced, count = pattern.subn(lambda match: match[1] + encode_json(model), raw)
    return spliced if count == 1 else None


__all__ = ["Anthropic"]
