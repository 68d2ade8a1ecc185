"""Chat messages as Anthropic's: system prompts lifted, tool messages folded into user turns, parts into blocks.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable
from typing import Any

from tianji import BadRequest, Call, decode_json
from tianji.dialects.anthropic.wire import as_dict, as_dicts

Blocks = list[dict[str, Any]]

_DATA_URL = re.compile(r"data:([\w.+/-]*)[^,]*?;base64,", re.ASCII)
_OWN_BLOCKS = frozenset({"image", "document", "search_result", "container_upload"})
_BAD_ID = re.compile(r"[^a-zA-Z0-9_-]")
_FILES_BETA = "files-api-2025-04-14"


class Conversation:
    """What `read` makes of chat's messages: `system` blocks, alternating `messages`, and the `betas` they need."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.system: Blocks = []
        self.messages: list[dict[str, Any]] = []
        self.betas: list[str] = []
        self._function_id = ""

    def read(self, messages: Iterable[Any]) -> None:
        for message in messages:
            if type(message) is not dict:
                raise BadRequest("A message must be an object.", param="messages")
            role = message.get("role")
            if role in ("system", "developer"):
                self._system(message)
            elif role == "assistant":
                self._add("assistant", self._assistant(message))
            elif role in ("tool", "function"):
                self._add("user", [self._tool_result(message)])
            else:
                if message.get("name"):
                    self.call.drop("messages.name")
                self._add("user", self._content(message))
        self._finish()

    def _system(self, message: dict[str, Any]) -> None:
        blocks = [block for block in self._content(message) if block["type"] == "text"]
        if not self.messages:
            self.system += blocks
            return
        # Later instructions keep their place in the conversation; at the top they would speak before their time.
        for block in blocks:
            block["text"] = f"<system>\n{block['text']}\n</system>"
        self._add("user", blocks)

    def _add(self, role: str, blocks: Blocks) -> None:
        if not blocks:
            return
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})

    def _finish(self) -> None:
        """The API's rules: the user begins, tool results come first, a prefill does not end in white space."""
        if not self.messages and self.system:
            self._add("user", [self.system.pop()])
        if self.messages and self.messages[0]["role"] == "assistant":
            self.messages.insert(0, {"role": "user", "content": [{"type": "text", "text": "(begin)"}]})
        for message in self.messages:
            if message["role"] == "user":
                message["content"].sort(key=lambda block: block["type"] != "tool_result")
        if self.messages and self.messages[-1]["role"] == "assistant":
            block = self.messages[-1]["content"][-1]
            if block["type"] == "text":
                block["text"] = block["text"].rstrip()

    def _assistant(self, message: dict[str, Any]) -> Blocks:
        blocks = [block for block in as_dicts(message.get("thinking_blocks")) if _signed(block)]
        blocks += self._content(message)
        if type(refusal := message.get("refusal")) is str and refusal.strip() and not message.get("content"):
            blocks.append({"type": "text", "text": refusal})
        calls = as_dicts(message.get("tool_calls"))
        if type(legacy := message.get("function_call")) is dict:
            self._function_id = f"call_{len(self.messages)}"
            calls.append({"id": self._function_id, "function": legacy})
        for tool in calls:
            function = as_dict(tool.get("function") or tool.get("custom"))
            block = {
                "type": "tool_use",
                "id": _id(tool.get("id")),
                "name": function.get("name"),
                "input": _input(function.get("arguments", function.get("input"))),
            }
            blocks.append(_cached(block, tool))
        return blocks

    def _tool_result(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        block: dict[str, Any] = {
            "type": "tool_result",
            "tool_use_id": _id(message.get("tool_call_id") or self._function_id),
            "content": content if type(content) is str else self._parts(content),
        }
        if message.get("is_error") is True:
            block["is_error"] = True
        return _cached(block, message)

    def _content(self, message: dict[str, Any]) -> Blocks:
        """The blocks of a message; a marker on the message itself goes to the last of them."""
        blocks = self._parts(message.get("content"))
        if blocks:
            blocks[-1] = _cached(blocks[-1], message)
        return blocks

    def _parts(self, content: Any) -> Blocks:
        if type(content) is str:
            content = [{"type": "text", "text": content}]
        blocks = []
        for part in content if type(content) is list else ():
            if type(part) is str:
                part = {"type": "text", "text": part}
            made = self._part(part) if type(part) is dict else None
            if made is not None:
                blocks.append(_cached(made, part))
        return blocks

    def _part(self, part: dict[str, Any]) -> dict[str, Any] | None:
        kind = part.get("type")
        if type(kind) is not str:
            kind = "unknown"
        if kind in ("text", "refusal", "input_text", "output_text"):
            text = part.get("refusal") if kind == "refusal" else part.get("text")
            # Empty blocks, and those of white space, are refused.
            return {"type": "text", "text": text} if type(text) is str and text.strip() else None
        if kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if type(image) is dict else image
            return None if type(url) is not str else {"type": "image", "source": _source(url, "image/jpeg")}
        if kind == "file" and type(file := part.get("file")) is dict:
            return self._file(file)
        if kind in _OWN_BLOCKS:
            return dict(part)
        self.call.drop(f"messages.{kind}" if kind in ("input_audio", "video_url") else "messages.content")
        return None

    def _file(self, file: dict[str, Any]) -> dict[str, Any] | None:
        data, id, name = file.get("file_data"), file.get("file_id"), file.get("filename")
        if type(data) is not str and type(id) is str and id.startswith(("http://", "https://")):
            data = id  # LiteLLM's way to name a file by its URL
        if type(data) is str and data:
            source = _source(data, "application/pdf")
            if str(source.get("media_type")).startswith("image/"):
                return {"type": "image", "source": source}
            if str(source.get("media_type")).startswith("text/"):
                source = {"type": "text", "media_type": "text/plain", "data": _text(source["data"])}
        elif type(id) is str:
            source = {"type": "file", "file_id": id}
            if _FILES_BETA not in self.betas:
                self.betas.append(_FILES_BETA)
        else:
            self.call.drop("messages.file")
            return None
        block: dict[str, Any] = {"type": "document", "source": source}
        if type(name) is str and name:
            block["title"] = name
        return block


def content_without_unsigned(message: Any) -> Any:
    """A Messages-style message without thinking that nobody signed; itself where there is none."""
    content = message.get("content") if type(message) is dict else None
    if type(content) is not list:
        return message
    kept = [block for block in content if type(block) is not dict or block.get("type") != "thinking" or _signed(block)]
    return message if len(kept) in (0, len(content)) else {**message, "content": kept}


def _signed(block: Any) -> bool:
    if type(block) is not dict:
        return False
    return bool(block.get("data") if block.get("type") == "redacted_thinking" else block.get("signature"))


def _source(url: str, kind: str) -> dict[str, Any]:
    """A web address as a `url` source; a data URL, or bare base64 of the type `kind`, as a `base64` one."""
    if url.startswith(("http://", "https://")):
        return {"type": "url", "url": url}
    match = _DATA_URL.match(url)
    if match is not None:
        kind, url = match[1] or kind, url[match.end() :]
    return {"type": "base64", "media_type": "image/jpeg" if kind == "image/jpg" else kind, "data": url}


def _text(data: str) -> str:
    try:
        return b64decode(data).decode("utf-8", "replace")
    except ValueError:
        raise BadRequest("A file's data is not base64.", param="messages") from None


def _cached(block: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    if part.get("cache_control") and "cache_control" not in block:
        return {**block, "cache_control": part["cache_control"]}
    return block


def _id(id: Any) -> str:
    """A tool call's id in the alphabet that Anthropic accepts; other providers use more."""
    return _BAD_ID.sub("_", str(id or "call"))


def _input(arguments: Any) -> Any:
    """Arguments as an object. What a model wrote as broken JSON is shown to the next one as it was."""
    if type(arguments) is dict:
        return arguments
    if type(arguments) is not str or not arguments.strip():
        return {}
    try:
        value = decode_json(arguments)
    except ValueError:
        value = None
    return value if type(value) is dict else {"raw_arguments": arguments}
