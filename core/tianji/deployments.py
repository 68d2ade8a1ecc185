"""From the configuration's `model_list` to deployments: provider class, settings, key, price, limits.

Everything that a call will need of a deployment is worked out here, once per configuration, and frozen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import msgspec

from tianji.config.convert import parse_seconds
from tianji.config.known_keys import PROVIDER_SETTINGS, stand_in
from tianji.config.schema import Config, DeploymentSpec
from tianji.discovery import Catalogue
from tianji.errors import ConfigError
from tianji.model import Deployment, Secret
from tianji.plugin import Provider, Selector, convert_settings
from tianji.pricing import Price, PriceBook, bound, custom
from tianji.registry import Hooks
from tianji.router import Router

LONGEST = 36_500 * 86_400.0
"""Seconds of a budget's period at most: a hundred years."""


class Builder:
    """Builds the deployments of one configuration."""

    def __init__(self, config: Config, catalogue: Catalogue, prices: PriceBook) -> None:
        self.config = config
        self.catalogue = catalogue
        self.prices = prices
        self.classes: dict[str, type[Provider]] = {}
        """The provider classes in use, by the name that the configuration uses."""
        self.selectors: dict[str, tuple[type[Selector], Any, str]] = {}
        """Groups in whose place a selector stands: its class, settings and instance name."""
        self._installed = {family: frozenset(catalogue.names(family)) for family in ("strategies", "providers")}

    def build(self) -> tuple[Deployment, ...]:
        """All deployments. Raises `PluginError` for a provider that is not there, `ConfigError` for its settings."""
        return tuple(self._deployment(spec) for spec in self.config.deployments)

    def refine(self, deployment: Deployment) -> Deployment:
        """What depends on the concrete model of a filled wildcard: its provider, its price, its limits."""
        provider, model = deployment.provider, deployment.model
        if provider == "*":
            provider, slash, rest = model.partition("/")
            provider, model = (provider, rest) if slash else ("openai", model)
            if provider not in self.classes:
                self.classes[provider] = self.catalogue.load("providers", provider)
            deployment = self._of_provider(deployment, self.classes[provider])
        info = {**self.prices.info(provider, model), **deployment.info}
        price = deployment.price or self.prices.find(provider, model, _text(info.get("base_model")))
        return msgspec.structs.replace(
            deployment,
            provider=provider,
            model=model,
            price=price,
            ceiling=_ceiling(price),
            max_input_tokens=_whole(info.get("max_input_tokens")),
            max_output_tokens=_whole(info.get("max_output_tokens")),
        )

    def _of_provider(self, deployment: Deployment, cls: type[Provider]) -> Deployment:
        """A deployment whose provider is known only now: what depends on the provider's class."""
        known = {field.name for field in msgspec.structs.fields(cls.Settings)}
        own = {key: value for key, value in deployment.defaults.items() if key in known}
        return msgspec.structs.replace(
            deployment,
            settings=convert_settings(cls.Settings, own, path=f"model_list: {deployment.group}"),
            defaults={key: value for key, value in deployment.defaults.items() if key not in known},
            api_key=deployment.api_key or self._key(cls),
            api_base=deployment.api_base or self._from_env(getattr(cls, "api_base_env", ())),
        )

    def _deployment(self, spec: DeploymentSpec) -> Deployment:
        name = "echo" if spec.mock_response is not None else spec.provider
        if name == "*":
            _refuse_credentials(spec)
            for installed in self.catalogue.names("providers"):
                self.classes.setdefault(installed, self.catalogue.load("providers", installed))
            cls: type[Provider] = Provider
        elif (selector := self._selector(spec)) is not None:
            self.selectors[spec.model_name] = selector
            return Deployment(
                id=spec.id,
                group=spec.model_name,
                provider=name,
                model=spec.model,
                info=spec.model_info,
                **_access(spec),
            )
        else:
            cls = self.classes.get(name) or self.catalogue.load("providers", name, path=spec.where)
            self.classes[name] = cls
        params = dict(spec.params)
        if spec.mock_response is not None:
            params["mock_response"] = spec.mock_response
        settings, defaults = self._settings(cls, params, spec)
        return self.refine_static(
            Deployment(
                id=spec.id,
                group=spec.model_name,
                provider=name,
                model=spec.model,
                api_base=spec.api_base or self._from_env(getattr(cls, "api_base_env", ())),
                api_key=spec.api_key or self._key(cls),
                settings=settings,
                defaults=defaults,
                extra_headers={key: _reveal(value) for key, value in spec.extra_headers.items()},
                extra_body=spec.extra_body,
                drop=frozenset(spec.additional_drop_params),
                weight=spec.weight,
                order=spec.order or 0,
                rpm=spec.rpm,
                tpm=spec.tpm,
                timeout=spec.timeout if spec.timeout is not None else self._group_timeout(spec.model_name),
                stream_timeout=spec.stream_timeout,
                num_retries=spec.num_retries,
                cooldown_time=spec.cooldown_time,
                max_parallel_requests=spec.max_parallel_requests or self.config.router.default_max_parallel_requests,
                tags=spec.tags,
                region=spec.region,
                **_budget(spec),
                **_access(spec),
                price=custom(spec.pricing) if spec.pricing else None,
                info=spec.model_info,
            )
        )

    def _group_timeout(self, group: str) -> float | None:
        seconds = self.config.router.model_group_retry_policy.get(group, {}).get("timeout")
        return float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None

    def _selector(self, spec: DeploymentSpec) -> tuple[type[Selector], Any, str] | None:
        """The selector that a deployment stands for: its provider, or the first part of its group's name, is one.

        Raises `ConfigError` for a group of several deployments, or for a pattern: a stand-in is alone.
        """
        name = stand_in(spec, self._installed["strategies"], self._installed["providers"])
        if name is None:
            return None
        where = spec.where or spec.path
        cls = self.catalogue.load("strategies", name, path=where)
        if not issubclass(cls, Selector):
            return None
        if "*" in spec.model_name or len(self.config.groups[spec.model_name]) > 1:
            raise ConfigError(
                f"'{name}' chooses a model group and must be the only entry of its own",
                path=where,
                mend="Give the entry a `model_name` of its own, without `*`",
            )
        known = {field.name for field in msgspec.structs.fields(cls.Settings)}
        values = {key: value for key, value in {**spec.params, **spec.extra}.items() if key in known}
        try:
            settings = convert_settings(cls.Settings, values, path=where)
        except ConfigError as error:
            if not error.path.startswith(where):
                error.path = f"{where}.tianji_params.{error.path}"
            raise
        return cls, settings, f"{cls.name}:{spec.model_name}"

    def check_selectors(self, router: Router, hooks: Hooks) -> None:
        """Follow every selector to where it may lead.

        Raises `ConfigError` for a model group that does not exist, and for a way that leads back to where it began.
        """
        for name, (_, _, instance) in self.selectors.items():
            targets = hooks.selectors[instance].__self__.targets()  # type: ignore[attr-defined]
            spec = self.config.groups[name][0]
            for target, place in targets.items():
                path = f"{spec.where or spec.path}.tianji_params.{place}"
                if router.known(target) is None:
                    near = get_close_matches(target[:200], [one for one in router.names() if one != name], n=3)
                    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Add it to `model_list`"
                    raise ConfigError(f"there is no model group {target!r}", path=path, mend=hint)
                if name in self._reached(target, router, hooks, set()):
                    message = f"{target!r} leads back to {name!r}: such a call would never be answered"
                    raise ConfigError(message, path=path, mend="Name a group of deployments")

    def _reached(self, target: str, router: Router, hooks: Hooks, seen: set[str]) -> set[str]:
        """The stand-ins on all ways from a model name."""
        group = router.known(target)
        if group is not None and group.selector and group.name not in seen:
            seen.add(group.name)
            for further in hooks.selectors[group.selector].__self__.targets():  # type: ignore[attr-defined]
                self._reached(further, router, hooks, seen)
        return seen

    def refine_static(self, deployment: Deployment) -> Deployment:
        """A deployment whose model is written out is refined at once; a wildcard when it is filled."""
        return deployment if "*" in deployment.model else self.refine(deployment)

    def _settings(
        self, cls: type[Provider], params: Mapping[str, Any], spec: DeploymentSpec
    ) -> tuple[Any, dict[str, Any]]:
        """The provider's own keys as its `Settings`; what is left are request fields to fill in."""
        known = {field.name for field in msgspec.structs.fields(cls.Settings)}
        own = {key: value for key, value in params.items() if key in known and value is not None}
        settings = convert_settings(cls.Settings, own, path=spec.where or spec.path)
        # A setting of some other provider, or a secret, must not travel in a request body.
        rest = {
            key: value
            for key, value in params.items()
            if key not in known and key not in PROVIDER_SETTINGS and not isinstance(value, Secret)
        }
        return settings, rest

    def _key(self, cls: type[Provider]) -> Secret | None:
        value = self._from_env(cls.api_key_env)
        return Secret(value) if value else None

    def _from_env(self, names: tuple[str, ...]) -> str | None:
        return next((value for name in names if (value := os.environ.get(name))), None)


