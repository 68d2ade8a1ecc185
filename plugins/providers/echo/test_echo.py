"""The conformance suite, and everything that the echo does on demand."""

import asyncio
import base64
import struct
from typing import Any

import pytest
import tianji_provider_echo as module
from tianji_provider_echo import Echo, Instance, embedding

from tianji import BadRequest, Failure, Op, ProtocolError, Reply, Usage, decode_json, encode_json
from tianji.testing import FakeGateway, ProviderSuite, make_call, make_deployment, summarise
from tianji.testing.gateway import gateway

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_time", "get-weather")]


async def ask(text: Any = "Hello there, world", *, model: str = "echo", settings: Any = None, **fields: Any) -> Reply:
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    deployment = {name: fields.pop(name) for name in ("timeout", "stream_timeout") if name in fields}
    call = make_call({"model": "group", "messages": messages, **fields})
    return await send(call, model=model, settings=settings, **deployment)


async def send(call: Any, *, model: str = "echo", settings: Any = None, **fields: Any) -> Reply:
    echo = Echo(Echo.Settings(), instance="echo", gateway=FakeGateway())
    deployment = make_deployment(provider="echo", model=model, settings=settings or Echo.Settings(), **fields)
    reply: Reply = await echo.call(call, deployment)
    return reply


async def events(reply: Reply) -> list[dict[str, Any]]:
    assert reply.stream is not None
    return [event async for chunk in reply.stream for event in chunk.events]


class TestEcho(ProviderSuite):
    plugin = Echo


