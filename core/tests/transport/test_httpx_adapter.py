"""An ordinary httpx client over the kernel's connections."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx
import pytest

from tianji.testing.imports import assert_imports_light
from tianji.testing.upstream import Send, Stall, Upstream, message
from tianji.transport import Transport
from tianji.transport.httpx_adapter import client


@pytest.fixture
async def http(transport: Transport) -> AsyncIterator[httpx.AsyncClient]:
    async with client(transport) as http:
        yield http


async def test_requests_and_answers(up: Upstream, http: httpx.AsyncClient, transport: Transport) -> None:
    up.reply(status=201, json={"a": 1}, headers={"x-y": "z"})
    for _ in range(3):
        response = await http.post(f"{up.url}/p", params={"q": "ü"}, json={"b": 2}, headers={"x-key": "k"})
        assert (response.status_code, response.json(), response.headers["x-y"]) == (201, {"a": 1}, "z")
        assert response.http_version == "HTTP/1.1"
    request = up.requests[0]
    assert (request.method, request.path, request.query, request.json()) == ("POST", "/p", "q=%C3%BC", {"b": 2})
    assert (request.headers["x-key"], request.headers["content-type"]) == ("k", "application/json")
    assert up.connections == 1
    assert transport.stats()[up.url] == {"active": 0, "idle": 1, "pending": 0}


async def test_methods_without_a_body(up: Upstream, http: httpx.AsyncClient) -> None:
    up.reply(body=b"x")
    assert (await http.get(f"{up.url}/#fragment")).content == b"x"
    assert (await http.head(up.url)).content == b""
    await http.delete(up.url)
    assert [(r.method, r.path, r.headers.get("content-length")) for r in up.requests] == [
        ("GET", "/", None),
        ("HEAD", "/", None),
        ("DELETE", "/", None),
    ]


async def test_compression_and_streaming(up: Upstream, http: httpx.AsyncClient) -> None:
    up.reply(body=gzip.compress(b"text" * 100), headers={"content-encoding": "gzip"}, path="/gzip")
    up.stream([b"one", b"two"], delay=0.02, path="/sse")
    assert (await http.get(f"{up.url}/gzip")).content == b"text" * 100
    async with http.stream("GET", f"{up.url}/sse") as response:
        assert [piece async for piece in response.aiter_raw()] == [b"one", b"two"]


async def test_leaving_a_stream_closes_the_upstream(
    up: Upstream, http: httpx.AsyncClient, transport: Transport
) -> None:
    up.stream([b"one", b"two"], delay=30)
    async with http.stream("GET", up.url) as response:
        async for piece in response.aiter_raw():
            assert piece == b"one"
            break
    await up.wait_disconnects(1, timeout=0.5)
    assert transport.stats()[up.url]["active"] == 0


async def test_redirects_and_the_environment_are_left_alone(
    up: Upstream, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    up.reply(status=302, headers={"location": "/elsewhere"})
    async with client(transport) as http:
        assert (await http.get(up.url)).status_code == 302
    assert len(up.requests) == 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/stall", httpx.ReadTimeout), ("/half", httpx.ReadTimeout), ("/junk", httpx.RemoteProtocolError),
     ("/gone", httpx.ReadError)],
)  # fmt: skip
async def test_failures(up: Upstream, http: httpx.AsyncClient, path: str, kind: type[Exception]) -> None:
    up.script("/stall", [Stall()])
    up.script("/half", [Send(message(200, {"content-length": "5"}, b"ab")), Stall()])
    up.script("/junk", [Send(b"junk")])
    up.answer(lambda _: up.drop_all() or (), path="/gone")  # type: ignore[func-returns-value]
    with pytest.raises(kind) as caught:
        await http.get(up.url + path, timeout=0.1)
    assert isinstance(caught.value, httpx.RequestError)
    assert caught.value.request.url.path == path


async def test_failures_to_connect(http: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ConnectError):
        await http.get("http://127.0.0.1:1/")
    with pytest.raises(httpx.LocalProtocolError):
        await http.get("http://127.0.0.1:1/", headers={"x": "a\r\nb: c"})


async def test_a_full_pool(up: Upstream) -> None:
    transport = Transport(max_connections=1, max_pending=0)
    up.script(None, [Stall()])
    async with client(transport, timeout=None) as http:
        first = asyncio.create_task(http.get(up.url))
        await up.wait_requests(1)
        with pytest.raises(httpx.PoolTimeout):
            await http.get(up.url)
        first.cancel()
        await asyncio.wait([first])
    assert transport.stats()[up.url]["active"] == 0
    await transport.aclose()


def test_the_transport_does_not_import_httpx() -> None:
    assert_imports_light("tianji.transport")
