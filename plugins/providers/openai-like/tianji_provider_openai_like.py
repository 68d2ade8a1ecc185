"""OpenAI-like: any server that speaks OpenAI's API, at the address that the deployment gives.

Docs: https://platform.openai.com/docs/api-reference/chat
"""

from typing import Any

from tianji import BadRequest, Call, Deployment, Op, OpenAICompatible, PluginSettings


class OpenAILike(OpenAICompatible):
    name = "openai_like"
    api_key_env = ("OPENAI_LIKE_API_KEY",)
    api_base_env = ("OPENAI_LIKE_API_BASE",)
    needs_key = False
    ops = frozenset({Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS})

    class Settings(PluginSettings, frozen=True):
        stream_usage: bool = True
        """Ask for the usage of streams with `stream_options`. Off for a server that refuses the field."""

    def base(self, deployment: Deployment) -> str:
        if not deployment.api_base:
            raise BadRequest(
                f"Deployment '{deployment.id}' has no address: set `api_base` in its tianji_params "
                f"(or {self.api_base_env[0]}) to the server's base URL, such as http://127.0.0.1:8000/v1.",
                param="model",
            )
        return super().base(deployment)

    def request_body(self, call: Call, deployment: Deployment) -> dict[str, Any]:
        body = super().request_body(call, deployment)
        if not deployment.settings.stream_usage:
            body.pop("stream_options", None)
        return body
