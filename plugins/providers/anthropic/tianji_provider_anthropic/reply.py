"""Anthropic's Messages as chat completions, whole and streamed.

https://platform.claude.com/docs/en/api/messages, .../build-with-claude/streaming

What chat has no word for is kept beside the message: `thinking_blocks` (with signatures, to be sent back), `citations`
(as Anthropic gave them; those of web pages also as OpenAI's `annotations`), and `provider_content`, the blocks of
tools that ran at Anthropic (their calls and results).
"""

from __future__ import annotations

from typing import Any

from tianji import Decoder, ProtocolError, chunk, completion, decode_json, encode_json
from tianji.dialects.anthropic import FINISH_OF_STOP, failure_of, merge_usage, usage_from_anthropic
from tianji.dialects.anthropic.wire import as_dict, as_dicts, as_str

_THINKING = ("thinking", "redacted_thinking")


def to_chat(body: dict[str, Any]) -> dict[str, Any]:
    """A Message as a chat completion. One without `content` is none."""
    if type(body.get("content")) is not list:
        raise ProtocolError("The answer is not a Message: it has no content.")
    text, tools, thinking, citations, annotations, rest = "", [], [], [], [], []
    for block in as_dicts(body.get("content")):
        kind = block.get("type")
        if kind == "text":
            start, text = len(text), text + as_str(block.get("text"))
            for citation in as_dicts(block.get("citations")):
                citations.append(citation)
                annotations += _annotation(citation, start, len(text))
        elif kind == "tool_use":
            tools.append(_tool_call(block))
        elif kind in _THINKING:
            thinking.append(block)
        else:
            rest.append(block)
    message: dict[str, Any] = {"content": text or (None if tools or thinking else "")}
    if thinking:
        message["reasoning_content"] = "".join(as_str(block.get("thinking")) for block in thinking)
        message["thinking_blocks"] = thinking
    if tools:
        message["tool_calls"] = tools
    extras = {"citations": citations, "annotations": annotations, "provider_content": rest}
    message.update({name: found for name, found in extras.items() if found})
    if body.get("stop_reason") == "refusal":
        message["refusal"] = _refusal(body)
    made = completion(
        id=as_str(body.get("id")),
        model=as_str(body.get("model")),
        message=message,
        finish_reason=FINISH_OF_STOP.get(as_str(body.get("stop_reason")), "stop"),
        usage=usage_from_anthropic(body.get("usage")),
    )
    if type(body.get("stop_sequence")) is str:
        made["choices"][0]["stop_sequence"] = body["stop_sequence"]
    if body.get("container"):
        made["container"] = body["container"]
    return made


def _tool_call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = encode_json(block.get("input") or {}).decode()
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }


def _annotation(citation: dict[str, Any], start: int, end: int) -> list[dict[str, Any]]:
    if citation.get("type") != "web_search_result_location":
        return []
    found = {"url": citation.get("url"), "title": citation.get("title"), "start_index": start, "end_index": end}
    return [{"type": "url_citation", "url_citation": found}]


def _refusal(holder: dict[str, Any]) -> str:
    details = holder.get("stop_details")
    said = details.get("explanation") if type(details) is dict else None
    return said if type(said) is str and said else "The model declined to answer."


# -- streams -----------------------------------------------------------------------------------------------------------


def stream_to_chat(provider: str) -> Decoder:
    """Anthropic's events in, chat chunks out."""
    state = _Stream(provider)
    chunks: list[dict[str, Any]] = []
    while True:
        event = yield chunks
        data = event.data
        if event.name == "error" or (type(data) is dict and data.get("type") == "error"):
            raise failure_of(data, provider=provider)
        chunks = state.take(data) if type(data) is dict else []


