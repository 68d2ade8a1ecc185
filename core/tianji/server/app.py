"""The Litestar application around a gateway."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from tianji import __version__
from tianji.errors import BadRequest, Failure, Internal, MethodNotAllowed, NotFound
from tianji.gateway import Gateway
from tianji.model import new_id
from tianji.server.data_plane import Lane
from tianji.server.explain import explain_request
from tianji.server.guard import Guard
from tianji.server.management import HANDLERS
from tianji.server.openapi import docs_page, openapi_json
from tianji.server.routing import ROUTING

logger = logging.getLogger("tianji.server")


def create_app(gateway: Gateway) -> Callable[..., Awaitable[None]]:
    """The ASGI application: guard outside, Litestar inside, the gateway opened and closed with it."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        await gateway.start()
        app.state.ready = True
        try:
            yield
        finally:
            app.state.ready = False
            app.state.stopping = True
            await gateway.stop()

    docs = gateway.config.general_settings.docs
    pages = [openapi_json, docs_page] if docs else []
    app = Litestar(
        route_handlers=[*HANDLERS, *ROUTING, explain_request, *pages, *gateway.sealed.assembly.routes],
        lifespan=[lifespan],
        state=State({"gateway": gateway}),
        exception_handlers={Failure: _failure, HTTPException: _http, Exception: _fault},
        openapi_config=OpenAPIConfig(
            "Tianji", __version__, path="/openapi", render_plugins=[JsonRenderPlugin(path="/management.json")]
        )
        if docs
        else None,
        request_max_body_size=None,  # the data plane has its own limit, enforced while streaming in
        debug=False,
        logging_config=None,
    )
    return Guard(app, gateway, Lane(gateway))


def _answer(failure: Failure) -> Response[dict[str, Any]]:
    headers = {
        "x-request-id": new_id(),
        "x-should-retry": "true" if failure.should_retry else "false",
        **failure.headers,
    }
    return Response({"error": failure.body()}, status_code=failure.status, headers=headers)


def _failure(request: Request[Any, Any, State], failure: Failure) -> Response[dict[str, Any]]:
    return _answer(failure)


def _http(request: Request[Any, Any, State], error: HTTPException) -> Response[dict[str, Any]]:
    """Litestar's own refusals, in OpenAI's shape."""
    path = request.scope["path"]
    if error.status_code == 404:
        return _answer(NotFound(f"There is nothing at {request.method} {path[:200]}.", code="not_found"))
    if error.status_code == 405:
        return _answer(MethodNotAllowed(f"{request.method} is not possible at {path[:200]}."))
    if error.status_code >= 500:
        return _fault(request, error)
    return _answer(BadRequest(str(error.detail), status=error.status_code))


def _fault(request: Request[Any, Any, State], error: Exception) -> Response[dict[str, Any]]:
    ident = new_id()
    logger.error("request %s to %s failed", ident, request.scope["path"], exc_info=error)
    return _answer(Internal(f"The gateway failed. Its log has the details under id {ident}."))
