"""Two applications to compare against, on Litestar and uvicorn and nothing else of this project.

`bench.floor:empty` answers a chat request from a constant: what a start and a request cost before any gateway begins.
`bench.floor:forward` is the least that can be called a gateway: one `@asgi` route, the JSON decoded and encoded, a bare
httptools client over pooled connections. No keys, limits, retries, deadlines, accounting or records. What Tianji
costs above it is the price of those.

The upstream's port comes from the environment variable `BENCH_UPSTREAM_PORT`.

ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, cast

import httptools
import msgspec
from litestar import Litestar, asgi

from bench import wire

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

CHAT = "/v1/chat/completions"
_JSON = [(b"content-type", b"application/json")]
_SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]
_ANSWER = wire.answer("openai", 10).partition(b"\r\n\r\n")[2]


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = cast("dict[str, Any]", await receive())
        body += cast("bytes", message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _start(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _write(send: Send, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


@asgi(CHAT, copy_scope=False)
async def _constant(scope: Scope, receive: Receive, send: Send) -> None:
    await _read(receive)
    await _start(send, 200, [*_JSON, (b"content-length", b"%d" % len(_ANSWER))])
    await _write(send, _ANSWER)


class Upstream(asyncio.Protocol):
    """One pooled connection to the provider; httptools calls the `on_*` methods."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._complete = False
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._wake()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        self._wake()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        self._complete = True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def request(self, body: bytes) -> None:
        self._reset()
        if self._transport is None:
            raise ConnectionError("the provider hung up")
        self._transport.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer sk-bench\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )

    async def read(self) -> tuple[bytes, bool]:
        """The body bytes that have come, and whether they are the last."""
        while not self._parts and not self._complete:
            if self._transport is None:
                raise ConnectionError("the provider hung up")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = b"".join(self._parts)
        self._parts.clear()
        return data, self._complete


_POOL: list[Upstream] = []


async def _connection() -> Upstream:
    if _POOL:
        return _POOL.pop()
    port = int(os.environ["BENCH_UPSTREAM_PORT"])
    return (await asyncio.get_running_loop().create_connection(Upstream, "127.0.0.1", port))[1]


@asgi(CHAT, copy_scope=False)
async def _forward(scope: Scope, receive: Receive, send: Send) -> None:
    body = msgspec.json.decode(await _read(receive))
    body["model"] = "gpt-4o-mini"
    upstream = await _connection()
    upstream.request(msgspec.json.encode(body))
    if body.get("stream"):
        await _start(send, 200, _SSE)
        last = False
        while not last:
            data, last = await upstream.read()
            await _write(send, data, more=not last)
    else:
        whole = b""
        last = False
        while not last:
            data, last = await upstream.read()
            whole += data
        answer = msgspec.json.encode(msgspec.json.decode(whole))
        await _start(send, 200, [*_JSON, (b"content-length", b"%d" % len(answer))])
        await _write(send, answer)
    _POOL.append(upstream)


empty = Litestar([_constant], openapi_config=None, logging_config=None)
forward = Litestar([_forward], openapi_config=None, logging_config=None)
