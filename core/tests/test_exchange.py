"""One attempt over HTTP: what goes out, what is made of the answer, and what may pass from one side to the other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel import Collector, answer, ask, asking, assembled, config, deployment, scripted, streamed, text_of
from support import ANSWER, STREAM

from tianji.errors import ProtocolError, Rejected, Throttled, Timeout, Unavailable, Unprocessable
from tianji.exchange import renamed, retry_after
from tianji.model import Call, Deployment, Event, Op, Reply, Wire
from tianji.providers import HTTPProvider, OpenAICompatible
from tianji.providers.http import Decoder
from tianji.testing import Upstream


class Compatible(OpenAICompatible):
    name = "compatible"
    ops = frozenset({Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS})


class Own(HTTPProvider):
    """A vendor with a format of its own: `{"said": text}`, and one letter an event."""

    name = "own"
    ops = frozenset({Op.CHAT})

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        return Wire(self.base(deployment) + "/say", self.request_headers(deployment), {"ask": call.body["messages"]})

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": data["said"].strip()}
        return {"model": "theirs", "created": 0, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    def decoder(self, call: Call) -> Decoder:
        chunks: list[dict[str, Any]] = []
        while True:
            event: Event = yield chunks
            chunks = []
            if event.name != "end":
                letter = event.data["letter"]
                end = "stop" if letter == "." else None
                chunks = [{"choices": [{"index": 0, "delta": {"content": letter}, "finish_reason": end}]}]

    def failure(self, status: int, data: Any) -> Any:
        return Rejected(data["reason"]["text"].strip(), status=status)


def over(up: Upstream, provider: str = "compatible", **params: Any) -> dict[str, Any]:
    spec = deployment(api_base=f"{up.url}/v1", api_key="sk-upstream", **params)
    spec["tianji_params"]["model"] = f"{provider}/theirs"
    return spec


async def through(up: Upstream, provider: str = "compatible", call: Call | None = None, **params: Any) -> Collector:
    """One call, with no retries, to the upstream."""
    gateway = assembled(config(over(up, provider, **params), router_settings={"num_retries": 0}), Compatible, Own)
    got = await ask(gateway, call or asking())
    await gateway.stop()
    return got


class TestHeaders:
    """EG-3: by allow-list, both ways."""

    async def test_nothing_of_the_clients_goes_upstream(self) -> None:
        canaries = dict.fromkeys(
            (
                "authorization",
                "cookie",
                "x-api-key",
                "x-forwarded-for",
                "x-tianji-api-key",
                "openai-organization",
                "anthropic-beta",
                "host",
                "user-agent",
                "x-anything",
            ),
            "c4n4ry",
        )
        async with Upstream() as up:
            up.reply(json=ANSWER)
            await through(up, call=asking(headers=canaries), extra_headers={"x-own": "1"})
            (sent,) = up.requests
            assert "c4n4ry" not in str(sent)
            assert sent.headers["authorization"] == "Bearer sk-upstream"
            assert sent.headers["x-own"] == "1"

    async def test_little_of_the_upstreams_goes_to_the_client(self) -> None:
        theirs = {
            "x-ratelimit-remaining-tokens": "5",
            "openai-processing-ms": "7",
            "anthropic-ratelimit-x": "8",
            "x-request-id": "their-id",
            "set-cookie": "c4n4ry",
            "x-internal": "c4n4ry",
            "server": "c4n4ry",
            "location": "c4n4ry",
            "authorization": "c4n4ry",
            "www-authenticate": "c4n4ry",
            "x-should-retry": "c4n4ry",
            "retry-after": "1",
        }
        passed = {
            "x-ratelimit-remaining-tokens": "5",
            "openai-processing-ms": "7",
            "anthropic-ratelimit-x": "8",
            "llm_provider-x-request-id": "their-id",
        }
        async with Upstream() as up:
            up.reply(json=ANSWER, headers=theirs)
            whole = (await through(up)).replied
            assert whole is not None
            assert whole.headers == passed
            up.stream(STREAM, headers=theirs)
            stream = (await through(up, call=asking(stream=True))).replied
            assert stream is not None
            assert stream.headers == passed
            up.reply(status=429, json={"error": {"message": "slow"}}, headers=theirs)
            failure = (await through(up)).failure
            assert failure is not None
            assert failure.headers == passed
            assert failure.retry_after == 1.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86400.0),
        ({"retry-after": "1e9"}, 86400.0),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


NAMES = st.text(min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | NAMES | st.just("model"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.just("model"), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=4),
    NAMES,
    NAMES,
    st.integers(0, 4),
    st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
    st.booleans(),
)
def test_another_name_is_all_that_changes(
    other: dict[str, Any], theirs: str, ours: str, place: int, separators: tuple[str, str], ascii_only: bool
) -> None:
    items = [(key, value) for key, value in other.items() if key != "model"]
    items.insert(place, ("model", theirs))
    raw = json.dumps(dict(items), separators=separators, ensure_ascii=ascii_only).encode()
    assert json.loads(renamed(raw, theirs, ours)) == {**dict(items), "model": ours}


def test_the_rest_stays_byte_for_byte() -> None:
    raw = b'{ "id":1.50,\n"model": "a","big":123456789012345678901234567890,"u":"\\u00e9","s":"\\"model\\":\\"a\\"" }'
    assert renamed(raw, "a", 'b"') == raw.replace(b'"model": "a"', b'"model":"b\\""', 1)
    assert renamed(raw, "a", "a") is raw
    assert renamed(raw, None, "b") is raw


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"<html>busy</html>",
    "broken": b'{"choices":[',
    "a list": b"[1,2]",
    "a number": b"5",
    "null": b"null",
    "an empty object": b"{}",
    "null choices": b'{"choices":null}',
    "no object": b'{"choices":["x"]}',
    "not UTF-8": b'{"a":"\xff"}',
    "deep": b"[" * 100_000,
    "odd message": b'{"choices":[{"message":5}]}',
    "odd usage": b'{"choices":[],"usage":[1],"model":7}',
    "error in a 200": b'{"error":{"message":"no","code":503}}',
    "odd error in a 200": b'{"error":["x"]}',
    "odd said": b'{"said":5}',
    "odd tools": b'{"choices":[{"message":{"tool_calls":[{"function":{"arguments":{}}}]}}]}',
}


class TestGarbage:
    """What a provider gets wrong is never a 500 of the gateway's."""

    @pytest.mark.parametrize("name", GARBAGE)
    @pytest.mark.parametrize("provider", ["compatible", "own"])
    @pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages", "openai-completions"])
    async def test_in_a_whole_answer(self, name: str, provider: str, dialect: str) -> None:
        async with Upstream() as up:
            up.reply(body=GARBAGE[name], headers={"content-type": "application/json"})
            got = await through(up, provider, asking(dialect=dialect, max_tokens=5, prompt="x"))
            if got.failure is not None:
                assert (got.failure.status, type(got.failure).__name__) in {
                    (502, "ProtocolError"),
                    (503, "Unavailable"),
                    (500, "ProtocolError"),
                }, got.failure
                assert got.failure.provider == provider

    @pytest.mark.parametrize("name", [*GARBAGE, "odd event"])
    @pytest.mark.parametrize("provider", ["compatible", "own"])
    @pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages"])
    async def test_in_a_stream(self, name: str, provider: str, dialect: str) -> None:
        data = GARBAGE.get(name, b'{"choices":[{"delta":"x","finish_reason":"stop"}],"usage":{"prompt_tokens":{}}}')
        async with Upstream() as up:
            up.stream([b"data: %b\n\n" % data.replace(b"\n", b"") * 2])
            got = await through(up, provider, asking(dialect=dialect, max_tokens=5, stream=True))
            if got.failure is not None:
                assert type(got.failure).__name__ in {"ProtocolError", "Unavailable"}, got.failure
                assert got.failure.provider == provider

    @pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"null", b'{"reason":5}', b'{"reason":{"text":" said "}}'])
    @pytest.mark.parametrize("status", [400, 404, 503])
    async def test_in_an_error_answer(self, body: bytes, status: int) -> None:
        async with Upstream() as up:
            up.reply(status=status, body=body)
            failure = (await through(up, "own")).failure
            assert failure is not None
            assert failure.status == status
            assert failure.provider == "own"
            assert failure.model == "theirs"

    async def test_the_plugin_that_fell_over_is_named_and_its_details_are_not(self) -> None:
        async with Upstream() as up:
            up.reply(json={"other": "c4n4ry"})
            failure = (await through(up, "own")).failure
            assert isinstance(failure, ProtocolError)
            assert failure.message == "The provider's answer could not be read (KeyError)."


