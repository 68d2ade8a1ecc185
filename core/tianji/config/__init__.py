"""The configuration: TianjiLLM's `proxy_config.yaml`, which is LiteLLM's with the names spelled either way.

    config = load("proxy_config.yaml")      # or loads(text), from_dict(tree), zero(os.environ, providers)
    config.groups["gpt-4o"]                 # deployments of a model group
    config.router.num_retries               # settings, merged and typed
    lint(config, installed=…)               # what `tianji check` prints

Docs: https://docs.litellm.ai/docs/proxy/config_settings
"""

from __future__ import annotations

from tianji.config.convert import parse_seconds
from tianji.config.known_keys import PROVIDER_SETTINGS, REQUEST_PARAMS
from tianji.config.lint import Finding, lint, unenforced
from tianji.config.load import from_dict, load, loads
from tianji.config.schema import (
    AccessControl,
    CallbackSpec,
    Config,
    ConfigWarning,
    DeploymentSpec,
    Fallbacks,
    GeneralSettings,
    GuardrailSpec,
    ModelAlias,
    PluginsSection,
    ProviderBudget,
    RouterSettings,
    SecretReference,
    TianjiSettings,
)
from tianji.config.zero import ProviderHint, zero

__all__ = [
    "PROVIDER_SETTINGS",
    "REQUEST_PARAMS",
    "AccessControl",
    "CallbackSpec",
    "Config",
    "ConfigWarning",
    "DeploymentSpec",
    "Fallbacks",
    "Finding",
    "GeneralSettings",
    "GuardrailSpec",
    "ModelAlias",
    "PluginsSection",
    "ProviderBudget",
    "ProviderHint",
    "RouterSettings",
    "SecretReference",
    "TianjiSettings",
    "from_dict",
    "lint",
    "load",
    "loads",
    "parse_seconds",
    "unenforced",
    "zero",
]
