"""The fakes and builders behave as what they stand for."""

from __future__ import annotations

import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from os import environ
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

import tianji.testing
from tianji import KV, Counters, Ledger, OpenAICompatible, Tokenizer, Wire
from tianji.errors import PluginError, Throttled
from tianji.model import Headers, Op
from tianji.testing import (
    Answer,
    FakeAssembly,
    FakeClock,
    FakeGateway,
    assert_imports_light,
    captured_logs,
    make_attempt,
    make_call,
    make_deployment,
    make_principal,
    make_record,
    nothing_impure,
)
from tianji.testing.purity import Impure, no_network

# -- the gateway -------------------------------------------------------------------------------------------------------


async def test_scripted_answers_come_in_order_then_the_handler() -> None:
    async with FakeGateway() as gateway:
        gateway.answer(503, {"error": "busy"}, {"retry-after": "1"})
        gateway.fail(ConnectionRefusedError("refused"))
        gateway.handler = lambda sent: Answer(200, sent.body)
        wire = Wire("https://api.example.invalid/x", Headers({"X-Key": "1"}), {"n": 1})
        assert await gateway.fetch(wire) == (503, {"retry-after": "1"}, b'{"error":"busy"}')
        with pytest.raises(ConnectionRefusedError):
            await gateway.fetch(wire)
        assert (await gateway.fetch(wire))[2] == b'{"n":1}'
        assert [sent.headers["x-key"] for sent in gateway.requests] == ["1"] * 3
        assert gateway.requests[0].json() == {"n": 1}


async def test_http_is_answered_from_the_same_script() -> None:
    async with FakeGateway() as gateway:
        gateway.answer(201, b"made")
        gateway.fail(ConnectionRefusedError("refused"))
        gateway.fail(TimeoutError("late"))
        reply = await gateway.http.put("https://api.example.invalid/x?a=1", json=[1], headers={"X-A": "b"})
        assert (reply.status_code, reply.content) == (201, b"made")
        with pytest.raises(httpx.ConnectError):
            await gateway.http.get("https://api.example.invalid/")
        with pytest.raises(httpx.ReadTimeout):
            await gateway.http.get("https://api.example.invalid/")
        first = gateway.requests[0]
        assert (first.method, first.url, first.json()) == ("PUT", "https://api.example.invalid/x?a=1", [1])
        assert first.headers["x-a"] == "b"


async def test_an_unscripted_address_fails_the_test() -> None:
    async with FakeGateway() as gateway:
        with pytest.raises(AssertionError, match="nothing was scripted"):
            await gateway.fetch(Wire("https://api.example.invalid/x"))
        with pytest.raises(AssertionError, match="nothing was scripted"):
            await gateway.http.get("https://api.example.invalid/x")


async def test_loopback_is_really_asked_and_noted_once() -> None:
    from tianji.testing import Upstream

    async with Upstream() as up, FakeGateway() as gateway:
        up.reply(json={"a": 1})
        status, _, body = await gateway.fetch(Wire(up.url + "/token", body={"n": 1}))
        assert (status, body.replace(b" ", b"")) == (200, b'{"a":1}')
        assert [sent.url for sent in gateway.requests] == [up.url + "/token"]
        assert len(up.requests) == 1


async def test_services_are_there_or_named() -> None:
    clock = FakeClock()
    gateway = FakeGateway(clock=clock)
    kv: Any = gateway.need(KV)  # type: ignore[type-abstract]
    await kv.set("a", b"1", ttl=10)
    assert await kv.get("a") == b"1"
    clock.advance(11)
    assert await kv.get("a") is None
    counters: Any = gateway.need(Counters)  # type: ignore[type-abstract]
    assert await counters.add("k", 3, 60) == 3
    assert isinstance(gateway.need(Ledger), Ledger)  # type: ignore[type-abstract]
    with pytest.raises(PluginError, match="Tokenizer"):
        gateway.need(Tokenizer)  # type: ignore[type-abstract]
    marker: Any = object()
    gateway.provide(Tokenizer, marker)
    assert gateway.need(Tokenizer) is marker  # type: ignore[type-abstract]
    assert gateway.needed == {KV, Counters, Ledger, Tokenizer}
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


async def test_jobs_wait_for_the_test() -> None:
    ran: list[str] = []

    async def job() -> None:
        ran.append("once")

    gateway = FakeGateway()
    gateway.spawn(job(), name="a job")
    gateway.every(30.0, job, name="a loop")
    assert ran == []
    await gateway.run_spawned()
    assert ran == ["once"]
    assert [(one.name, one.seconds) for one in gateway.jobs] == [("a loop", 30.0)]
    gateway.spawn(job(), name="never run")
    await gateway.aclose()  # warnings are errors: a coroutine left over would be one
    assert ran == ["once"]


class _Provider(OpenAICompatible):
    name = "p"
    base_url = "https://api.example.invalid/v1"