class TestAnswers:
    async def test_says_it_again(self) -> None:
        reply = await ask([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "One two three"}])
        assert reply.body["choices"] == [
            {"index": 0, "message": {"role": "assistant", "content": "One two three"}, "finish_reason": "stop"}
        ]
        assert reply.body["model"] == "group"
        assert reply.body["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        assert reply.usage == Usage(5, 3)
        assert reply.model == "echo"

    async def test_parts_are_joined(self) -> None:
        parts = [{"type": "text", "text": "One "}, {"type": "image_url", "image_url": {"url": "x"}}, "two"]
        reply = await ask([{"role": "user", "content": parts}])
        assert reply.body["choices"][0]["message"]["content"] == "One two"

    async def test_goes_on_from_a_beginning(self) -> None:
        asked = {"role": "user", "content": "One two three"}
        begun = {"role": "assistant", "content": "One tw", "prefix": True}
        reply = await ask([asked, begun])
        assert reply.body["choices"][0]["message"]["content"] == "o three"
        reply = await ask([asked, {**begun, "content": "Something else"}])
        assert reply.body["choices"][0]["message"]["content"] == "One two three"
        reply = await ask([asked, {**begun, "prefix": None}])
        assert reply.body["choices"][0]["message"]["content"] == "One two three"

    async def test_another_echo_goes_on_with_a_broken_stream(self) -> None:
        specs = [
            {"model_name": "chat", "tianji_params": {"model": f"echo/{model}", "order": order}}
            for order, model in enumerate(("fail-stream", "echo"))
        ]
        async with gateway({"model_list": specs, "router_settings": {"continue_streams": True}}) as gw:
            answer = await gw.chat("chat", "One two three four five", stream=True)
        frames = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert frames.pop() == "[DONE]"
        said = [decode_json(frame)["choices"][0]["delta"].get("content", "") for frame in frames]
        assert "".join(said) == "One two three four five"

    async def test_limit(self) -> None:
        reply = await ask("one  two three", max_tokens=2)
        assert reply.body["choices"][0]["message"]["content"] == "one  two"
        assert reply.body["choices"][0]["finish_reason"] == "length"
        assert reply.usage == Usage(3, 2)

    @pytest.mark.parametrize(
        ("mock", "text"),
        [
            ("canned words", "canned words"),
            ({"choices": [{"message": {"content": "inner"}}]}, "inner"),
            ({"temperature": 21}, '{"temperature":21}'),
        ],
    )
    async def test_canned(self, mock: Any, text: str) -> None:
        reply = await ask(settings=Echo.Settings(mock_response=mock), tools=TOOLS, tool_choice="required")
        assert reply.body["choices"][0]["message"] == {"role": "assistant", "content": text}

    async def test_other_dialects(self) -> None:
        """The kernel translates for a provider that speaks chat alone, also where it does its own I/O."""
        config = {"model_list": [{"model_name": "group", "tianji_params": {"model": "echo/echo"}}]}
        async with gateway(config) as gw:
            for stream in (False, True):
                body = {"model": "group", "prompt": "once upon", "stream": stream}
                said = (await gw.client.post("/v1/completions", json=body)).text
                assert '"object":"text_completion"' in said
                assert ('"text":"once upon"' in said) is not stream
                assert said.endswith("data: [DONE]\n\n") is stream
            ask = {
                "model": "group",
                "max_tokens": 9,
                "stream": True,
                "messages": [{"role": "user", "content": "Hi you"}],
            }
            raw = (await gw.client.post("/v1/messages", json=ask)).text
            assert raw.startswith("event: message_start\n")
            assert "[DONE]" not in raw
            assert "event: message_stop\n" in raw


class TestStreams:
    async def test_word_by_word(self) -> None:
        reply = await ask("one  two\nthree ", stream=True)
        assert reply.stream is not None
        chunks = [chunk async for chunk in reply.stream]
        found = [event for chunk in chunks for event in chunk.events]
        deltas = [event["choices"][0]["delta"] for event in found]
        assert deltas == [
            {"role": "assistant", "content": "one"}, {"content": "  two"}, {"content": "\nthree"}, {"content": " "}, {},
        ]  # fmt: skip
        assert {event["id"] for event in found} == {"chatcmpl-call-1"}
        assert found[-1]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-1].raw == b"data: [DONE]\n\n"
        assert sum(chunk.raw.count(b"[DONE]") for chunk in chunks) == 1
        assert all("usage" not in event for event in found)

    async def test_usage_where_it_is_asked_for(self) -> None:
        found = await events(await ask("one two", stream=True, stream_options={"include_usage": True}))
        assert found[-1]["choices"] == []
        assert found[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}

    async def test_the_meter_follows(self) -> None:
        reply = await ask("one two three", stream=True)
        assert reply.stream is not None
        assert reply.meter is not None
        stream = aiter(reply.stream)
        await anext(stream)
        await anext(stream)
        assert (reply.meter.usage, reply.meter.delivered, reply.meter.finished) == (Usage(3, 2), 2, False)
        assert [1 async for _ in stream]
        assert (reply.meter.usage, reply.meter.finished, reply.meter.model) == (Usage(3, 3), True, "echo")

    async def test_closing_ends_it(self) -> None:
        reply = await ask("one two three", stream=True)
        assert reply.stream is not None
        assert reply.upstream is not None
        stream = aiter(reply.stream)
        await anext(stream)
        before = reply.upstream.ended
        reply.upstream.close()
        assert (before, reply.upstream.ended) == (False, True)
        assert [1 async for _ in stream] == []

    async def test_draining_reads_to_the_end(self) -> None:
        reply = await ask("one two three", stream=True)
        assert reply.upstream is not None
        assert reply.meter is not None
        await reply.upstream.drain()
        assert reply.upstream.ended
        assert reply.meter.finished

    async def test_a_pause_can_be_cancelled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PACE", 3600.0)
        reply = await ask("one two", model="slow-stream", stream=True)
        assert reply.stream is not None
        stream = aiter(reply.stream)
        first = await anext(stream)
        assert first.events[0]["choices"][0]["delta"]["content"] == "one", "the first word is not waited for"
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def test_nothing_to_say(self) -> None:
        found = await events(await ask("", stream=True))
        assert [event["choices"][0]["delta"] for event in found] == [{"role": "assistant", "content": ""}, {}]


