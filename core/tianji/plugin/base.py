"""What every plugin is: a named class with a frozen settings struct."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import msgspec

from tianji.errors import ConfigError
from tianji.model import Call, Secret
from tianji.services import GatewayAPI


class PluginSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a plugin's `Settings`. A string literal below each field documents it; secrets are typed `Secret`."""


class Plugin:
    """Base of the five families' bases.

    One class may have many instances: each entry of the configuration makes one, with its own `settings` and its own
    `instance` name. `self.gateway` offers services, an HTTP client and background jobs.
    """

    name: ClassVar[str] = ""
    """What operators write in the configuration; also the entry point's name."""
    family: ClassVar[str] = ""
    order: ClassVar[int] = 500
    """Place in the row of hooks; see `tianji.hookspecs` for the bands."""
    Settings: ClassVar[type[PluginSettings]] = PluginSettings

    settings: Any

    def __init__(self, settings: Any, *, instance: str, gateway: GatewayAPI) -> None:
        self.settings = settings
        self.instance = instance
        self.gateway = gateway

    def explain(self, call: Call) -> dict[str, Any] | None:
        """What the plugin would do with this call, without doing it: plain JSON, for whoever sent the call.

        Asked for by `POST /v1/explain`. Changes nothing, and sends nothing. Raise the `Failure` with which the plugin
        would refuse the call. What it cannot know without doing it, it names under `unknown`. None: it has nothing to
        say.
        """
        return None

    def __repr__(self) -> str:
        return f"<{self.family}:{self.instance}>"


def convert_settings(schema: type[PluginSettings], values: Mapping[str, Any], *, path: str) -> Any:
    """Make a settings struct from configuration values.

    Raises `ConfigError` with `path`, the field and the fields that exist. Strings become `Secret` where the field
    says so; numbers written as strings are accepted, as they come from the environment that way.
    """
    try:
        return msgspec.convert(dict(values), schema, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        known = ", ".join(field.name for field in msgspec.structs.fields(schema)) or "none"
        message = str(error).replace("Object", "settings")
        raise ConfigError(f"{message} (known: {known})", path=path) from None


def _decode(kind: type, value: Any) -> Any:
    if kind is Secret:
        if isinstance(value, Secret):
            return value
        if isinstance(value, str):
            return Secret(value)
        raise ValueError(f"expected a string, got {type(value).__name__}")
    raise NotImplementedError(kind)


class SettingsField(msgspec.Struct, frozen=True):
    """One row of a plugin's settings table."""

    name: str
    type: str
    default: str
    """As written in Python; empty when the field is required."""
    doc: str
    secret: bool
    required: bool


def settings_fields(schema: type[PluginSettings]) -> list[SettingsField]:
    """The settings table of a plugin, from its struct and the string literals below its fields."""
    docs = _docs(schema)
    rows = []
    for field in msgspec.structs.fields(schema):
        required = field.required
        default = "" if required else repr(field.default) if field.default is not msgspec.NODEFAULT else "()"
        kind = schema.__annotations__.get(field.encode_name) or getattr(field.type, "__name__", str(field.type))
        kind = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
        rows.append(SettingsField(field.name, kind, default, docs.get(field.name, ""), "Secret" in kind, required))
    return rows


def _docs(schema: type[Any]) -> dict[str, str]:
    docs: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        if not (isinstance(cls, type) and issubclass(cls, PluginSettings)) or cls is PluginSettings:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for before, after in pairwise(body):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[before.target.id] = " ".join(after.value.value.split())
    return docs
