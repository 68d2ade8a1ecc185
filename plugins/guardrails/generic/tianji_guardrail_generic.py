"""Generic guardrail: asks an HTTP service of the operator's own what to do with a text.

Two wire formats. `litellm` is LiteLLM's generic guardrail API (`POST /beta/litellm_basic_guardrail_api`); `simple` is
TianjiLLM's older one (`prompt`, `response`, `metadata.hook` → `action`, `message`, `modified_content`).

Docs: https://docs.litellm.ai/docs/adding_provider/generic_guardrail_api
"""

from __future__ import annotations

import logging
import os
from typing import Any, Literal
from urllib.parse import urlsplit

from tianji import (
    Call,
    ConfigError,
    Content,
    Failure,
    Guardrail,
    PluginSettings,
    Secret,
    Timeout,
    Unavailable,
    Verdict,
    Wire,
    decode_json,
)

logger = logging.getLogger("tianji.guardrail.generic")

PATH = "/beta/litellm_basic_guardrail_api"


class NoVerdict(Exception):
    """The service gave no answer that can be used. The base refuses the call, or lets it go on where it fails open."""


class Unreachable(NoVerdict):
    """The service could not be reached, ran out of time, or said that it is down (502, 503, 504)."""


class Generic(Guardrail):
    name = "generic"

    class Settings(PluginSettings, frozen=True):
        api_base: str | None = None
        """Address of the service. In the format `litellm`, `/beta/litellm_basic_guardrail_api` is added to it where
        it is not there yet. Else `GENERIC_GUARDRAIL_API_BASE` of the environment."""
        endpoint: str | None = None
        """The same, under TianjiLLM's name."""
        api_key: Secret | None = None
        """Sent as `x-api-key`. Else `GENERIC_GUARDRAIL_API_KEY` of the environment."""
        headers: dict[str, Secret] = {}
        """Further headers of each request; the values are kept like secrets."""
        format: Literal["litellm", "simple"] = "litellm"
        """What the service speaks."""
        timeout: float = 10.0
        """Seconds until an answer must be there."""
        additional_provider_specific_params: dict[str, Any] = {}
        """Sent with every request, for the service's own use (format `litellm`)."""
        unreachable_fallback: Literal["fail_closed", "fail_open"] = "fail_closed"
        """What happens while the service cannot be reached (no connection, time-out, 502, 503, 504). Any other fault
        follows the guardrail's `failure_policy`."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        base = self.settings.api_base or self.settings.endpoint or os.environ.get("GENERIC_GUARDRAIL_API_BASE", "")
        if urlsplit(base).scheme not in ("http", "https"):
            raise ConfigError(
                "api_base is missing, or is no http(s) address",
                path=f"guardrail {instance}",
                mend="Set `api_base`, or GENERIC_GUARDRAIL_API_BASE in the environment",
            )
        if self.settings.timeout <= 0:
            raise ConfigError("timeout must be more than 0 seconds", path=f"guardrail {instance}")
        self.url = base
        if self.settings.format == "litellm" and not base.rstrip("/").endswith(PATH):
            self.url = base.rstrip("/") + PATH
        # The base's clock is for all of `check`; it must not cut a longer time-out of the operator's short.
        self.timeout = self.settings.timeout + 0.5
        key = self.settings.api_key or Secret(os.environ.get("GENERIC_GUARDRAIL_API_KEY", ""))
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["x-api-key"] = key.reveal()
        self._headers |= {name.lower(): value.reveal() for name, value in self.settings.headers.items()}

    async def check(self, content: Content, call: Call) -> Verdict:
        simple = self.settings.format == "simple"
        try:
            answer = await self._ask(self._simple(content, call) if simple else self._litellm(content, call))
        except Unreachable as error:
            if self.settings.unreachable_fallback == "fail_closed":
                raise
            logger.warning("guardrail %s is open, because its service is unreachable: %s", self.instance, error)
            return Verdict.allow()
        return _simple_verdict(answer, content) if simple else _litellm_verdict(answer, content)

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The service's answer, an object. Raises `NoVerdict`."""
        wire = Wire(url=self.url, headers=self._headers, body=body)
        try:
            status, _, raw = await self.gateway.fetch(wire, timeout=self.settings.timeout)
        except (Timeout, Unavailable, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        except Failure as error:
            # A Failure would pass the base as if it were a verdict, and `failure_policy` would not be asked.
            raise NoVerdict(f"{type(error).__name__}: {error}") from error
        if status in (502, 503, 504):
            raise Unreachable(f"the service answered {status}")
        if status != 200:
            raise NoVerdict(f"the service answered {status}")
        try:
            answer = decode_json(raw)
        except ValueError as error:
            raise NoVerdict("the service answered with something that is not JSON") from error
        if not isinstance(answer, dict):
            raise NoVerdict("the service answered with something that is not an object")
        return answer

    def _litellm(self, content: Content, call: Call) -> dict[str, Any]:
        caller = call.principal
        facts = {
            "user_api_key_hash": caller.key_id,  # the public id tells keys apart as well, and is no hash of a secret
            "user_api_key_alias": caller.alias,
            "user_api_key_user_id": caller.user_id,
            "user_api_key_team_id": caller.team_id,
            "user_api_key_org_id": caller.org_id,
        }
        body: dict[str, Any] = {
            "texts": list(content.texts),
            "request_data": {name: value for name, value in facts.items() if value is not None},
            "input_type": "request" if content.part == "prompt" else "response",
            "litellm_call_id": call.call_id,
            "litellm_trace_id": call.call_id,
            "model": call.model,
            "additional_provider_specific_params": self.settings.additional_provider_specific_params,
        }
        tools = call.body.get("tools")
        if content.part == "prompt" and call.dialect == "openai-chat" and isinstance(tools, list):
            body["tools"] = tools
        return body

    def _simple(self, content: Content, call: Call) -> dict[str, Any]:
        prompt = content.part == "prompt"
        return {
            "prompt": content.text if prompt else "",
            "response": "" if prompt else content.text,
            "metadata": {"hook": "pre_call" if prompt else "post_call", "model": call.model, "call_id": call.call_id},
        }


def _litellm_verdict(answer: dict[str, Any], content: Content) -> Verdict:
    action = answer.get("action")
    if action == "NONE":
        return Verdict.allow()
    if action == "BLOCKED":
        return Verdict.block(_text(answer.get("blocked_reason")) or "refused by the guardrail service")
    if action != "GUARDRAIL_INTERVENED":
        raise NoVerdict(f"the service answered with the action {str(action)[:50]!r}")
    texts = answer.get("texts")
    if not isinstance(texts, list) or len(texts) != len(content.texts) or not all(isinstance(t, str) for t in texts):
        raise NoVerdict(f"the service intervened without giving {len(content.texts)} texts")
    return Verdict.allow() if tuple(texts) == content.texts else Verdict.rewrite(texts)


def _simple_verdict(answer: dict[str, Any], content: Content) -> Verdict:
    action = answer.get("action")
    if action == "block":
        return Verdict.block(_text(answer.get("message")) or "refused by the guardrail service")
    if action != "allow":
        raise NoVerdict(f"the service answered with the action {str(action)[:50]!r}")
    modified = answer.get("modified_content")
    if modified is None or modified == content.texts[-1]:
        return Verdict.allow()
    if not isinstance(modified, str):
        raise NoVerdict("the service answered with a modified_content that is not text")
    return Verdict.rewrite((*content.texts[:-1], modified))


def _text(value: Any) -> str:
    return value[:2000] if isinstance(value, str) else ""
