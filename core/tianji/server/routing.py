"""Router settings and fallbacks at run time: `/router/settings`, `/router/fields`, `/fallback`. For administrators.

Paths and bodies are LiteLLM's (https://docs.litellm.ai/docs/proxy/fallback_management) and TianjiLLM's, which also has
`PATCH /router/settings`. What is changed here takes effect with the next call; `tianji.overrides` says how long it
lasts and whom it reaches (`scope`).
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from litestar import Request, delete, get, patch, post
from litestar.datastructures import State
from litestar.params import FromPath

from tianji.config.schema import RouterSettings
from tianji.dialects.base import type_name
from tianji.errors import BadRequest, NotFound, TianjiError, UnknownModel
from tianji.gateway import Gateway, Sealed
from tianji.overrides import CHANGEABLE, shown
from tianji.plugin import Strategy
from tianji.server.ingress import MAX_FALLBACKS, MAX_NAME, decode_body, read_body
from tianji.server.management import administrator

LARGEST = 256 * 1024
"""Bytes of a request here."""
TABLES = {
    "general": "fallbacks",
    "context_window": "context_window_fallbacks",
    "content_policy": "content_policy_fallbacks",
}
"""`fallback_type` and the key of `router_settings` that it stands for."""
ALL = "*"
_POST = ("model", "fallback_models", "fallbacks", "fallback_type")

AnyRequest = Request[Any, Any, State]


async def _body(request: AnyRequest) -> dict[str, Any]:
    headers = dict(request.scope["headers"])
    return decode_body(await read_body(request.receive, headers, LARGEST))  # type: ignore[arg-type]


# -- settings ----------------------------------------------------------------------------------------------------------


@get("/router/settings", summary="Router settings in use, and what was changed at run time", tags=["routing"])
async def router_settings(request: AnyRequest) -> dict[str, Any]:
    await administrator(request)
    return _settings(request.app.state.gateway)


@patch("/router/settings", summary="Change router settings; null goes back to the configuration's", tags=["routing"])
async def change_router_settings(request: AnyRequest) -> dict[str, Any]:
    await administrator(request)
    gateway: Gateway = request.app.state.gateway
    body = await _body(request)
    if not body:
        raise BadRequest("Name at least one setting to change.", param="request_body", code="invalid_value")
    await gateway.overrides.change(body)
    return _settings(gateway)


@get("/router/fields", summary="The settings that can be changed", tags=["routing"])
async def router_fields(request: AnyRequest) -> dict[str, Any]:
    await administrator(request)
    strategies = _strategies(request.app.state.gateway)
    return {"fields": _fields({}, strategies), "routing_strategy_descriptions": strategies}


def _settings(gateway: Gateway) -> dict[str, Any]:
    router, overrides = gateway.sealed.config.router, gateway.overrides
    values = {key: shown(key, getattr(router, key)) for key in CHANGEABLE}
    strategies = _strategies(gateway)
    return {
        "fields": _fields(values, strategies),
        "current_values": values,
        "routing_strategy_descriptions": strategies,
        "overrides": {key: values[key] for key in overrides.values},
        "scope": "shared" if overrides.shared else "process",
        "config": overrides.base.fingerprint,
    }


def _fields(values: dict[str, Any], strategies: dict[str, str]) -> list[dict[str, Any]]:
    """The settings as a form would show them."""
    plain = RouterSettings()
    return [
        {
            "field_name": key,
            "field_type": kind,
            "field_value": values.get(key),
            "field_description": meaning,
            "field_default": shown(key, getattr(plain, key)),
            "options": sorted(strategies) if key == "routing_strategy" else None,
            "ui_field_name": key.replace("_", " ").capitalize(),
            "link": None,
        }
        for key, (kind, meaning) in CHANGEABLE.items()
    ]


def _strategies(gateway: Gateway) -> dict[str, str]:
    """The strategies that are installed, and the first line of what they say of themselves."""
    found = {"simple-shuffle": "The order of the configuration."}
    for name in gateway.catalogue.names("strategies"):
        try:
            cls = gateway.catalogue.load("strategies", name)
        except TianjiError:
            continue  # it is broken; whoever chooses it is told
        if issubclass(cls, Strategy):
            found[name] = (cls.__doc__ or "").strip().partition("\n")[0]
    return found


# -- fallbacks ---------------------------------------------------------------------------------------------------------


@post("/fallback", status_code=200, summary="Set the fallbacks of a model group", tags=["routing"])
async def set_fallback(request: AnyRequest) -> dict[str, Any]:
    sealed = await administrator(request)
    gateway: Gateway = request.app.state.gateway
    body = await _body(request)
    for key in body:
        if key not in _POST:
            near = get_close_matches(key[:80], _POST, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(_POST)}."
            raise BadRequest(f"There is no field '{key[:80]}'. {hint}", param=key[:80], code="unknown_key")
    model = _name(body.get("model"), "model")
    if model != ALL:
        _known(sealed, model, UnknownModel, "model")
    key = "fallbacks" if "fallback_models" not in body and "fallbacks" in body else "fallback_models"
    targets = _targets(sealed, model, body.get(key), key)
    kind = _kind(body.get("fallback_type"))
    there = False

    def edit(table: dict[str, Any]) -> None:
        nonlocal there
        there = model in table
        table[model] = tuple(targets)

    await gateway.overrides.edit(TABLES[kind], edit)
    done = "updated" if there else "created"
    return _answer(model, kind, targets) | {"message": f"Fallback configuration {done} successfully"}


@get("/fallback/{model:path}", summary="The fallbacks of a model group", tags=["routing"])
async def get_fallback(request: AnyRequest, model: FromPath[str]) -> dict[str, Any]:
    sealed = await administrator(request)
    kind = _kind(request.query_params.get("fallback_type"))
    name = model.strip("/")
    table = getattr(sealed.config.router, TABLES[kind])
    targets = table.get(name) or table.get(ALL)
    if not targets:
        raise _none(name, kind)
    return _answer(name, kind, list(targets))


@delete("/fallback/{model:path}", status_code=200, summary="Take a model group's fallbacks away", tags=["routing"])
async def delete_fallback(request: AnyRequest, model: FromPath[str]) -> dict[str, Any]:
    await administrator(request)
    gateway: Gateway = request.app.state.gateway
    kind = _kind(request.query_params.get("fallback_type"))
    name = model.strip("/")

    def edit(table: dict[str, Any]) -> None:
        if table.pop(name, None) is None:
            raise _none(name, kind)

    await gateway.overrides.edit(TABLES[kind], edit)
    return {"model": name, "fallback_type": kind, "message": "Fallback configuration deleted successfully"}


def _answer(model: str, kind: str, targets: list[str]) -> dict[str, Any]:
    return {"model": model, "fallback_models": targets, "fallback_type": kind}


def _none(name: str, kind: str) -> NotFound:
    return NotFound(f"No {kind} fallbacks are configured for model '{name[:200]}'.", param="model", code="not_found")


def _kind(value: Any) -> str:
    if value is None:
        return "general"
    if type(value) is not str or value not in TABLES:
        raise BadRequest(
            f"'fallback_type' must be one of {', '.join(TABLES)}.", param="fallback_type", code="invalid_value"
        )
    return value


def _name(value: Any, field: str) -> str:
    if type(value) is not str:
        raise BadRequest(
            f"Invalid type for '{field}': expected a model's name, got {type_name(value)}.",
            param=field,
            code="invalid_type",
        )
    if not 0 < len(value) <= MAX_NAME:
        raise BadRequest(f"'{field}' must have 1 to {MAX_NAME} characters.", param=field, code="invalid_value")
    return value


def _known(sealed: Sealed, name: str, kind: Callable[..., Exception], field: str) -> None:
    """Refuse a name that leads to no model group, with the near matches."""
    try:
        sealed.router.find(name)
    except UnknownModel as unknown:
        # A wildcard is configured by its pattern, which is no name that a call could ask for.
        if name not in sealed.router.groups:
            raise kind(unknown.message, param=field) from None


def _targets(sealed: Sealed, model: str, value: Any, field: str) -> list[str]:
    if type(value) is not list or not 0 < len(value) <= MAX_FALLBACKS:
        raise BadRequest(
            f"'{field}' must be an array of 1 to {MAX_FALLBACKS} model names.", param=field, code="invalid_value"
        )
    found: list[str] = []
    for index, one in enumerate(value):
        place = f"{field}[{index}]"
        name = _name(one["model"] if type(one) is dict and one.keys() == {"model"} else one, place)
        if name == model:
            raise BadRequest(f"Model '{name[:200]}' cannot be its own fallback.", param=place, code="invalid_value")
        _known(sealed, name, BadRequest, place)
        if name not in found:
            found.append(name)
    return found


ROUTING = (router_settings, change_router_settings, router_fields, set_fallback, get_fallback, delete_fallback)
