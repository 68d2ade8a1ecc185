"""Which routing filters a configuration asks for, under its own key or under LiteLLM's."""

from __future__ import annotations

from collections.abc import Iterator

from tianji.config.schema import Config, DeploymentSpec

CHECKS = {
    "prompt_caching": "prefix-affinity",
    "router_budget_limiting": "budget-limiter",
    "enforce_model_rate_limits": "rate-limits",
}
"""LiteLLM's `optional_pre_call_checks` (https://docs.litellm.ai/docs/routing) and the filters that do the same."""
SETTINGS = {"tag_routing_prefix": "tag-filter"}
"""Keys of `router_settings` that only a filter reads, and which."""
REGION = "region-filter"
REGION_KEY = "model_list[].tianji_params.region"
"""What asks for the region filter where it is installed. Without it a region is a label, and a request that must stay
in one is refused."""
_PLACES = ("aws_region_name", "vertex_location", "vertex_ai_location")
"""Settings of providers that say where a deployment is."""


def wanted(config: Config) -> dict[str, str]:
    """Names of filters, and the key that asks for each."""
    found: dict[str, str] = {}
    for name, key in _wanted(config):
        found.setdefault(name, key)
    return found


def _wanted(config: Config) -> Iterator[tuple[str, str]]:
    router = config.router
    for name in router.filters:
        yield name, "router_settings.filters"
    if router.enable_tag_filtering:
        yield "tag-filter", "router_settings.enable_tag_filtering"
    if any(_is_somewhere(deployment) for deployment in config.deployments):
        yield REGION, REGION_KEY
    if router.provider_budget_config:
        yield "budget-limiter", "router_settings.provider_budget_config"
    for deployment in config.deployments:
        if deployment.extra.get("max_budget") is not None:
            yield "budget-limiter", f"{deployment.path}.tianji_params.max_budget"
            break
    for check in router.optional_pre_call_checks:
        if check in CHECKS:
            yield CHECKS[check], "router_settings.optional_pre_call_checks"


def _is_somewhere(deployment: DeploymentSpec) -> bool:
    return bool(deployment.region) or any(deployment.params.get(key) for key in _PLACES)
