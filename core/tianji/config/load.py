"""From a `proxy_config.yaml` to a `Config`.

In this order: the `.env` beside the file, the YAML with its key names in Tianji's spelling, `include`, then
`environment_variables` into the environment, then references, then the structs. A TianjiLLM or LiteLLM file loads
unmodified (https://docs.litellm.ai/docs/proxy/configs); a key that nobody knows is a warning, a value that cannot be
used is a `ConfigError` that names file, line and key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, MutableMapping, Set
from pathlib import Path
from typing import Any

import msgspec

from tianji.config import specs
from tianji.config.convert import fill, to_dicts, to_map
from tianji.config.deployments import Deployments, credentials
from tianji.config.document import Document, Map, Seq, plain, words
from tianji.config.known_keys import CALLBACK_KEYS, SECTIONS, suggest
from tianji.config.resolve import Resolver
from tianji.config.schema import CallbackSpec, Config, ConfigWarning, GeneralSettings, RouterSettings, TianjiSettings
from tianji.config.sources import include, load_dotenv, read_text
from tianji.model import Secret
from tianji.secrets import Unresolved

_CONSUMED = words("model_list tianji_settings router_settings general_settings guardrails plugins")
"""Top-level keys that have their own field in `Config`; all others become `sections`."""
_SETTINGS = ("tianji_settings", "router_settings", "general_settings")
_ROUTER_KEYS = frozenset(RouterSettings.__struct_fields__) - {"extra"}
_FROM_ENVIRONMENT = {"master_key": ("TIANJI_MASTER_KEY", "LITELLM_MASTER_KEY"), "database_url": ("DATABASE_URL",)}


def load(
    path: str | os.PathLike[str],
    *,
    environ: MutableMapping[str, str] | None = None,
    fetched: Mapping[str, str] | None = None,
) -> Config:
    """Load a configuration file.

    Args:
        path: The YAML file. Errors name it as it is given here.
        environ: Where references are looked up, and where `.env` and `environment_variables` go: the process's.
        fetched: What secret managers gave, by reference as written (`Config.secret_references` lists them).

    Raises ConfigError, and nothing else, for whatever is wrong with the file.
    """
    file = Path(path)
    environ = os.environ if environ is None else environ
    text = read_text(file)
    warnings = load_dotenv(file.parent, environ)
    document = Document(str(path)).read_yaml(text)
    document.warnings += warnings
    include(document, file.parent, (file,))
    return _assemble(document, environ, fetched or {})


def loads(
    text: str,
    *,
    name: str = "<string>",
    environ: MutableMapping[str, str] | None = None,
    fetched: Mapping[str, str] | None = None,
) -> Config:
    """Load a configuration from YAML text. `include` counts from the working directory; no `.env` is read."""
    document = Document(name).read_yaml(text)
    include(document, Path())
    return _assemble(document, os.environ if environ is None else environ, fetched or {})


def from_dict(
    tree: Mapping[str, Any],
    *,
    name: str = "",
    environ: MutableMapping[str, str] | None = None,
    fetched: Mapping[str, str] | None = None,
) -> Config:
    """Load a configuration from dicts, lists and scalars (tests, programs); errors have a path and no line."""
    document = Document(name).read_tree(tree)
    include(document, Path())
    return _assemble(document, os.environ if environ is None else environ, fetched or {})


def _assemble(document: Document, environ: MutableMapping[str, str], fetched: Mapping[str, str]) -> Config:
    root, warnings = document.root, document.warnings
    fingerprint = _fingerprint(root)
    resolver = Resolver(environ, fetched)
    resolver.export(root)
    root = to_map(*resolver.resolve(root, root.mark))
    warnings += resolver.warnings
    _check_keys(root, warnings)
    settings, router = _settings(root)
    known = credentials(root["credential_list"], root.at("credential_list")) if _has(root, "credential_list") else {}
    parts: dict[str, Any] = {}
    if _has(root, "model_list"):
        parts["deployments"] = Deployments(known, warnings).read(root["model_list"], root.at("model_list"))
    if _has(root, "guardrails"):
        parts["guardrails"] = specs.guardrails(root["guardrails"], root.at("guardrails"), warnings)
    if _has(root, "plugins"):
        parts["plugins"] = specs.plugins(root["plugins"], root.at("plugins"), warnings)
    return Config(
        tianji_settings=settings,
        router_settings=router,
        general_settings=_general(root, environ),
        callbacks=_callbacks(root),
        sections={key: plain(value) for key, value in root.items() if key not in _CONSUMED and value is not None},
        secret_references=tuple(resolver.references),
        source=document.file,
        fingerprint=fingerprint,
        spelling="litellm" if document.renamed else "tianji",
        locations=_locations(root),
        warnings=tuple(warnings),
        **parts,
    )


def _check_keys(root: Map, warnings: list[ConfigWarning]) -> None:
    """One warning for each key that no documentation knows."""
    named = [("", root), *((name, _section(root, name)) for name in _SETTINGS)]
    settings = _section(root, "tianji_settings")
    if _has(settings, "cache_params"):
        named.append(("tianji_settings.cache_params", to_map(settings["cache_params"], settings.at("cache_params"))))
    for name, section in named:
        for key in section:
            if key not in SECTIONS[name].known:
                message = f"not a known key of `{name}`" if name else "not a section that is known here"
                warnings.append(ConfigWarning("unknown-key", str(section.at(key)), message, suggest(key, name)))


def _settings(root: Map) -> tuple[TianjiSettings, RouterSettings]:
    """Both sections; the router's is what `tianji_settings` says under the same keys, beneath what it says itself."""
    tianji, router, general = (_section(root, name) for name in _SETTINGS)
    merged = _layered(_only(tianji, _ROUTER_KEYS), router)
    if not _has(merged, "timeout") and _has(tianji, "request_timeout"):
        merged.put("timeout", tianji["request_timeout"], tianji.at("request_timeout"))
    own = _layered(_only(general, {"always_include_stream_usage"}), tianji)
    not_here = (_ROUTER_KEYS | CALLBACK_KEYS) - frozenset(TianjiSettings.__struct_fields__)
    return fill(TianjiSettings, own, ignore=not_here), fill(RouterSettings, merged)


