"""From the configuration's `model_list` to deployments: provider class, settings, key, price, limits.

Everything that a call will need of a deployment is worked out here, once per configuration, and frozen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tianji.config.known_keys import PROVIDER_SETTINGS
from tianji.config.schema import Config, DeploymentSpec
from tianji.discovery import Catalogue
from tianji.errors import ConfigError
from tianji.model import Deployment, Secret
from tianji.plugin import Provider, convert_settings
from tianji.pricing import Price, PriceBook, bound, custom


class Builder:
    """Builds the deployments of one configuration."""

    def __init__(self, config: Config, catalogue: Catalogue, prices: PriceBook) -> None:
        self.config = config
        self.catalogue = catalogue
        self.prices = prices
        self.classes: dict[str, type[Provider]] = {}
        """The provider classes in use, by the name that the configuration uses."""

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
        else:
            cls = self.classes.get(name) or self.catalogue.load("providers", name, path=spec.where)
            self.classes[name] = cls
        params = dict(spec.params)
        if spec.mock_response is not None:
            params["mock_response"] = spec.mock_response
        settings, defaults = self._settings(cls, params, spec)
        access = spec.access_control
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
                timeout=spec.timeout,
                stream_timeout=spec.stream_timeout,
                num_retries=spec.num_retries,
                cooldown_time=spec.cooldown_time,
                max_parallel_requests=spec.max_parallel_requests or self.config.router.default_max_parallel_requests,
                tags=spec.tags,
                region=spec.region,
                allowed_orgs=frozenset(access.allowed_orgs),
                allowed_teams=frozenset(access.allowed_teams),
                allowed_keys=frozenset(access.allowed_keys),
                price=custom(spec.pricing) if spec.pricing else None,
                info=spec.model_info,
            )
        )

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
