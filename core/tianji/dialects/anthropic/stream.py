"""Anthropic's streams: made from chat chunks, and watched where they pass through.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from tianji.dialects.anthropic.reply import message_id, reasoning_of, stop_reason, text_of
from tianji.dialects.anthropic.wire import (
    as_dict,
    as_dicts,
    as_str,
    failure_of,
    merge_usage,
    usage_from_anthropic,
    usage_to_anthropic,
)
from tianji.dialects.base import ChatStream
from tianji.dialects.usage import from_openai
from tianji.errors import ProtocolError
from tianji.model import Call, Usage, decode_json, sse_payloads

Events = list[dict[str, Any]]


def stream_from_chat(call: Call) -> ChatStream:
    """Chat chunks in, Anthropic's events out; None ends the message."""
    writer = _Writer(call)
    events: Events = []
    while True:
        chunk = yield events
        if chunk is None:
            yield writer.close()
            return
        events = writer.push(chunk)


class _Block:
    """One content block: what to start it with, the deltas not yet sent, and whether it may still grow."""

    __slots__ = ("arguments", "done", "pending", "reasoned", "start", "started", "tool")

    def __init__(self, start: dict[str, Any], *, tool: int | None = None, done: bool = False) -> None:
        self.start = start
        self.tool = tool
        self.done = done
        self.started = False
        self.reasoned = False
        self.pending: Events = []
        self.arguments = ""

    def complete(self) -> bool:
        """Whether nothing can follow. A tool call is over when its arguments are a whole JSON value."""
        if self.tool is None:
            return True
        try:
            decode_json(self.arguments)
        except ValueError:
            return False
        return True


