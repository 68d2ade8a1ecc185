"""The configuration as structs: what the rest of the gateway reads.

The keys are those of `proxy_config.yaml` (https://docs.litellm.ai/docs/proxy/config_settings documents LiteLLM's
spelling of the same format). A typed field is a key that Tianji acts on; every other key of a section ends up in its
`extra`. Secrets are `Secret`, and `repr` of anything here shows none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from tianji.model import Secret

Seconds = Annotated[float, "seconds"]
"""Written as a number or as `"30s"`, `"5m"`, `"24h"`, `"7d"`."""
Period = Annotated[str, "period"]
"""A duration kept as written (`"30d"`, `"1mo"`), because a month has no fixed length. Numbers are seconds: `"60s"`."""
Fallbacks = Annotated[dict[str, tuple[str, ...]], "fallbacks"]
"""Model group (or `*`) to the groups to try instead, in order."""
RetryPolicies = Annotated[dict[str, dict[str, Any]], "retry policies"]
"""Model group to `{num_retries, timeout, retry_after}` (the last two in seconds) or to counts by kind of failure."""
Count = Annotated[int, "count"]
"""A whole number that is not negative."""
Amount = Annotated[float, "amount"]
"""A finite number that is not negative: dollars, megabytes, weights."""


class _Discreet(msgspec.Struct, frozen=True):
    """`repr` names the fields that were given and shows no value: a URL may carry a password."""

    def __repr__(self) -> str:
        defaults = dict(zip(self.__struct_fields__[::-1], self.__struct_defaults__[::-1], strict=False))
        given = [name for name in self.__struct_fields__ if not _is_default(getattr(self, name), defaults.get(name))]
        return f"<{type(self).__name__}: {', '.join(given)}>"


def _is_default(value: object, default: object) -> bool:
    return not value if default is msgspec.NODEFAULT or hasattr(default, "factory") else value == default


class ConfigWarning(msgspec.Struct, frozen=True):
    """Something in the file that does not do what its author may expect. It never stops the start."""

    code: str
    """`unknown-key`, `passed-through`, `unset-variable`, `empty-key`, `superseded`, `refused` or `ignored`."""
    path: str
    """File, line and key, as written."""
    message: str
    mend: str = ""


class SecretReference(msgspec.Struct, frozen=True):
    """A value that a secret manager keeps. Fetch it and load again with `fetched={text: value}`."""

    scheme: str
    text: str
    path: str


class AccessControl(msgspec.Struct, frozen=True):
    """Who may use a deployment. Empty lists: everybody. One match in any of the three is enough."""

    allowed_orgs: tuple[str, ...] = ()
    allowed_teams: tuple[str, ...] = ()
    allowed_keys: tuple[str, ...] = ()
    """Hashes of virtual keys."""


class DeploymentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `model_list`, with its credentials merged in; nothing here was checked against a provider."""

    id: str
    """`model_info.id`, else a hash of what was configured: the same entry has the same id after a restart."""
    model_name: str
    provider: str
    """The text before the first `/` of `model`, or `custom_llm_provider`; `openai` for a bare name. `*` where the
    model is `*`: the provider is then named by each request."""
    model: str
    """The name at the provider."""
    api_base: str | None = None
    api_key: Secret | None = None
    params: dict[str, Any] = {}
    """All other keys of `tianji_params`: the provider's own settings (`api_version`, `aws_region_name`) and request
    fields to fill in (`temperature`)."""
    pricing: dict[str, Any] = {}
    """Custom prices (`input_cost_per_token`, …), from `model_info` and `tianji_params`; the latter wins."""
    rpm: Count | None = None
    tpm: Count | None = None
    weight: Amount | None = None
    order: int | None = None
    """Tier: lowest first. None: no tier was given."""
    timeout: Seconds | None = None
    stream_timeout: Seconds | None = None
    num_retries: Count | None = None
    cooldown_time: Seconds | None = None
    max_parallel_requests: Count | None = None
    tags: tuple[str, ...] = ()
    region: str | None = None
    access_control: AccessControl = AccessControl()
    model_info: dict[str, Any] = {}
    drop_params: bool | None = None
    additional_drop_params: tuple[str, ...] = ()
    extra_headers: dict[str, Any] = {}
    """Header values are text, or `Secret` where the name says so (`Authorization`)."""
    extra_body: dict[str, Any] = {}
    mock_response: Any = None
    credential_name: str | None = None
    """`tianji_credential_name`; its values are merged in already."""
    extra: dict[str, Any] = {}
    """Keys of `tianji_params` for the gateway rather than the provider that nothing reads yet (`max_budget`)."""
    path: str = ""
    """`model_list[3]`."""
    where: str = ""
    """`proxy_config.yaml:12: model_list[3]`."""

    @property
    def api_version(self) -> str | None:
        value = self.params.get("api_version")
        return None if value is None else str(value)

    def __repr__(self) -> str:
        return f"<DeploymentSpec {self.id} {self.model_name!r} {self.provider}/{self.model}>"


class GuardrailSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `guardrails`."""

    guardrail_name: str
    plugin: str
    """The type, as written: an entry-point name."""
    modes: tuple[str, ...] = ()
    """`pre_call`, `post_call`, `during_call`, `logging_only`, …; empty: the plugin's own default."""
    modes_by_tag: dict[str, tuple[str, ...]] = {}
    """LiteLLM's `mode: {tags: {…}, default: …}`; `modes` then holds the default."""
    default_on: bool = False
    failure_policy: str = "fail_closed"
    """`fail_closed` or `fail_open`."""
    params: dict[str, Any] = {}
    info: dict[str, Any] = {}
    path: str = ""
    where: str = ""

    def __repr__(self) -> str:
        return f"<GuardrailSpec {self.guardrail_name!r} {self.plugin}>"


class CallbackSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One callback to run, however many places of the file speak of it."""

    plugin: str
    name: str
    """The instance's name: the plugin's, or an own one where several instances exist."""
    when: str = "all"
    """`all`, `success` or `failure`."""
    params: dict[str, Any] = {}
    required: bool = False
    """Start fails where the plugin is missing or broken."""
    path: str = ""
    where: str = ""

    def __repr__(self) -> str:
        return f"<CallbackSpec {self.name!r} {self.plugin} {self.when}>"


class PluginsSection(_Discreet, frozen=True, kw_only=True):
    """`plugins:`, which distributions may take part."""

    only: tuple[str, ...] | None = None
    disable: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    """`name>=version`."""
    pin: dict[str, str] = {}
    """Family and name to the distribution that wins, where two offer the same."""
    extra: dict[str, Any] = {}


class ModelAlias(msgspec.Struct, frozen=True):
    """A second name for a model group. `hidden`: works, and is not listed."""

    model: str
    hidden: bool = False


class ProviderBudget(msgspec.Struct, frozen=True):
    """What may be spent at one provider in a period; dollars."""

    budget_limit: float
    time_period: Period | None = None


class TianjiSettings(_Discreet, frozen=True, kw_only=True):
    """`tianji_settings`. What it says about routing is merged into `RouterSettings`; read it there."""

    drop_params: bool = False
    modify_params: bool = False
    num_retries: Count | None = None
    request_timeout: Seconds | None = None
    allowed_fails: Count | None = None
    fallbacks: Fallbacks = {}
    context_window_fallbacks: Fallbacks = {}
    content_policy_fallbacks: Fallbacks = {}
    default_fallbacks: tuple[str, ...] = ()
    cache: bool = False
    cache_params: dict[str, Any] = {}
    json_logs: bool = False
    set_verbose: bool = False
    turn_off_message_logging: bool = False
    max_budget: Amount | None = None
    budget_duration: Period | None = None
    always_include_stream_usage: bool | None = None
    """Also read from `general_settings`, where LiteLLM documents it."""
    ssl_verify: bool | str = True
    """Or the path of a CA bundle."""
    extra: dict[str, Any] = {}


class RouterSettings(_Discreet, frozen=True, kw_only=True):
    """`router_settings`, over what `tianji_settings` says under the same keys, over the defaults."""

    routing_strategy: str = "simple-shuffle"
    routing_strategy_args: dict[str, Any] = {}
    num_retries: Count | None = None
    """None: not configured. A call then makes three attempts, and goes on to a fallback before it repeats one."""
    retry_after: Seconds = 0.0
    timeout: Seconds | None = None
    """None here and in `tianji_settings.request_timeout`: no limit was configured."""
    stream_timeout: Seconds | None = None
    """From sending to the first event of a stream."""
    stream_idle_timeout: Seconds | None = None
    """Between two reads of a stream. None: 300."""
    max_fallbacks: Count = 5
    stream_commit_delay: Seconds = 0.0
    continue_streams: bool = False
    allowed_fails: Count | None = None
    """None: not configured, which is not the same as the default number (health decides by rate then)."""
    cooldown_time: Seconds = 5.0
    disable_cooldowns: bool = False
    retry_policy: dict[str, Count] = {}
    model_group_retry_policy: RetryPolicies = {}
    """Group to `{num_retries, timeout, retry_after}`, or to counts by error class as in `retry_policy`."""
    allowed_fails_policy: dict[str, Count] = {}
    fallbacks: Fallbacks = {}
    context_window_fallbacks: Fallbacks = {}
    content_policy_fallbacks: Fallbacks = {}
    default_fallbacks: tuple[str, ...] = ()
    model_group_alias: dict[str, ModelAlias] = {}
    enable_pre_call_checks: bool = False
    optional_pre_call_checks: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    """Names of routing filters, beside those that other keys ask for."""
    enable_tag_filtering: bool = False
    tag_filtering_match_any: bool = True
    provider_budget_config: dict[str, ProviderBudget] = {}
    default_tianji_params: dict[str, Any] = {}
    default_max_parallel_requests: Count | None = None
    default_priority: int | None = None
    extra: dict[str, Any] = {}


class GeneralSettings(_Discreet, frozen=True, kw_only=True):
    """`general_settings`."""

    master_key: Secret | None = None
    """Else `TIANJI_MASTER_KEY` or `LITELLM_MASTER_KEY` of the environment."""
    database_url: Secret | None = None
    """A secret, because it carries a password. Else `DATABASE_URL` of the environment."""
    host: str = "127.0.0.1"
    port: Count = 4000
    max_parallel_requests: Count | None = None
    global_max_parallel_requests: Count | None = None
    max_request_size_mb: Amount | None = None
    max_response_size_mb: Amount | None = None
    background_health_checks: bool = False
    health_check_interval: Seconds = 300.0
    forward_client_headers_to_llm_api: bool = False
    disable_spend_logs: bool = False
    store_prompts_in_spend_logs: bool = False
    pass_through_endpoints: tuple[dict[str, Any], ...] = ()
    """Those of the top-level key of the same name come first."""
    custom_auth: str | None = None
    tianji_key_header_name: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    docs: bool = True
    extra: dict[str, Any] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration. Never changed: a reload makes a new one."""

    deployments: tuple[DeploymentSpec, ...] = ()
    tianji_settings: TianjiSettings = TianjiSettings()
    router_settings: RouterSettings = RouterSettings()
    general_settings: GeneralSettings = GeneralSettings()
    guardrails: tuple[GuardrailSpec, ...] = ()
    callbacks: tuple[CallbackSpec, ...] = ()
    plugins: PluginsSection = PluginsSection()
    sections: dict[str, Any] = {}
    """Every other top-level key as plain data, for the extensions that own them."""
    warnings: tuple[ConfigWarning, ...] = ()
    secret_references: tuple[SecretReference, ...] = ()
    """What a secret manager must still fetch."""
    source: str = ""
    """The file, as it was named."""
    fingerprint: str = ""
    """A hash of the content, includes and all, before references are resolved. Comments and spelling do not count."""
    spelling: str = "tianji"
    """`litellm` where the file uses LiteLLM's names: clients then expect its headers too."""
    generated_master_key: bool = False
    """The master key was made up for this process; print it once."""
    locations: Mapping[str, str] = {}
    """`router_settings.fallbacks.a` to `proxy_config.yaml:12`, for the settings' keys down to the third level."""

    @property
    def router(self) -> RouterSettings:
        return self.router_settings

    @property
    def groups(self) -> dict[str, tuple[DeploymentSpec, ...]]:
        """Deployments by model group, in the order of the file."""
        groups: dict[str, list[DeploymentSpec]] = {}
        for deployment in self.deployments:
            groups.setdefault(deployment.model_name, []).append(deployment)
        return {name: tuple(members) for name, members in groups.items()}

    def __repr__(self) -> str:
        return f"<Config {self.source} {len(self.deployments)} deployments {self.fingerprint[:12]}>"
