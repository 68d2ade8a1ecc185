"""Bad input gets a typed 4xx in OpenAI's shape that names the field: never a 500, a traceback or HTML."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from support import Pair, served

from tianji.testing.upstream import Upstream

CHAT = "/v1/chat/completions"


def problem(reply: httpx.Response) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    assert "Traceback" not in reply.text
    error = reply.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    return error


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"", "request_body"),
        (b'{"model":', "request_body"),
        (b"[1]", "request_body"),
        (b'"text"', "request_body"),
        (b"null", "request_body"),
        (b"\xff\xfe{}", "request_body"),
        (b"[" * 200_000, "request_body"),
        (b'{"messages":[]}', "model"),
        (b'{"model":5,"messages":[]}', "model"),
        (b'{"model":"","messages":[]}', "model"),
        (b'{"model":"fast"}', "messages"),
        (b'{"model":"fast","messages":null}', "messages"),
        (b'{"model":"fast","messages":"hi"}', "messages"),
        (b'{"model":"fast","messages":["hi"]}', "messages[0]"),
        (b'{"model":"fast","messages":[{"content":"x"}]}', "messages[0].role"),
        (b'{"model":"fast","messages":[{"role":[],"content":"x"}]}', "messages[0].role"),
        (b'{"model":"fast","messages":[{"role":"user","content":5}]}', "messages[0].content"),
        (b'{"model":"fast","messages":[{"role":"user","content":[7]}]}', "messages[0].content[0]"),
        (b'{"model":"fast","messages":[],"stream":"yes"}', "stream"),
        (b'{"model":"fast","messages":[],"temperature":"hot"}', "temperature"),
        (b'{"model":"fast","messages":[],"tools":{}}', "tools"),
        (b'{"model":"fast","messages":[],"num_retries":"3"}', "num_retries"),
        (b'{"model":"fast","messages":[],"guardrails":["nope"]}', "guardrails"),
        (b'{"model":"fast","messages":[],"api_base":"http://evil.example"}', "api_base"),
        (b'{"model":"fast","messages":[],"api_key":"sk-x"}', "api_key"),
    ],
)
async def test_each_is_a_400_that_names_the_field(pair: Pair, raw: bytes, param: str) -> None:
    reply = await pair.gw.client.post(CHAT, content=raw)
    assert reply.status_code == 400
    assert problem(reply)["param"] == param
    assert reply.headers["x-should-retry"] == "false"
    assert not pair.up.requests


async def test_unknown_model_lists_near_matches(pair: Pair) -> None:
    reply = await pair.gw.chat("fats")
    assert reply.status_code == 404
    error = problem(reply)
    assert error["code"] == "model_not_found"
    assert "'fast'" in error["message"]


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic eA=="}, {"x-api-key": ""}, {"api-key": "nope"}],
)
async def test_no_key_and_bad_keys_are_401(pair: Pair, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=pair.gw.url, headers=headers) as anyone:
        for method, path in (("POST", CHAT), ("POST", "/v1/messages"), ("GET", "/v1/models"), ("GET", "/health")):
            reply = await anyone.request(method, path, json={} if method == "POST" else None)
            assert reply.status_code == 401, path
            assert pair.gw.key not in reply.text
            if path != "/v1/messages":
                assert problem(reply)["type"] == "auth_error"
        assert (await anyone.get("/health/liveness")).status_code == 200


@pytest.mark.parametrize("header", ["x-tianji-api-key", "x-litellm-api-key", "api-key", "x-api-key", "x-goog-api-key"])
async def test_the_key_is_found_where_sdks_put_it(pair: Pair, header: str) -> None:
    async with httpx.AsyncClient(base_url=pair.gw.url, headers={header: pair.gw.key}) as anyone:
        assert (await anyone.get("/v1/models")).status_code == 200


async def test_errors_of_messages_have_anthropics_shape(pair: Pair) -> None:
    reply = await pair.gw.client.post("/v1/messages", json={"model": "fast", "messages": []})
    assert reply.status_code == 400
    assert reply.json()["type"] == "error"
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("host", ["a b", "a@b", "a/b", "a#b", "a?b", "", "[::1", "a:b"])
async def test_a_malformed_host_is_refused(pair: Pair, host: str) -> None:
    head = f"GET /health/liveness HTTP/1.1\r\nHost: {host}\r\n\r\n"
    assert (await raw_exchange(pair.gw.url, head.encode())).startswith(b"HTTP/1.1 400")


async def test_two_hosts_are_refused(pair: Pair) -> None:
    head = b"GET /health/liveness HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
    assert (await raw_exchange(pair.gw.url, head)).startswith(b"HTTP/1.1 400")


async def test_only_allowed_hosts_where_some_are_named() -> None:
    async with Upstream() as up, served(up, general_settings={"allowed_hosts": ["good.example", "*.in.example"]}) as gw:
        for host, status in (("good.example", b"200"), ("x.in.example:8080", b"200"), ("evil.example", b"400")):
            head = b"GET /health/liveness HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode()
            assert (await raw_exchange(gw.url, head))[9:12] == status


async def test_a_declared_length_over_the_limit_is_413_before_it_is_sent() -> None:
    async with Upstream() as up, served(up, general_settings={"max_request_size_mb": 0.01}) as gw:
        key = gw.key.encode()
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Length: 900000000\r\n\r\n"
        answer = await raw_exchange(gw.url, head % (CHAT.encode(), key))
        assert answer.startswith(b"HTTP/1.1 413")
        assert b'"request_too_large"' in answer


async def test_an_undeclared_length_is_cut_off_at_the_limit() -> None:
    async with Upstream() as up, served(up, general_settings={"max_request_size_mb": 0.01}) as gw:
        sent = 0

        async def flood() -> Any:
            nonlocal sent
            for _ in range(10_000):
                sent += 4096
                yield b" " * 4096

        try:
            reply = await gw.client.post(CHAT, content=flood())
            assert reply.status_code == 413
        except httpx.TransportError:
            pass  # this client never listens while it talks, and the gateway does not listen for ever
        assert sent < 4 * 1024 * 1024


async def test_compressed_requests_are_refused(pair: Pair) -> None:
    reply = await pair.gw.client.post(CHAT, content=b"x", headers={"content-encoding": "gzip"})
    assert reply.status_code == 415
    problem(reply)


async def test_unknown_paths_and_methods(pair: Pair) -> None:
    reply = await pair.gw.client.get("/v1/nothing")
    assert (reply.status_code, problem(reply)["code"]) == (404, "not_found")
    reply = await pair.gw.client.get(CHAT)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    reply = await pair.gw.client.delete("/v1/models")
    assert reply.status_code == 405
    problem(reply)


async def test_names_from_the_request_cannot_break_the_response_headers(pair: Pair) -> None:
    pair.up.reply(json={"choices": [], "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    body = {"model": "fast", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "a\r\nx-evil: 1": 1}
    reply = await pair.gw.client.post("/v1/messages", json=body)
    assert "x-evil" not in reply.headers
    chat = {"model": "fast", "messages": []}
    ident = await pair.gw.client.post(CHAT, json=chat, headers={"x-tianji-call-id": "a b<>"})
    assert ident.headers["x-tianji-call-id"] == ident.headers["x-request-id"]


async def raw_exchange(url: str, data: bytes) -> bytes:
    """Send bytes as they are, and read until the server stops."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b"\r\n\r\n")
            try:
                async with asyncio.timeout(0.3):
                    answer += await reader.read()
            except TimeoutError:
                answer += await reader.read(0)
    except asyncio.IncompleteReadError as error:
        answer = error.partial
    finally:
        writer.close()
    return answer
