"""What the configuration's keys do: those that have an effect. `tests/test_docs.py` watches both sides."""

from __future__ import annotations

KEYS: dict[str, dict[str, str]] = {
    "": {
        "model_list": "The deployments.",
        "tianji_settings": "Callbacks, logging, the cache; and, beneath `router_settings`, everything that may stand "
        "there.",
        "router_settings": "Routing, retries, fallbacks, cooldowns.",
        "general_settings": "The master key, the address, limits of the server.",
        "guardrails": "Guardrails, one entry each.",
        "plugins": "Which installed plugins may take part.",
        "callback_settings": "Callback to its settings, for callbacks that a list names.",
        "credential_list": "`credential_name` and `credential_values`: parameters that deployments share by name.",
        "environment_variables": "Put into the environment before anything else is read, over what is there. Variables "
        "that decide which code runs (`PATH`, `PYTHONPATH`, `LD_PRELOAD`, …) are refused.",
        "include": "Further YAML files, relative to this one: lists grow, mappings merge, of two plain values theirs "
        "wins.",
    },
    "model_list[]": {
        "model_name": "The model group: what clients ask for. Entries of one name share its load. May hold `*`.",
        "tianji_params": "Provider, model, credentials and limits; below.",
        "model_info": "Facts about the model; below.",
        "access_control": "`allowed_orgs`, `allowed_teams`, `allowed_keys` (hashes): who may use the deployment. "
        "Empty: everybody. One match is enough; the master key always may.",
    },
    "tianji_params": {
        "model": "`provider/model`; a bare name is OpenAI's. `*` takes the place of what the group's `*` matched; `*` "
        "alone lets each request name the provider.",
        "custom_llm_provider": "The provider, in place of the one in `model`.",
        "api_base": "Where the API is, in place of the provider's own address. Also `base_url`.",
        "api_key": "The key. Without it, the first of the provider's variables that is set.",
        "weight": "What `simple-shuffle` draws by.",
        "rpm": "What `simple-shuffle` draws by where no deployment of the group has a `weight`. A limit with "
        "`enforce_model_rate_limits` or a strategy that says so.",
        "tpm": "The same, where none has an `rpm` either.",
        "tags": "What `router_settings.enable_tag_filtering` goes by; also beside `model_name`.",
        "region": "Where the deployment is, for requests with `allowed_model_region`. Also `region_name`. See [route "
        "by tag and region](../how-to/route-by-tag-and-region.md).",
        "max_budget": "Dollars that may be spent at the deployment in a `budget_duration`; then it is left out.",
        "budget_duration": "The period of `max_budget`: `12h`, `1d`, `1mo`. Not set: for ever.",
        "order": "Tier: deployments of the lowest one are tried first, the others only when those are used up.",
        "timeout": "Seconds for one attempt.",
        "stream_timeout": "Seconds to the headers of a streamed answer.",
        "num_retries": "Attempts after one that failed at this deployment. Also `max_retries`.",
        "cooldown_time": "Seconds that the deployment is put aside for, in place of `router_settings.cooldown_time`.",
        "max_parallel_requests": "Calls at once; the next one goes to another deployment or is refused with 429.",
        "additional_drop_params": "Request fields never to send.",
        "extra_headers": "Headers of each request. Also `headers`.",
        "extra_body": "Request fields to set, over what the client sent.",
        "mock_response": "A canned answer; the echo provider then serves the deployment.",
        "tianji_credential_name": "The entry of `credential_list` whose values to use beneath these.",
        "auto_router_config": "With `model: auto_router/<name>`: the routes to choose from, as a mapping or JSON. See "
        "[route by meaning](../how-to/route-by-meaning.md).",
        "auto_router_config_path": "The same, from a JSON file.",
        "auto_router_default_model": "The model group where no route is near enough; else the first route's.",
        "auto_router_embedding_model": "The model group that makes the vectors, or `local`. Not set: "
        "`text-embedding-3-small`.",
        "input_cost_per_token": "A price of your own, in dollars; so do `output_cost_per_token`, "
        "`cache_read_input_token_cost`, `output_cost_per_image` and the other price keys of LiteLLM's price file.",
    },
    "model_info": {
        "id": "The deployment's id, unique in the file; else a hash of what is configured. A client may ask for it as "
        "`model`.",
        "base_model": "The model that runs behind the name, for prices and for what the model can do.",
        "max_input_tokens": "Shown by `GET /v1/models`, in place of the price file's.",
        "max_output_tokens": "The same; also what a reservation assumes where a request sets no limit.",
        "input_cost_per_token": "A price of your own, as in `tianji_params`, which wins.",
        "mode": "`chat`, `completion` or `embedding`: what a background health check asks. Deployments of other modes "
        "are not checked.",
        "allowed_fails": "In place of `router_settings.allowed_fails`, where the group has another deployment.",
        "allowed_fails_policy": "Before the router's, kind by kind; it may also name failures that are the caller's.",
        "health_check_model": "The model that background checks ask for. A wildcard is checked only with one.",
        "health_check_timeout": "Seconds for one check; 60 where nothing is said.",
        "health_check_max_tokens": "Tokens that a check asks for; 1 where nothing is said.",
        "disable_background_health_check": "`true`: the deployment is not checked.",
    },
    "tianji_settings": {
        "callbacks": "Callbacks that are told of every call: names, or a name with its settings.",
        "success_callback": "The same, for calls that succeeded.",
        "failure_callback": "The same, for calls that did not.",
        "callback_configs": "Callbacks with their settings, one entry each; below.",
        "request_timeout": "Seconds for a call, where `router_settings.timeout` says nothing.",
        "turn_off_message_logging": "Keep requests and answers from all callbacks, whatever they ask for.",
        "set_verbose": "Log at level DEBUG.",
        "cache": "Switch the response cache on (with a cache extension installed).",
        "cache_params": "Its `type` and settings.",
        "ssl_verify": "For connections to providers: `false` accepts any certificate, a path names a bundle of "
        "authorities.",
    },
    "router_settings": {
        "routing_strategy": "Name of the strategy that ranks a group's deployments. `simple-shuffle` without its "
        "plugin is the order of the file.",
        "routing_strategy_args": "The strategy's settings, and those of filters; keys that none declares are left out.",
        "filters": "Names of routing filters, beside those that the keys below ask for.",
        "enable_tag_filtering": "Route by `tags`. Needs the filter `tag-filter`.",
        "tag_filtering_match_any": "One common tag is enough. `false`: a deployment must carry all tags of a call.",
        "provider_budget_config": "Provider to `{budget_limit, time_period}`: dollars that may be spent there. Needs "
        "the filter `budget-limiter`.",
        "optional_pre_call_checks": "`prompt_caching` (the filter `prefix-affinity`), `enforce_model_rate_limits` "
        "(`rate-limits`), `router_budget_limiting` (`budget-limiter`).",
        "num_retries": "Attempts after the first, over a group's deployments. Not set: three attempts in all, see "
        "[fallbacks](../how-to/fallbacks.md).",
        "retry_policy": "The same by kind of failure: `{RateLimitErrorRetries: 3, TimeoutErrorRetries: 0}`.",
        "retry_after": "Least pause before the same deployment is asked again, where it did not say how long.",
        "timeout": "Seconds for a whole call, and at most for one attempt; 600 where nothing is said.",
        "stream_timeout": "Seconds to the first event of a stream; else `timeout`.",
        "max_fallbacks": "Further groups that one call may try.",
        "stream_commit_delay": "Seconds for which a stream is held back after its first event, so that a break in that "
        "time is mended by another attempt. See [streams that survive](../how-to/streams-that-survive.md).",
        "continue_streams": "A chat stream that breaks later is gone on with by another deployment, where its provider "
        "can.",
        "allowed_fails": "A deployment is put aside after more failures in a row than this. Not set: see "
        "[failure policy](../explanation/failure-policy.md).",
        "allowed_fails_policy": "The same by kind of failure: `RateLimitErrorAllowedFails`, "
        "`TimeoutErrorAllowedFails`, `InternalServerErrorAllowedFails`, `AuthenticationErrorAllowedFails`, … Kinds "
        "that it does not name go by `allowed_fails`.",
        "cooldown_time": "Seconds for which it is put aside the first time; longer each time that it fails again.",
        "disable_cooldowns": "Put none aside.",
        "model_group_retry_policy": "Group to `{num_retries, timeout, retry_after}`, or to numbers by kind of failure "
        "as in `retry_policy`.",
        "fallbacks": "Group (or `*`) to the groups to try when it cannot answer, in order.",
        "context_window_fallbacks": "The same, where the prompt does not fit the model.",
        "content_policy_fallbacks": "The same, where the provider's policy refused the content.",
        "default_fallbacks": "The groups for every group that `fallbacks` does not name.",
        "stream_idle_timeout": "Seconds between two reads of a stream; 300 where nothing is said. A stream that is "
        "silent for longer is broken off with an error event.",
        "default_priority": "Priority of calls that state none, with the strategy `priority`; lower goes first.",
        "enable_pre_call_checks": "Leave out deployments whose context window is too small for the prompt; where "
        "none is left, `context_window_fallbacks` apply before anything was sent.",
        "model_group_alias": "Further names of model groups: `{name: group}` or `{name: {model: group, hidden: "
        "true}}`.",
        "default_max_parallel_requests": "`max_parallel_requests` of deployments that have none.",
    },
    "general_settings": {
        "master_key": "The administrator's key. The gateway does not start without one.",
        "host": "Address to listen on.",
        "port": "Port to listen on.",
        "max_request_size_mb": "Limit of a request body; 32 where nothing is said.",
        "tianji_key_header_name": "The one header that carries keys, before all others. Also `auth_header_name`.",
        "allowed_hosts": "Names that a request's `Host` may have (`*.example.com` for those below). Empty: any.",
        "background_health_checks": "Ask each deployment something small every so often, at your cost; the outcomes "
        "are in `GET /health`.",
        "health_check_interval": "Seconds between two checks of a deployment; 300 where nothing is said.",
        "docs": "Serve `/docs` and `/openapi.json`.",
    },
    "plugins": {
        "only": "Patterns `family.name` (`callbacks.*`) of the plugins that may take part.",
        "disable": "Patterns of those that may not.",
        "require": "Distributions that must be installed, or the start fails.",
        "pin": "Where two distributions offer one name: `family.name` to the distribution that wins.",
    },
    "guardrails[]": {
        "guardrail_name": "The name that keys and requests select it by.",
        "tianji_params.guardrail": "The plugin.",
        "tianji_params.mode": "`pre_call` (before the provider is asked), `during_call` (beside it), `post_call` (the "
        "answer), `logging_only` (after the answer, never blocking); one or a list.",
        "default_on": "Check every call, not only those that select it.",
        "failure_policy": "`fail_closed` refuses a call that could not be checked (503), `fail_open` lets it pass.",
    },
    "callbacks": {
        "type": "The plugin. Also `callback_type` and `callback_name`.",
        "name": "The instance's name, where one plugin has several.",
        "when": "`all`, `success` or `failure`.",
        "required": "A callback that cannot be loaded stops the start, where it is left out otherwise.",
    },
}
"""By section, every key that the kernel acts on."""

ELSEWHERE = {
    "tianji_params": "Every other key is the provider's own, when it declares it (its settings are below), else a "
    "request field to fill in where the client sent none (`temperature: 0.2`). `drop_params` and "
    "`modify_params` have no effect yet.",
    "tianji_settings": "Keys of `router_settings` may stand here, too; what `router_settings` says wins.",
    "guardrails[]": "Every other key of `tianji_params` is the plugin's own. `guardrail_info` and modes by tag have no "
    "effect yet.",
    "callbacks": "Every other key is the plugin's own. `callbacks: [name]` with `callback_settings: {name: {…}}` says "
    "the same.",
}
"""What is to be said beside a table."""

ENVIRONMENT = {
    "TIANJI_MASTER_KEY": "The master key, where the configuration has none. Also `LITELLM_MASTER_KEY`.",
    "CONFIG_FILE_PATH": "The configuration file, where `--config` is not given.",
    "PORT": "Port, before `general_settings.port`, after `--port`.",
    "NUM_WORKERS": "Processes, where `--workers` is not given.",
    "TIANJI_PLUGINS_DISABLE": "Patterns `family.name`, separated by commas, beside `plugins.disable`.",
}
"""The variables that the kernel reads. Providers read their own, for keys and addresses."""
