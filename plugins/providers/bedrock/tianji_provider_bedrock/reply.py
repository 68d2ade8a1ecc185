"""A whole `Converse` answer as a chat completion.

Docs: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_ResponseSyntax

What chat has no word for is kept beside the message: `thinking_blocks` (signed, to be sent back), `citations` as
Bedrock gave them, `provider_content` (calls and results of tools that ran there), and `provider_specific_fields`.
"""

from typing import Any

from tianji import Call, ProtocolError, completion, encode_json, must_be_object

from .content import KEPT, PLAIN, annotations, finish_reason, image, read_usage, thinking
from .names import originals
from .shapes import Body, an_object, dicts, text


def to_chat(call: Call, data: Any) -> Body:
    """The answer. One without a message is none."""
    body = must_be_object(data)
    content = an_object(an_object(body.get("output")).get("message")).get("content")
    if not isinstance(content, list):
        raise ProtocolError(text(body.get("message"))[:1000] or "Bedrock's answer has no message.")
    reader = _Reader(originals(call.body))
    for block in dicts(content):
        reader.read(block)
    fields = {field: body[field] for field in KEPT if body.get(field)}
    if (reason := body.get("stopReason")) not in PLAIN:
        fields["stopReason"] = reason
    message = reader.message()
    if fields:
        message["provider_specific_fields"] = fields
    finish = finish_reason(reason, calls=len(reader.calls), said=bool(reader.text or reader.images))
    routed = an_object(an_object(body.get("trace")).get("promptRouter")).get("invokedModelId")
    return completion(
        id=f"chatcmpl-{call.id}",
        model=text(routed) or call.model,
        message=message,
        finish_reason=finish,
        usage=read_usage(body.get("usage"), body.get("additionalModelResponseFields")),
    )


class _Reader:
    """The content of one message, block after block."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.text = ""
        self.reasoning = ""
        self.thinking: list[Body] = []
        self.calls: list[Body] = []
        self.citations: list[Body] = []
        self.annotations: list[Body] = []
        self.images: list[Body] = []
        self.rest: list[Body] = []
        self._start = 0

    def read(self, block: Body) -> None:
        if isinstance(said := block.get("text"), str):
            self._say(said)
        elif isinstance(call := block.get("toolUse"), dict):
            if call.get("type") == "server_tool_use":
                self.rest.append(block)
            else:
                self.calls.append(self._call(call))
        elif isinstance(thought := block.get("reasoningContent"), dict):
            self._think(thought)
        elif isinstance(cited := block.get("citationsContent"), dict):
            self._cite(cited)
        elif isinstance(drawn := block.get("image"), dict) and text(an_object(drawn.get("source")).get("bytes")):
            self.images.append(image(drawn.get("format"), drawn["source"]["bytes"], len(self.images)))
        else:
            self.rest.append(block)

    def _say(self, said: str) -> None:
        self._start = len(self.text)
        self.text += said

    def _call(self, call: Body) -> Body:
        name = text(call.get("name"))
        arguments = encode_json(call.get("input") or {}).decode()
        function = {"name": self.names.get(name, name), "arguments": arguments}
        return {"id": text(call.get("toolUseId")), "type": "function", "function": function}

    def _think(self, thought: Body) -> None:
        spoken = an_object(thought.get("reasoningText"))
        said = text(spoken.get("text"))
        self.reasoning += said
        block = thinking(said, text(spoken.get("signature")), text(thought.get("redactedContent")))
        if block is not None:
            self.thinking.append(block)

    def _cite(self, cited: Body) -> None:
        # Nova's citations have no text of their own: they are about the text before them.
        if said := "".join(text(part.get("text")) for part in dicts(cited.get("content"))):
            self._say(said)
        found = dicts(cited.get("citations"))
        self.citations += found
        self.annotations += annotations(found, self._start, len(self.text))

    def message(self) -> Body:
        silent = self.calls or self.thinking or self.reasoning or self.images
        message: Body = {"content": self.text or (None if silent else "")}
        members = {
            "reasoning_content": self.reasoning,
            "thinking_blocks": self.thinking,
            "tool_calls": self.calls,
            "images": self.images,
            "citations": self.citations,
            "annotations": self.annotations,
            "provider_content": self.rest,
        }
        message.update({name: found for name, found in members.items() if found})
        return message