def _access(spec: DeploymentSpec) -> dict[str, Any]:
    """Who may use a deployment, as its fields say it."""
    access = spec.access_control
    return {name: frozenset(getattr(access, name)) for name in ("allowed_orgs", "allowed_teams", "allowed_keys")}


def _budget(spec: DeploymentSpec) -> dict[str, Any]:
    """What may be spent at a deployment, as its fields say it. Raises `ConfigError`."""
    where = f"{spec.where or spec.path}.tianji_params"
    dollars, period = spec.extra.get("max_budget"), spec.extra.get("budget_duration")
    if dollars is None:
        return {}
    amount = -1.0
    if isinstance(dollars, (int, float, str)) and not isinstance(dollars, bool):
        with suppress(ValueError, OverflowError):
            amount = float(dollars)
    if not 0 <= amount < 1e9:
        raise ConfigError("expected dollars: a number, 0 or more", path=f"{where}.max_budget")
    if period is not None and not 1.0 <= (parse_seconds(str(period)) or 0) <= LONGEST:
        raise ConfigError(
            "not a duration from a second to a hundred years",
            path=f"{where}.budget_duration",
            mend='Write "24h", "7d" or "1mo"',
        )
    return {"max_budget": amount, "budget_duration": None if period is None else str(period).strip().lower()}


