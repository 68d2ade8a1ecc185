"""Models, health and plugins: the routes around the data plane, as ordinary Litestar handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery

from tianji.errors import Forbidden, UnknownModel
from tianji.gateway import Gateway, Sealed
from tianji.health_state import DeploymentHealth
from tianji.model import Deployment, Ingress, Principal
from tianji.router import granted

CREATED = 1677610602
"""`created` of every model: what OpenAI's list needs and nobody reads. LiteLLM sends the same number."""


async def authenticate(request: Request[Any, Any, State]) -> tuple[Sealed, Principal]:
    """The caller, by the same chain as on the data plane. Raises `Unauthorized`."""
    gateway: Gateway = request.app.state.gateway
    scope = request.scope
    ingress = Ingress(
        scope["method"], scope["path"], dict(scope["headers"]), request.client.host if request.client else ""
    )
    return gateway.sealed, await gateway.pipeline.identify(ingress)


async def administrator(request: Request[Any, Any, State]) -> Sealed:
    sealed, principal = await authenticate(request)
    if not principal.is_admin:
        raise Forbidden("Only an administrator may do this.")
    return sealed


def _model(sealed: Sealed, name: str) -> dict[str, Any]:
    body: dict[str, Any] = {"id": name, "object": "model", "created": CREATED, "owned_by": "tianji"}
    try:
        deployment = sealed.router.find(name).deployments[0]
    except UnknownModel:
        return body
    body["owned_by"] = deployment.provider
    if deployment.max_input_tokens:
        body["max_input_tokens"] = deployment.max_input_tokens
    if deployment.max_output_tokens:
        body["max_output_tokens"] = deployment.max_output_tokens
    return body


@get(["/v1/models", "/models"], summary="List the models that the caller may use", tags=["models"])
async def list_models(request: Request[Any, Any, State]) -> dict[str, Any]:
    sealed, principal = await authenticate(request)
    names = [name for name in sealed.models if principal.is_admin or granted(principal.models, name, name)]
    return {"object": "list", "data": [_model(sealed, name) for name in names]}


@get(["/v1/models/{model_id:path}", "/models/{model_id:path}"], summary="One model", tags=["models"])
async def get_model(request: Request[Any, Any, State], model_id: FromPath[str]) -> dict[str, Any]:
    sealed, principal = await authenticate(request)
    name = model_id.strip("/")
    group = sealed.router.find(name, principal)  # raises UnknownModel, with the near matches that the caller may use
    sealed.router.allowed(group, principal, name)
    return _model(sealed, name)


@get(["/health/liveness", "/health/liveliness"], summary="The process answers", tags=["health"], security=[])
async def liveness() -> dict[str, str]:
    return {"status": "alive"}


@get("/health/readiness", summary="Calls can be served", tags=["health"], security=[])
async def readiness(request: Request[Any, Any, State]) -> Response[dict[str, Any]]:
    state = request.app.state
    gateway: Gateway = state.gateway
    if not state.get("ready", False):
        return Response({"status": "stopping" if state.get("stopping") else "starting"}, status_code=503)
    degraded = bool(gateway.sealed.broken)
    return Response({"status": "degraded" if degraded else "healthy"})


@get("/health", summary="Deployments: which are used, which are put aside, and what the checks found", tags=["health"])
async def health(request: Request[Any, Any, State], model: FromQuery[str | None] = None) -> dict[str, Any]:
    sealed = await administrator(request)
    healthy: list[dict[str, Any]] = []
    unhealthy: list[dict[str, Any]] = []
    for one in _asked_for(sealed, model):
        row = _endpoint(sealed.health.report(one))
        (healthy if row["state"] == "healthy" and "error" not in row else unhealthy).append(row)
    return {
        "healthy_endpoints": healthy,
        "unhealthy_endpoints": unhealthy,
        "healthy_count": len(healthy),
        "unhealthy_count": len(unhealthy),
    }


def _asked_for(sealed: Sealed, model: str | None) -> Sequence[Deployment]:
    """All deployments, or those of a model group, an alias or an id. Raises `UnknownModel`."""
    if not model:
        return sealed.router.deployments
    ids = {one.id for one in sealed.router.find(model).deployments}
    return [one for one in sealed.router.deployments if one.id in ids]


def _endpoint(known: DeploymentHealth) -> dict[str, Any]:
    """What is known of a deployment. `error`: what the last check said, where it failed."""
    one, check = known.deployment, known.check
    row: dict[str, Any] = {
        "model_id": one.id,
        "model_group": one.group,
        "model": f"{one.provider}/{one.model}",
        "state": known.state,
        "in_flight": known.in_flight,
        "successes": known.successes,
        "failures": known.failures,
        "last_check": None,
    }
    if one.api_base:
        row["api_base"] = _bare(one.api_base)
    if known.state != "healthy":
        row |= {"reason": known.reason, "cooling_for": round(known.cooling_for, 3)}
    if check is not None:
        row["last_check"] = {"at": round(check.at, 3), "ok": check.ok, "error": check.error or None}
        if not check.ok:
            row["error"] = check.error
    return row


def _bare(url: str) -> str:
    """A URL without what may be secret in it: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return ""


@get("/health/plugins", summary="Plugins in use, their state and counters", tags=["health"])
async def plugins(request: Request[Any, Any, State]) -> dict[str, Any]:
    sealed = await administrator(request)
    gateway: Gateway = request.app.state.gateway
    outlets = {outlet.label: outlet for outlet in sealed.pipeline.log.outlets}
    rows = []
    for plugin in sealed.registry.row():
        row: dict[str, Any] = {"family": plugin.family, "instance": plugin.instance, "name": plugin.name, "state": "ok"}
        if isinstance(counts := getattr(plugin, "counts", None), dict):
            row["counts"] = counts
        if not getattr(plugin, "active", True):
            row["state"] = "inactive"
        outlet = outlets.get(f"{plugin.family}:{plugin.instance}")
        if outlet is not None:
            row |= {
                "state": outlet.state,
                "queued": len(outlet.queue),
                "delivered": outlet.delivered,
                "dropped": outlet.dropped,
                "last_error": outlet.last_error,
            }
        rows.append(row)
    rows += [
        {"family": "callbacks", "instance": name, "name": name, "state": "broken", "last_error": why}
        for name, why in sealed.broken.items()
    ]
    return {"plugins": rows, "reloads": gateway.reloads, "config": sealed.config.fingerprint}


HANDLERS = (list_models, get_model, liveness, readiness, health, plugins)
