"""An ordinary `httpx.AsyncClient` over the kernel's own connections, for plugins and everything off the hot path.

Documentation of the interface: https://www.python-httpx.org/advanced/transports/. Not imported with the package,
because `import tianji` must not import httpx. Request bodies are read whole before they are sent; response bodies are
streamed. Repeated response headers arrive joined with ", ", so this is no client for cookie sessions.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tianji.errors import BadRequest, Failure, Overloaded, ProtocolError, Timeout
from tianji.model import Wire
from tianji.transport.client import Clocks, Transport
from tianji.transport.response import Response


def client(transport: Transport, **options: Any) -> httpx.AsyncClient:
    """An httpx client whose requests go through `transport`. `options` are `httpx.AsyncClient`'s.

    Proxies and credentials from the environment are not used, and redirects are not followed, unless asked for.
    Closing the client leaves the transport open: it belongs to whoever made it.
    """
    options.setdefault("trust_env", False)
    options.setdefault("follow_redirects", False)
    return httpx.AsyncClient(transport=TianjiTransport(transport), **options)


class TianjiTransport(httpx.AsyncBaseTransport):
    """httpx's view of a `Transport`. Its four timeouts become clocks; `pool` and `connect` share one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        read = _seconds(limits.get("read"))
        clocks = Clocks(connect=_seconds(limits.get("connect")), headers=read, total=math.inf)
        body = await request.aread()
        wire = Wire(
            url=str(request.url.copy_with(fragment=None)),
            method=request.method,
            headers=dict(request.headers.items()),
            body=body if body or "content-length" in request.headers else None,
        )
        try:
            response = await self._transport.send(wire, clocks=clocks)
        except Failure as failure:
            raise translated(failure, request) from failure
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response, read, request),
            extensions={"http_version": f"HTTP/{response.http_version}".encode("ascii")},
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: Response, timeout: float, request: httpx.Request) -> None:
        self._response = response
        self._timeout = timeout
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while data := await self._response.chunk(self._timeout):
                yield data
        except Failure as failure:
            raise translated(failure, self._request) from failure

    async def aclose(self) -> None:
        self._response.close()


def _seconds(limit: float | None) -> float:
    """httpx says None for no limit."""
    return math.inf if limit is None else limit


def translated(failure: Failure, request: httpx.Request) -> httpx.TransportError:
    """The httpx exception that means the same. Failures to connect carry their `OSError` as cause, later ones none."""
    kind: type[httpx.TransportError]
    if isinstance(failure, Timeout):
        kind = httpx.ConnectTimeout if failure.code == "connect_timeout" else httpx.ReadTimeout
    elif isinstance(failure, Overloaded):
        kind = httpx.PoolTimeout
    elif isinstance(failure, ProtocolError):
        kind = httpx.RemoteProtocolError
    elif isinstance(failure, BadRequest):
        kind = httpx.LocalProtocolError
    else:
        kind = httpx.ReadError if failure.__cause__ is None else httpx.ConnectError
    return kind(failure.message, request=request)
