"""Facts about one plugin class, and about the row of plugins that a call meets."""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING, Any

import importlib_metadata

from tianji import hookspecs
from tianji.cli.inventory import LOCAL, Row
from tianji.plugin import Callback, Extension, Guardrail, Plugin, Provider, Strategy, settings_fields

if TYPE_CHECKING:
    from tianji.gateway import Sealed

HOOKS = tuple(
    name for name, spec in vars(hookspecs).items() if inspect.isfunction(spec) and hasattr(spec, "tianji_spec")
)
"""Every hook, in the order in which a call meets them."""
STAGES = ("identify", "pre_call", "route", "provider_call", "fallback", "post_call", "log")
"""The hooks that touch a call."""


def hooks(cls: type[Plugin]) -> list[str]:
    """The hooks that a plugin class implements."""
    return [name for name in HOOKS if getattr(getattr(cls, name, None), "tianji_impl", None) is not None]


def info(row: Row, cls: type[Plugin]) -> dict[str, Any]:
    """All that `tianji plugins info` tells, ready for `--json`."""
    module = sys.modules.get(cls.__module__)
    doc = inspect.getdoc(module) if module is not None else None
    docs = re.search(r"^Docs:\s*(\S+)", doc or "", re.MULTILINE) or re.search(r"(https?://[^\s)>]+)", doc or "")
    data: dict[str, Any] = {
        "family": row.family,
        "name": row.name,
        "aliases": list(row.aliases),
        "summary": row.summary or (doc or "").partition("\n")[0],
        "docs": docs[1].rstrip(".,") if docs else "",
        "distribution": row.distribution,
        "version": row.version,
        "requires": _requires(row),
        "entry_point": row.entry_point,
        "order": cls.order,
        "hooks": hooks(cls),
        "state": row.state,
        "reason": row.reason,
        "settings": [
            {
                "name": field.name,
                "type": field.type,
                "default": None if field.required else field.default,
                "required": field.required,
                "secret": field.secret,
                "doc": field.doc,
            }
            for field in settings_fields(cls.Settings)
        ],
        "settings_in": where_settings_go(cls, row.name),
    }
    if issubclass(cls, Provider):
        data["provider"] = provider_facts(cls)
    return data


def provider_facts(cls: type[Provider]) -> dict[str, Any]:
    """What a provider declares. `base_url` is empty where the deployment's settings decide."""
    return {
        "base_url": getattr(cls, "base_url", ""),
        "ops": sorted(str(op.value) for op in cls.ops),
        "native": sorted(cls.native),
        "api_key_env": list(cls.api_key_env),
        "api_base_env": list(getattr(cls, "api_base_env", ())),
        "needs_key": cls.needs_key,
    }


def where_settings_go(cls: type[Plugin], name: str) -> str:
    """The place in the configuration that a plugin's settings come from."""
    if issubclass(cls, Extension):
        return cls.section or name.replace("-", "_")
    if issubclass(cls, Strategy):
        return "router_settings.routing_strategy_args"
    if issubclass(cls, Callback):
        return "callback_settings, or tianji_settings.callback_configs[]"
    return "guardrails[].tianji_params" if issubclass(cls, Guardrail) else "model_list[].tianji_params"


def _requires(row: Row) -> list[str]:
    if row.version == LOCAL:
        return []
    try:
        lines = importlib_metadata.requires(row.distribution) or []
    except importlib_metadata.PackageNotFoundError:
        return []
    return [line for line in lines if "extra ==" not in line]


def chain(sealed: Sealed, distributions: dict[tuple[str, str], str]) -> dict[str, Any]:
    """The resolved row, and the stages of a call with everything that acts in each, the kernel's own parts included.

    `distributions` are by family and class name.
    """
    row = []
    for plugin in sealed.registry.row():
        entry: dict[str, Any] = {
            "order": plugin.order,
            "label": f"{plugin.family}:{plugin.instance}",
            "distribution": distributions.get((plugin.family, plugin.name), ""),
            "hooks": hooks(type(plugin)),
            "on_failure": on_failure(plugin),
        }
        if isinstance(plugin, Guardrail):
            entry["modes"] = sorted(plugin.modes, key=_MODES.index)
            entry["default_on"] = plugin.default_on
        row.append(entry)
    strategies = [f"strategies:{name}" for name in sealed.hooks.strategies]
    stages = {
        "identify": [*(step.label for step in sealed.hooks.identify), "kernel:master-key"],
        "pre_call": [step.label for step in sealed.hooks.pre_call],
        "route": strategies or ["kernel:configured-order"],
        "provider_call": [f"providers:{name}" for name in sealed.hooks.providers],
        "fallback": [*(step.label for step in sealed.hooks.fallback), "kernel:fallbacks"],
        "post_call": [step.label for step in sealed.hooks.post_call],
        "log": [step.label for step in sealed.hooks.log],
    }
    return {"row": row, "stages": stages, "broken": dict(sealed.broken)}


_MODES = ["pre_call", "during_call", "post_call", "logging_only"]


def on_failure(plugin: Plugin) -> str:
    """What happens to a call when this plugin fails."""
    if isinstance(plugin, Guardrail):
        return "open: the call goes on unchecked" if plugin.fail_open else "closed: the call is refused with 503"
    if isinstance(plugin, Callback):
        return "open: the batch is retried, then dropped and counted"
    if isinstance(plugin, Provider):
        return "the next attempt, as the router decides"
    if isinstance(plugin, Strategy):
        return "open: the configured order, counted"
    own = set(hooks(type(plugin)))
    if own & {"pre_call", "post_call"}:
        return "closed: the call is refused with 500"
    if "identify" in own:
        return "closed: the call is refused with 401"
    if "fallback" in own:
        return "closed: the first failure is answered"
    return "open: the batch is retried, then dropped and counted" if "log" in own else "closed: the start stops"
