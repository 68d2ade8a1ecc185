"""Every key that TianjiLLM's or LiteLLM's documentation knows, by section.

`used`: Tianji acts on it. `accepted`: it is read without complaint and has no effect yet, or only an extension may
act on it. A key in neither set is probably a typing error, and `suggest` says what was probably meant. Sources:
https://docs.litellm.ai/docs/proxy/config_settings, https://docs.litellm.ai/docs/proxy/configs. Names are in Tianji's
spelling.
"""

from __future__ import annotations

import re
from collections.abc import Container
from difflib import get_close_matches

import msgspec

from tianji.config.document import words
from tianji.config.schema import DeploymentSpec, GeneralSettings, PluginsSection, RouterSettings, TianjiSettings


class Section(msgspec.Struct, frozen=True):
    """The known keys of one section."""

    used: frozenset[str]
    accepted: frozenset[str] = frozenset()

    @property
    def known(self) -> frozenset[str]:
        return self.used | self.accepted


def _fields(struct: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(struct.__struct_fields__) - {"extra"}


CALLBACK_KEYS = words("callbacks success_callback failure_callback callback_configs")

REQUEST_PARAMS = words(
    """
    messages temperature top_p n stream stream_options stop max_tokens max_completion_tokens presence_penalty
    frequency_penalty logit_bias logprobs top_logprobs user seed tools tool_choice parallel_tool_calls response_format
    functions function_call reasoning_effort verbosity modalities audio prediction store metadata service_tier
    prompt_cache_key prompt_cache_retention safety_identifier web_search_options dimensions encoding_format input_type
    size quality style background voice speed instructions language top_k top_a min_p typical_p repetition_penalty
    best_of echo suffix thinking reasoning include_reasoning safe_prompt safety_settings guardrailConfig
    performanceConfig requestMetadata inferenceConfig additionalModelRequestFields cache_control_injection_points
    cache_control truncate prompt_truncate_chars transforms provider models route plugins search_recency_filter
    search_domain_filter return_images return_related_questions keep_alive num_ctx num_predict mirostat mirostat_eta
    mirostat_tau num_gpu num_thread repeat_last_n repeat_penalty tfs_z options format think documents citation_options
    preset guided_json guided_regex guided_choice chat_template_kwargs top_n return_documents max_chunks_per_doc mode
    random_seed enable_thinking thinking_budget task normalized late_chunking include truncation max_output_tokens
    mcp_servers deep_research context_management betas anthropic_beta duration
    """
)
"""Request fields that may be given as defaults in `tianji_params`."""

PROVIDER_SETTINGS = words(
    """
    api_version organization project azure_ad_token azure_ad_token_provider tenant_id client_id client_secret
    azure_scope azure_username azure_password azure_deployment vertex_project vertex_location vertex_credentials
    vertex_ai_project vertex_ai_location vertex_ai_credentials vertex_publisher aws_access_key_id
    aws_secret_access_key aws_session_token aws_region_name aws_session_name aws_profile_name aws_role_name
    aws_web_identity_token aws_sts_endpoint aws_external_id aws_bedrock_runtime_endpoint aws_bedrock_project_id
    model_id s3_bucket_name s3_region_name s3_endpoint_url s3_access_key_id s3_secret_access_key s3_session_token
    s3_path s3_use_ssl s3_verify s3_encryption_key_id s3_output_bucket_name aws_batch_role_arn watsonx_region_name
    space_id project_id zen_api_key iam_token token deployment_id bedrock_invocation_type oci_region oci_user
    oci_fingerprint oci_tenancy oci_key oci_key_file oci_compartment_id oci_serving_mode account_id gcs_bucket_name
    databricks_client_id region use_region predibase_tenant_id adapter_id resource_group deployment_url
    anthropic_workload_identity_token api_type hf_model_name sagemaker_base_model credentials auth_url service_key
    """
)
"""Keys of `tianji_params` that configure some provider's connection: never a request field, whoever the provider is."""

_DEPLOYMENT_USED = words(
    """
    model custom_llm_provider api_base base_url api_key rpm tpm weight order timeout stream_timeout num_retries
    max_retries cooldown_time max_parallel_requests tags region region_name drop_params additional_drop_params
    extra_headers headers extra_body mock_response tianji_credential_name
    """
)
SELECTORS = frozenset({"auto_router", "auto-router"})
"""Selectors that LiteLLM's and TianjiLLM's configurations name, known as such where no plugin of the name is there."""
SELECTOR_PARAMS = words(
    "auto_router_config auto_router_config_path auto_router_default_model auto_router_embedding_model split split_by"
)
"""Keys of `tianji_params` that their selector reads."""
_GATEWAY_PARAMS = words(
    """
    itpm otpm timeout_by_service_tier max_budget budget_duration default_api_key_tpm_limit default_api_key_rpm_limit
    tag_regex configurable_clientside_auth_params use_in_pass_through use_tianji_proxy use_chat_completions_api
    merge_reasoning_content_in_choices keepalive_seconds allow_client_keepalive_override base_model
    complexity_router_config complexity_router_default_model adaptive_router_config quality_router_config
    vector_store_id tianji_trace_id tianji_session_id max_file_size_mb model_info input_type_map guardrails
    enable_tag_filtering allow_fail_open ssl_verify caching use_client
    """
)
GATEWAY_PARAMS = _GATEWAY_PARAMS | SELECTOR_PARAMS
"""Keys of `tianji_params` that speak to the gateway, not to the provider."""

_TOP_USED = words(
    """
    model_list tianji_settings router_settings general_settings environment_variables include guardrails plugins
    credential_list callback_settings
    """
)
_TOP_ACCEPTED = words(
    """
    mcp_servers mcp_tools agents agent_list policies policy_attachments policy_config prompts vector_store_registry
    search_tools sandbox_tools files_settings finetune_settings default_vertex_config assistant_settings
    worker_registry pass_through_endpoints secret_manager discord_webhook_url ratelimit_alert_threshold tianji_jwtauth
    providers
    """
)

_TIANJI_ACCEPTED = words(
    """
    service_callbacks audit_log_callbacks input_callback budget_exceeded_status_code max_internal_user_budget
    default_max_internal_user_budget internal_user_budget_duration default_internal_user_params default_team_params
    default_team_settings default_key_generate_params upperbound_key_generate_params key_generation_settings
    default_soft_budget max_end_user_budget max_end_user_budget_id tag_budget_config redact_user_api_key_info
    redact_messages_in_exceptions disable_end_user_cost_tracking disable_end_user_cost_tracking_prometheus_only
    include_cost_in_streaming_usage cost_discount_config cost_margin_config block_requests_for_models_without_pricing
    custom_provider_map model_alias_map model_group_settings post_call_rules pre_call_rules guardrails
    global_prompt_directory global_bitbucket_config global_gitlab_config priority_reservation
    priority_reservation_settings key_alias_pattern enable_key_alias_format_validation budget_reset_time timezone
    budget_rollover extra_spend_tag_headers forward_traceparent_to_llm_provider responses ssl_certificate force_ipv4
    http2 disable_aiohttp_transport user_url_validation user_url_allowed_hosts provider_url_destination_allowed_hosts
    enable_redis_auth_cache enable_json_schema_validation disable_hf_tokenizer_download
    sse_keepalive_ping_interval_seconds anthropic_sse_ping_interval_seconds route_all_chat_openai_to_responses
    use_chat_completions_url_for_anthropic_messages enable_anthropic_prompt_caching skip_system_message_in_guardrail
    expose_router_debug_in_errors mcp_aliases langfuse_default_tags s3_callback_params datadog_params
    datadog_llm_observability_params aws_sqs_callback_params azure_sentinel_params gcs_pubsub_use_v1
    require_auth_for_metrics_endpoint prometheus_metrics_config prometheus_exclude_metrics prometheus_exclude_labels
    prometheus_latency_buckets custom_prometheus_metadata_labels custom_prometheus_tags prometheus_emit_stream_label
    enable_end_user_cost_tracking_prometheus_only prometheus_initialize_budget_metrics max_ui_session_budget
    standard_logging_payload_excluded_fields LITELLM_DISABLE_STOP_SEQUENCE_LIMIT enable_preview_features
    disable_add_transform_inline_image_block disable_copilot_system_to_assistant banned_keywords blocked_user_list
    custom banned_keywords_list caching custom_hooks openai_key azure_key anthropic_key api_base organization
    enable_azure_ad_token_refresh default_in_memory_ttl default_redis_ttl default_redis_batch_cache_expiry
    public_model_groups public_model_groups_links store_audit_logs use_client_credentials ssl_security_level
    ssl_ecdh_curve add_function_to_prompt disable_stop_sequence_limit telemetry add_user_information_to_llm_headers
    force_stream_timeout disable_default_user_agent log_raw_request_response suppress_debug_info
    """
)

_CACHE = words(
    """
    type mode host port password username url namespace ttl db ssl ssl_cert_reqs ssl_check_hostname ssl_ca_certs
    ssl_certfile ssl_keyfile max_connections redis_startup_nodes service_name sentinel_nodes sentinel_password
    sentinel_username gcp_service_account gcp_ssl_ca_certs default_in_memory_ttl default_in_redis_ttl redis_flush_size
    redis_namespace addrs supported_call_types similarity_threshold redis_semantic_cache_embedding_model
    redis_semantic_cache_use_async redis_semantic_cache_index_name valkey_semantic_cache_embedding_model
    embedding_model semantic_cache_scope qdrant_api_base qdrant_api_key qdrant_collection_name
    qdrant_quantization_config qdrant_semantic_cache_embedding_model qdrant_semantic_cache_vector_size s3_bucket_name
    s3_region_name s3_api_version s3_use_ssl s3_verify s3_endpoint_url s3_aws_access_key_id s3_aws_secret_access_key
    s3_aws_session_token s3_config s3_path gcs_bucket_name gcs_path_service_account gcs_path disk_cache_dir
    azure_account_url azure_blob_container max_size max_size_in_memory allowed_cache_controls socket_timeout
    socket_connect_timeout password_file cluster enable_redis_auth_cache
    """
)

_ROUTER_ACCEPTED = words(
    """
    routing_groups tag_routing_prefix redis_host redis_port redis_password redis_db redis_url redis_ssl redis_username
    cache_responses caching_groups cache_kwargs polling_interval client_ttl deployment_affinity_ttl_seconds
    model_group_affinity_config enable_health_check_routing health_check_staleness_threshold max_retries
    health_check_ignore_transient_errors ignore_invalid_deployments search_tools guardrail_list assistants_config
    alerting_config debug_level set_verbose plugins enable_weighted_failover router_general_settings
    deployment_affinity_enabled
    """
)

_GENERAL_ACCEPTED = words(
    """
    database_connection_pool_limit database_connection_timeout database_connection_pool_timeout store_model_in_db
    supported_db_objects disable_spend_updates disable_error_logs proxy_batch_write_at use_redis_transaction_buffer
    maximum_spend_logs_retention_period maximum_spend_logs_retention_interval maximum_spend_logs_cleanup_cron
    use_spend_logs_partitioning maximum_spend_logs_cleanup_batch_size alerting alerting_threshold alert_types
    alerting_args alert_to_webhook_url alert_type_config spend_report_frequency health_check_details
    health_check_concurrency use_shared_health_check background_health_check_model_groups model_list_healthy_only
    allow_requests_on_db_unavailable custom_auth_run_common_checks custom_auth_settings enable_jwt_auth tianji_jwtauth
    enable_oauth2_auth enable_oauth2_proxy_auth oauth2_config_mappings custom_key_generate custom_key_update
    custom_key_policy custom_sso custom_ui_sso_sign_in_handler key_management_system key_management_settings
    forward_llm_provider_auth_headers forward_openai_org_id pass_through_request_timeout user_header_name
    user_header_mappings max_file_size_mb allowed_file_extensions max_in_flight_requests_per_worker
    max_queued_requests_per_worker admission_queue_timeout_seconds enforce_user_param enforced_params
    service_account_settings allowed_routes public_routes admin_only_routes allowed_ips use_x_forwarded_for
    trusted_proxy_ranges ui_access_mode default_team_disabled reject_clientside_metadata_tags enforce_rbac
    role_permissions always_include_stream_usage allow_client_side_credentials user_api_key_cache_ttl
    user_api_key_cache_max_size token_rate_limit_type coordination_redis fail_closed_rate_limit_enforcement
    fail_closed_budget_enforcement disable_budget_reservation apply_user_budget_to_team_keys disable_reset_budget
    proxy_budget_rescheduler_min_time proxy_budget_rescheduler_max_time infer_model_from_keys completion_model
    embedding_model image_generation_model moderation_model include_call_id_in_error_body
    expose_fallback_errors_to_caller missing_session_id enable_drain_endpoint drain_endpoint_token
    dangerously_allow_mock_testing_request_params dangerously_permit_weak_or_unset_master_key cancel_on_disconnect
    mcp_internal_ip_ranges mcp_trusted_proxy_ranges mcp_xff_num_trusted_hops mcp_allowed_clients mcp_client_id_header
    mcp_client_side_auth_header_name mcp_required_fields require_end_user_mcp_access_defined enable_mcp_registry
    user_mcp_management_mode vector_store_deny_by_default search_tool_deny_by_default enforce_fallback_model_access
    max_failed_login_attempts_per_source failed_login_window_seconds failed_login_block_seconds
    disable_password_login_when_sso_enabled disable_env_credential_login database_connect_timeout
    database_socket_timeout database_max_idle_connection_lifetime database_disable_prepared_statements
    database_extra_connection_params disable_prisma_schema_update control_plane_url plugins enable_claude_code_gateway
    enable_public_model_hub auto_redirect_ui_login_to_sso tianji_license email_settings tracing team_metadata_schema
    scheduled_job_stagger spend_logs_metadata_fields responses_websocket_session_limit_seconds
    disable_responses_id_security allow_unmanaged_response_ids disable_master_key_return
    disable_adding_master_key_hash_to_db disable_retry_on_max_parallel_request_limit_error allow_user_auth
    use_google_kms use_azure_key_vault database_type database_args otel auth_header_name store_audit_logs
    management_webhook_url secret_manager prompt_management sso_client_id sso_client_secret sso_issuer_url
    sso_redirect_uri sso_scopes sso_role_mapping scim_enabled scim_upsert_user budget_reset_interval
    spend_log_retention_days deployment_reload_interval credential_refresh_interval
    proxy_config_reload_interval_seconds audit_log_retention_period allow_client_pricing_override disable_key_alias
    proxy_base_url
    """
)

SECTIONS: dict[str, Section] = {
    "": Section(_TOP_USED, _TOP_ACCEPTED),
    "tianji_settings": Section(
        _fields(TianjiSettings) | _fields(RouterSettings) | CALLBACK_KEYS, _TIANJI_ACCEPTED | _ROUTER_ACCEPTED
    ),
    "tianji_settings.cache_params": Section(_CACHE),
    "router_settings": Section(_fields(RouterSettings), _ROUTER_ACCEPTED),
    "general_settings": Section(_fields(GeneralSettings) | words("always_include_stream_usage"), _GENERAL_ACCEPTED),
    "plugins": Section(_fields(PluginsSection)),
    "model_list[]": Section(words("model_name tianji_params model_info tags access_control")),
    "tianji_params": Section(
        _DEPLOYMENT_USED | PROVIDER_SETTINGS | REQUEST_PARAMS | SELECTOR_PARAMS, GATEWAY_PARAMS - SELECTOR_PARAMS
    ),
    "guardrails[]": Section(words("guardrail_name tianji_params guardrail_info default_on failure_policy")),
}
"""By section, as it is named in a path; `""` is the top of the file."""

_PRICE = re.compile(r"(^|_)cost_per_|_token_cost(_|$)|^tiered_pricing$")


def is_price(key: str) -> bool:
    """Whether a key is a custom price (`input_cost_per_token`, `cache_read_input_token_cost_above_200k_tokens`)."""
    return _PRICE.search(key) is not None


def stand_in(spec: DeploymentSpec, strategies: Container[str], providers: Container[str]) -> str | None:
    """The selector that a deployment stands for: its provider, or what comes before the `/` in its group's name.

    `strategies` and `providers` are the names that are installed. None: a provider serves it.
    """
    prefix, slash, _ = spec.model_name.partition("/")
    if spec.provider in SELECTORS or (spec.provider in strategies and spec.provider not in providers):
        return spec.provider
    return prefix if slash and prefix in SELECTORS else None


def suggest(key: str, section: str) -> str:
    """What the writer of an unknown key probably meant: a near name, or another section. Empty when nothing is near."""
    name = key[:80].lower().replace("-", "_")
    own = SECTIONS[section].known
    if name in own:
        return f"Did you mean `{name}`?"
    for other, table in SECTIONS.items():
        if name in table.known and other not in {section, "tianji_params"}:
            return f"`{name}` belongs {f'in `{other}`' if other else 'at the top of the file'}"
    if near := get_close_matches(name, sorted(own), n=1, cutoff=0.75):
        return f"Did you mean `{near[0]}`?"
    everywhere = {known: other for other, table in SECTIONS.items() for known in table.known}
    if near := get_close_matches(name, sorted(everywhere), n=1, cutoff=0.85):
        place = everywhere[near[0]]
        return f"Did you mean `{near[0]}` {f'in `{place}`' if place else 'at the top of the file'}?"
    return ""
