"""Framings of streamed answers, and what an answer says, whatever format it came in.

Shares no code with the gateway on purpose: it is what the gateway is measured against.
Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
AWS event streams: https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]


class Usage(NamedTuple):
    """Token totals: `prompt` includes `cached`, `completion` includes `reasoning`."""

    prompt: int
    completion: int
    cached: int
    reasoning: int


@dataclass
class Tool:
    """One tool call. `arguments` is the text as it was written."""

    name: str
    arguments: str

    @property
    def parsed(self) -> Any:
        """The arguments as JSON where they are JSON. None at all and an empty object mean the same."""
        try:
            return json.loads(self.arguments) if self.arguments.strip() else {}
        except ValueError:
            return self.arguments


@dataclass
class Choice:
    """One of the answers that were asked for. `pieces` are parts of the text that have to appear in it, in order,
    where a format has content (code that ran) which every gateway writes down in its own way."""

    text: str = ""
    reasoning: str = ""
    tools: list[Tool] = field(default_factory=list)
    finish: str | None = None
    images: int = 0
    pieces: list[str] | None = None


@dataclass
class Answer:
    """What an answer says.

    Attributes:
        error: The provider's words, where the answer is a failure. Empty: it is one, without words.
        vectors: Of embeddings.
        events: The decoded events of a stream in OpenAI's format.
        done: `[DONE]` was seen.
    """

    choices: dict[int, Choice] = field(default_factory=dict)
    usage: Usage | None = None
    error: str | None = None
    vectors: list[Any] | None = None
    events: list[Json] = field(default_factory=list)
    done: bool = False

    def choice(self, index: int = 0) -> Choice:
        return self.choices.setdefault(index, Choice())

    @property
    def complete(self) -> bool:
        """Some choice is finished, or the answer is no dialogue at all."""
        return self.vectors is not None or any(choice.finish for choice in self.choices.values())


class Frame(NamedTuple):
    """One event: its name (empty where it has none), its payload, and where its bytes begin."""

    name: str
    data: str
    start: int


def sse(raw: bytes) -> list[Frame]:
    """Server-sent events. One that the end of the bytes cuts short is taken too: recorders trim the last line."""
    frames: list[Frame] = []
    data: list[str] = []
    name, start, at = "", 0, 0
    for line in re.split(rb"(?<=\n)|(?<=\r)(?!\n)", raw):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            if data:
                frames.append(Frame(name, "\n".join(data), start))
            name, data, start = "", [], at + len(line)
        key, _, value = text.partition(":")
        if key == "data":
            data.append(value.removeprefix(" "))
        elif key == "event":
            name = value.removeprefix(" ")
        at += len(line)
    if data:
        frames.append(Frame(name, "\n".join(data), start))
    return frames


def json_values(raw: bytes) -> list[Frame]:
    """JSON values that follow each other: one a line, or the elements of one array."""
    text = raw.decode("utf-8")
    frames, at = [], 0
    decoder = json.JSONDecoder()
    while (match := re.compile(r"[\s,\[\]]*").match(text, at)) and match.end() < len(text):
        value, at = decoder.raw_decode(text, match.end())
        frames.append(Frame("", json.dumps(value), len(text[: match.end()].encode())))
    return frames


def aws(raw: bytes) -> list[Frame]:
    """AWS event stream messages: lengths, headers, payload, checksums (those are not looked at)."""
    frames, at = [], 0
    while at < len(raw):
        total, size = struct.unpack(">II", raw[at : at + 8])
        headers = _aws_headers(raw[at + 12 : at + 12 + size])
        payload = raw[at + 12 + size : at + total - 4].decode()
        frames.append(Frame(headers.get(":event-type") or headers.get(":exception-type") or "", payload, at))
        at += total
    return frames


def _aws_headers(raw: bytes) -> dict[str, str]:
    headers, at = {}, 0
    while at < len(raw):
        size = raw[at]
        name = raw[at + 1 : at + 1 + size].decode()
        kind, length = struct.unpack(">BH", raw[at + 1 + size : at + 4 + size])
        assert kind == 7, "only strings are sent"
        at += 4 + size
        headers[name] = raw[at : at + length].decode()
        at += length
    return headers


def number(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0


def items(value: object) -> list[Json]:
    """The objects of a list; nothing where it is none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def box(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def message_of(value: Any) -> str:
    """The words of an error in any of the shapes in use; empty where a machine wrote nothing for a reader."""
    if isinstance(value, list):
        return next((said for one in value if (said := message_of(one))), "")
    if isinstance(value, str):
        return value
    inner = box(value)
    for key in ("error", "message", "detail", "msg", "errors", "error_message"):
        if inner.get(key) and (said := message_of(inner[key])):
            return said
    return ""
