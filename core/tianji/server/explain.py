"""`POST /v1/explain`: what would happen to a request, without doing it."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, post
from litestar.datastructures import State

from tianji import dialects
from tianji.errors import BadRequest, Failure
from tianji.explain import explain
from tianji.explanation import plain
from tianji.gateway import Gateway
from tianji.model import Ingress, new_id
from tianji.server.ingress import MAX_BODY, make_call, read_body, seed_in


@post("/v1/explain", summary="What would happen to a request, without doing it", tags=["explain"], status_code=200)
async def explain_request(request: Request[Any, Any, State]) -> Response[dict[str, Any]]:
    """The body is that of an ordinary request; `?dialect=` says in which dialect (default `openai-chat`).

    `?seed=` throws the dice of an earlier call. What the real route would refuse as malformed is refused in the same
    way; what happens to a request that is well formed, a refusal included, is told in the document.
    """
    gateway: Gateway = request.app.state.gateway
    name = request.query_params.get("dialect", "openai-chat")
    if name not in dialects.NAMES:
        raise BadRequest(f"There is no dialect '{name[:100]}'. Known: {', '.join(dialects.NAMES)}.", param="dialect")
    try:
        document = await _document(gateway, request, name)
    except Failure as failure:
        headers = {"x-request-id": new_id(), "x-should-retry": "true" if failure.should_retry else "false"}
        return Response(dialects.get(name).error(failure), status_code=failure.status, headers=headers)
    return Response(document)


async def _document(gateway: Gateway, request: Request[Any, Any, State], dialect: str) -> dict[str, Any]:
    scope = request.scope
    peer = request.client.host if request.client else ""
    ingress = Ingress(scope["method"], scope["path"], dict(scope["headers"]), peer)
    principal = await gateway.pipeline.identify(ingress)
    limit = gateway.config.general_settings.max_request_size_mb
    receive: Any = request.receive  # typed more narrowly by Litestar, and the same
    raw = await read_body(receive, ingress.headers, int(limit * 1024 * 1024) if limit else MAX_BODY)
    sealed = gateway.sealed
    names = sealed.guardrail_names
    call = make_call(ingress, principal, dialects.get(dialect), raw, path_model=None, guardrails=names)
    seed = request.query_params.get("seed")
    if seed is not None:
        call.seed = seed_in(seed, "seed")
    return plain(await explain(sealed, gateway.catalogue, call))
