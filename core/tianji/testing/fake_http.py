"""`FakeGateway.http`: an ordinary `httpx.AsyncClient` whose requests meet the fake's script first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from tianji.testing.fakes import Sent

if TYPE_CHECKING:
    from tianji.testing.fakes import FakeGateway


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway
        self._real: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "tianji_recorded" not in request.extensions:
            body = await request.aread()
            headers = {name.lower(): value for name, value in request.headers.items()}
            try:
                answer = self._gateway.scripted(Sent(request.method, str(request.url), headers, body))
            except TimeoutError as error:
                raise httpx.ReadTimeout(str(error), request=request) from error
            except OSError as error:
                raise httpx.ConnectError(str(error), request=request) from error
            if answer is not None:
                return httpx.Response(answer.status, headers=dict(answer.headers), content=answer.body)
        if self._real is None:
            self._real = httpx.AsyncHTTPTransport(trust_env=False)
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        if self._real is not None:
            await self._real.aclose()


def client(gateway: FakeGateway) -> httpx.AsyncClient:
    """A client for one fake gateway; the gateway closes it."""
    return httpx.AsyncClient(transport=_Transport(gateway), trust_env=False)