class _Writer:
    """Keeps the blocks in a row, as Anthropic's streams do.

    The first of the row is sent live. Chat may interleave the deltas of parallel tool calls, so a later block waits
    until those before it are complete.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.row: deque[_Block] = deque()
        self.tools: dict[int, _Block] = {}
        self.index = 0
        self.begun = False
        self.usage: Usage | None = None
        self.choice: dict[str, Any] = {}

    def push(self, chunk: dict[str, Any]) -> Events:
        events = self._begin(chunk)
        self.usage = from_openai(chunk.get("usage")) or self.usage
        for choice in as_dicts(chunk.get("choices")):
            if choice.get("index", 0) != 0:
                continue
            self._take(as_dict(choice.get("delta")))
            if choice.get("finish_reason"):
                self.choice = choice
        return events + self._flush()

    def close(self) -> Events:
        events = self._begin({})
        for block in self.row:
            block.done = True
        events += self._flush(last=True)
        reason, sequence = stop_reason(self.choice, tools=bool(self.tools))
        events.append(
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": sequence},
                "usage": usage_to_anthropic(self.usage),
            }
        )
        events.append({"type": "message_stop"})
        return events

    def _begin(self, chunk: dict[str, Any]) -> Events:
        if self.begun:
            return []
        self.begun = True
        message: dict[str, Any] = {
            "id": message_id(as_str(chunk.get("id")) or self.call.id),
            "type": "message",
            "role": "assistant",
            "model": self.call.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            # Chat tells the usage at the end; `message_delta` corrects these.
            "usage": usage_to_anthropic(from_openai(chunk.get("usage"))),
        }
        return [{"type": "message_start", "message": message}]

    def _take(self, delta: dict[str, Any]) -> None:
        if reasoning := reasoning_of(delta):
            block = self._tail("thinking")
            block.reasoned = True
            block.pending.append({"type": "thinking_delta", "thinking": reasoning})
        for item in as_dicts(delta.get("thinking_blocks")):
            self._thinking(item)
        if text := text_of(delta.get("content")) or text_of(delta.get("refusal")):
            self._tail("text").pending.append({"type": "text_delta", "text": text})
        for tool in as_dicts(delta.get("tool_calls")):
            self._tool(tool)
        if type(legacy := delta.get("function_call")) is dict:
            self._tool({"index": 0, "function": legacy})

    def _tail(self, kind: str) -> _Block:
        """The last block if it is of that kind and open, or a new one behind it."""
        if self.row and self.row[-1].start["type"] == kind and not self.row[-1].done:
            return self.row[-1]
        start = {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}
        self.row.append(_Block(start))
        return self.row[-1]

    def _thinking(self, item: dict[str, Any]) -> None:
        if item.get("type") == "redacted_thinking":
            self.row.append(_Block(item, done=True))
            return
        block = self._tail("thinking")
        if not block.reasoned and item.get("thinking"):
            block.pending.append({"type": "thinking_delta", "thinking": item["thinking"]})
        if item.get("signature"):
            block.pending.append({"type": "signature_delta", "signature": item["signature"]})
            block.done = True

    def _tool(self, tool: dict[str, Any]) -> None:
        function = as_dict(tool.get("function"))
        index = tool.get("index")
        if type(index) is not int:  # some servers send whole calls without an index
            index = len(self.tools) if tool.get("id") or not self.tools else len(self.tools) - 1
        block = self.tools.get(index)
        if block is None:
            id = as_str(tool.get("id")) or f"toolu_{self.call.id}_{index}"
            start: dict[str, Any] = {"type": "tool_use", "id": id, "name": as_str(function.get("name")), "input": {}}
            block = self.tools[index] = _Block(start, tool=index)
            self.row.append(block)
        arguments = function.get("arguments")
        if type(arguments) is str and arguments and not block.done:
            block.arguments += arguments
            block.pending.append({"type": "input_json_delta", "partial_json": arguments})

    def _flush(self, *, last: bool = False) -> Events:
        """Send what the first block of the row has, and go on to the next when it is complete."""
        events: Events = []
        while self.row:
            block = self.row[0]
            if not block.started:
                block.started = True
                events.append({"type": "content_block_start", "index": self.index, "content_block": block.start})
            events += [{"type": "content_block_delta", "index": self.index, "delta": delta} for delta in block.pending]
            block.pending.clear()
            if not (last or (len(self.row) > 1 and block.complete())):
                break
            block.done = True
            self.row.popleft()
            events.append({"type": "content_block_stop", "index": self.index})
            self.index += 1
        return events


# Inside a JSON string every quote is escaped and no line begins, so none of these can occur in what the model says.
_NOTABLE = re.compile(rb'"message_(?:start|delta|stop)"|"type"\s*:\s*"error"|^event:\s*error', re.MULTILINE)
_FRAME = re.compile(rb"\r?\n\r?\n|\r\r")


class MessagesMonitor:
    """Watches a Messages stream that goes to the client as it came; not one byte is changed."""

    __slots__ = ("_first", "_usage", "delivered", "finished", "model", "usage")

    def __init__(self, call: Call) -> None:
        self.usage: Usage | None = None
        """The input is known from `message_start`, the output only from the closing `message_delta`."""
        self.model: str | None = None
        self.delivered = 0
        self.finished = False
        self._first = True
        self._usage: dict[str, Any] = {}

    def feed(self, raw: bytes) -> bytes:
        self.delivered += raw.count(b'"content_block_delta"')
        if self._first:
            self._open(raw)
        if _NOTABLE.search(raw) is not None:
            for frame in _FRAME.split(raw):
                if _NOTABLE.search(frame) is not None:
                    self._inspect(frame)
        return raw

    def _open(self, raw: bytes) -> None:
        """What comes first must be an event; a web page with status 200 is none."""
        for data in sse_payloads(raw):
            _decode(data)
            self._first = False
            break

    def _inspect(self, frame: bytes) -> None:
        data = b"\n".join(line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:"))
        if not data:
            return
        event = _decode(data)
        kind = event.get("type")
        if kind == "message_start":
            message = as_dict(event.get("message"))
            self.model = as_str(message.get("model")) or self.model
            self._usage = merge_usage({}, message.get("usage"))
            self.usage = usage_from_anthropic(self._usage)
        elif kind == "message_delta":
            self._usage = merge_usage(self._usage, event.get("usage"))
            if as_dict(event.get("delta")).get("stop_reason"):
                self.finished = True
            self.usage = usage_from_anthropic(self._usage)
        elif kind == "message_stop":
            self.finished = True
        elif kind == "error" or (kind is None and "error" in event):
            raise failure_of(event)

    def end(self) -> bytes:
        if not self.finished:
            raise ProtocolError("The provider ended the stream before the answer was complete.")
        return b""


def _decode(data: bytes) -> dict[str, Any]:
    try:
        event = decode_json(data)
    except ValueError:
        raise ProtocolError("The provider sent a stream event that is not JSON.") from None
    if type(event) is not dict:
        raise ProtocolError("The provider sent a stream event that is not an object.")
    return event