async def test_exchange_goes_through_the_providers_functions() -> None:
    async with FakeGateway() as gateway:
        provider = _Provider(None, instance="p", gateway=gateway)
        gateway.answer(200, {"choices": [], "id": "1"})
        reply = await provider.call(make_call(), make_deployment())
        assert reply.body == {"choices": [], "id": "1"}
        assert gateway.requests[0].url == "https://api.example.invalid/v1/chat/completions"
        gateway.answer(429, {"error": {"message": "slow down"}})
        with pytest.raises(Throttled, match="slow down"):
            await provider.call(make_call(), make_deployment())
        gateway.answer(200, b'data: {"choices": [], "n": 1}\n\ndata: [DONE]\n\n')
        reply = await provider.call(make_call({"model": "m", "messages": [], "stream": True}), make_deployment())
        assert reply.stream is not None
        assert [chunk.events async for chunk in reply.stream] == [[{"choices": [], "n": 1}]]


def test_assembly_refuses_a_second_offer() -> None:
    app = FakeAssembly()
    offer: Any = object()
    app.provide(KV, offer)
    app.add_route(1, 2)
    app.add_command(print)
    assert (app.provided, app.routes, app.commands) == ({KV: offer}, [1, 2], [print])
    with pytest.raises(PluginError, match="KV"):
        app.provide(KV, offer)


# -- builders ----------------------------------------------------------------------------------------------------------


def test_builders_are_equal_for_equal_arguments() -> None:
    assert make_record() == make_record()
    assert make_attempt(outcome="Timeout") == make_attempt(outcome="Timeout")
    assert make_principal() == make_principal()
    assert make_call().id == make_call().id
    assert make_call().body is not make_call().body
    call = make_call({"model": "g", "input": "x", "stream": False}, dialect="openai-embeddings", headers={"X-A": "1"})
    assert (call.op, call.model, call.stream, call.ingress.header("x-a")) == (Op.EMBEDDINGS, "g", False, "1")
    deployment = make_deployment(api_key="sk-other")
    assert deployment.api_key is not None
    assert deployment.api_key.reveal() == "sk-other"
    assert "sk-other" not in repr(deployment)
    assert make_deployment(api_key=None).api_key is None


# -- guards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "thing"),
    [
        (lambda: time.time(), "the clock"),
        (lambda: monotonic(), "the clock"),
        (lambda: datetime.now(), "the clock"),
        (lambda: random.choice([1]), "a random number"),
        (lambda: uuid.uuid4(), "a random number"),
        (lambda: os.environ.get("HOME"), "the environment"),
        (lambda: environ["HOME"], "the environment"),
        (lambda: "HOME" in os.environ, "the environment"),
        (lambda: os.getenv("HOME"), "the environment"),
        (lambda: Path(__file__).read_text(), "a file"),
        (lambda: open(__file__), "a file"),  # noqa: SIM115
        (lambda: socket.create_connection(("127.0.0.1", 9)), "the network"),
    ],
)
def test_impure_reads_raise(read: Callable[[], object], thing: str) -> None:
    with pytest.raises(Impure, match=f"encode reads {thing}"), nothing_impure(__name__, what="encode"):
        read()


def test_after_the_guard_all_is_as_before() -> None:
    with nothing_impure(__name__):
        made = datetime(2024, 1, 2, tzinfo=UTC).isoformat()
    assert made == "2024-01-02T00:00:00+00:00", "dates that are given may be computed with"
    assert time.time() > 0
    assert monotonic() > 0
    assert environ is os.environ
    assert environ.get("PATH")
    assert datetime.now(UTC).year > 2000


def test_no_network_is_only_about_the_network() -> None:
    with no_network("configure"):
        assert time.time() > 0
        with pytest.raises(Impure, match="configure"):
            socket.getaddrinfo("localhost", 80)
    assert socket.getaddrinfo("127.0.0.1", 80)


def test_logs_are_captured_with_tracebacks() -> None:
    with captured_logs() as lines:
        logging.getLogger("a.b").debug("%s", "said")
        try:
            raise ValueError("the cause")
        except ValueError:
            logging.getLogger("a").exception("failed")
    assert lines[0] == "said"
    assert "the cause" in lines[1]


# -- exports -----------------------------------------------------------------------------------------------------------


def test_every_name_can_be_loaded() -> None:
    for name in tianji.testing.__all__:
        if name != "gateway":
            assert getattr(tianji.testing, name) is not None
    with pytest.raises(AttributeError, match="Suite"):
        tianji.testing.NoSuchSuite  # noqa: B018


def test_the_kit_is_light_until_it_is_used() -> None:
    heavy = ("pytest", "hypothesis", "httpx", "litestar", "tianji.model")
    assert_imports_light("tianji.testing", without=heavy)
    assert_imports_light("tianji", without=(*heavy, "tianji.testing"))
    with pytest.raises(AssertionError, match="also imports httpx"):
        assert_imports_light("tianji.testing.fake_http")
    with pytest.raises(AssertionError, match="no_such_module"):
        assert_imports_light("no_such_module")