class TestTools:
    @pytest.mark.parametrize(
        ("text", "choice", "called"),
        [
            ("please call get_time", None, ("get_time", {})),
            ('call get-weather with {"city": "Bern"} now', None, ("get-weather", {"city": "Bern"})),
            ("call nobody, then call get_time", None, ("get_time", {})),
            ("hello", "required", ("get_time", {})),
            ("call get-weather", "required", ("get-weather", {})),
            ("hello {broken", {"type": "function", "function": {"name": "get-weather"}}, ("get-weather", {})),
            ("call get_time", "none", None),
            ("hello", None, None),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    async def test_calls(self, text: str, choice: Any, called: Any, stream: bool) -> None:
        reply = await ask(text, tools=TOOLS, tool_choice=choice, stream=stream)
        found = summarise(await events(reply) if stream else reply.body)
        if called is None:
            assert (found["text"], found["tool_calls"], found["finish_reason"]) == (text, [], "stop")
        else:
            assert found["tool_calls"] == [{"id": "call_call-1", "name": called[0], "arguments": called[1]}]
            assert found["finish_reason"] == "tool_calls"

    async def test_a_tools_result_ends_it(self) -> None:
        messages = [
            {"role": "user", "content": "call get_time"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "get_time"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "noon"},
        ]
        reply = await ask(messages, tools=TOOLS, tool_choice="required")
        assert reply.body["choices"][0]["message"] == {"role": "assistant", "content": "noon"}


class TestStructuredOutput:
    async def test_schema(self) -> None:
        schema = {"type": "object", "properties": {"city": {"type": "string"}, "n": {}}, "required": ["city"]}
        wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
        reply = await ask(response_format=wanted)
        assert decode_json(reply.body["choices"][0]["message"]["content"]) == {"city": ""}

    async def test_json_object(self) -> None:
        reply = await ask("Hi", response_format={"type": "json_object"})
        assert decode_json(reply.body["choices"][0]["message"]["content"]) == {"echo": "Hi"}

    @pytest.mark.parametrize(
        ("schema", "value"),
        [
            ({"const": 5}, 5),
            ({"enum": ["b", "a"]}, "b"),
            ({"type": ["null", "integer"], "minimum": 3}, 3),
            ({"type": "integer", "exclusiveMinimum": 3}, 4),
            ({"type": "number", "maximum": -2}, -2),
            ({"type": "string", "minLength": 2}, "xx"),
            ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
            ({"type": "array", "items": {"type": "boolean"}}, []),
            ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
            ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, 1),
            ({"allOf": [{"required": ["a"], "properties": {"a": {"const": 1}}}], "type": "object"}, {"a": 1}),
            (True, None),
        ],
    )
    def test_instances(self, schema: Any, value: Any) -> None:
        assert Instance(schema).of(schema) == value

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]},
            {"type": "array", "items": {"$ref": "#"}, "minItems": 1_000_000_000},
        ],
    )
    def test_a_schema_without_an_end_ends(self, schema: dict[str, Any]) -> None:
        made = Instance(schema)
        assert len(encode_json(made.of(schema))) < 100_000

    @pytest.mark.parametrize(
        "schema", [{"$ref": "#/nowhere"}, {"enum": []}, {"type": "array", "minItems": "2"}, {"$ref": 5}]
    )
    async def test_a_schema_that_is_none(self, schema: dict[str, Any]) -> None:
        with pytest.raises(BadRequest, match="schema"):
            await ask(response_format={"type": "json_schema", "json_schema": {"schema": schema}})


