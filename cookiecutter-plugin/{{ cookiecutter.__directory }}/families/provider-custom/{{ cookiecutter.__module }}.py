"""{{ cookiecutter.__title }}: {{ cookiecutter.description.rstrip('.') }}.

Docs: https://docs.{{ cookiecutter.__folder }}.example/api
"""

from typing import Any

from tianji import (
    Call,
    Decoder,
    Deployment,
    HTTPProvider,
    Op,
    PluginSettings,
    ProtocolError,
    Usage,
    Wire,
    chunk,
    completion,
    must_be_object,
)

FINISH = {"done": "stop", "limit": "length"}


class {{ cookiecutter.__class }}(HTTPProvider):
    name = "{{ cookiecutter.name }}"
    base_url = "https://api.{{ cookiecutter.__folder }}.example"
    api_key_env = ("{{ cookiecutter.__variable }}_API_KEY",)
    api_base_env = ("{{ cookiecutter.__variable }}_API_BASE",)
    auth = "header:x-api-key"
    ops = frozenset({Op.CHAT})
    native = frozenset()  # no client speaks this wire format: every call comes as OpenAI chat and is translated

    class Settings(PluginSettings, frozen=True):
        default_limit: int = 1024
        """Tokens to answer with where the client sets no limit, which the API requires."""

    # Pure functions: no I/O, no clock, no randomness, no environment. The kernel owns sockets, framing and retries.

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        asked = {**deployment.defaults, **call.body}
        for field in sorted(deployment.drop & asked.keys()):
            del asked[field]
            call.drop(field)
        settings: {{ cookiecutter.__class }}.Settings = deployment.settings
        limit = asked.pop("max_completion_tokens", None) or asked.pop("max_tokens", None)
        body: dict[str, Any] = {
            "model": deployment.model,
            "turns": [_turn(message) for message in asked.pop("messages", [])],
            "stream": call.stream,
            "limit": limit or settings.default_limit,
        }
        if "temperature" in asked:
            body["temperature"] = asked.pop("temperature")
        call.drop(*(asked.keys() - {"model", "stream", "stream_options", "max_tokens"}))
        body.update(deployment.extra_body)
        return Wire(f"{self.base(deployment)}/generate", self.request_headers(deployment), body)

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        answer = must_be_object(data)
        text = answer.get("text")
        if not isinstance(text, str):
            raise ProtocolError("The provider's answer has no text.")
        return completion(
            id=f"chatcmpl-{call.id}",
            model=str(answer.get("model", "")),
            message={"content": text},
            finish_reason=_reason(answer.get("reason")),
            usage=_usage(answer.get("usage")),
        )

    def decoder(self, call: Call) -> Decoder:
        chunks: list[dict[str, Any]] = []
        while True:
            event = yield chunks
            chunks = []
            data = event.data if isinstance(event.data, dict) else {}
            if event.name == "text" and isinstance(data.get("text"), str):
                chunks = [chunk({"content": data["text"]})]
            elif event.name == "done":
                chunks = [chunk({}, _reason(data.get("reason")), usage=_usage(data.get("usage")))]
            elif event.name == "error":
                raise self.failure(500, data)


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return {"speaker": message.get("role", "user"), "text": content or ""}


def _reason(reason: Any) -> str:
    return FINISH.get(reason, "stop") if isinstance(reason, str) else "stop"


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    said, answered = usage.get("input_tokens"), usage.get("output_tokens")
    return Usage(said if type(said) is int else 0, answered if type(answered) is int else 0)
