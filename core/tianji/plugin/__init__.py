"""The five families' base classes. An author subclasses one and writes one method.

    | family      | base        | the method                                        | sealed hook           |
    |-------------|-------------|---------------------------------------------------|-----------------------|
    | providers   | `Provider`  | `call`, or rather a subclass in `tianji.providers` | `provider_call`       |
    | guardrails  | `Guardrail` | `check(content, call) -> Verdict`                 | `pre_call`, `post_call` |
    | callbacks   | `Callback`  | `export(records)`                                 | `log`                 |
    | strategies  | `Strategy`  | `rank(call, candidates)`, `observe(attempt)`      | `route`               |
    |             | `Filter`    | `keep(call, candidates)`                          | `narrow`              |
    |             | `Selector`  | `choose(call)`                                    | `select`              |
    | extensions  | `Extension` | any hooks, marked with `@hookimpl`                | -                     |

The sealed hooks are `@final`: pluggy would silently stop seeing an overridden one, so the type checker and the loader
both refuse it.
"""

from tianji.plugin.base import Plugin, PluginSettings, convert_settings, settings_fields
from tianji.plugin.callback import Callback
from tianji.plugin.extension import Extension
from tianji.plugin.guardrail import Content, Guardrail, Verdict
from tianji.plugin.provider import Provider
from tianji.plugin.strategy import Filter, Release, Routing, Selector, Strategy

FAMILIES: dict[str, type[Plugin]] = {
    "providers": Provider,
    "guardrails": Guardrail,
    "callbacks": Callback,
    "strategies": Routing,
    "extensions": Extension,
}
"""Folder = entry-point group suffix = family."""

SINGULAR = {
    "providers": "provider",
    "guardrails": "guardrail",
    "callbacks": "callback",
    "strategies": "strategy",
    "extensions": "extension",
}

__all__ = [
    "FAMILIES",
    "SINGULAR",
    "Callback",
    "Content",
    "Extension",
    "Filter",
    "Guardrail",
    "Plugin",
    "PluginSettings",
    "Provider",
    "Release",
    "Routing",
    "Selector",
    "Strategy",
    "Verdict",
    "convert_settings",
    "settings_fields",
]
