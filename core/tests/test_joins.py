"""Two answers as one: what can be gone on with, and how the rest is said without a word twice."""

from __future__ import annotations

import random
from typing import Any

import pytest
from kernel import asking
from survival import accounts, breaks, gateway_of, run, talker

from tianji import joins
from tianji.errors import ContentPolicy, Failure, Rejected
from tianji.joins import ChatJoin, MessagesJoin, Seam, join_of
from tianji.model import Usage

# -- what cannot be gone on with ---------------------------------------------------------------------------------------

TOOL = {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]}


@pytest.mark.parametrize("delta", [TOOL, {"refusal": "No"}, {"reasoning_content": "Hm"}, {"audio": {"id": "1"}}])
def test_only_text_can_be_gone_on_with(delta: dict[str, Any]) -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2}, extra=[delta])
        gateway = gateway_of(provider, "a", "b")
        _, call, _ = await breaks(gateway)
        assert accounts(gateway, call) == ["partial"]

    run(main)


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        ("openai-chat", {"n": 2}),
        ("openai-chat", {"logprobs": True}),
        ("openai-chat", {"response_format": {"type": "json_schema", "json_schema": {}}}),
        ("openai-chat", {"response_format": {"type": "json_object"}}),
        ("openai-chat", {"modalities": ["text", "audio"], "audio": {}}),
        ("openai-chat", {"tool_choice": "required"}),
        ("openai-chat", {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}),
        ("anthropic-messages", {"output_config": {"format": {"type": "json_schema"}}}),
        ("anthropic-messages", {"tool_choice": {"type": "any"}}),
        ("openai-completions", {"prompt": "x"}),
    ],
)
def test_requests_that_are_left_alone(dialect: str, fields: dict[str, Any]) -> None:
    assert join_of(asking(dialect=dialect, stream=True, **fields)) is None


@pytest.mark.parametrize("fields", [{}, {"n": 1}, {"response_format": {"type": "text"}}, {"tool_choice": "auto"}])
def test_requests_that_are_not(fields: dict[str, Any]) -> None:
    assert join_of(asking(stream=True, **fields)) is not None
    assert join_of(asking(**fields)) is None


def test_a_very_long_answer_is_no_longer_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "LIMIT", 10)

    async def main() -> None:
        provider = talker(text="x" * 40, breaks={"a": 8}, rng=random.Random(2))
        gateway = gateway_of(provider, "a", "b")
        _, call, _ = await breaks(gateway)
        assert accounts(gateway, call) == ["partial"]

    run(main)


@pytest.mark.parametrize("fault", [ContentPolicy("no"), Rejected("no")])
def test_what_the_provider_refused_is_not_asked_of_another(fault: Failure) -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2}, fault=staticmethod(lambda: fault))
        gateway = gateway_of(provider, "a", "b")
        _, call, failure = await breaks(gateway)
        assert failure is fault
        assert accounts(gateway, call) == ["partial"]

    run(main)


def test_after_the_finish_there_is_nothing_to_go_on_with() -> None:
    join = ChatJoin()
    join.note([{"id": "1", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}])
    assert not join.open


# -- the seam ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "echo", "pieces", "said"),
    [
        ("", "", [" two"], " two"),
        (" ", "", [" two"], "two"),
        (" ", "", ["two"], "two"),
        ("\n\n", "", ["\n", "\n", "two"], "two"),
        ("\n\n", "", ["\n", "two"], "two"),
        ("\n", "", ["\n\n", "two"], "\ntwo"),
        (" ", "", ["\n", " two"], "\n two"),
        ("", "One", ["On", "e two"], " two"),
        (" ", "One", ["One", " ", "two"], "two"),
        ("", "One", [" two"], " two"),
        ("", "One", ["O", "ops"], "Oops"),
        ("", "One", ["On"], "On"),
        ("", "One", ["One"], ""),
    ],
)
def test_nothing_is_said_twice(space: str, echo: str, pieces: list[str], said: str) -> None:
    seam = Seam(space, echo)
    assert "".join(map(seam.cut, pieces)) + seam.rest() == said


def said(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def test_a_tool_call_after_the_break_closes_the_text() -> None:
    join = MessagesJoin()
    start = {"type": "message_start", "message": {"id": "m1", "usage": {"input_tokens": 5, "output_tokens": 1}}}
    text = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    join.note([start, text, said("Let me")])
    join.resume(Usage(5, 2), repeats=False)
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    tool = {"type": "content_block_start", "index": 0, "content_block": block}
    arguments = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}}
    stop = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}}
    end: list[dict[str, Any]] = [{"type": "content_block_stop", "index": 0}, stop, {"type": "message_stop"}]
    made = join.rewrite([start, tool, arguments, *end])
    assert [(one["type"], one.get("index")) for one in made] == [
        ("content_block_stop", 0), ("content_block_start", 1), ("content_block_delta", 1), ("content_block_stop", 1),
        ("message_delta", None), ("message_stop", None),
    ]  # fmt: skip
    assert (made[4]["usage"]["input_tokens"], made[4]["usage"]["output_tokens"]) == (10, 5)
    assert not join.open


def test_a_break_between_two_blocks_goes_on_in_a_new_one() -> None:
    join = MessagesJoin()
    text = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Hi "}}
    start = {"type": "message_start", "message": {"id": "m1"}}
    join.note([start, text, {"type": "content_block_stop", "index": 0}])
    assert join.open
    assert (join.text, join.prefill) == ("Hi ", "Hi")
    join.resume(None, repeats=False)
    made = join.rewrite([start, {**text, "content_block": {"type": "text", "text": ""}}, said(" there")])
    assert [one["index"] for one in made] == [1, 1]
    assert join.text == "Hi there"
