"""Two streamed answers as one: what was delivered before a break, and how the rest is said in the same stream.

A `Join` is asked first whether the answer so far can be gone on with at all, then for the request that asks another
model to do so, and at last to say its answer with the identity of the first: same id, `created` and model, one role,
one usage. Pure: no I/O, no clock. Dialects: `openai-chat` and `anthropic-messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tianji.accounting import usage_sum
from tianji.dialects.anthropic.wire import as_dict, as_dicts, merge_usage, usage_from_anthropic, usage_to_anthropic
from tianji.dialects.usage import from_openai, to_openai
from tianji.model import Call, Op, Usage, decode_json

Json = dict[str, Any]

LIMIT = 1024 * 1024
"""Characters of an answer that are kept; a longer one is not gone on with."""


class Seam:
    """Where two texts meet: nothing is said twice.

    `space` is the white space at the end of what was delivered, which the model was not shown: of the same at the
    beginning of its answer only the rest is let through. `echo` is what the answer may repeat first.
    """

    __slots__ = ("_at", "echo", "space")

    def __init__(self, space: str, echo: str = "") -> None:
        self.space = space
        self.echo = echo
        self._at = 0

    def cut(self, piece: str) -> str:
        """What of the next piece of text is new; it may be held back until it is certain."""
        if self.echo:
            left = len(self.echo) - self._at
            if not self.echo.startswith(piece[:left], self._at):
                piece, self.echo = self.echo[: self._at] + piece, ""
            elif len(piece) < left:
                self._at += len(piece)
                return ""
            else:
                piece, self.echo = piece[left:], ""
        if self.space and piece:
            same = 0
            while same < len(self.space) and same < len(piece) and self.space[same] == piece[same]:
                same += 1
            self.space = self.space[same:] if same == len(piece) else ""
            piece = piece[same:]
        return piece

    def rest(self) -> str:
        """What was held back, at the end of the answer: it was no repetition after all."""
        held, self.echo = self.echo[: self._at] if self._at else "", ""
        return held


class Join:
    """The answer so far. `note` what was delivered, `resume` after a break, then `rewrite` the rest."""

    op = Op.CHAT

    def __init__(self) -> None:
        self.pure = True
        """Nothing but text was delivered."""
        self.finished = False
        """The answer said how it ended."""
        self.before: Usage | None = None
        """What the attempts that broke off have used."""
        self._texts: list[str] = []
        self._size = 0
        self._seam = Seam("")

    @property
    def open(self) -> bool:
        """Whether another model could go on."""
        return self.pure and not self.finished

    @property
    def text(self) -> str:
        """All text that was delivered."""
        if len(self._texts) > 1:
            self._texts = ["".join(self._texts)]
        return self._texts[0] if self._texts else ""

    @property
    def prefill(self) -> str:
        """The text without white space at its end, which some providers refuse there."""
        return self.text.rstrip()

    def request(self, body: Json, used: int) -> Json:
        """The request that asks for the rest. `used`: tokens that were delivered, about."""
        made = dict(body)
        for name in ("max_tokens", "max_completion_tokens"):
            if type(limit := made.get(name)) is int:
                made[name] = max(1, limit - used)
        if prefill := self.prefill:
            made["messages"] = [*made["messages"], self.message(prefill)]
        return made

    def message(self, prefill: str) -> Json:
        """The beginning of the answer, as the last message of a request."""
        return {"role": "assistant", "content": prefill}

    def resume(self, before: Usage | None, *, repeats: bool) -> None:
        """The next events to be rewritten are the first of another answer."""
        self.before = before
        prefill = self.prefill
        self._seam = Seam(self.text[len(prefill) :], prefill if repeats else "")

    def note(self, events: list[Json]) -> None:
        """Take in what goes to the client."""
        raise NotImplementedError

    def add(self, piece: bytes) -> None:
        """Take in a plain delta's text, as it stands between the quotes of its JSON."""
        try:
            self._add(decode_json(b'"%b"' % piece))
        except ValueError:
            self.pure = False  # a client may make more of it than we do

    def rewrite(self, events: list[Json]) -> list[Json]:
        """Events of another answer, as events of this one, and taken in as such. Those given are not changed."""
        raise NotImplementedError

    def _add(self, text: str) -> None:
        self._size += len(text)
        if self._size > LIMIT:
            self.pure = False
        if self.pure:
            self._texts.append(text)
        else:
            self._texts.clear()


class ChatJoin(Join):
    """https://platform.openai.com/docs/api-reference/chat-streaming"""

    def __init__(self) -> None:
        super().__init__()
        self._identity: Json = {}
        self._role = False

    def message(self, prefill: str) -> Json:
        return {"role": "assistant", "content": prefill, "prefix": True}

    def note(self, events: list[Json]) -> None:
        for event in events:
            if not self._identity and event.get("id"):
                self._identity = {key: event[key] for key in ("id", "object", "created", "model") if key in event}
            for choice in as_dicts(event.get("choices")):
                if choice.get("index") or choice.get("logprobs"):
                    self.pure = False
                if choice.get("finish_reason"):
                    self.finished = True
                self._delta(as_dict(choice.get("delta")))

    def _delta(self, delta: Json) -> None:
        for name, value in delta.items():
            if name == "role":
                self._role = True
            elif name == "content" and type(value) is str:
                self._add(value)
            elif value:
                self.pure = False

    def rewrite(self, events: list[Json]) -> list[Json]:
        made = []
        for event in events:
            choices = as_dicts(event.get("choices"))
            usage = from_openai(event.get("usage"))
            fresh = {**event, **self._identity}
            if usage is not None and (whole := usage_sum(self.before, usage)) is not None:
                fresh["usage"] = to_openai(whole)
            fresh["choices"] = [one for one in map(self._choice, choices) if one is not None]
            if fresh["choices"] or usage is not None:
                made.append(fresh)
        self.note(made)
        return made

    def _choice(self, choice: Json) -> Json | None:
        """A choice without what was said before; None where nothing else was in it."""
        delta = dict(as_dict(choice.get("delta")))
        if self._role:
            delta.pop("role", None)
        finish = choice.get("finish_reason")
        text = delta.get("content")
        if type(text) is str or finish:
            new = self._seam.cut(text) if type(text) is str else ""
            new += self._seam.rest() if finish else ""
            delta.pop("content", None)
            if new:
                delta["content"] = new
        if not finish and not any(delta.values()):
            return None
        return {**choice, "delta": delta}


