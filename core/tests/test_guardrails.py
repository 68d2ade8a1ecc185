"""The base of guardrails: which texts it finds, and how it holds back a stream of several texts."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji import dialects
from tianji.errors import Blocked, Failure, ProtocolError
from tianji.model import DONE, Call, Chunk, Reply, encode_json
from tianji.plugin import Content, Guardrail, PluginSettings, Verdict, guardrail
from tianji.testing import FakeGateway, make_call

BAD = "forbidden"
CARD = "4111-1111"


class Words(Guardrail):
    """Blocks one word, masks another."""

    name = "words"

    class Settings(PluginSettings, frozen=True):
        pass

    async def check(self, content: Content, call: Call) -> Verdict:
        if BAD in content.text:
            return Verdict.block("no")
        texts = content.map(lambda text: text.replace(CARD, "[X]"))
        return Verdict.allow() if texts == content.texts else Verdict.rewrite(texts)


def guard(mode: str = "post_call") -> Words:
    words = Words(Words.Settings(), instance="words", gateway=FakeGateway())
    words.modes, words.default_on = frozenset({mode}), True
    return words


def delta(index: int, **said: Any) -> Chunk:
    return Chunk(events=[{"choices": [{"index": index, "delta": said, "finish_reason": None}]}])


def tool(number: int, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": number, "function": {"arguments": arguments}}]}


async def stream(chunks: list[Chunk], dialect: str = "openai-chat") -> tuple[list[Chunk], Failure | None]:
    """What the client gets of a guarded stream, and the failure that ended it."""

    async def upstream() -> AsyncIterator[Chunk]:
        for chunk in chunks:
            yield chunk

    reply = await guard().post_call(
        make_call({"model": "m", "messages": []}, dialect=dialect), Reply(stream=upstream())
    )
    assert reply is not None
    assert reply.stream is not None
    out: list[Chunk] = []
    try:
        async for chunk in reply.stream:
            out.append(chunk)
    except Failure as failure:
        return out, failure
    return out, None


def lanes(chunks: list[Chunk], dialect: str = "openai-chat") -> dict[Any, str]:
    """The texts of a stream as a client puts them together."""
    texts: dict[Any, str] = {}
    for chunk in chunks:
        for event in chunk.events:
            for lane, box, key in dialects.get(dialect).reply_lanes(event):
                texts[lane] = texts.get(lane, "") + box[key]
    return texts


CHAT: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [BAD]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": BAD}]}]},
    {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": BAD}]}]},
    {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": [{"text": BAD}]}]}]},
    {"messages": [{"role": "assistant", "refusal": BAD}]},
    {"messages": [{"role": "assistant", "content": "x", "reasoning_content": BAD}]},
    {"messages": [{"role": "assistant", "content": "x", "reasoning": BAD}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": BAD}}]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"custom": {"name": "f", "input": BAD}}]}]},
    {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": BAD}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "description": BAD}}]},
    {"tools": [{"function": {"parameters": {"properties": {"a": {"description": BAD}}}}}]},
    {"functions": [{"name": "f", "description": BAD}]},
    {"prediction": {"type": "content", "content": BAD}},
    {"prediction": {"type": "content", "content": [{"type": "text", "text": BAD}]}},
]
ANTHROPIC: list[dict[str, Any]] = [
    {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"a": [{"b": BAD}]}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": BAD}]}]}]},
    {"messages": [{"role": "user", "content": [{"type": "document", "title": BAD, "source": {"type": "url"}}]}]},
    {"tools": [{"name": "f", "description": BAD}]},
]
REQUESTS = [
    *(("openai-chat", body) for body in CHAT),
    *(("anthropic-messages", body) for body in ANTHROPIC),
    *(("openai-completions", body) for body in ({"prompt": "x", "suffix": BAD}, {"prompt": ["x", BAD]})),
    ("openai-embeddings", {"input": ["x", BAD]}),
]


class TestRequests:
    @pytest.mark.parametrize(("dialect", "body"), REQUESTS)
    async def test_every_text_is_seen_and_can_be_rewritten(self, dialect: str, body: dict[str, Any]) -> None:
        before = copy.deepcopy(body)
        with pytest.raises(Blocked):
            await guard("pre_call").pre_call(make_call(copy.deepcopy(body), dialect=dialect))
        masked = copy.deepcopy(body)
        for box, key in dialects.get(dialect).texts(masked):
            box[key] = box[key].replace(BAD, CARD)
        call = make_call(masked, dialect=dialect)
        await guard("pre_call").pre_call(call)
        assert encode_json(call.body) == encode_json(before).replace(BAD.encode(), b"[X]")

    @pytest.mark.parametrize(("dialect", "field"), [("openai-completions", "prompt"), ("openai-embeddings", "input")])
    @pytest.mark.parametrize("value", [[1, 2], [[1], [2]], ["x", [1]]])
    @pytest.mark.parametrize("fail_open", [False, True])
    async def test_token_numbers_are_refused(self, dialect: str, field: str, value: Any, fail_open: bool) -> None:
        words = guard("pre_call")
        words.fail_open = fail_open
        with pytest.raises(Blocked, match=f"'{field}'") as caught:
            await words.pre_call(make_call({field: value}, dialect=dialect))
        assert caught.value.param == field
        words.default_on = False
        assert await words.pre_call(make_call({field: value}, dialect=dialect)) is None


SAID: list[dict[str, Any]] = [
    {"content": BAD},
    {"content": [{"type": "text", "text": BAD}]},
    {"reasoning_content": BAD},
    {"reasoning": BAD},
    {"reasoning_details": [{"type": "reasoning.text", "text": BAD}]},
    {"refusal": BAD},
    {"function_call": {"name": "f", "arguments": BAD}},
    {"audio": {"transcript": BAD}},
    {"tool_calls": [{"function": {"name": "f", "arguments": BAD}}]},
    {"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": BAD}}]},
]


class TestReplies:
    @pytest.mark.parametrize("said", SAID)
    async def test_every_text_is_seen(self, said: dict[str, Any]) -> None:
        with pytest.raises(Blocked):
            await guard().post_call(make_call(), Reply({"choices": [{"index": 0, "message": said}]}))
        out, failure = await stream([delta(0, **said), Chunk(DONE)])
        assert isinstance(failure, Blocked)
        assert out == []

    @pytest.mark.parametrize(
        "between",
        [delta(1, content="a"), delta(0, reasoning_content="a"), delta(0, **tool(0, "a")), delta(0, refusal="a")],
    )
    async def test_another_text_between_the_pieces_hides_nothing(self, between: Chunk) -> None:
        out, failure = await stream([delta(0, content="forb"), between, delta(0, content="idden"), Chunk(DONE)])
        assert isinstance(failure, Blocked)
        assert out == []

    async def test_interleaved_tool_calls(self) -> None:
        pieces = [tool(0, "forb"), tool(1, "{"), tool(0, "idden"), tool(1, "}")]
        assert isinstance((await stream([delta(0, **one) for one in pieces]))[1], Blocked)
        apart = [tool(0, "forb"), tool(1, "idden")]
        assert (await stream([delta(0, **one) for one in apart]))[1] is None, "two texts are not one"

    async def test_anthropic_blocks_are_lanes(self) -> None:
        def event(index: int, text: str) -> Chunk:
            said = {"type": "text_delta", "text": text}
            return Chunk(events=[{"type": "content_block_delta", "index": index, "delta": said}], named=True)

        pieces = [event(0, "forb"), event(1, "a"), event(0, "idden")]
        assert isinstance((await stream(pieces, "anthropic-messages"))[1], Blocked)
        out, failure = await stream([event(0, "4111-"), event(1, "b"), event(0, "1111")], "anthropic-messages")
        assert failure is None
        assert lanes(out, "anthropic-messages") == {(0, "text"): "[X]", (1, "text"): "b"}

    async def test_a_rewrite_stays_in_its_lane(self) -> None:
        chunks = [delta(0, content="one 4111-"), delta(1, content="two"), delta(0, content="1111."), Chunk(DONE)]
        out, failure = await stream([*chunks[:1], delta(0, **tool(0, '{"a":1}')), *chunks[1:]])
        assert failure is None
        assert lanes(out) == {(0, "content"): "one [X].", (1, "content"): "two", (0, "tool", 0): '{"a":1}'}
        assert out[-1].raw == DONE

    async def test_after_a_rewrite_nothing_is_lost(self) -> None:
        """The window before is compared as it was sent, not as it came."""
        text = "a" * 395 + CARD + " and " + "b" * 500 + " the end"
        out, failure = await stream([delta(0, content=text[at : at + 405]) for at in range(0, len(text), 405)])
        assert failure is None
        assert lanes(out) == {(0, "content"): text.replace(CARD, "[X]")}

    @given(st.data())
    async def test_however_two_texts_are_mixed(self, data: st.DataObject) -> None:
        said = st.text("ab 4111-", max_size=30)
        texts = [data.draw(said) + CARD + data.draw(said) for _ in range(2)]
        left, chunks = list(texts), []
        while any(left):
            index = data.draw(st.sampled_from([at for at in range(2) if left[at]]))
            size = data.draw(st.integers(1, 6))
            chunks.append(delta(index, content=left[index][:size]))
            left[index] = left[index][size:]
        out, failure = await stream(chunks)
        assert failure is None
        assert lanes(out) == {(at, "content"): text.replace(CARD, "[X]") for at, text in enumerate(texts)}

    async def test_what_carries_no_text_is_held_by_its_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guardrail, "HELD_BYTES", 1000)
        taken = 0

        async def upstream() -> AsyncIterator[Chunk]:
            nonlocal taken
            yield delta(0, content="forb")
            for _ in range(50):
                taken += 1
                yield delta(0, audio={"data": "A" * 100})
            yield delta(0, content="idden")

        reply = await guard().post_call(make_call(), Reply(stream=upstream()))
        assert reply is not None
        assert reply.stream is not None
        await anext(reply.stream)
        assert taken < 10
        with pytest.raises(Blocked):
            async for _ in reply.stream:
                pass

    async def test_lanes_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guardrail, "LANES", 3)
        assert (await stream([delta(at, content="x") for at in range(3)]))[1] is None
        assert isinstance((await stream([delta(at, content="x") for at in range(4)]))[1], ProtocolError)


class TestFrames:
    FRAME = b'data: {"choices":[{"index":0,"delta":{"content":"forbidden"}}]}\n\n'

    @pytest.mark.parametrize(
        "raw",
        [
            FRAME,
            b"\xef\xbb\xbf" + FRAME,
            b": x\r" + FRAME,
            b"event: m\r" + FRAME,
            FRAME.replace(b"\n", b"\r"),
            FRAME.replace(b"\n", b"\r\n"),
            b"id: 1\nretry: 3\n" + FRAME + b"data: [DONE]\r\r",
        ],
    )
    async def test_read_as_a_client_reads_them(self, raw: bytes) -> None:
        assert len(Chunk(raw).events) == 1
        assert isinstance((await stream([Chunk(raw)]))[1], Blocked)

    @pytest.mark.parametrize(
        "raw",
        [b"\xef\xbb\xbf\xef\xbb\xbf" + FRAME, b" " + FRAME, b'{"a":1}\n\n', b"data: {\n\n", b"data: 1\n\n"],
    )
    async def test_what_is_no_event_does_not_pass(self, raw: bytes) -> None:
        with pytest.raises(ProtocolError):
            _ = Chunk(raw).events
        out, failure = await stream([Chunk(raw)])
        assert isinstance(failure, ProtocolError)
        assert out == []

    @pytest.mark.parametrize("raw", [b"", b": ping\n\n", b"event: ping\n\n", b"retry: 3\r\n\r\n", b"data:\n\n", DONE])
    def test_what_means_nothing_is_no_event(self, raw: bytes) -> None:
        assert Chunk(raw).events == []
