"""From a configuration to plugin instances: which classes it asks for, with which settings, under which names.

An instance whose class and settings did not change is the one of the configuration before, with its state.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from tianji.config.filters import REGION_KEY, wanted
from tianji.config.schema import Config, GuardrailSpec
from tianji.discovery import Catalogue
from tianji.errors import ConfigError, PluginError, TianjiError
from tianji.plugin import Filter, Guardrail, Plugin, PluginSettings, Strategy, convert_settings
from tianji.registry import Registry

logger = logging.getLogger("tianji.composition")

_MODES = ("pre_call", "post_call", "during_call", "logging_only")


class Composer:
    """Fills the registry of one configuration. `kept` are the instances of the one before."""

    def __init__(
        self, config: Config, catalogue: Catalogue, registry: Registry, gateway: Any,
        kept: dict[tuple[str, str], Plugin],
    ) -> None:  # fmt: skip
        self.config = config
        self.catalogue = catalogue
        self.registry = registry
        self.gateway = gateway
        self.kept = kept
        self.broken: dict[str, str] = {}
        """Callbacks that could not be loaded, and why."""
        self.whens: dict[str, str] = {}
        """By callback: `all`, `success` or `failure`."""

    def add(self, cls: type[Any], settings: Any, instance: str) -> None:
        """Register an instance: the one there is, where class and settings are the same, else a new one."""
        self.registry.add(self._instance(cls, settings, instance))

    def _instance(self, cls: type[Any], settings: Any, instance: str) -> Any:
        """A plugin instance: the one there is, where class and settings are the same, else a new one."""
        kept = self.kept.get((cls.family, instance))
        if kept is not None and type(kept) is cls and kept.settings == settings:
            return kept
        try:
            return cls(settings, instance=instance, gateway=self.gateway)
        except TianjiError:
            raise
        except Exception as error:
            found = self.catalogue.get(cls.family, cls.name)
            label = f"{found.dist} {found.version}" if found is not None else cls.__module__
            raise PluginError(f"{instance} ({label}) cannot be used: {type(error).__name__}: {error}") from error

    def extensions(self) -> None:
        """Every extension that is installed."""
        for name in self.catalogue.names("extensions"):
            self._extension(name)

    def _extension(self, name: str) -> None:
        found = self.catalogue.get("extensions", name)
        cls = self.catalogue.load("extensions", name)
        if found is not None and found.name != cls.name:
            return  # a second name for the same class
        section = cls.section or name.replace("-", "_")
        values = self.config.sections.get(section)
        settings = convert_settings(cls.Settings, values if isinstance(values, dict) else {}, path=section)
        self.registry.add(self._instance(cls, settings, name))

    def routing(self) -> None:
        """The strategy, and the filters that the configuration asks for."""
        name = self.config.router.routing_strategy
        # Without the distribution the kernel keeps the configured order.
        if name != "simple-shuffle" or self.catalogue.get("strategies", name) is not None:
            self._routing(name, "router_settings.routing_strategy", Strategy)
        for filtered, path in wanted(self.config).items():
            if path != REGION_KEY or self.catalogue.get("strategies", filtered) is not None:
                self._routing(filtered, path, Filter)

    def _routing(self, name: str, path: str, kind: type[Plugin]) -> None:
        cls = self.catalogue.load("strategies", name, path=path)
        if not issubclass(cls, kind):
            raise ConfigError(f"'{name}' is a routing plugin, but not a {kind.__name__.lower()}", path=path)
        settings = convert_settings(
            cls.Settings, self._routing_values(cls.Settings), path="router_settings.routing_strategy_args"
        )
        self.add(cls, settings, name)

    def _routing_values(self, schema: type[PluginSettings]) -> dict[str, Any]:
        """What the configuration says under the names of a routing plugin's settings."""
        router = self.config.router
        sources: tuple[Mapping[str, Any], ...] = (
            {field: getattr(router, field) for field in router.__struct_fields__}, router.extra,
            router.routing_strategy_args,
        )  # fmt: skip
        known = {field.name for field in msgspec.structs.fields(schema)}
        values = {key: value for source in sources for key, value in source.items() if key in known}
        return {key: _plain(value) for key, value in values.items() if value is not None}

    def guardrails(self, old: Config | None) -> None:
        """One instance for each entry of `guardrails`."""
        before = {spec.guardrail_name: _selection(spec) for spec in (old.guardrails if old is not None else ())}
        for spec in self.config.guardrails:
            cls = self.catalogue.load("guardrails", spec.plugin, path=spec.where or spec.path)
            settings = convert_settings(cls.Settings, spec.params, path=spec.where or spec.path)
            if before.get(spec.guardrail_name, _selection(spec)) != _selection(spec):
                # Another instance: the one in use belongs to the calls that run, and this reload may yet fail.
                self.kept.pop(("guardrails", spec.guardrail_name), None)
            guard: Guardrail = self._instance(cls, settings, spec.guardrail_name)
            unknown = [mode for mode in spec.modes if mode not in _MODES]
            if unknown:
                raise ConfigError(
                    f"guardrail mode '{unknown[0]}' does not exist; known: {', '.join(_MODES)}", path=spec.where
                )
            if spec.modes:
                guard.modes = frozenset(spec.modes)
            guard.default_on = spec.default_on
            guard.fail_open = spec.failure_policy == "fail_open"
            self.registry.add(guard)

    def callbacks(self) -> None:
        """Load callbacks. One that is broken is noted and left out: telemetry may fail open."""
        for spec in self.config.callbacks:
            try:
                cls = self.catalogue.load("callbacks", spec.plugin, path=spec.where or spec.path)
                settings = convert_settings(cls.Settings, spec.params, path=spec.where or spec.path)
                self.registry.add(self._instance(cls, settings, spec.name))
                self.whens[f"callbacks:{spec.name}"] = spec.when
            except Exception as error:
                if spec.required:
                    raise
                # Telemetry does not stop the start, whatever is wrong with it; a fault of its own needs a traceback.
                known = isinstance(error, TianjiError)
                self.broken[spec.name] = str(error) if known else f"{type(error).__name__}: {error}"
                logger.warning("callback %s is off: %s", spec.name, error, exc_info=None if known else error)


def _plain(value: Any) -> Any:
    """A setting as plain data: what is typed in the configuration is typed anew by the plugin."""
    try:
        return msgspec.to_builtins(value)
    except TypeError:
        return value  # a secret


def _selection(spec: GuardrailSpec) -> tuple[Any, ...]:
    """What of an entry is set on the guardrail rather than in its settings."""
    return spec.modes, spec.default_on, spec.failure_policy