class _Stream:
    """One stream: the open blocks by Anthropic's index, and what the chunks have in common."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.id = ""
        self.model = ""
        self.usage: dict[str, Any] = {}
        self.blocks: dict[int, dict[str, Any]] = {}
        self.pieces: dict[int, list[str]] = {}
        """The streamed input, or thinking, of a block."""
        self.tools: dict[int, int] = {}
        """Anthropic's index to the position among the tool calls."""
        self.length = 0
        self.starts: dict[int, int] = {}
        self.whole: dict[str, Any] | None = None
        """A message that was finished when it began, until its end was told."""

    def take(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        kind, index = event.get("type"), event.get("index")
        if kind == "content_block_delta" and type(index) is int:
            return self._delta(index, as_dict(event.get("delta")))
        if kind == "content_block_start" and type(index) is int:
            return self._start(index, as_dict(event.get("content_block")))
        if kind == "content_block_stop" and type(index) is int:
            return self._stop(index)
        if kind == "message_start":
            return self._open(as_dict(event.get("message")))
        if kind == "message_delta":
            return self._close(event)
        if kind == "message_stop" and self.whole is not None:
            return self._close({"delta": self.whole})
        return []  # ping, and what is yet to be invented

    def _chunk(self, delta: dict[str, Any]) -> list[dict[str, Any]]:
        return [chunk(delta, id=self.id, model=self.model)]

    def _open(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        self.id = as_str(message.get("id"))
        self.model = as_str(message.get("model"))
        self.usage = merge_usage({}, message.get("usage"))
        # Even a stream that breaks off has then told what its prompt cost.
        usage = usage_from_anthropic(self.usage)
        chunks = [chunk({"role": "assistant", "content": ""}, id=self.id, model=self.model, usage=usage)]
        # Between the calls of a program (code execution that calls tools) the message comes whole, without deltas.
        for index, block in enumerate(as_dicts(message.get("content"))):
            chunks += self._start(index, block) + self._stop(index)
        self.whole = message if message.get("stop_reason") else None
        return chunks

    def _start(self, index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
        self.blocks[index] = block
        self.pieces[index] = []
        self.starts[index] = self.length
        kind = block.get("type")
        if kind == "tool_use":
            position = self.tools[index] = len(self.tools)
            function = {"name": block.get("name"), "arguments": ""}
            call = {"index": position, "id": block.get("id"), "type": "function", "function": function}
            return self._chunk({"tool_calls": [call]})
        if kind == "text" and (text := as_str(block.get("text"))):
            return self._text(text)
        if kind == "thinking" and (text := as_str(block.get("thinking"))):
            self.pieces[index].append(text)
            return self._chunk({"reasoning_content": text})
        return []

    def _text(self, text: str) -> list[dict[str, Any]]:
        self.length += len(text)
        return self._chunk({"content": text})

    def _delta(self, index: int, delta: dict[str, Any]) -> list[dict[str, Any]]:
        kind = delta.get("type")
        if kind == "text_delta":
            text = as_str(delta.get("text"))
            return self._text(text) if text else []
        if kind == "input_json_delta":
            piece = as_str(delta.get("partial_json"))
            if not piece:
                return []
            self.pieces.setdefault(index, []).append(piece)
            if index not in self.tools:
                return []  # a tool that runs at Anthropic; told whole when its block ends
            return self._chunk({"tool_calls": [{"index": self.tools[index], "function": {"arguments": piece}}]})
        if kind == "thinking_delta" and (text := as_str(delta.get("thinking"))):
            self.pieces.setdefault(index, []).append(text)
            return self._chunk({"reasoning_content": text})
        if kind == "signature_delta":
            self.blocks[index] = {**self.blocks.get(index, {}), "signature": delta.get("signature")}
        elif kind == "citations_delta" and type(citation := delta.get("citation")) is dict:
            found: dict[str, Any] = {"citations": [citation]}
            if annotation := _annotation(citation, self.starts.get(index, 0), self.length):
                found["annotations"] = annotation
            return self._chunk(found)
        return []

    def _stop(self, index: int) -> list[dict[str, Any]]:
        """A block is over: what can only be told whole."""
        block, pieces = self.blocks.pop(index, {}), self.pieces.pop(index, [])
        kind = block.get("type")
        if kind == "thinking":
            # The text was streamed as reasoning; this is the whole block, signed, for the client to send back.
            return self._chunk({"thinking_blocks": [{**block, "thinking": "".join(pieces)}]})
        if kind == "redacted_thinking":
            return self._chunk({"thinking_blocks": [block]})
        if kind == "tool_use":
            if pieces:
                return []
            arguments = encode_json(block.get("input") or {}).decode()
            return self._chunk({"tool_calls": [{"index": self.tools[index], "function": {"arguments": arguments}}]})
        if kind in (None, "text"):
            return []
        return self._chunk({"provider_content": [_with_input(block, "".join(pieces))]})

    def _close(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        self.whole = None
        self.usage = merge_usage(self.usage, event.get("usage"))
        usage = usage_from_anthropic(self.usage)
        told = as_dict(event.get("delta"))
        reason = as_str(told.get("stop_reason"))
        delta: dict[str, Any] = {"refusal": _refusal(told)} if reason == "refusal" else {}
        extra = {"stop_sequence": told["stop_sequence"]} if type(told.get("stop_sequence")) is str else {}
        finish = FINISH_OF_STOP.get(reason, "stop") if reason else None
        made = chunk(delta, finish, id=self.id, model=self.model, usage=usage, **extra)
        if told.get("container"):
            made["container"] = told["container"]
        return [made]


def _with_input(block: dict[str, Any], written: str) -> dict[str, Any]:
    """A server tool's call with the input that was streamed after its start."""
    if not written:
        return block
    try:
        return {**block, "input": decode_json(written)}
    except ValueError:
        return {**block, "input": {"raw_arguments": written}}
