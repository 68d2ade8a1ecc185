"""The official `openai` SDK (https://github.com/openai/openai-python) against a running gateway, over sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionToolParam
from pydantic import BaseModel

from tests.sdk import backends
from tests.sdk.backends import BACKENDS, MODEL, Said, Served, serve

T = TypeVar("T")

HELLO: Any = [{"role": "user", "content": "Hello?"}]
TEXT = Said("Good morning to you.")
TOOLS = Said(tools=[("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})])
THOUGHT = Said("Four.", thinking="Two and two.")
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serve(request.param) as one:
        yield one


@pytest.fixture
async def served_by_openai() -> AsyncIterator[Served]:
    async with serve(backends.OpenAI()) as one:
        yield one


async def sync(served: Served, use: Callable[[OpenAI], T], *, max_retries: int = 0) -> T:
    """Use the synchronous client, in a thread: the gateway runs in this one."""

    def run() -> T:
        with OpenAI(base_url=f"{served.gw.url}/v1", api_key=served.gw.key, max_retries=max_retries) as client:
            return use(client)

    return await asyncio.to_thread(run)


def client(served: Served) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{served.gw.url}/v1", api_key=served.gw.key, max_retries=0)


def check_usage(usage: Any, *, thought: bool = False) -> None:
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 7, 19)
    if thought:
        assert usage.completion_tokens_details.reasoning_tokens == 3


# -- whole answers -----------------------------------------------------------------------------------------------------


async def test_text(served: Served) -> None:
    served.say(TEXT)
    answer = await sync(served, lambda client: client.chat.completions.create(model=MODEL, messages=HELLO))
    assert isinstance(answer, ChatCompletion)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (TEXT.text, "stop")
    assert (answer.model, answer.object, answer.choices[0].message.role) == (MODEL, "chat.completion", "assistant")
    assert answer.created > 1_500_000_000
    check_usage(answer.usage)


async def test_async_text(served: Served) -> None:
    served.say(Said("Good", cut=True))
    async with client(served) as one:
        answer = await one.chat.completions.create(model=MODEL, messages=HELLO, max_completion_tokens=5)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Good", "length")


async def test_tools_and_their_results(served: Served) -> None:
    """Two calls at once, and the conversation goes on with their results."""
    served.say(TOOLS)
    messages = list(HELLO)
    async with client(served) as one:
        answer = await one.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls or []
        assert [(call.type, call.function.name) for call in calls if call.type == "function"] == [
            ("function", "get_weather"),
            ("function", "get_weather"),
        ]
        assert [json.loads(call.function.arguments) for call in calls if call.type == "function"] == [
            {"city": "Paris"},
            {"city": "Rome"},
        ]
        assert len({call.id for call in calls}) == 2
        assert served.backend.tool_names(served.asked) == ["get_weather"]
        messages.append(choice.message.model_dump(exclude_none=True))
        messages += [{"role": "tool", "tool_call_id": call.id, "content": f"sunny {n}"} for n, call in enumerate(calls)]
        served.say(TEXT)
        answer = await one.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == TEXT.text
    sent = json.dumps(served.asked)
    assert "sunny 0" in sent
    assert "sunny 1" in sent


async def test_structured_output(served: Served) -> None:
    served.say(Said('{"name": "Ada", "age": 36}'))
    answer = await sync(
        served, lambda client: client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Person)
    )
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)
    assert set(served.backend.schema(served.asked)["properties"]) == {"name", "age"}


async def test_reasoning(served: Served) -> None:
    """Reasoning is text beside the content where the vendor shows it, and tokens where it counts them."""
    served.say(THOUGHT)
    async with client(served) as one:
        answer = await one.chat.completions.create(model=MODEL, messages=HELLO, reasoning_effort="low")
    message = answer.choices[0].message
    assert message.content == "Four."
    if served.backend.name != "openai":
        assert getattr(message, "reasoning_content", None) == "Two and two."
    if served.backend.name == "anthropic":
        blocks = getattr(message, "thinking_blocks", None)
        assert blocks == [{"type": "thinking", "thinking": "Two and two.", "signature": "EqQBCgIYAhIM"}]
    check_usage(answer.usage, thought=served.backend.name != "anthropic")


async def test_raw_response(served: Served) -> None:
    served.say(TEXT)
    async with client(served) as one:
        raw = await one.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
        answer = raw.parse()
    assert answer.choices[0].message.content == TEXT.text
    assert raw.headers["x-request-id"] == answer._request_id
    assert raw.headers[f"llm_provider-{served.backend.request_id}"] == "req_upstream"
    assert raw.headers["x-tianji-model-group"] == MODEL


# -- streams -----------------------------------------------------------------------------------------------------------


async def collect(served: Served, **fields: Any) -> list[ChatCompletionChunk]:
    async with client(served) as one:
        stream = await one.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **fields)
        return [chunk async for chunk in stream]


async def test_streamed_text(served: Served) -> None:
    served.say(TEXT, stream=True)
    chunks = await sync(
        served, lambda client: list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == TEXT.text
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert [chunk for chunk in chunks if chunk.usage] == [], "nobody asked for the usage"


async def test_streamed_usage(served: Served) -> None:
    served.say(THOUGHT, stream=True)
    chunks = await collect(served, stream_options={"include_usage": True})
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    check_usage(chunks[-1].usage, thought=served.backend.name != "anthropic")
    if served.backend.name != "openai":
        thoughts = [getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks[:-1]]
        assert "".join(thoughts) == "Two and two."


async def test_streamed_tools(served: Served) -> None:
    """The SDK's own accumulator puts the parallel calls together."""
    served.say(TOOLS, stream=True)
    async with client(served) as one:
        async with one.chat.completions.stream(model=MODEL, messages=HELLO, tools=[WEATHER]) as stream:
            final = await stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    calls = final.choices[0].message.tool_calls or []
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == TOOLS.tools
    assert len({call.id for call in calls}) == 2


