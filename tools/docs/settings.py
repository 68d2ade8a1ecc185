"""docs/reference/settings.md: every key of the configuration that has an effect, and every plugin's settings.

Types and defaults are read out of `tianji.config.schema`; what a key does is said here, because the kernel reads most
of them far from where they are declared. A key of the schema that is not told of here is listed as without effect.
"""

from __future__ import annotations

from pathlib import Path

from tianji.cli.describe import where_settings_go
from tianji.config.known_keys import SECTIONS
from tianji.config.schema import GeneralSettings, PluginsSection, RouterSettings, TianjiSettings
from tianji.plugin import FAMILIES, Provider, settings_fields
from tools.docs.keys import ELSEWHERE, ENVIRONMENT, KEYS
from tools.docs.source import HEAD, Attribute, Shown, attributes, class_of, joined, plugins, table, tick, tree

SCHEMA = "tianji.config.schema"
STRUCTS = {
    "tianji_settings": TianjiSettings,
    "router_settings": RouterSettings,
    "general_settings": GeneralSettings,
    "plugins": PluginsSection,
}
"""The sections that are a struct each."""
TYPES = ("Seconds", "Period", "Fallbacks", "Count", "Amount")

INTRO = """\
The configuration is one YAML file, by custom `proxy_config.yaml`. Its keys are TianjiLLM's; LiteLLM's spelling of the
same keys (`litellm_params`, `litellm_settings`, …) is read as well, and a LiteLLM file needs no change
([how](../how-to/litellm-config.md)). A key that nobody knows is a warning, never an error; `tianji check` explains each
one. A value that cannot be used is an error that names file, line and key.

A value may stand for another one: `os.environ/NAME`, `$NAME` or, inside a text, `${NAME}` for an environment variable;
`vault://…`, `secret://…`, `aws_secret://…`, `gcp_secret://…`, `azure_kv://…` or `conjur://…` for what a secret manager
keeps (no extension of this repository fetches those yet). A `.env` file beside the configuration is read first."""


def page() -> str:
    parts = ["# Settings", HEAD, INTRO]
    aliases = {one.name: one.doc for one in attributes(tree(SCHEMA))}
    parts.append(table(("type", "meaning"), [(tick(name), aliases[name]) for name in TYPES]))
    parts += ["## Sections of the file", told("", ())]
    parts += ["### One entry of `model_list`", told("model_list[]", ())]
    parts += ["### `tianji_params` of a deployment", told("tianji_params", ()), ELSEWHERE["tianji_params"]]
    parts += ["### `model_info` of a deployment", told("model_info", ())]
    for section, struct in STRUCTS.items():
        fields = tuple(attributes(class_of(SCHEMA, struct.__name__)))
        parts += [f"### `{section}`", ELSEWHERE.get(section, ""), told(section, fields), idle(section, fields)]
    parts += ["### One entry of `guardrails`", told("guardrails[]", ()), ELSEWHERE["guardrails[]"]]
    parts += ["### One entry of `tianji_settings.callback_configs`", ELSEWHERE["callbacks"], told("callbacks", ())]
    parts += [
        "## Environment variables",
        table(("variable", "meaning"), [(tick(k), v) for k, v in ENVIRONMENT.items()]),
    ]
    for family in FAMILIES:
        parts.append(f"## {family.capitalize()}")
        for one in plugins():
            if one.family == family:
                parts += plugin(one)
    return joined(parts)


def told(section: str, fields: tuple[Attribute, ...]) -> str:
    """The keys that have an effect. Raises `LookupError` for one that the schema does not have."""
    known = {field.name: field for field in fields}
    if fields and (gone := KEYS[section].keys() - known.keys() - SECTIONS[section].used):
        raise LookupError(f"`{section}` has no key {', '.join(sorted(gone))}: mend tools/docs/keys.py")
    rows = []
    for key, meaning in KEYS[section].items():
        field = known.get(key)
        rows.append(
            (tick(key), tick(field.annotation), tick(field.default), meaning) if field else (tick(key), "", "", meaning)
        )
    if not fields:
        return table(("key", "meaning"), [(row[0], row[3]) for row in rows])
    return table(("key", "type", "default", "meaning"), rows)


def idle(section: str, fields: tuple[Attribute, ...]) -> str:
    """The keys that are read without complaint and change nothing today."""
    names = without_effect(section, fields)
    lines = []
    if names:
        lines.append(
            f"Understood, and **without effect yet**: {', '.join(map(tick, names))}. `tianji check` is silent."
        )
    if SECTIONS[section].accepted:
        lines.append(
            "TianjiLLM's and LiteLLM's other keys are accepted without effect; `tianji check` says so of each."
        )
    return "\n\n".join(lines)


def without_effect(section: str, fields: tuple[Attribute, ...]) -> list[str]:
    merged = KEYS["router_settings"].keys() if section == "tianji_settings" else ()
    return [
        one.name for one in fields if one.name not in KEYS[section] and one.name not in merged and one.name != "extra"
    ]


def plugin(one: Shown) -> list[str]:
    """One plugin's part: its names, what a provider declares, and the settings table."""
    names = ", ".join(map(tick, (one.name, *one.aliases)))
    facts = [f"{one.summary} Named {names}; `{one.distribution}`, [README]({one.readme})."]
    if issubclass(one.cls, Provider):
        facts.append(provider(one.cls))
    parts = [f"### {one.distribution}", "\n".join(facts)]
    fields = settings_fields(one.cls.Settings)
    if not fields:
        return [*parts, "No settings."]
    rows = [(tick(f.name), tick(f.type), "required" if f.required else tick(f.default), f.doc) for f in fields]
    place = where_settings_go(one.cls, one.name)
    return [*parts, f"Settings, in `{place}`:", table(("setting", "type", "default", "meaning"), rows)]


def provider(cls: type[Provider]) -> str:
    """Ops, native dialects, variables and address of a provider."""
    keys = ", ".join(map(tick, cls.api_key_env)) or ("`api_key` of the deployment" if cls.needs_key else "none needed")
    said = [f"Ops: {', '.join(sorted(cls.ops))}.", f"Key: {keys}."]
    if native := ", ".join(sorted(cls.native)):
        said.insert(1, f"Native dialects: {native}.")
    if base := getattr(cls, "base_url", ""):
        said.append(f"Address: `{base}`.")
    if variables := getattr(cls, "api_base_env", ()):
        said.append(f"Other address: {', '.join(map(tick, variables))}.")
    return " ".join(said)


def sources() -> list[Path]:
    """The code that could act on a key: the kernel but for `config/`, which only reads it (and names filters)."""
    kernel = Path(__file__).resolve().parents[2] / "core" / "tianji"
    acting = [path for path in sorted(kernel.rglob("*.py")) if "config" not in path.relative_to(kernel).parts]
    return [*acting, kernel / "config" / "filters.py"]
