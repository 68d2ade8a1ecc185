"""What `tianji check` says about a configuration that loads: keys, variables, plugins, names that lead nowhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Literal

import msgspec

from tianji.config.filters import CHECKS, REGION_KEY, SETTINGS, wanted
from tianji.config.known_keys import SECTIONS, SELECTOR_PARAMS, stand_in
from tianji.config.schema import Config, DeploymentSpec
from tianji.secrets import Unresolved

Level = Literal["error", "warning", "info"]

BUILT_IN = {"provider": frozenset({"echo"}), "strategy": frozenset({"simple-shuffle"})}
"""Names that the kernel itself answers to."""

_DISTRIBUTION = {
    ("strategy", "latency-based-routing"): "lowest-latency",
    ("strategy", "cost-based-routing"): "lowest-cost",
    ("strategy", "usage-based-routing"): "usage-based",
    ("strategy", "usage-based-routing-v2"): "lowest-tpm-rpm",
    ("provider", "ollama_chat"): "ollama",
    ("provider", "azure_text"): "azure",
    ("provider", "text-completion-openai"): "openai",
    ("provider", "cohere_chat"): "cohere",
    ("provider", "vertex_ai_beta"): "vertex_ai",
    ("guardrail", "litellm_content_filter"): "content_filter",
}
"""LiteLLM's second names of plugins, and the name that the distribution goes by."""
_CACHES = {"local": "memory", "memory": "memory", "redis_cluster": "redis", "azure_blob": "azure-blob"}
_GUESSED_KEYS = frozenset(
    {"sk-1234", "sk-12345", "sk-123456", "changeme", "password", "secret", "admin", "test", "key"}
)
_WEAK_LENGTH = 8
_KINDS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


class Finding(msgspec.Struct, frozen=True):
    """One remark. An `error` stops `tianji serve`, too; `info` is only worth knowing."""

    level: Level
    path: str
    message: str
    mend: str = ""


def lint(config: Config, *, installed: Mapping[str, set[str]]) -> list[Finding]:
    """Everything worth saying about a configuration, errors first.

    `installed` are the entry-point names by family, in the singular (`provider`) or the plural (`providers`).
    """
    have = {family.removesuffix("s") if family != "strategies" else "strategy": set(names) for family, names in
            installed.items()}  # fmt: skip
    names = _Names(config)
    findings = [
        *_warnings(config),
        *_without_effect(config, have),
        *_checks(config),
        *_plugins(config, have),
        *_fallbacks(config, names),
        *_aliases(config, names),
        *_stand_ins(config, names, have),
        *_duplicates(config),
        *_master_key(config),
    ]
    rank = {"error": 0, "warning": 1, "info": 2}
    return sorted(dict.fromkeys(findings), key=lambda finding: rank[finding.level])


def _warnings(config: Config) -> Iterator[Finding]:
    for warning in config.warnings:
        level: Level = "info" if warning.code == "passed-through" and not warning.mend else "warning"
        yield Finding(level, warning.path, warning.message, warning.mend)
    for reference in config.secret_references:
        message = f"{reference.text} is kept by a secret manager and was not fetched"
        yield Finding("info", reference.path, message, f"An extension that offers `{reference.scheme}://` fetches it")


