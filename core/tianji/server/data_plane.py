"""The data plane: every inference route, as plain ASGI handlers.

Each route is a path, an op and a dialect; the life of a call behind it is `Pipeline.run`. Litestar routes the request
and does nothing else on this path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from litestar import asgi
from litestar.handlers import ASGIRouteHandler

from tianji import dialects
from tianji.dialects import Dialect
from tianji.errors import Failure, MethodNotAllowed
from tianji.gateway import Gateway
from tianji.model import Call, Ingress, Op, Principal
from tianji.server.egress import Client, refuse
from tianji.server.ingress import MAX_BODY, Receive, make_call, read_body
from tianji.server.protocol import PRESENCE, Presence

logger = logging.getLogger("tianji.server")

Scope = MutableMapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

ROUTES: tuple[tuple[str, str], ...] = (
    ("/chat/completions", "openai-chat"),
    ("/completions", "openai-completions"),
    ("/embeddings", "openai-embeddings"),
)
"""OpenAI's paths: each also under `/v1`, `/engines/{model}` and `/openai/deployments/{model}`."""
NATIVE: tuple[tuple[str, str], ...] = (
    ("/v1/messages", "anthropic-messages"),
    ("/messages", "anthropic-messages"),
    ("/v1/messages/count_tokens", "anthropic-count-tokens"),
    ("/messages/count_tokens", "anthropic-count-tokens"),
    ("/anthropic/v1/messages", "anthropic-messages"),
    ("/anthropic/v1/messages/count_tokens", "anthropic-count-tokens"),
)


def handlers(gateway: Gateway) -> list[ASGIRouteHandler]:
    """The Litestar handlers of all inference routes."""
    out = []
    for path, name in ROUTES:
        plain = Endpoint(gateway, name)
        named = [f"/engines/{{model:path}}{path}", f"/openai/deployments/{{model:path}}{path}"]
        out.append(asgi([f"/v1{path}", path, f"/openai/v1{path}"], copy_scope=False)(plain.handler()))
        out += [asgi(one, copy_scope=False)(plain.handler()) for one in named]
    by_dialect: dict[str, list[str]] = {}
    for path, name in NATIVE:
        by_dialect.setdefault(name, []).append(path)
    for name, paths in by_dialect.items():
        out.append(asgi(paths, copy_scope=False)(Endpoint(gateway, name).handler()))
    return out


class Endpoint:
    """One dialect's entrance."""

    def __init__(self, gateway: Gateway, dialect: str) -> None:
        self.gateway = gateway
        self.dialect: Dialect = dialects.get(dialect)

    def handler(self) -> Callable[[Any, Any, Any], Awaitable[None]]:
        """A function of its own for each route, as Litestar wants it."""

        async def handle(scope: Any, receive: Any, send: Any) -> None:
            await self(scope, receive, send)

        return handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every failure becomes an answer in the dialect's error shape."""
        task = asyncio.current_task()
        presence = scope.get(PRESENCE)
        watcher: asyncio.Task[None] | None = None
        try:
            ingress = Ingress(scope["method"], scope["path"], dict(scope["headers"]), _peer(scope))
            try:
                call, principal = None, None
                if ingress.method != "POST":
                    raise MethodNotAllowed(
                        f"{ingress.method} is not possible here; use POST.", headers={"allow": "POST"}
                    )
                pipeline = self.gateway.pipeline
                principal = await pipeline.identify(ingress)
                call = await self._call(scope, receive, ingress, principal)
            except Failure as failure:
                await refuse(send, failure, self.dialect, _ids())
                return
            if presence is None:
                presence = Presence()
                watcher = asyncio.create_task(_watch(receive, presence))
            if task is not None:
                presence.leave = task.cancel
            if presence.gone:
                return
            await self._serve(call, send)
        except asyncio.CancelledError:
            if presence is None or not presence.gone or task is None:
                raise
            task.uncancel()
        finally:
            if presence is not None:
                presence.leave = None
            if watcher is not None:
                watcher.cancel()

    async def _call(self, scope: Scope, receive: Receive, ingress: Ingress, principal: Principal) -> Call:
        sealed = self.gateway.sealed
        limit = sealed.config.general_settings.max_request_size_mb
        raw = await read_body(receive, ingress.headers, int(limit * 1024 * 1024) if limit else MAX_BODY)
        params = scope.get("path_params") or {}
        model = str(params["model"]).strip("/") if "model" in params else None
        call = make_call(ingress, principal, self.dialect, raw, path_model=model, guardrails=sealed.guardrail_names)
        call.snapshot = sealed
        return call

    async def _serve(self, call: Call, send: Send) -> None:
        sealed = call.snapshot
        if call.op == Op.COUNT_TOKENS and not self._counted_upstream(call):
            await self._count(call, send)
            return
        client = Client(
            send,
            self.dialect,
            ledger=sealed.pipeline.ledger,
            both=sealed.config.spelling == "litellm",
            keep=sealed.pipeline.log.content,
        )
        await sealed.pipeline.run(call, client)

    def _counted_upstream(self, call: Call) -> bool:
        """Whether the model's own provider can count tokens."""
        try:
            deployment = call.snapshot.router.find(call.model).deployments[0]
        except Failure:
            return True  # the pipeline says what is wrong with the model
        provider = call.snapshot.hooks.providers.get(deployment.provider)
        return provider is not None and self.dialect.name in provider.__self__.native

    async def _count(self, call: Call, send: Send) -> None:
        """A count for models whose provider has none: an estimate, and the headers say so."""
        from tianji.dialects.anthropic import estimate_tokens

        call.add_header("x-tianji-estimated", "true")
        body = b'{"input_tokens":%d}' % estimate_tokens(call.body)
        headers = [
            *_ids(),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-tianji-estimated", b"true"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _watch(receive: Receive, presence: Presence) -> None:
    """Under a server that is not ours: wait for the disconnect message."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            presence.left()
            return


def _ids() -> list[tuple[bytes, bytes]]:
    from tianji.model import new_id

    return [(b"x-request-id", new_id().encode())]


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


__all__ = ["Endpoint", "handlers"]
