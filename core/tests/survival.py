"""What the tests of surviving streams share: models that say a text piece by piece, break off where a plan says so,
and go on from a prefill as real ones do; and what a client makes of a stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

from kernel import Collector, Scripted, Upstream, ask, asking, assembled, books, config, deployment, virtually

from tianji.errors import Failure, Unavailable
from tianji.gateway import Gateway
from tianji.model import DONE, Call, Chunk, Deployment, Record, Reply, Usage, decode_json, sse_payloads
from tianji.plugin import Callback, Plugin

Json = dict[str, Any]
LETTERS = ("one", "two,", "three", "é", "四", "🙂🙃", '"quoted"', "\\", "data:", "[DONE]", "x" * 40)
SPACES = (" ", " ", " ", "  ", "\n", "\n\n", "\t", " \n ")


def reset() -> Failure:
    return Unavailable("The connection was lost.", code="connection_error")


def some_text(rng: random.Random, words: int) -> str:
    said = "".join(rng.choice(LETTERS) + rng.choice(SPACES) for _ in range(words))
    return said + rng.choice(LETTERS) if rng.random() < 0.8 else said


def pieces_of(rng: random.Random, text: str) -> list[str]:
    """A text as a stream brings it: cut anywhere."""
    cuts = sorted(rng.sample(range(1, len(text)), min(len(text) - 1, max(1, len(text) // 4)))) if len(text) > 1 else []
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) if a < b]


class Talker(Scripted):
    """Says `text`. `breaks`: by upstream model, after so many pieces; None: to the end."""

    prefill = True
    needs_key = False
    text: ClassVar[str] = "One two three."
    rng: ClassVar[random.Random] = random.Random(1)
    breaks: ClassVar[dict[str, int | None]] = {}
    fault: ClassVar[Any] = staticmethod(reset)
    extra: ClassVar[list[Json]] = []
    """Deltas that come before a break."""
    calls: ClassVar[list[tuple[str, Json]]] = []
    """Upstream model and body of each request."""
    says_usage: ClassVar[bool] = True
    pause: ClassVar[float] = 0.01

    async def call(self, call: Call, deployment: Deployment) -> Reply:
        cls = type(self)
        cls.calls.append((deployment.model, call.body))
        pieces, asked = self._pieces(call.body)
        upstream = Upstream(())
        upstream.usage = Usage(asked, 0)
        reply = Reply(media_type="text/event-stream")
        reply.meter = reply.upstream = upstream
        anthropic = call.dialect == "anthropic-messages"
        make = self._messages if anthropic else self._chat
        number = len(cls.calls)
        events = make(call, pieces, cls.breaks.get(deployment.model), upstream, f"{number}")
        reply.stream = self._chunks(events, anthropic, upstream)
        return reply

    def _pieces(self, body: Json) -> tuple[list[str], int]:
        last = body["messages"][-1]
        prefix = last["content"] if last["role"] == "assistant" else ""
        assert self.text.startswith(prefix)
        assert prefix == prefix.rstrip()
        rest = self.text if self.repeats_prefill else self.text[len(prefix) :]
        return pieces_of(self.rng, rest), 10 + len(prefix)

    async def _chunks(
        self, events: AsyncIterator[Json | bytes], named: bool, upstream: Upstream
    ) -> AsyncIterator[Chunk]:
        async for event in events:
            if upstream.ended:
                return
            yield Chunk(event) if isinstance(event, bytes) else Chunk(events=[event], named=named)

    async def _chat(
        self, call: Call, pieces: list[str], breaks: int | None, upstream: Upstream, number: str
    ) -> AsyncIterator[Json | bytes]:
        identity = {
            "id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": int(number), "model": call.model,
        }  # fmt: skip
        asked = upstream.usage.input_tokens if upstream.usage else 0

        def said(delta: Json, finish: str | None = None) -> Json:
            return {**identity, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

        yield said({"role": "assistant", "content": ""})
        for count, piece in enumerate(pieces):
            if count == breaks:
                for delta in self.extra:
                    yield said(delta)
                raise self.fault()
            await asyncio.sleep(self.pause)
            upstream.delivered += 1
            upstream.usage = Usage(asked, upstream.delivered)
            yield said({"content": piece})
        yield said({}, "stop")
        upstream.finished = True
        if (call.body.get("stream_options") or {}).get("include_usage") and self.says_usage:
            usage = {"prompt_tokens": asked, "completion_tokens": upstream.delivered}
            yield {**identity, "choices": [], "usage": {**usage, "total_tokens": sum(usage.values())}}
        yield DONE
        upstream.ended = True

    async def _messages(
        self, call: Call, pieces: list[str], breaks: int | None, upstream: Upstream, number: str
    ) -> AsyncIterator[Json | bytes]:
        asked = upstream.usage.input_tokens if upstream.usage else 0
        message: Json = {
            "id": f"msg_{number}", "type": "message", "role": "assistant", "model": call.model, "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": asked, "output_tokens": 1},
        }  # fmt: skip
        yield {"type": "message_start", "message": message}
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        yield {"type": "ping"}
        for count, piece in enumerate(pieces):
            if count == breaks:
                raise self.fault()
            await asyncio.sleep(self.pause)
            upstream.delivered += 1
            upstream.usage = Usage(asked, upstream.delivered)
            delta = {"type": "text_delta", "text": piece}
            yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield {"type": "content_block_stop", "index": 0}
        stop = {"stop_reason": "end_turn", "stop_sequence": None}
        yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": upstream.delivered}}
        upstream.finished = True
        yield {"type": "message_stop"}
        upstream.ended = True


def talker(**fields: Any) -> type[Talker]:
    """A provider class of its own. `native`, `prefill`, `breaks`, `text`, … as `Talker`'s."""
    return type("Scripted", (Talker,), {"calls": [], **fields})


