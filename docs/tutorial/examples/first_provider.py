"""Parrot: repeats what it is told.

Docs: https://parrot.example/api
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


# -- class
class Parrot(HTTPProvider):
    name = "parrot"
    base_url = "http://127.0.0.1:4100"
    api_key_env = ("PARROT_API_KEY",)
    api_base_env = ("PARROT_API_BASE",)
    auth = "header:x-parrot-key"
    ops = frozenset({Op.CHAT})

    class Settings(PluginSettings, frozen=True):
        mood: str = "calm"
        """How the parrot shall feel while it speaks."""

    # -- encode
    def encode(self, call: Call, deployment: Deployment) -> Wire:
        asked = {**deployment.defaults, **call.body}
        for field in sorted(deployment.drop & asked.keys()):
            del asked[field]
            call.drop(field)
        settings: Parrot.Settings = deployment.settings
        body: dict[str, Any] = {
            "voice": deployment.model,
            "mood": settings.mood,
            "lines": [{"who": one["role"], "words": text(one)} for one in asked.pop("messages", [])],
            "live": call.stream,
        }
        call.drop(*sorted(asked.keys() - {"model", "stream", "stream_options"}))
        body.update(deployment.extra_body)
        return Wire(f"{self.base(deployment)}/v1/say", self.request_headers(deployment), body)

    # -- decode
    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        answer = must_be_object(data)
        if not isinstance(answer.get("words"), str):
            raise ProtocolError("The parrot said nothing.")
        return completion(
            id=f"chatcmpl-{call.id}",
            model="parrot",
            message={"content": answer["words"]},
            finish_reason="stop",
            usage=counted(answer),
        )

    # -- decoder
    def decoder(self, call: Call) -> Decoder:
        chunks: list[dict[str, Any]] = []
        while True:
            event = yield chunks
            chunks = []
            data = event.data if isinstance(event.data, dict) else {}
            if event.name == "words" and isinstance(data.get("words"), str):
                chunks = [chunk({"content": data["words"]})]
            elif event.name == "done":
                chunks = [chunk({}, "stop", usage=counted(data))]


# -- helpers
def text(message: dict[str, Any]) -> str:
    """A message's words; OpenAI's clients may send a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content or ""


def counted(answer: dict[str, Any]) -> Usage | None:
    counts = answer.get("counted")
    if not isinstance(counts, dict):
        return None
    heard, said = counts.get("heard"), counts.get("said")
    return Usage(heard if type(heard) is int else 0, said if type(said) is int else 0)