async def test_streamed_structured_output(served: Served) -> None:
    served.say(Said('{"name": "Ada", "age": 36}'), stream=True)
    async with client(served) as one:
        async with one.chat.completions.stream(
            model=MODEL, messages=HELLO, response_format=Person, stream_options={"include_usage": True}
        ) as stream:
            kinds = {event.type async for event in stream}
            final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Ada", age=36)
    assert {"content.delta", "content.done"} <= kinds
    check_usage(final.usage)


async def test_error_in_a_stream(served: Served) -> None:
    """What came before it was delivered; then the SDK raises, with the vendor's words."""
    served.break_off(TEXT, "the model fell over")
    got: list[str] = []

    async def read(one: AsyncOpenAI) -> None:
        async for chunk in await one.chat.completions.create(model=MODEL, messages=HELLO, stream=True):
            got.append(chunk.choices[0].delta.content or "")

    async with client(served) as one:
        with pytest.raises(openai.APIError, match="the model fell over"):
            await read(one)
    assert TEXT.text.startswith("".join(got))
    assert len("".join(got)) >= len("".join(TEXT.pieces[:2]))


@pytest.mark.parametrize("politely", [True, False])
async def test_stream_cut_off(served: Served, politely: bool) -> None:
    served.cut_off(TEXT, politely=politely)
    with pytest.raises(openai.APIError):
        await collect(served)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_errors(served: Served, status: int, kind: type[openai.APIStatusError], stream: bool) -> None:
    served.refuse(status, "that went wrong", headers={"retry-after": "7"} if status == 429 else {})
    async with client(served) as one:
        with pytest.raises(kind, match="that went wrong") as caught:
            await one.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    error = caught.value
    assert error.status_code == status
    assert error.request_id == error.response.headers["x-request-id"]
    assert error.response.headers["x-should-retry"] == ("true" if status >= 429 else "false")
    assert error.response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert isinstance(error.body, dict)
    assert error.body["type"]
    assert len(served.up.requests) == 1


async def test_no_retry_where_the_gateway_says_so(served: Served) -> None:
    """The SDK would try a 409 again by itself; `x-should-retry: false` tells it not to."""
    served.refuse(409, "in conflict with another request")
    with pytest.raises(openai.ConflictError):
        await sync(served, lambda c: c.chat.completions.create(model=MODEL, messages=HELLO), max_retries=2)
    assert len(served.up.requests) == 1


async def test_retry_where_the_gateway_says_so(served: Served) -> None:
    served.refuse(429, "slower, please", times=1, headers={"retry-after-ms": "1"})
    served.say(TEXT)
    answer = await sync(served, lambda c: c.chat.completions.create(model=MODEL, messages=HELLO), max_retries=2)
    assert answer.choices[0].message.content == TEXT.text
    assert len(served.up.requests) == 2