# -- what a client makes of it -----------------------------------------------------------------------------------------


class Heard:
    """A chat stream, read strictly: one id, one role, one finish, usage after it, `[DONE]` last."""

    def __init__(self, raw: bytes) -> None:
        self.done = raw.count(b"data: [DONE]\n\n")
        assert self.done <= 1
        assert not self.done or raw.endswith(b"data: [DONE]\n\n")
        events = [decode_json(one) for one in sse_payloads(raw)]
        self.error = events.pop()["error"] if events and "error" in events[-1] else None
        assert not (self.error and self.done), "a [DONE] after an error"
        self.text = ""
        self.usage: Mapping[str, int] | None = None
        self.finish: str | None = None
        assert {(one["id"], one["created"], one["model"]) for one in events} == {
            (events[0]["id"], events[0]["created"], events[0]["model"])
        }
        roles = 0
        for event in events:
            assert self.usage is None, "something after the usage"
            self.usage = event.get("usage")
            for choice in event["choices"]:
                assert self.finish is None, "something after the finish"
                roles += "role" in choice["delta"]
                self.text += choice["delta"].get("content") or ""
                self.finish = choice["finish_reason"]
        assert roles == 1


class HeardMessages:
    """An Anthropic stream, read strictly."""

    def __init__(self, raw: bytes) -> None:
        events = [decode_json(one) for one in sse_payloads(raw)]
        self.error = events.pop()["error"] if events[-1]["type"] == "error" else None
        events = [one for one in events if one["type"] != "ping"]
        assert events[0]["type"] == "message_start"
        assert sum(one["type"] == "message_start" for one in events) == 1
        self.text = ""
        self.usage: Mapping[str, int] | None = None
        self.finish: str | None = None
        self.done = 0
        self.blocks: list[str] = []
        open_block: int | None = None
        for event in events[1:]:
            assert not self.done
            kind = event["type"]
            if kind == "content_block_start":
                assert open_block is None
                assert event["index"] == len(self.blocks)
                open_block = event["index"]
                self.blocks.append(event["content_block"]["type"])
                self.text += event["content_block"].get("text", "")
            elif kind == "content_block_delta":
                assert event["index"] == open_block
                self.text += event["delta"].get("text", "")
            elif kind == "content_block_stop":
                assert event["index"] == open_block
                open_block = None
            elif kind == "message_delta":
                assert open_block is None
                assert self.finish is None
                self.finish, self.usage = event["delta"]["stop_reason"], event["usage"]
            else:
                assert kind == "message_stop"
                self.done = 1


def accounts(gateway: Gateway, call: Call) -> list[str]:
    """How each attempt of a call ended, in order; every reserve has exactly one answer, and nothing is open."""
    ledger = books(gateway)
    mine = [entry for entry in ledger.entries if entry.call_id == call.id]
    reserved = [entry.attempt for entry in mine if entry.kind == "reserve"]
    closed = [entry for entry in mine if entry.kind != "reserve"]
    assert len(set(reserved)) == len(reserved)
    assert sorted(entry.attempt for entry in closed) == sorted(reserved)
    assert ledger.open == 0
    assert ledger.held == 0
    return ["void" if one.kind == "void" else one.status for one in sorted(closed, key=lambda one: one.attempt)]


def spent(gateway: Gateway, call: Call) -> tuple[int, int, int]:
    """Tokens in, tokens out and nano-dollars of a call, summed over its entries."""
    mine = [entry for entry in books(gateway).entries if entry.call_id == call.id and entry.kind == "settle"]
    usages = [entry.usage or Usage() for entry in mine]
    return (
        sum(one.input_tokens for one in usages), sum(one.output_tokens for one in usages),
        sum(entry.nano or 0 for entry in mine),
    )  # fmt: skip


# -- gateways and calls ------------------------------------------------------------------------------------------------


def run(main: Any) -> Any:
    return virtually(lambda loop: main())


def gateway_of(provider: type[Talker], *models: str, plugins: Sequence[type[Plugin]] = (), **router: Any) -> Gateway:
    """One group with a deployment for each model, in that order; `fallbacks` name further groups `f-<model>`."""
    specs = [
        deployment(model.partition("/")[0] if "/" in model else "group", model.rpartition("/")[2]) for model in models
    ]
    sections: dict[str, Any] = {"router_settings": {"continue_streams": True, **router}}
    if any(issubclass(one, Callback) for one in plugins):
        sections["tianji_settings"] = {"callbacks": [one.name for one in plugins if issubclass(one, Callback)]}
    return assembled(config(*specs, **sections), provider, *plugins)


def chat(**fields: Any) -> Call:
    return asking(stream=True, **fields)


async def heard(gateway: Gateway, call: Call | None = None, collector: Collector | None = None) -> tuple[Heard, Call]:
    """One call to its end: what its client read, the error frame included."""
    call = call or chat()
    collector = await ask(gateway, call, collector=collector)
    return Heard(b"".join(collector.chunks)), call


class Erring(Collector):
    """Keeps the failure that broke the stream."""

    broke: Failure | None = None

    async def reply(self, call: Call, reply: Reply) -> Failure | None:
        self.broke = await super().reply(call, reply)
        return self.broke


async def breaks(gateway: Gateway, call: Call | None = None) -> tuple[Heard, Call, Failure]:
    """One call that cannot be mended."""
    collector = Erring()
    told, call = await heard(gateway, call, collector)
    assert collector.broke is not None
    assert not told.done
    assert told.finish is None
    return told, call, collector.broke


def sink(records: list[Record]) -> type[Callback]:
    class Sink(Callback):
        name = "sink"
        wants_content = True

        async def export(self, batch: Sequence[Record]) -> None:
            records.extend(batch)

    return Sink
