"""The data plane: every inference route, as a plain ASGI application.

Each route is a path and a dialect; the life of a call behind it is `Pipeline.run`. These routes are found by the guard,
before Litestar: its routing and exception middleware cost a quarter of what a whole call costs (`make bench`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tianji import dialects
from tianji.dialects import Dialect
from tianji.errors import Failure, Internal, MethodNotAllowed
from tianji.gateway import Gateway, Sealed
from tianji.model import Call, Ingress, Op
from tianji.server.egress import Client, refuse
from tianji.server.ingress import MAX_BODY, Receive, make_call, read_body
from tianji.server.link import LINK, ASGILink, Link, SocketLink

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


_NAMED = re.compile(
    r"/(?:engines|openai/deployments)/(?P<model>.+?)(?P<path>/chat/completions|/completions|/embeddings)"
)


class Lane:
    """Finds the endpoint of an inference path, by one look into a dictionary where the path is fixed.

    Model names may contain slashes, which no router's path parameter can hold in the middle of a path.
    """

    def __init__(self, gateway: Gateway) -> None:
        dialects_of = dict(ROUTES)
        self._by_dialect = {name: Endpoint(gateway, name) for name in {*dialects_of.values(), *dict(NATIVE).values()}}
        self._named = {path: self._by_dialect[name] for path, name in ROUTES}
        plain = [(f"{prefix}{path}", name) for path, name in ROUTES for prefix in ("/v1", "", "/openai/v1")]
        self.fixed = {path: self._by_dialect[name] for path, name in (*plain, *NATIVE)}

    def find(self, scope: Scope) -> Endpoint | None:
        """The endpoint of a request, its model noted where the path names one."""
        path: str = scope["path"]
        endpoint = self.fixed.get(path)
        if endpoint is None and path.startswith(("/engines/", "/openai/deployments/")):
            match = _NAMED.fullmatch(path)
            if match is not None:
                scope["path_params"] = {"model": match["model"]}
                endpoint = self._named[match["path"]]
        return endpoint


class Endpoint:
    """One dialect's entrance."""

    def __init__(self, gateway: Gateway, dialect: str) -> None:
        self.gateway = gateway
        self.dialect: Dialect = dialects.get(dialect)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every failure becomes an answer in the dialect's error shape."""
        task = asyncio.current_task()
        link: SocketLink | ASGILink | None = scope.get(LINK)
        watcher: asyncio.Task[None] | None = None
        if link is None:
            link = ASGILink(send)
        try:
            ingress = Ingress(scope["method"], scope["path"], dict(scope["headers"]), _peer(scope))
            try:
                call = await self._call(scope, receive, ingress)
            except Failure as failure:
                await refuse(link, failure, self.dialect)
                return
            except Exception:
                logger.exception("a request to %s could not be read", scope["path"])
                await refuse(link, Internal("The gateway failed to read the request."), self.dialect)
                return
            if isinstance(link, ASGILink):
                watcher = asyncio.create_task(link.watch(receive))
            if task is not None:
                link.leave = task.cancel
            if link.gone:
                return
            if call.op == Op.COUNT_TOKENS and not self._counted_upstream(call):
                await self._estimate(call, link)
            else:
                sealed: Sealed = call.snapshot
                await sealed.pipeline.run(call, self._client(sealed, link))
        except asyncio.CancelledError:
            if not link.gone or task is None:
                raise
            task.uncancel()
        finally:
            link.leave = None
            if watcher is not None:
                watcher.cancel()

    async def _call(self, scope: Scope, receive: Receive, ingress: Ingress) -> Call:
        """identify → read → parse."""
        if ingress.method != "POST":
            raise MethodNotAllowed(f"{ingress.method} is not possible here; use POST.", headers={"allow": "POST"})
        sealed = self.gateway.sealed
        principal = await sealed.pipeline.identify(ingress)
        limit = sealed.config.general_settings.max_request_size_mb
        raw = await read_body(receive, ingress.headers, int(limit * 1024 * 1024) if limit else MAX_BODY)
        # The configuration that the call belongs to is the one in use now: reading may have taken a while, and from
        # here to the pipeline nothing waits.
        sealed = self.gateway.sealed
        params = scope.get("path_params")
        model = params.get("model") if params else None
        call = make_call(ingress, principal, self.dialect, raw, path_model=model, guardrails=sealed.guardrail_names)
        call.snapshot = sealed
        return call

    def _client(self, sealed: Sealed, link: Link) -> Client:
        pipeline = sealed.pipeline
        return Client(
            link,
            self.dialect,
            ledger=pipeline.ledger,
            both=sealed.config.spelling == "litellm",
            keep=pipeline.log.content,
        )

    async def _estimate(self, call: Call, link: Link) -> None:
        """Answer a question for tokens without a provider."""
        body = b'{"input_tokens":%d}' % self.dialect.estimate(call.body)
        headers = f"x-request-id: {call.id}\r\nx-tianji-estimated: true\r\ncontent-type: application/json\r\n"
        await link.whole(200, headers.encode(), body)

    def _counted_upstream(self, call: Call) -> bool:
        """Whether the model's own provider can count tokens. Where it cannot, the answer is an estimate and says so."""
        try:
            deployment = call.snapshot.router.find(call.model).deployments[0]
        except Failure:
            return True  # the pipeline says what is wrong with the model
        return self.dialect.name in call.snapshot.hooks.natives.get(deployment.provider, ())


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


__all__ = ["Endpoint", "Lane"]
