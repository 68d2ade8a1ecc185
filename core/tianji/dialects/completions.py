"""`openai-completions`: legacy text completions (https://platform.openai.com/docs/api-reference/completions)."""

from __future__ import annotations

from typing import Any

from tianji.dialects.base import ChatStream, Dialect, Lane, Monitor, objects, optional, position, type_name
from tianji.dialects.chat_stream import ChatMonitor
from tianji.dialects.usage import from_openai
from tianji.errors import BadRequest
from tianji.model import Call, Op, Usage

_ONLY_HERE = ("best_of", "echo", "suffix", "logprobs")
"""Fields that have no counterpart in chat."""


class OpenAICompletions(Dialect):
    name = "openai-completions"
    op = Op.COMPLETIONS
    peeks = True

    def check(self, body: dict[str, Any]) -> None:
        prompt = body.get("prompt")
        if prompt is None:
            raise BadRequest("Missing required parameter: 'prompt'.", param="prompt", code="missing_required_parameter")
        if not isinstance(prompt, (str, list)):
            raise BadRequest(
                f"Invalid type for 'prompt': expected a string or an array, got {type_name(prompt)}.",
                param="prompt",
                code="invalid_type",
            )
        optional(body, "max_tokens", int, "an integer")
        optional(body, "temperature", (int, float), "a number")
        optional(body, "stream_options", dict, "an object")

    def usage(self, body: dict[str, Any]) -> Usage | None:
        return from_openai(body.get("usage"))

    def monitor(self, call: Call) -> Monitor:
        return ChatMonitor(call, kind="text_completion")

    def to_chat(self, call: Call) -> dict[str, Any]:
        prompt = call.body["prompt"]
        if isinstance(prompt, list):
            if len(prompt) != 1 or not isinstance(prompt[0], str):
                raise BadRequest("This model takes one text prompt, not several and no token arrays.", param="prompt")
            prompt = prompt[0]
        call.drop(*(field for field in _ONLY_HERE if call.body.get(field)))
        body = {key: value for key, value in call.body.items() if key != "prompt" and key not in _ONLY_HERE}
        body["messages"] = [{"role": "user", "content": prompt}]
        return body

    def from_chat(self, call: Call, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "object": "text_completion", "choices": [_choice(one, "message") for one in body["choices"]]}

    def stream_from_chat(self, call: Call) -> ChatStream:
        events: list[dict[str, Any]] = []
        while True:
            chunk = yield events
            events = []
            if chunk is None:
                continue
            choices = [_choice(one, "delta") for one in chunk["choices"]]
            if all(not one["text"] and not one["finish_reason"] for one in choices) and choices:
                continue
            events = [{**chunk, "object": "text_completion", "choices": choices}]

    def texts(self, body: dict[str, Any]) -> list[tuple[Any, Any]]:
        prompt = body.get("prompt")
        slots: list[tuple[Any, Any]] = []
        if isinstance(prompt, str):
            slots = [(body, "prompt")]
        elif isinstance(prompt, list):
            slots = [(prompt, index) for index, one in enumerate(prompt) if isinstance(one, str)]
        if isinstance(body.get("suffix"), str):
            slots.append((body, "suffix"))
        return slots

    def unreadable(self, body: dict[str, Any]) -> str | None:
        value = body.get("prompt")
        return "prompt" if isinstance(value, list) and not all(isinstance(one, str) for one in value) else None

    def reply_lanes(self, body: dict[str, Any]) -> list[Lane]:
        return [
            ((position(one.get("index"), at), key), one, key)
            for at, one in enumerate(objects(body.get("choices")))
            for key in ("text", "reasoning_content", "reasoning")
            if isinstance(one.get(key), str) and one[key]
        ]


def _choice(choice: dict[str, Any], field: str) -> dict[str, Any]:
    return {
        "index": choice.get("index", 0),
        "text": (choice.get(field) or {}).get("content") or "",
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }
