"""DeepSeek: OpenAI-compatible chat with visible reasoning.

Docs: https://api-docs.deepseek.com/api/create-chat-completion
"""

from typing import Any

from tianji import Call, Deployment, Op, OpenAICompatible


class DeepSeek(OpenAICompatible):
    name = "deepseek"
    base_url = "https://api.deepseek.com"
    api_key_env = ("DEEPSEEK_API_KEY",)
    api_base_env = ("DEEPSEEK_API_BASE",)
    ops = frozenset({Op.CHAT})
    rename = {"max_completion_tokens": "max_tokens"}
    prefill = True

    def prefills(self, call: Call, deployment: Deployment) -> bool:
        """A beta feature with an address of its own, of models that do not think
        (https://api-docs.deepseek.com/guides/chat_prefix_completion)."""
        asked = {**deployment.defaults, **call.body, **deployment.extra_body}
        thinking = asked.get("thinking")
        thinks = type(thinking) is dict and thinking.get("type") != "disabled"
        still = not thinks and asked.get("reasoning_effort") in (None, "none") and "reasoner" not in deployment.model
        return self.base(deployment).endswith("/beta") and still

    def request_body(self, call: Call, deployment: Deployment) -> dict[str, Any]:
        body = super().request_body(call, deployment)
        if isinstance(messages := body.get("messages"), list):
            body["messages"] = [_message(one) if isinstance(one, dict) else one for one in messages]
        if (effort := body.get("reasoning_effort")) is not None:
            # Whether a model thinks is a field of its own; "none" is not among the efforts.
            body.setdefault("thinking", {"type": "disabled" if effort == "none" else "enabled"})
            if effort == "none":
                del body["reasoning_effort"]
        return body


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """The message as DeepSeek takes it: no developer role, and texts as one string.

    Content with anything but text stays a list, so that DeepSeek refuses it instead of answering to half a question.
    """
    changed: dict[str, Any] = {}
    if message.get("role") == "developer":
        changed["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        texts = [_text(part) for part in content]
        if None not in texts:
            changed["content"] = "".join(text for text in texts if text)
    return {**message, **changed} if changed else message


def _text(part: Any) -> str | None:
    if isinstance(part, dict):
        part = part.get("text") if part.get("type") == "text" else None
    return part if isinstance(part, str) else None