def _general(root: Map, environ: Mapping[str, str]) -> GeneralSettings:
    """`general_settings` over what the environment says; top-level pass-through endpoints come before its own."""
    section = _section(root, "general_settings")
    merged = _layered(section)
    if not _has(merged, "tianji_key_header_name") and _has(merged, "auth_header_name"):
        merged.put("tianji_key_header_name", merged["auth_header_name"], merged.at("auth_header_name"))
    for key, names in _FROM_ENVIRONMENT.items():
        value = next((environ[name] for name in names if environ.get(name)), None)
        if not merged.get(key) and value is not None:
            merged.put(key, Secret(value), section.at(key))
    endpoints: list[dict[str, Any]] = []
    for source in (root, merged):
        if _has(source, "pass_through_endpoints"):
            endpoints += to_dicts(source["pass_through_endpoints"], source.at("pass_through_endpoints"))
    general = fill(GeneralSettings, merged, ignore=frozenset({"always_include_stream_usage"}))
    return msgspec.structs.replace(general, pass_through_endpoints=tuple(endpoints))


def _callbacks(root: Map) -> tuple[CallbackSpec, ...]:
    settings = _section(root, "tianji_settings")
    callbacks = specs.Callbacks()
    for key, when in (("callbacks", "all"), ("success_callback", "success"), ("failure_callback", "failure")):
        callbacks.listed(settings, key, when)
    if _has(settings, "callback_configs"):
        callbacks.configured(settings["callback_configs"], settings.at("callback_configs"))
    if _has(root, "callback_settings"):
        callbacks.settings(root["callback_settings"], root.at("callback_settings"))
    return callbacks.specs


def _has(section: Map, key: str) -> bool:
    return section.get(key) is not None


def _section(root: Map, name: str) -> Map:
    return to_map(root[name], root.at(name)) if _has(root, name) else Map(root.at(name))


def _only(section: Map, keys: Set[str]) -> Map:
    picked = Map(section.mark)
    for key in keys & section.keys():
        picked.put(key, section[key], section.at(key))
    return picked


def _layered(*layers: Map) -> Map:
    """One mapping out of several; the last that says anything about a key wins."""
    merged = Map(layers[-1].mark)
    for layer in layers:
        for key, value in layer.items():
            if value is not None or key not in merged:
                merged.put(key, value, layer.at(key))
    return merged


def _locations(root: Map) -> dict[str, str]:
    found: dict[str, str] = {}

    def visit(value: Any, path: str, depth: int) -> None:
        if isinstance(value, Map) and depth < 3:
            for key in value:
                found[f"{path}.{key}"] = value.at(key).position
                visit(value[key], f"{path}.{key}", depth + 1)
        elif isinstance(value, Seq) and depth < 3:
            # `fallbacks: [{a: [b]}]` is found under the same name as `fallbacks: {a: [b]}`.
            for item in value:
                visit(item, path, depth)

    for name in (*_SETTINGS, "plugins"):
        visit(root.get(name), name, 1)
    return found


def _fingerprint(root: Map) -> str:
    def secret(value: Any) -> str:
        return value.reveal() if isinstance(value, Secret) and not isinstance(value, Unresolved) else repr(value)

    return hashlib.sha256(json.dumps(root, sort_keys=True, default=secret).encode()).hexdigest()
