"""One recorded exchange through a gateway and a scripted upstream, and what is wrong with what the client received."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from typing import Any

import httpx

from tests.corpus.reader import STREAMED, WHOLE, chat_stream, frames_of, read
from tests.corpus.records import CHAT, COUNT, EMBEDDINGS, MESSAGES, Record, Route, question
from tests.corpus.wire import Answer, Json, box, message_of, sse, text
from tianji.testing.gateway import RunningGateway
from tianji.testing.upstream import Close, Request, Send, Step, Upstream, chunked, message

BROKEN = {
    "cerebras/chat/huggingface.js--inference-tapes-b3cad22f--253eb0": "ends in a stray quote, without `[DONE]`",
    "pydantic_gateway/chat/pydantic-ai--test-openai-test-invalid-response--35994a": "the echo of a request",
    "snowflake/chat/pydantic-ai--test-snowflake-test-snowflake-thinking-streaming--3e307c": "has no finish reason",
    "writer/completions/openllmetry--opentelemetry-instrumentation-writer-test-completions-test-writer-async-streaming"
    "-compl--d8d1d6": "events of another form, without an end",
}
"""Recorded answers with status 200 that are no answers in their format, and that no error in them explains."""
REFUSED = {
    "fireworks_ai/embeddings/llama-stack--integration-responses-1c0a34fa2e0c--fcc330": "'input' must not be empty",
    "huggingface/chat/huggingface_hub--inferenceclientvcrtest-test-chat-completion-unprocessable-entity--b890b8":
        "Invalid type for 'messages'",
    "hyperbolic/chat/huggingface.js--inference-tapes-63ed3f76--42dbb0": "Missing required parameter: 'messages'",
    "ollama/chat/ruby_llm--chat-real-error-scenarios-ollama-mistral-small3-1-handles-invalid-message-format-errors"
    "--8fda1d": "Invalid type for 'messages[0].content'",
}  # fmt: skip
"""Recorded requests that the gateway refuses by itself, and its words. Their answers are replayed to a shorter one."""
CHANGED = {("deepseek", "thinking"), ("mistral", "tool_choice")}
"""Fields of a request that a plugin translates. All others have to arrive as they were sent."""
REMAPPED = {
    400: ("context",),
    401: ("api key", "security token"),
    404: ("model identifier is invalid",),
}
"""Statuses that the gateway may put in the place of the provider's, and the words of the provider that justify it."""


class Stage:
    """An upstream with a folder of its own for each record: what it answers is set before each request."""

    def __init__(self, up: Upstream) -> None:
        self.up = up
        self.steps: dict[str, Sequence[Step]] = {}
        up.answer(self._answer)

    def _answer(self, request: Request) -> Sequence[Step]:
        return self.steps[request.path.split("/")[2]]

    def base(self, group: str) -> str:
        return f"{self.up.url}/r/{group}"


def whole(record: Record) -> list[Step]:
    return [Send(message(record.status, _headers(record), record.raw))]


def streamed(record: Record, pieces: Sequence[bytes], *, each: int | None = None, end: bool = True) -> list[Step]:
    """The record's head, then one chunk for each of the pieces. Without an `end` the connection is cut."""
    steps: list[Step] = [Send(message(record.status, {**_headers(record), "transfer-encoding": "chunked"}, None))]
    steps += [Send(chunked(piece), each=each or len(piece) + 20) for piece in pieces if piece]
    return [*steps, Send(chunked(b""))] if end else [*steps, Close()]


def _headers(record: Record) -> dict[str, str]:
    return {name: value for name, value in record.headers.items() if value.isprintable() and value.isascii()}


def by_event(form: str, raw: bytes) -> list[bytes]:
    """A stream's bytes, cut where its events begin."""
    starts = [frame.start for frame in frames_of(form, raw)][1:]
    return [raw[a:b] for a, b in zip([0, *starts], [*starts, len(raw)], strict=True)]


