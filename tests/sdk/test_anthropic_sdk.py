"""The official `anthropic` SDK (https://github.com/anthropics/anthropic-sdk-python) against a running gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import Message, ToolParam

from tests.sdk import backends
from tests.sdk.backends import BACKENDS, MODEL, Said, Served, serve

T = TypeVar("T")

HELLO: Any = [{"role": "user", "content": "Hello?"}]
TEXT = Said("Good morning to you.")
TOOLS = Said(tools=[("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})])
THOUGHT = Said("Four.", thinking="Two and two.")
THINK: Any = {"type": "enabled", "budget_tokens": 1024}
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serve(request.param) as one:
        yield one


@pytest.fixture
async def served_by_anthropic() -> AsyncIterator[Served]:
    async with serve(backends.Anthropic()) as one:
        yield one


async def sync(served: Served, use: Callable[[Anthropic], T], *, max_retries: int = 0) -> T:
    """Use the synchronous client, in a thread: the gateway runs in this one."""

    def run() -> T:
        with Anthropic(base_url=served.gw.url, api_key=served.gw.key, max_retries=max_retries) as client:
            return use(client)

    return await asyncio.to_thread(run)


def client(served: Served) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=served.gw.url, api_key=served.gw.key, max_retries=0)


def check_usage(usage: Any) -> None:
    assert (usage.input_tokens, usage.output_tokens) == (12, 7)


def ask(one: Anthropic, **fields: Any) -> Message:
    message = one.messages.create(model=MODEL, max_tokens=2000, messages=HELLO, **fields)
    assert isinstance(message, Message)
    return message


def calls(message: Message) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


# -- whole answers -----------------------------------------------------------------------------------------------------


async def test_text(served: Served) -> None:
    served.say(TEXT)
    message = await sync(served, lambda one: ask(one, system="Be polite."))
    assert [block.text for block in message.content if block.type == "text"] == [TEXT.text]
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert message.id.startswith("msg_")
    check_usage(message.usage)
    assert "Be polite." in json.dumps(served.asked)


async def test_async_text(served: Served) -> None:
    served.say(Said("Good", cut=True))
    async with client(served) as one:
        message = await one.messages.create(model=MODEL, max_tokens=5, messages=HELLO)
    assert message.content[0].type == "text"
    assert (message.content[0].text, message.stop_reason) == ("Good", "max_tokens")


async def test_tools_and_their_results(served: Served) -> None:
    """Two calls at once, and the conversation goes on with their results."""
    served.say(TOOLS)
    messages: list[Any] = list(HELLO)
    async with client(served) as one:
        message = await one.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=[WEATHER])
        assert message.stop_reason == "tool_use"
        assert calls(message) == TOOLS.tools
        assert served.backend.tool_names(served.asked) == ["get_weather"]
        ids = [block.id for block in message.content if block.type == "tool_use"]
        assert len(set(ids)) == 2
        messages.append({"role": "assistant", "content": message.content})
        results = [{"type": "tool_result", "tool_use_id": id, "content": f"sunny {n}"} for n, id in enumerate(ids)]
        messages.append({"role": "user", "content": results})
        served.say(TEXT)
        message = await one.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=[WEATHER])
    assert message.content[0].type == "text"
    sent = json.dumps(served.asked)
    assert "sunny 0" in sent
    assert "sunny 1" in sent


async def test_thinking(served: Served) -> None:
    """Thinking comes first, signed where the vendor signs it, and goes back with the conversation."""
    served.say(THOUGHT)
    async with client(served) as one:
        message = await one.messages.create(model=MODEL, max_tokens=2000, messages=HELLO, thinking=THINK)
        kinds = [block.type for block in message.content]
        if served.backend.name == "openai":  # its chat API keeps the thoughts to itself
            assert kinds == ["text"]
        else:
            assert kinds == ["thinking", "text"]
            assert message.content[0].type == "thinking"
            signature = "EqQBCgIYAhIM" if served.backend.name == "anthropic" else ""
            assert (message.content[0].thinking, message.content[0].signature) == ("Two and two.", signature)
        served.say(TEXT)
        messages = [*HELLO, {"role": "assistant", "content": message.content}, *HELLO]
        await one.messages.create(model=MODEL, max_tokens=2000, messages=messages, thinking=THINK)
    if served.backend.name == "anthropic":
        assert served.asked["messages"][1]["content"][0] == {
            "type": "thinking",
            "thinking": "Two and two.",
            "signature": "EqQBCgIYAhIM",
        }


async def test_raw_response(served: Served) -> None:
    served.say(TEXT)
    async with client(served) as one:
        raw = await one.messages.with_raw_response.create(model=MODEL, max_tokens=100, messages=HELLO)
        message = await raw.parse()
    assert message.content[0].type == "text"
    assert raw.headers["x-request-id"]
    assert raw.headers[f"llm_provider-{served.backend.request_id}"] == "req_upstream"
    assert raw.headers["x-tianji-model-group"] == MODEL


async def test_native_requests_arrive_as_they_were_sent(served_by_anthropic: Served) -> None:
    served_by_anthropic.say(TEXT)
    extra: Any = {"from_the_future": {"a": [1]}}
    headers = {"anthropic-beta": "a-beta-2025-01-01"}
    await sync(served_by_anthropic, lambda one: ask(one, extra_body=extra, extra_headers=headers))
    request = served_by_anthropic.up.requests[-1]
    assert request.json() == {"model": "claude-sonnet-4-5", "max_tokens": 2000, "messages": HELLO, **extra}
    assert request.headers["anthropic-beta"] == "a-beta-2025-01-01"
    assert request.headers["x-api-key"] == "sk-upstream"
    assert request.path == "/v1/messages"


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_streamed_text(served: Served) -> None:
    served.say(TEXT, stream=True)

    def use(one: Anthropic) -> tuple[str, Message]:
        with one.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
            text = "".join(stream.text_stream)
            return text, stream.get_final_message()

    text, message = await sync(served, use)
    assert text == TEXT.text
    assert message.stop_reason == "end_turn"
    check_usage(message.usage)


async def test_events_of_a_stream(served: Served) -> None:
    """The order that the protocol promises: start, blocks one after the other, delta, stop."""
    served.say(Said("Good morning.", thinking="Well.", tools=TOOLS.tools), stream=True)
    async with client(served) as one:
        stream = await one.messages.create(model=MODEL, max_tokens=100, messages=HELLO, stream=True, tools=[WEATHER])
        events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_delta") == 1
    started = [event.index for event in events if event.type == "content_block_start"]
    stopped = [event.index for event in events if event.type == "content_block_stop"]
    assert started == stopped == list(range(len(started)))
    open_block = -1
    for event in events:
        if event.type == "content_block_start":
            assert open_block == -1
            open_block = event.index
        elif event.type == "content_block_delta":
            assert event.index == open_block
        elif event.type == "content_block_stop":
            open_block = -1


async def test_streamed_tools(served: Served) -> None:
    served.say(TOOLS, stream=True)
    async with client(served) as one:
        async with one.messages.stream(model=MODEL, max_tokens=100, messages=HELLO, tools=[WEATHER]) as stream:
            message = await stream.get_final_message()
    assert calls(message) == TOOLS.tools
    assert message.stop_reason == "tool_use"
    check_usage(message.usage)


async def test_streamed_thinking(served: Served) -> None:
    served.say(THOUGHT, stream=True)
    async with client(served) as one:
        async with one.messages.stream(model=MODEL, max_tokens=2000, messages=HELLO, thinking=THINK) as stream:
            message = await stream.get_final_message()
    thoughts = [(block.thinking, block.signature) for block in message.content if block.type == "thinking"]
    signature = "EqQBCgIYAhIM" if served.backend.name == "anthropic" else ""
    assert thoughts == ([] if served.backend.name == "openai" else [("Two and two.", signature)])
    assert [block.text for block in message.content if block.type == "text"] == ["Four."]


async def test_error_in_a_stream(served: Served) -> None:
    served.break_off(TEXT, "the model fell over")
    got: list[str] = []

    async def read(one: AsyncAnthropic) -> None:
        async with one.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
            async for text in stream.text_stream:
                got.append(text)

    async with client(served) as one:
        with pytest.raises(anthropic.APIError, match="the model fell over"):
            await read(one)
    assert TEXT.text.startswith("".join(got))
    assert len("".join(got)) >= len("".join(TEXT.pieces[:2]))


@pytest.mark.parametrize("politely", [True, False])
async def test_stream_cut_off(served: Served, politely: bool) -> None:
    served.cut_off(TEXT, politely=politely)

    def use(one: Anthropic) -> Message:
        with one.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
            return stream.get_final_message()

    with pytest.raises(anthropic.APIError):
        await sync(served, use)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "named"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
    ],
)
async def test_errors(
    served: Served, status: int, kind: type[anthropic.APIStatusError], named: str, stream: bool
) -> None:
    served.refuse(status, "that went wrong", headers={"retry-after": "7"} if status == 429 else {})
    async with client(served) as one:
        with pytest.raises(kind, match="that went wrong") as caught:
            await one.messages.create(model=MODEL, max_tokens=100, messages=HELLO, stream=stream)
    error = caught.value
    assert error.status_code == status
    assert isinstance(error.body, dict)
    assert (error.body["type"], error.body["error"]["type"]) == ("error", named)
    assert error.response.headers["x-should-retry"] == ("true" if status >= 429 else "false")
    assert error.response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert len(served.up.requests) == 1


async def test_no_retry_where_the_gateway_says_so(served: Served) -> None:
    """The SDK would try a 409 again by itself; `x-should-retry: false` tells it not to."""
    served.refuse(409, "in conflict with another request")
    with pytest.raises(anthropic.ConflictError):
        await sync(served, ask, max_retries=2)
    assert len(served.up.requests) == 1


async def test_retry_where_the_gateway_says_so(served: Served) -> None:
    served.refuse(429, "slower, please", times=1, headers={"retry-after-ms": "1"})
    served.say(TEXT)
    message = await sync(served, ask, max_retries=2)
    assert message.stop_reason == "end_turn"
    assert len(served.up.requests) == 2


async def test_what_the_gateway_refuses(served: Served) -> None:
    served.say(TEXT)
    async with client(served) as one:
        with pytest.raises(anthropic.NotFoundError, match="no-such-model"):
            await one.messages.create(model="no-such-model", max_tokens=100, messages=HELLO)
        with pytest.raises(anthropic.BadRequestError, match="messages"):
            await one.messages.create(model=MODEL, max_tokens=100, messages=[])
    async with AsyncAnthropic(base_url=served.gw.url, api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.create(model=MODEL, max_tokens=100, messages=HELLO)
    assert served.up.requests == []


# -- counting ----------------------------------------------------------------------------------------------------------


async def test_count_tokens(served: Served) -> None:
    """Counted by Anthropic where it is Anthropic's model; elsewhere an estimate that is marked as one."""
    served.up.reply(json={"input_tokens": 14})
    async with client(served) as one:
        raw = await one.messages.with_raw_response.count_tokens(model=MODEL, messages=HELLO, tools=[WEATHER])
        count = await raw.parse()
    if served.backend.name == "anthropic":
        assert count.input_tokens == 14
        assert served.up.requests[-1].path == "/v1/messages/count_tokens"
    else:
        assert count.input_tokens > 14
        assert raw.headers["x-tianji-estimated"] == "true"
        assert served.up.requests == []