async def test_what_the_gateway_refuses(served: Served) -> None:
    served.say(TEXT)
    async with client(served) as one:
        with pytest.raises(openai.NotFoundError, match="no-such-model"):
            await one.chat.completions.create(model="no-such-model", messages=HELLO)
        with pytest.raises(openai.BadRequestError) as caught:
            await one.chat.completions.create(model=MODEL, messages="Hello?")  # type: ignore[arg-type]
        assert caught.value.param == "messages"
    async with AsyncOpenAI(base_url=f"{served.gw.url}/v1", api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model=MODEL, messages=HELLO)
    assert served.up.requests == []


# -- the other endpoints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_legacy_completions(served: Served, stream: bool) -> None:
    """Anthropic and Gemini have none: there they are said as chat."""
    if isinstance(served.backend, backends.OpenAI):
        whole = served.backend.completion(TEXT.text)
        pieces = [{**whole["choices"][0], "text": piece, "finish_reason": None} for piece in TEXT.pieces]
        choices = [*pieces, {**whole["choices"][0], "text": ""}]
        frames = backends.sse(*({**whole, "choices": [one], "usage": None} for one in choices))
        served.up.reply(json=whole)
        if stream:
            served.up.stream([*frames, b"data: [DONE]\n\n"])
    else:
        served.say(TEXT, stream=stream)
    async with client(served) as one:
        if stream:
            chunks = [c async for c in await one.completions.create(model=MODEL, prompt="Hello?", stream=True)]
            assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT.text
            assert chunks[-1].choices[0].finish_reason == "stop"
        else:
            answer = await one.completions.create(model=MODEL, prompt="Hello?", max_tokens=10)
            assert (answer.choices[0].text, answer.choices[0].finish_reason) == (TEXT.text, "stop")
            assert (answer.object, answer.model) == ("text_completion", MODEL)
            check_usage(answer.usage)


@pytest.mark.parametrize("packed", [True, False], ids=["base64", "float"])
async def test_embeddings(served: Served, packed: bool) -> None:
    """The SDK asks for base64 unless it is told otherwise, and unpacks it."""
    vectors = [[0.5, -0.25, 1.0], [0.0, 2.0, -8.0]]
    fields: dict[str, Any] = {} if packed else {"encoding_format": "float"}
    if isinstance(served.backend, backends.OpenAI):
        served.up.reply(json=served.backend.vectors(vectors, packed=packed))
    elif isinstance(served.backend, backends.Gemini):
        served.up.reply(json=served.backend.vectors(vectors))
    async with client(served) as one:
        if served.backend.name == "anthropic":
            with pytest.raises(openai.BadRequestError, match="embeddings"):
                await one.embeddings.create(model=MODEL, input=["a", "b"], **fields)
            assert served.up.requests == []
            return
        answer = await one.embeddings.create(model=MODEL, input=["a", "b"], **fields)
    assert [item.embedding for item in answer.data] == vectors
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.model == MODEL


async def test_models(served: Served) -> None:
    async with client(served) as one:
        assert [model.id async for model in one.models.list()] == [MODEL]
        assert (await one.models.retrieve(MODEL)).owned_by == served.backend.name


async def test_model_in_the_path(served: Served) -> None:
    """Azure's client names the model in the path, and sends its key under another header."""
    served.say(TEXT)

    def use() -> ChatCompletion:
        with AzureOpenAI(
            azure_endpoint=served.gw.url, api_version="2024-10-21", azure_deployment=MODEL, api_key=served.gw.key
        ) as azure:
            return azure.chat.completions.create(model="ignored", messages=HELLO)

    answer = await asyncio.to_thread(use)
    assert (answer.choices[0].message.content, answer.model) == (TEXT.text, MODEL)


async def test_unknown_fields_pass_through(served_by_openai: Served) -> None:
    served_by_openai.say(TEXT)
    async with client(served_by_openai) as one:
        await one.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"from_the_future": {"a": [1]}})
    assert served_by_openai.asked["from_the_future"] == {"a": [1]}
    assert served_by_openai.asked["model"] == "gpt-4.1-mini"