def _without_effect(config: Config, installed: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Keys that are known and that nothing in the kernel reads."""
    filters = wanted(config)
    for name in ("tianji_settings", "router_settings", "general_settings"):
        for key in getattr(config, name).extra:
            if key.startswith("redis_") and name == "router_settings" and "redis" in installed.get("extension", ()):
                continue  # that extension's
            if key in SECTIONS[name].accepted and SETTINGS.get(key) not in filters:
                yield Finding("info", _at(config, f"{name}.{key}"), "accepted, and has no effect yet")
    yield from unenforced(config)
    for name, keys in _QUIET.items():
        for key in _set(config, name, keys):
            yield Finding("info", _at(config, f"{name}.{key}"), "accepted, and has no effect yet")
    for deployment in config.deployments:
        selector = _selector(deployment, installed)
        for key in deployment.extra:
            if key == "max_budget" or (key == "budget_duration" and "max_budget" in deployment.extra):
                continue  # the budget-limiter's
            if key not in SELECTOR_PARAMS:
                yield Finding("info", f"{deployment.where}.tianji_params.{key}", "accepted, and has no effect yet")
            elif selector is None:
                mend = "It belongs to an entry whose `model` names a selector, such as `auto_router/<name>`"
                yield Finding("warning", f"{deployment.where}.tianji_params.{key}", "has no effect here", mend)


_GUARDS = {
    "tianji_settings": ("max_budget", "budget_duration"),
    "general_settings": (
        "custom_auth",
        "max_parallel_requests",
        "global_max_parallel_requests",
        "max_response_size_mb",
    ),
}
"""Typed keys that limit or protect and that nothing enforces yet. Whoever sets one must be told, also at a start."""
_QUIET = {
    "tianji_settings": ("modify_params", "json_logs"),
    "general_settings": (
        "forward_client_headers_to_llm_api", "pass_through_endpoints", "store_prompts_in_spend_logs",
    ),
}  # fmt: skip
"""Typed keys that nothing acts on yet and whose silence harms nobody."""


def unenforced(config: Config) -> Iterator[Finding]:
    """Limits and guards that the configuration asks for and that this version does not enforce."""
    for name, keys in _GUARDS.items():
        for key in _set(config, name, keys):
            yield Finding(
                "warning", _at(config, f"{name}.{key}"), f"{key} is not enforced by this version", "Do not rely on it"
            )


def _checks(config: Config) -> Iterator[Finding]:
    """Pre-call checks of LiteLLM's that no filter does."""
    path = _at(config, "router_settings.optional_pre_call_checks", "tianji_settings.optional_pre_call_checks")
    for check in config.router.optional_pre_call_checks:
        if check not in CHECKS:
            known = ", ".join(CHECKS)
            yield Finding("warning", path, f"the check {check!r} is not made by this version", f"There are: {known}")


def _set(config: Config, section: str, keys: tuple[str, ...]) -> Iterator[str]:
    """The keys that were given another value than the default."""
    struct = getattr(config, section)
    plain = type(struct)()
    return (key for key in keys if getattr(struct, key) != getattr(plain, key))


def _plugins(config: Config, installed: Mapping[str, set[str]]) -> Iterator[Finding]:
    """One finding for each plugin that is missing, at the first place that names it."""
    used: dict[tuple[str, str], list[tuple[str, Level]]] = {}

    def use(family: str, name: str, path: str, level: Level) -> None:
        used.setdefault((family, name), []).append((path, level))

    for deployment in config.deployments:
        if (selector := _selector(deployment, installed)) is not None:
            use("strategy", selector, deployment.where, "error")
        elif deployment.provider != "*":
            use("provider", deployment.provider, deployment.where, "error")
    for guardrail in config.guardrails:
        use("guardrail", guardrail.plugin, guardrail.where, "error")
    for callback in config.callbacks:
        use("callback", callback.plugin, callback.where, "error" if callback.required else "warning")
    path = _at(config, "router_settings.routing_strategy", "tianji_settings.routing_strategy")
    use("strategy", config.router.routing_strategy, path, "error")
    for name, key in wanted(config).items():
        if key != REGION_KEY:
            use("strategy", name, _at(config, key, key.replace("router_settings", "tianji_settings")), "error")
        elif labelled := [one.where for one in config.deployments if one.region]:
            use("strategy", name, f"{labelled[0]}.tianji_params.region", "info")
    if config.tianji_settings.cache:
        kind = str(config.tianji_settings.cache_params.get("type") or "local")
        path = _at(config, "tianji_settings.cache_params.type", "tianji_settings.cache")
        use("extension", f"cache-{_CACHES.get(kind, kind)}", path, "warning")
    for (family, name), places in used.items():
        yield from _need(installed, family, name, places)


def _need(
    installed: Mapping[str, set[str]], family: str, name: str, places: list[tuple[str, Level]]
) -> Iterator[Finding]:
    known = installed.get(family, set())
    if name in known or name in BUILT_IN.get(family, ()):
        return
    if family == "extension" and name.replace("-", "_") in known:
        return
    path = places[0][0]
    level: Level = "error" if any(level == "error" for _, level in places) else places[0][1]
    others = f" (named {len(places)} times)" if len(places) > 1 else ""
    message = f"the {family} {name!r} is not installed{others}"
    if family in {"callback", "guardrail"} and "." in name:
        mend = f"Python code beside the file is not loaded; make a {family} of it: tianji serve --plugin ./{family}.py"
        yield Finding(level, path, message, mend)
        return
    package = re.sub(r"[^a-z0-9]+", "-", _DISTRIBUTION.get((family, name), name).lower()).strip("-")
    mend = f"pip install tianji-{family}-{package}"
    near = get_close_matches(name[:200], sorted(known), n=1, cutoff=0.8)
    yield Finding(level, path, message, f"{mend} (or did you mean {near[0]!r}?)" if near else mend)


class _Names:
    """What a request may ask for: model groups (wildcards too) and aliases."""

    def __init__(self, config: Config) -> None:
        groups = {deployment.model_name for deployment in config.deployments}
        self._exact = groups | config.router.model_group_alias.keys()
        patterns = (".*".join(map(re.escape, group.split("*"))) for group in groups if "*" in group)
        self._pattern = re.compile("|".join(patterns) or r"(?!)", re.DOTALL)

    def __contains__(self, name: str) -> bool:
        return name in self._exact or self._pattern.fullmatch(name) is not None

    def missing(self, name: str, path: str, level: Level, effect: str) -> Finding:
        near = get_close_matches(name[:200], sorted(self._exact), n=3, cutoff=0.6)
        mend = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Add it to `model_list`, or remove it here"
        return Finding(level, path, f"there is no model group {name!r}: {effect}", mend)


def astray(config: Config) -> Iterator[Finding]:
    """Fallbacks and aliases that lead nowhere."""
    names = _Names(config)
    yield from _fallbacks(config, names)
    yield from _aliases(config, names)


def _fallbacks(config: Config, names: _Names) -> Iterator[Finding]:
    router = config.router
    for kind in _KINDS:
        table: Mapping[str, tuple[str, ...]] = getattr(router, kind)
        for group, targets in table.items():
            path = _at(config, f"router_settings.{kind}.{group}", f"tianji_settings.{kind}.{group}")
            if group != "*" and group not in names:
                yield names.missing(group, path, "warning", "these fallbacks are never used")
            if group in targets:
                yield Finding("warning", path, f"{group!r} falls back to itself; that step is skipped", "Remove it")
            yield from _targets(config, names, path, targets)
    default = router.default_fallbacks
    path = _at(config, "router_settings.default_fallbacks", "tianji_settings.default_fallbacks")
    yield from _targets(config, names, path, default)


def _targets(config: Config, names: _Names, path: str, targets: tuple[str, ...]) -> Iterator[Finding]:
    for target in targets:
        if target not in names:
            yield names.missing(target, path, "error", "nothing can be tried there")
    if late := targets[config.router.max_fallbacks :]:
        limit = config.router.max_fallbacks
        message = f"never reached, because max_fallbacks is {limit}: {', '.join(late)}"
        yield Finding("warning", path, message, f"Raise router_settings.max_fallbacks to {len(targets)}")


def _aliases(config: Config, names: _Names) -> Iterator[Finding]:
    aliases = config.router.model_group_alias
    for alias, target in aliases.items():
        path = _at(config, f"router_settings.model_group_alias.{alias}", f"tianji_settings.model_group_alias.{alias}")
        if target.model == alias:
            yield Finding("error", path, f"the alias {alias!r} stands for itself", "Name a model group")
        elif target.model not in names:
            yield names.missing(target.model, path, "error", f"the alias {alias!r} leads nowhere")


def _selector(deployment: DeploymentSpec, installed: Mapping[str, set[str]]) -> str | None:
    return stand_in(deployment, installed.get("strategy", ()), installed.get("provider", ()))


def _stand_ins(config: Config, names: _Names, installed: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Auto routers that will ask for an embedding model which is not there. One that is named is looked for later."""
    default = "text-embedding-3-small"
    for deployment in config.deployments:
        if _selector(deployment, installed) is None or default in names:
            continue
        routes = deployment.extra.get("auto_router_config") or deployment.extra.get("auto_router_config_path")
        if routes and not deployment.extra.get("auto_router_embedding_model"):
            path = f"{deployment.where}.tianji_params"
            message = f"there is no model group {default!r} to compare texts with: every call goes to the default model"
            yield Finding("warning", path, message, "Add it, or name another in `auto_router_embedding_model`")


def _duplicates(config: Config) -> Iterator[Finding]:
    for name, number in Counter(guardrail.guardrail_name for guardrail in config.guardrails).items():
        if number > 1:
            path = next(guardrail.where for guardrail in config.guardrails if guardrail.guardrail_name == name)
            yield Finding("warning", path, f"{number} guardrails are called {name!r}", "Give each its own name")
    paths = {deployment.id: deployment.path for deployment in config.deployments}
    for deployment in config.deployments:
        twin = paths.get(deployment.id.rpartition("-")[0])
        if twin is not None and "id" not in deployment.model_info:
            message = f"the same deployment as {twin}: it doubles that one's share"
            yield Finding("info", deployment.where, message, "Use `weight` for that")


def _master_key(config: Config) -> Iterator[Finding]:
    key = config.general_settings.master_key
    path = _at(config, "general_settings.master_key")
    if key is None or config.generated_master_key:
        return
    if isinstance(key, Unresolved):
        return
    if key.reveal().lower() in _GUESSED_KEYS:
        yield Finding("warning", path, "the master key is one from the documentation: anybody can guess it", _NEW_KEY)
    elif len(key.reveal()) < _WEAK_LENGTH:
        yield Finding("warning", path, f"the master key is shorter than {_WEAK_LENGTH} characters", _NEW_KEY)


_NEW_KEY = "Make one: python -c \"import secrets; print('sk-' + secrets.token_urlsafe(32))\""


def _at(config: Config, *paths: str) -> str:
    """File, line and path of the first of the paths that is in the file."""
    for path in paths:
        if path in config.locations:
            return ": ".join(part for part in (config.locations[path], path) if part)
    return paths[0]