class TestFailures:
    @pytest.mark.parametrize(
        ("model", "kind", "status"),
        [
            ("fail-429", "Throttled", 429),
            ("fail-500", "Unavailable", 500),
            ("fail-401", "BadCredentials", 401),
            ("fail-timeout", "Timeout", 408),
            ("fail-context-window", "ContextWindow", 400),
            ("fail-content-policy", "ContentPolicy", 400),
            ("fail-stream", "ProtocolError", 502),
            ("fail-somehow", "BadRequest", 400),
            ("fail-200", "BadRequest", 400),
        ],
    )
    async def test_by_model(self, model: str, kind: str, status: int) -> None:
        with pytest.raises(Failure) as caught:
            await ask(model=model)
        assert (type(caught.value).__name__, caught.value.status) == (kind, status)

    @pytest.mark.parametrize(
        ("mock", "kind", "status"),
        [
            ("litellm.RateLimitError", "Throttled", 429),
            ("tianji.Timeout", "Timeout", 408),
            ("litellm.ContextWindowExceededError", "ContextWindow", 400),
            ("litellm.SomethingNew", "Unavailable", 500),
        ],
    )
    async def test_by_canned_exception(self, mock: str, kind: str, status: int) -> None:
        with pytest.raises(Failure) as caught:
            await ask(settings=Echo.Settings(mock_response=mock))
        assert (type(caught.value).__name__, caught.value.status) == (kind, status)

    async def test_a_stream_breaks_off(self) -> None:
        reply = await ask("one two three", model="fail-stream", stream=True)
        assert reply.stream is not None
        assert reply.meter is not None
        assert reply.upstream is not None
        stream = aiter(reply.stream)
        chunks = [await anext(stream), await anext(stream)]
        with pytest.raises(ProtocolError):
            await anext(stream)
        assert [chunk.events[0]["choices"][0]["delta"]["content"] for chunk in chunks] == ["one", " two"]
        assert not reply.meter.finished
        assert reply.upstream.ended


class TestWaiting:
    async def test_delay_is_slept_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        monkeypatch.setattr(asyncio, "sleep", sleep)
        await ask(settings=Echo.Settings(delay=2))
        await ask(model="slow")
        await ask(model="slow", settings=Echo.Settings(delay=3))
        await ask()
        assert slept == [2, module.SLOW, 3]

    async def test_it_is_under_the_deployments_and_the_calls_clock(self) -> None:
        params = {"model": "echo/echo", "delay": 3600, "num_retries": 0}
        config = {
            "model_list": [
                {"model_name": "slow", "tianji_params": params},
                {"model_name": "short", "tianji_params": {**params, "timeout": 60, "stream_timeout": 0.05}},
            ]
        }
        async with gateway(config) as gw:
            for reply in (await gw.chat("slow", timeout=0.05), await gw.chat("short", stream=True)):
                assert reply.status_code == 408
                assert reply.json()["error"]["code"] == "timeout"


class TestEmbeddings:
    async def embed(self, **body: Any) -> Reply:
        return await send(make_call({"model": "group", **body}, op=Op.EMBEDDINGS, dialect="openai-embeddings"))

    async def test_equal_texts_are_equal(self) -> None:
        reply = await self.embed(input=["one two", "three", "one two"])
        first, second, third = (one["embedding"] for one in reply.body["data"])
        assert first == third != second
        assert sum(number * number for number in second) == pytest.approx(1.0, abs=1e-6)
        assert [one["index"] for one in reply.body["data"]] == [0, 1, 2]
        assert reply.usage == Usage(input_tokens=5)

    async def test_dimensions(self) -> None:
        assert len((await self.embed(input="x")).body["data"][0]["embedding"]) == module.DIMENSIONS
        assert len((await self.embed(input="x", dimensions=3)).body["data"][0]["embedding"]) == 3
        with pytest.raises(BadRequest, match="dimensions"):
            await self.embed(input="x", dimensions=1_000_000)

    async def test_base64(self) -> None:
        shown = (await self.embed(input="x", dimensions=3, encoding_format="base64")).body["data"][0]["embedding"]
        assert struct.unpack("<3f", base64.b64decode(shown)) == pytest.approx(embedding("x", 3), abs=1e-6)

    async def test_token_arrays(self) -> None:
        one, two = await self.embed(input=[1, 2, 3]), await self.embed(input=[[1, 2, 3], [4]])
        assert len(one.body["data"]) == 1
        assert len(two.body["data"]) == 2
        assert one.usage == Usage(input_tokens=3)
        assert one.body["data"][0]["embedding"] == two.body["data"][0]["embedding"]
