"""OpenAI: chat, legacy completions and embeddings.

Docs: https://platform.openai.com/docs/api-reference
"""

import re
from typing import Any

from tianji import Call, Deployment, Op, OpenAICompatible, PluginSettings

_REASONING = re.compile(r"^(o\d|gpt-5)")  # models that refuse `max_tokens` and want `max_completion_tokens`


class OpenAI(OpenAICompatible):
    name = "openai"
    base_url = "https://api.openai.com/v1"
    api_key_env = ("OPENAI_API_KEY",)
    api_base_env = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
    ops = frozenset({Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS})

    class Settings(PluginSettings, frozen=True):
        organization: str | None = None
        """Sent as `OpenAI-Organization`."""
        project: str | None = None
        """Sent as `OpenAI-Project`."""

    def own_headers(self, deployment: Deployment) -> dict[str, str]:
        settings: OpenAI.Settings = deployment.settings
        named = {"openai-organization": settings.organization, "openai-project": settings.project}
        return {name: value for name, value in named.items() if value}

    def request_body(self, call: Call, deployment: Deployment) -> dict[str, Any]:
        body = super().request_body(call, deployment)
        if "max_tokens" in body and call.op == Op.CHAT and _REASONING.match(deployment.model):
            body.setdefault("max_completion_tokens", body.pop("max_tokens"))
        return body
