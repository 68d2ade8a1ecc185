"""Chat messages as Converse's: system prompts lifted, tool messages folded into user turns, parts into blocks.

Docs: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Message.html
"""

from collections.abc import Iterable
from typing import Any

from tianji import BadRequest, decode_json

from .media import Files, audio
from .models import Model
from .names import safe_id, safe_name
from .shapes import Body, Drop, dicts, need_object, need_text

Blocks = list[Body]

OWN_BLOCKS = frozenset({
    "text", "image", "document", "video", "audio", "guardContent", "cachePoint", "searchResult", "citationsContent",
    "reasoningContent", "toolUse", "toolResult", "toolAddition", "toolRemoval",
})  # fmt: skip
"""Bedrock's own blocks, which a client may send in a message's content: objects with one of these and no `type`."""


class Conversation:
    """What `read` makes of chat's messages: `system` blocks and alternating `messages`.

    `tools` are the names that earlier turns called: Bedrock wants each of them declared.
    """

    def __init__(self, model: Model, drop: Drop) -> None:
        self.model = model
        self.drop = drop
        self.system: Blocks = []
        self.messages: list[Body] = []
        self.tools: dict[str, None] = {}
        self._files = Files()
        self._function_id = ""

    def read(self, messages: Iterable[Any]) -> None:
        for index, message in enumerate(messages):
            path = f"messages[{index}]"
            role = message.get("role")
            if message.get("name") and role != "function":
                self.drop("messages.name")
            if role in ("system", "developer"):
                self._system(message, path)
            elif role == "assistant":
                self._add("assistant", self._assistant(message, path))
            elif role in ("tool", "function"):
                self._add("user", self._result(message, path))
            else:
                self._add("user", self._content(message, path))
        self._finish()

    def point(self, holder: Any) -> Blocks:
        """The cache point for a `cache_control` marker; none where there is no marker, or the model has no cache."""
        control = holder.get("cache_control") if isinstance(holder, dict) else None
        if not isinstance(control, dict):
            return []
        if not self.model.caches:
            self.drop("cache_control")
            return []
        point = {"type": "default"}
        if control.get("ttl") in ("5m", "1h") and self.model.family != "nova":  # Nova has one lifetime
            point["ttl"] = control["ttl"]
        return [{"cachePoint": point}]

    # -- turns ---------------------------------------------------------------------------------------------------------

    def _system(self, message: Body, path: str) -> None:
        blocks = [
            block
            for block in self._content(message, path)
            if not block.keys().isdisjoint(("text", "guardContent", "cachePoint"))
        ]
        if not self.messages:
            self.system += blocks
            return
        # Later instructions keep their place in the conversation; at the top they would speak before their time.
        self._add("user", [{"text": f"<system>\n{b['text']}\n</system>"} if "text" in b else b for b in blocks])

    def _add(self, role: str, blocks: Blocks) -> None:
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})

    def _finish(self) -> None:
        """Bedrock's rules: the user begins, documents come with text, a prefill does not end in white space."""
        if not self.messages and self.system:
            self.system, blocks = [], self.system
            self._add("user", blocks)
        if self.messages and self.messages[0]["role"] == "assistant":
            self.messages.insert(0, {"role": "user", "content": [{"text": "(begin)"}]})
        for message in self.messages:
            kinds = {kind for block in message["content"] for kind in block}
            if "document" in kinds and not kinds & {"text", "guardContent"}:
                message["content"].insert(0, {"text": "Attached:"})
        if self.messages and self.messages[-1]["role"] == "assistant":
            block = self.messages[-1]["content"][-1]
            if "text" in block:
                block["text"] = block["text"].rstrip()

    def _assistant(self, message: Body, path: str) -> Blocks:
        blocks = [made for block in dicts(message.get("thinking_blocks")) if (made := _thinking(block)) is not None]
        blocks += self._content(message, path)
        if isinstance(refusal := message.get("refusal"), str) and refusal.strip() and not message.get("content"):
            blocks.append({"text": refusal})
        calls = list(message.get("tool_calls") or ())
        if isinstance(legacy := message.get("function_call"), dict):
            self._function_id = f"call_{len(self.messages)}"
            calls.append({"id": self._function_id, "function": legacy})
        for index, call in enumerate(calls):
            where = f"{path}.tool_calls[{index}]"
            function = need_object(call, where).get("function") or call.get("custom")
            function = need_object(function, f"{where}.function")
            name = safe_name(need_text(function.get("name"), f"{where}.function.name"))
            self.tools[name] = None
            given = function.get("arguments", function.get("input"))
            blocks.append({"toolUse": {"toolUseId": safe_id(call.get("id")), "name": name, "input": _input(given)}})
            blocks += self.point(call)
        return blocks

    def _result(self, message: Body, path: str) -> Blocks:
        content = message.get("content")
        if isinstance(content, str):
            blocks: Blocks = [{"text": content}]  # an empty one is accepted here, and only here
        else:
            blocks = [block for block in self._parts(content, path) if "cachePoint" not in block]
        result: Body = {
            "toolUseId": safe_id(message.get("tool_call_id") or self._function_id),
            "content": blocks or [{"text": ""}],
        }
        failed = message.get("is_error") is True or message.get("status") == "error"
        if failed and self.model.family in ("claude", "nova", "unknown"):
            result["status"] = "error"  # the other families refuse the field
        marked = (holder for holder in (message, *dicts(content)) if holder.get("cache_control"))
        return [{"toolResult": result}, *self.point(next(marked, None))]

    # -- content -------------------------------------------------------------------------------------------------------

    def _content(self, message: Body, path: str) -> Blocks:
        blocks = self._parts(message.get("content"), path)
        return [*blocks, *self.point(message)] if blocks else []

    def _parts(self, content: Any, path: str) -> Blocks:
        if isinstance(content, str):
            content = [content]
        blocks: Blocks = []
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, str):
                part = {"type": "text", "text": part}
            made = self._part(part, f"{path}.content[{index}]")
            if made is not None:
                blocks += [made, *self.point(part)]
        return blocks

    def _part(self, part: Body, path: str) -> Body | None:
        """One block; None for a text of nothing but white space, which Bedrock refuses."""
        kind = part.get("type")
        if kind in ("text", "input_text", "output_text", "refusal"):
            field = "refusal" if kind == "refusal" else "text"
            text = need_text(part.get(field), f"{path}.{field}")
            return {"text": text} if text.strip() else None
        if kind in ("image_url", "video_url"):
            box = part.get(kind)
            box = box if isinstance(box, dict) else {"url": box}
            return self._files.block(box.get("url"), box.get("format"), None, f"{path}.{kind}.url")
        if kind == "input_audio":
            box = need_object(part.get("input_audio"), f"{path}.input_audio")
            data = need_text(box.get("data"), f"{path}.input_audio.data")
            format = need_text(box.get("format", "wav"), f"{path}.input_audio.format")
            return audio(data, format, f"{path}.input_audio.format")
        if kind == "file":
            return self._file(need_object(part.get("file"), f"{path}.file"), part, f"{path}.file")
        if kind == "guarded_text":  # LiteLLM's word for the part of a prompt that a guardrail is to look at
            return {"guardContent": {"text": {"text": need_text(part.get("text"), f"{path}.text")}}}
        if kind is None and len(part) == 1 and not OWN_BLOCKS.isdisjoint(part):
            return dict(part)
        raise BadRequest(f"Bedrock cannot be sent a content part of type {kind!r}.", param=f"{path}.type")

    def _file(self, file: Body, part: Body, path: str) -> Body:
        if file.get("file_data") is not None:
            source, path = file["file_data"], f"{path}.file_data"
        else:
            source, path = file.get("file_id") or file.get("file_url"), f"{path}.file_id"
            if not isinstance(source, str) or not source.startswith(("s3://", "http", "data:")):
                raise BadRequest("Bedrock has no store of files: send file_data, or an s3:// location.", param=path)
        block = self._files.block(source, file.get("format"), file.get("filename"), path)
        if "document" in block and isinstance(citations := part.get("citations", file.get("citations")), dict):
            block["document"]["citations"] = citations
        return block


def _thinking(block: Body) -> Body | None:
    """Earlier thinking, where it can be proved to be the model's own; nobody accepts it unsigned."""
    if block.get("type") == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": block["data"]}} if block.get("data") else None
    if not block.get("signature") or not isinstance(block.get("thinking"), str):
        return None
    return {"reasoningContent": {"reasoningText": {"text": block["thinking"], "signature": block["signature"]}}}


def _input(arguments: Any) -> Body:
    """Arguments as an object. What a model wrote as broken JSON is shown to the next one as it was."""
    if isinstance(arguments, dict):
        return arguments
    if not isinstance(arguments, str) or not arguments.strip():
        return {}
    try:
        value = decode_json(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"raw_arguments": arguments}