def _refuse_credentials(spec: DeploymentSpec) -> None:
    """With `model: "*"` the caller names the vendor; a credential written beside it would go to any of them."""
    for field in ("api_key", "api_base", "extra_headers"):
        if getattr(spec, field):
            raise ConfigError(
                f'`{field}` would be sent to whatever provider a caller names, as the model is "*"',
                path=f"{spec.where or spec.path}.{field}",
                mend="Write `openai/*`, or another provider's wildcard, for the one that it belongs to",
            )


def listed(
    names: list[str], wildcards: Mapping[str, Deployment], models: Callable[[str], tuple[str, ...]]
) -> list[str]:
    """Model names for `GET /v1/models`: a wildcard gives way to the provider's known models that it matches."""
    out: list[str] = []
    for name in names:
        deployment = wildcards.get(name)
        if deployment is None:
            out.append(name)
            continue
        known = [name.replace("*", model, 1) for model in models(deployment.provider)] if name.count("*") == 1 else []
        out += known or [name]
    return list(dict.fromkeys(out))


def _ceiling(price: Price | None) -> tuple[int, int] | None:
    """The dearest cost of a million tokens in and of a million out, in nano-dollars: femto-dollars for each one."""
    inside, outside = bound(price, 1_000_000, 0), bound(price, 0, 1_000_000)
    return None if inside is None or outside is None else (inside, outside)


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _reveal(value: Any) -> str:
    return value.reveal() if isinstance(value, Secret) else str(value)


__all__ = ["Builder", "listed"]