class TestTranslated:
    async def test_an_answer_in_the_vendors_format(self) -> None:
        async with Upstream() as up:
            up.reply(json={"said": " hi "})
            reply = (await through(up, "own")).replied
            assert text_of(reply) == "hi"
            assert reply is not None
            assert (reply.body["model"], reply.model) == ("group", "theirs")
            assert reply.body["created"] > 1_700_000_000

    @pytest.mark.parametrize("dialect", ["openai-chat", "anthropic-messages", "openai-completions"])
    async def test_a_stream_in_the_vendors_format(self, dialect: str) -> None:
        async with Upstream() as up:
            up.stream([b'data: {"letter":"%c"}\n\n' % letter for letter in b"hi."])
            got = await through(up, "own", asking(dialect=dialect, max_tokens=5, stream=True, prompt="x"))
            text = b"".join(got.chunks)
            assert text.index(b'"h"') < text.index(b'"i"') < text.index(b'"."')
            assert text.endswith(b"data: [DONE]\n\n") is (dialect != "anthropic-messages")
            assert (b"event: message_stop" in text) is (dialect == "anthropic-messages")


class TestLocal:
    """Providers that do their own I/O."""

    async def test_are_under_the_deadline(self) -> None:
        async def script(call: Call, deployment: Deployment) -> Reply:
            await asyncio.sleep(60)
            return answer()

        for params, options in (({"timeout": 0.02}, {}), ({}, {"timeout": 0.02})):
            gateway = assembled(config(deployment(**params), router_settings={"num_retries": 0}), scripted(script))  # type: ignore[arg-type]
            failure = (await ask(gateway, asking(options=options))).failure
            assert isinstance(failure, Timeout)
            assert failure.provider == "scripted"
            await gateway.stop()

    @pytest.mark.parametrize("stream", [True, False])
    async def test_are_translated(self, stream: bool) -> None:
        seen: list[Call] = []

        async def script(call: Call, deployment: Deployment) -> Reply:
            seen.append(call)
            return streamed("a", "b") if stream else answer("said")

        gateway = assembled(config(), scripted(script))
        call = asking(dialect="anthropic-messages", max_tokens=5, stream=stream)
        got = await ask(gateway, call)
        await gateway.stop()
        assert (seen[0].dialect, seen[0].body["messages"][0]["content"]) == ("openai-chat", "Hello")
        if stream:
            assert b"".join(got.chunks).startswith(b"event: message_start")
        else:
            assert got.replied is not None
            assert got.replied.body["content"][0]["text"] == "said"

    async def test_a_strict_caller_is_told_what_cannot_be_carried(self) -> None:
        gateway = assembled(config())
        call = asking(dialect="openai-completions", prompt="x", suffix="y")
        call.strict = True
        failure = (await ask(gateway, call)).failure
        assert isinstance(failure, Unprocessable)
        assert "suffix" in failure.message
        await gateway.stop()


async def test_a_retry_comes_as_late_as_was_asked_and_is_mended() -> None:
    async with Upstream() as up:
        up.reply(status=429, json={"error": {"message": "slow"}}, headers={"retry-after-ms": "20"}, times=1)
        up.reply(json=ANSWER)
        gateway = assembled(config(over(up)), Compatible)
        began = asyncio.get_running_loop().time()
        assert text_of((await ask(gateway)).replied) == "Hello there"
        assert asyncio.get_running_loop().time() - began >= 0.02
        assert len(up.requests) == 2
        await gateway.stop()


@pytest.mark.parametrize(("status", "kind"), [(429, Throttled), (503, Unavailable), (400, Rejected)])
async def test_a_status_is_its_failure(status: int, kind: type[Exception]) -> None:
    async with Upstream() as up:
        up.reply(
            status=status, json={"error": {"message": "their words", "code": "their_code", "param": "their_param"}}
        )
        failure = (await through(up)).failure
        assert type(failure) is kind
        assert isinstance(failure, Throttled | Unavailable | Rejected)
        body = failure.body()
        assert (body["message"], body["code"], body["param"]) == ("their words", "their_code", "their_param")
        assert (body["llm_provider"], body["model"]) == ("compatible", "theirs")