def cut_short(form: str, raw: bytes) -> bytes:
    """Two thirds of a stream, or less: so much that it is not told yet how the answer ends."""
    frames = frames_of(form, raw)
    for count in range(len(frames)):
        answer = STREAMED[form](frames[: count + 1])
        if answer.complete or answer.error is not None:
            return raw[: min(len(raw) * 2 // 3, frames[count].start)]
    return raw[: len(raw) * 2 // 3]


class Case:
    """One record on one route. `problems` collects what differs; the methods are the variants of the replay."""

    def __init__(self, gw: RunningGateway, stage: Stage, record: Record, route: Route, group: str) -> None:
        self.gw = gw
        self.stage = stage
        self.record = record
        self.route = route
        self.group = group
        self.problems: list[str] = []
        self.minimal = False
        self.variant = ""

    def wrong(self, what: str) -> None:
        self.problems.append(f"{self.record.id} [{self.route.plugin} {self.route.path} {self.variant}]: {what}")

    def differs(self, what: str, expected: Any, got: Any) -> None:
        if expected != got:
            self.wrong(f"{what}: expected {short(expected)}, got {short(got)}")

    # -- asking

    async def ask(self, steps: Sequence[Step], **changes: Any) -> httpx.Response:
        """The client's answer. A request that the gateway refuses by itself is replaced by the shortest one."""
        self.stage.steps[self.group] = steps
        body = {**question(self.record, self.route, self.group, minimal=self.minimal), **changes}
        before = len(self.stage.up.requests)
        reply = await self.gw.client.post(self.route.path, json=body, headers={"anthropic-version": "2023-06-01"})
        if len(self.stage.up.requests) == before:
            if not self.minimal and 400 <= reply.status_code < 500:
                self.minimal = True
                self._words(REFUSED.get(self.record.id, "this request is to be sent on"), message_of(reply.json()))
                return await self.ask(steps, **changes)
            self.wrong(f"the upstream was not asked: {reply.status_code} {short(reply.text)}")
        elif self.route.recorded:
            self._check_request(body, self.stage.up.requests[-1].json())
        return reply

    def _check_request(self, asked: Json, sent: Json) -> None:
        """What was sent in the provider's own format arrives there, but for the model and for asking for usage."""
        for field in sorted({*asked, *sent} - {"model", "stream", "stream_options"}):
            if (self.route.plugin, field) not in CHANGED:
                self.differs(f"the request's {field}", asked.get(field), sent.get(field))

    async def run(self, *, sevens: bool) -> None:
        """Every variant that makes sense for the record."""
        record = self.record
        self.variant = "whole"
        if record.status >= 400:
            self.check_refusal(await self.ask(whole(record)))
        elif not record.stream or not is_stream(self.route.form, record.raw):
            self.check_whole(await self.ask(whole(record)))
        elif self.route.path == MESSAGES:
            await self._native_stream(sevens=sevens)
        else:
            await self._stream(sevens=sevens)

    async def _stream(self, *, sevens: bool) -> None:
        form, raw = self.route.form, self.record.raw
        try:
            expected = read(form, raw, stream=True)
        except ValueError:
            expected = Answer()
        if self._broken(expected):
            self.check_broken(await self.ask(streamed(self.record, [raw])))
            return
        asked = box(question(self.record, self.route, self.group).get("stream_options")).get("include_usage") is True
        self.check_stream(expected, await self.ask(streamed(self.record, [raw])), asked=asked)
        self.variant = "by event"
        reply = await self.ask(streamed(self.record, by_event(form, raw)), stream_options={"include_usage": not asked})
        self.check_stream(expected, reply, asked=not asked)
        if sevens:
            self.variant = "seven bytes"
            self.check_stream(expected, await self.ask(streamed(self.record, [raw], each=7)), asked=asked)
        if expected.error is None:
            await self._cut(form, raw)

    async def _cut(self, form: str, raw: bytes) -> None:
        """Ended too early, in the right way and in the wrong one: no client may take it for the whole answer."""
        self.variant = "cut short"
        self.check_broken(await self.ask(streamed(self.record, [cut_short(form, raw)])))
        self.variant = "connection lost"
        self.check_broken(await self.ask(streamed(self.record, [raw[: len(raw) * 2 // 3]], end=False)))

    async def _native_stream(self, *, sevens: bool) -> None:
        raw = self.record.raw
        variants: dict[str, tuple[list[bytes], int | None]] = {
            "whole": ([raw], None),
            "by event": (by_event("anthropic", raw), None),
        }
        if sevens:
            variants["seven bytes"] = ([raw], 7)
        for self.variant, (pieces, each) in variants.items():
            reply = await self.ask(streamed(self.record, pieces, each=each))
            self.differs("status", 200, reply.status_code)
            self.differs("bytes", raw.rstrip(), reply.content.rstrip())
        await self._cut("anthropic", raw)

    def _broken(self, expected: Answer) -> bool:
        """Whether it is no answer at all; which ones are so is written down, lest a fault of the reader hides here."""
        broken = expected.error is None and not (expected.complete or (expected.choices and not self.record.stream))
        if broken != (self.record.id in BROKEN):
            self.wrong(f"{'not ' if broken else ''}in the table of broken records")
        return broken

    # -- checking

    def check_refusal(self, reply: httpx.Response) -> None:
        """An answer with an error status: the status mapped, the provider's words kept, `retry-after` passed."""
        record = self.record
        try:
            data: Any = json.loads(record.raw)
            said = message_of(data)
        except ValueError:
            data, said = None, record.raw.decode("utf-8", "replace").strip()
            said = "" if said.startswith("<") else said
        if not any(words in said.lower() for words in REMAPPED.get(reply.status_code, ())):
            self.differs("status", record.status, reply.status_code)
        error = box(box(_json(reply)).get("error"))
        self._words(said, text(error.get("message")))
        if not error.get("type"):
            self.wrong("the error has no type")
        if after := record.headers.get("retry-after"):
            self.differs("retry-after", str(ceil(float(after))), reply.headers.get("retry-after"))
        if "x-should-retry" not in reply.headers:
            self.wrong("no x-should-retry")

    def _words(self, said: str, told: str) -> None:
        """The provider's words are in the client's message (of long ones, the beginning)."""
        if not told:
            self.wrong("the error has no message")
        if " ".join(said.split())[:300] not in " ".join(told.split()):
            self.wrong(f"message: expected {short(said)}, got {short(told)}")

    def check_whole(self, reply: httpx.Response) -> None:
        record, route = self.record, self.route
        if route.path in (MESSAGES, COUNT):
            self.differs("status", 200, reply.status_code)
            self.differs("bytes", record.raw, reply.content)
            return
        expected = read(route.form, record.raw, stream=False)
        if self._broken(expected) or expected.error is not None or record.stream:
            self.check_broken(reply, said=expected.error)
            return
        self.differs("status", 200, reply.status_code)
        body = _json(reply)
        got = WHOLE["embeddings" if route.path == EMBEDDINGS else "openai"](body)
        self.compare(expected, got, usage=True)
        self.differs("model", self.group, body.get("model", self.group))
        if route.form in ("openai", "embeddings") and route.plugin != "mistral":
            ours, theirs = {**body, "model": None}, {**json.loads(record.raw), "model": None}
            self.differs("the rest of the answer", theirs, ours)

    def check_stream(self, expected: Answer, reply: httpx.Response, *, asked: bool) -> None:
        """A stream in OpenAI's format, held to what every client of it relies on and to what the provider said."""
        if expected.error is not None:
            self.check_broken(reply, said=expected.error, expected=expected)
            return
        self.differs("status", 200, reply.status_code)
        if reply.status_code != 200:
            self.wrong(short(reply.text))
            return
        frames = sse(reply.content)
        got = chat_stream(frames)
        if got.error is not None:
            self.wrong(f"ended with an error: {got.error}")
        self.differs("content-type", "text/event-stream", reply.headers["content-type"].split(";")[0])
        self.differs("[DONE]", ["[DONE]"], [f.data for f in frames if f.data == "[DONE]" or f is frames[-1]])
        with_usage = [event for event in got.events if event.get("usage") is not None]
        wanted = 1 if asked and expected.usage is not None else 0
        self.differs("events with usage", wanted, len(with_usage))
        if wanted and with_usage:
            self.differs("the usage event is the last", got.events[-1], with_usage[0])
            self.differs("choices beside the usage", [], with_usage[0]["choices"])
        named = {event.get("model", self.group) for event in got.events} - {""}  # Azure's first event has no name
        self.differs("models", {self.group}, named)
        self.compare(expected, got, usage=asked)
        if self.route.form == "openai" and self.route.plugin != "mistral":
            self.differs("deltas", *([e["choices"] for e in a.events if e.get("choices")] for a in (expected, got)))

    def compare(self, expected: Answer, got: Answer, *, usage: bool) -> None:
        self.differs("choices", sorted(expected.choices), sorted(got.choices))
        for index, theirs in expected.choices.items():
            ours = got.choice(index)
            if theirs.pieces is None:
                self.differs("text", theirs.text, ours.text)
            else:
                at = 0
                for piece in theirs.pieces:
                    at = ours.text.find(piece.strip(), at)
                    if at < 0:
                        self.wrong(f"text: {short(piece)} is not in {short(ours.text)}")
                        break
            self.differs("reasoning", theirs.reasoning, ours.reasoning)
            self.differs("tools", [(t.name, t.parsed) for t in theirs.tools], [(t.name, t.parsed) for t in ours.tools])
            self.differs("finish", theirs.finish, ours.finish)
            self.differs("images", theirs.images, ours.images)
        self.differs("vectors", expected.vectors, got.vectors)
        self.differs("usage", expected.usage if usage else None, got.usage)

    def check_broken(self, reply: httpx.Response, *, said: str | None = None, expected: Answer | None = None) -> None:
        """The client must learn that the answer is none: a status, or an error as the stream's last event."""
        told = ""
        if reply.status_code >= 400:
            told = text(box(box(_json(reply)).get("error")).get("message"))
        else:
            frames = sse(reply.content)
            last = json.loads(frames[-1].data) if frames and frames[-1].data != "[DONE]" else {}
            told = text(box(last.get("error")).get("message"))
            if any(frame.data == "[DONE]" or frame.name == "message_stop" for frame in frames):
                self.wrong("an answer that is broken ends as if it were whole")
            if expected is not None and self.route.path != MESSAGES:
                for index, theirs in expected.choices.items():
                    self.differs("text before the error", theirs.text, chat_stream(frames).choice(index).text)
        if not told:
            self.wrong(f"a silent success: {reply.status_code} {short(reply.text[-300:])}")
        elif "gateway failed" in told.lower():
            self.wrong(f"a fault of the gateway: {told}")
        elif said:
            self._words(said, told)


def is_stream(form: str, raw: bytes) -> bool:
    """Whether a streamed request was answered with a stream, rather than with one JSON object."""
    return form in ("ollama", "converse") or raw.lstrip()[:1] != b"{"


def short(value: Any) -> str:
    shown = value if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 400 else f"{shown[:250]} … {shown[-150:]}"


def _json(reply: httpx.Response) -> Json:
    try:
        return box(reply.json())
    except ValueError:
        return {}


__all__ = ["CHAT", "Case", "Stage"]
