"""Azure OpenAI: chat, legacy completions and embeddings, on the deployments API and on the newer v1 API.

Docs: https://learn.microsoft.com/azure/ai-foundry/openai/reference
"""

import re
from typing import Any
from urllib.parse import quote

import msgspec

from tianji import BadRequest, Call, Deployment, Failure, Headers, Op, OpenAICompatible, PluginSettings, Secret, Wire

_REASONING = re.compile(r"^(o\d|gpt-5)")  # models that refuse `max_tokens` and want `max_completion_tokens`
_V1 = frozenset({"v1", "latest", "preview"})  # not dates: names of the v1 API
_STREAM_OPTIONS_SINCE = "2024-09-01"  # api-versions before it answer 400 to `stream_options`


class Azure(OpenAICompatible):
    name = "azure"
    api_key_env = ("AZURE_API_KEY", "AZURE_OPENAI_API_KEY")
    api_base_env = ("AZURE_API_BASE",)
    auth = "header:api-key"
    ops = frozenset({Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS})

    class Settings(PluginSettings, frozen=True):
        api_version: str = "2024-10-21"
        """Version of the deployments API (a date); `v1` or `preview` choose the v1 API."""
        azure_ad_token: Secret | None = None
        """A Microsoft Entra access token, sent instead of the key."""

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        url, v1, version = self._where(call, deployment)
        body = self.request_body(call, deployment)
        if not v1:
            del body["model"]  # the path names it
            if version[:10] < _STREAM_OPTIONS_SINCE:
                body.pop("stream_options", None)
        return Wire(url, self.request_headers(deployment), body)

    def url(self, call: Call, deployment: Deployment) -> str:
        return self._where(call, deployment)[0]

    def _where(self, call: Call, deployment: Deployment) -> tuple[str, bool, str]:
        """The URL, whether it is the v1 API's, and the api-version.

        `api_base` may be the resource, one of its two APIs, a deployment, or the whole "target URI" as the portal
        shows it, api-version included.
        """
        settings: Azure.Settings = deployment.settings
        path = self.paths[call.op]
        base, _, query = self.base(deployment).partition("?")
        for other in self.paths.values():  # every op of a deployment finds its own way from one pasted URI
            base = base.removesuffix(other)
        base = base.rstrip("/")
        version = dict(part.partition("=")[::2] for part in query.split("&")).get("api-version", settings.api_version)
        if base.endswith("/openai/v1") or ("/deployments/" not in base and version in _V1):
            root = base.removesuffix("/openai/v1").removesuffix("/openai")
            return f"{root}/openai/v1{path}{'?api-version=preview' if version == 'preview' else ''}", True, version
        if "/openai/deployments/" not in base:
            base = f"{base.removesuffix('/openai')}/openai/deployments/{quote(deployment.model, safe='')}"
        return f"{base}{path}?api-version={version}", False, version

    def base(self, deployment: Deployment) -> str:
        if not deployment.api_base:
            raise BadRequest(
                f"Deployment '{deployment.id}' has no address: set `api_base` in its tianji_params "
                "(or AZURE_API_BASE) to the resource, such as https://my-resource.openai.azure.com.",
                param="model",
            )
        return super().base(deployment)

    def request_headers(self, deployment: Deployment) -> Headers:
        token: Secret | None = deployment.settings.azure_ad_token
        if token:
            deployment = msgspec.structs.replace(deployment, api_key=Secret(f"Bearer {token.reveal()}"))
        return super().request_headers(deployment)

    def credential(self, key: str) -> dict[str, str]:
        return {"authorization": key} if key.startswith("Bearer ") else super().credential(key)

    def request_body(self, call: Call, deployment: Deployment) -> dict[str, Any]:
        body = super().request_body(call, deployment)
        # A deployment may be called anything; `base_model` says what it runs.
        model = str(deployment.info.get("base_model") or deployment.model).removeprefix("azure/")
        if "max_tokens" in body and call.op == Op.CHAT and _REASONING.match(model):
            body.setdefault("max_completion_tokens", body.pop("max_tokens"))
        return body

    def failure(self, status: int, data: Any) -> Failure:
        """Azure's; a filtered prompt says in `innererror` which category it fell into, and so does the failure."""
        failure = super().failure(status, data)
        error = data.get("error") if isinstance(data, dict) else None
        inner = error.get("innererror") if isinstance(error, dict) else None
        if isinstance(inner, dict):
            failure.extra["innererror"] = inner
        return failure