class MessagesJoin(Join):
    """https://platform.claude.com/docs/en/build-with-claude/streaming"""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False
        self._open: int | None = None
        """The block that is being written."""
        self._next = 0
        self._places: dict[Any, int] = {}
        """Theirs to ours, of the blocks of the answer that goes on."""
        self._usage: Json = {}

    def resume(self, before: Usage | None, *, repeats: bool) -> None:
        super().resume(before, repeats=repeats)
        self._places = {}
        self._usage = {}

    def note(self, events: list[Json]) -> None:
        for event in events:
            kind = event.get("type")
            if kind == "message_start":
                self._begun = True
            elif kind == "content_block_start":
                self._block(event)
            elif kind == "content_block_delta":
                delta = as_dict(event.get("delta"))
                if delta.get("type") == "text_delta" and type(delta.get("text")) is str:
                    self._add(delta["text"])
                else:
                    self.pure = False
            elif kind == "content_block_stop":
                self._open = None
            elif kind == "message_delta":
                self.finished = self.finished or bool(as_dict(event.get("delta")).get("stop_reason"))
            elif kind == "message_stop":
                self.finished = True

    def _block(self, event: Json) -> None:
        block = as_dict(event.get("content_block"))
        index = event.get("index")
        self._open = index if type(index) is int else self._next
        self._next = max(self._next, self._open + 1)
        if block.get("type") != "text" or block.get("citations"):
            self.pure = False
        elif type(text := block.get("text")) is str:
            self._add(text)

    def rewrite(self, events: list[Json]) -> list[Json]:
        made: list[Json] = []
        for event in events:
            for one in self._said(event):
                self.note([one])  # the next event depends on which block is open
                made.append(one)
        return made

    def _said(self, event: Json) -> list[Json]:
        kind = event.get("type")
        if kind == "message_start":
            self._usage = as_dict(as_dict(event.get("message")).get("usage"))
            return [] if self._begun else [event]
        if kind == "content_block_start":
            return self._started(event)
        if kind in ("content_block_delta", "content_block_stop"):
            index = self._places.get(event.get("index"), self._open or 0)
            if kind == "content_block_stop":
                return [*self._held(index), {**event, "index": index}]
            delta = as_dict(event.get("delta"))
            if delta.get("type") == "text_delta" and type(text := delta.get("text")) is str:
                new = self._seam.cut(text)
                return [{**event, "index": index, "delta": {**delta, "text": new}}] if new else []
            return [{**event, "index": index}]
        if kind == "message_delta":
            self._usage = merge_usage(self._usage, event.get("usage"))
            whole = usage_sum(self.before, usage_from_anthropic(self._usage))
            return [*self._closed(), {**event, "usage": usage_to_anthropic(whole)}]
        return [event]

    def _started(self, event: Json) -> list[Json]:
        """A block of theirs: text goes on in the one that is open; anything else follows after it."""
        block = as_dict(event.get("content_block"))
        theirs = event.get("index")
        if self._open is not None and block.get("type") == "text":
            self._places[theirs] = self._open
            new = self._seam.cut(text) if type(text := block.get("text")) is str else ""
            return _delta(self._open, new)
        before = self._closed()
        self._places[theirs] = self._next
        if block.get("type") == "text" and type(text := block.get("text")) is str:
            event = {**event, "content_block": {**block, "text": self._seam.cut(text)}}
        return [*before, {**event, "index": self._next}]

    def _closed(self) -> list[Json]:
        """The end of the block that is open, where the other answer did not go on with it."""
        if self._open is None:
            return []
        return [*self._held(self._open), {"type": "content_block_stop", "index": self._open}]

    def _held(self, index: int) -> list[Json]:
        return _delta(index, self._seam.rest())


def _delta(index: int, text: str) -> list[Json]:
    if not text:
        return []
    return [{"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}]


_KINDS: dict[str, type[Join]] = {"openai-chat": ChatJoin, "anthropic-messages": MessagesJoin}


def join_of(call: Call) -> Join | None:
    """The join for a call's answer; None for a call whose answer could not be gone on with whatever it says."""
    kind = _KINDS.get(call.dialect)
    if kind is None or call.op != Op.CHAT or not call.stream or not _plain(call.body):
        return None
    return kind()


def _plain(body: Mapping[str, Any]) -> bool:
    """Whether the request asks for one answer in free text, or for nothing that a prefill would contradict."""
    if body.get("n") not in (None, 1) or body.get("logprobs") or body.get("audio") or body.get("prediction"):
        return False
    if body.get("modalities") not in (None, ["text"]):
        return False
    if as_dict(body.get("response_format")).get("type", "text") != "text":
        return False
    if body.get("output_format") or as_dict(body.get("output_config")).get("format"):
        return False
    choice = body.get("tool_choice")
    if (as_dict(choice).get("type") if type(choice) is dict else choice) not in (None, "auto", "none"):
        return False
    messages = body.get("messages")
    if type(messages) is not list or not messages:
        return False
    return as_dict(messages[-1]).get("role") != "assistant"  # a beginning of the client's own
