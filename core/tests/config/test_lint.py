"""What `tianji check` finds."""

from __future__ import annotations

from typing import Any

import pytest

from tianji.config import Finding, from_dict, lint, loads

BASE: dict[str, Any] = {
    "model_list": [
        {"model_name": "gpt-4o", "tianji_params": {"model": "openai/gpt-4o"}},
        {"model_name": "claude", "tianji_params": {"model": "openai/claude"}},
        {"model_name": "wild-*", "tianji_params": {"model": "openai/*"}},
    ]
}
INSTALLED = {"providers": {"openai", "ollama", "ollama_chat"}, "strategies": {"lowest-latency"}, "callbacks": {"otel"}}


def findings(more: dict[str, Any], environ: dict[str, str] | None = None) -> list[Finding]:
    return lint(from_dict({**BASE, **more}, environ=environ or {}), installed=INSTALLED)


def test_the_server_of_the_redis_extension_has_an_effect_where_that_is_installed() -> None:
    more = {"general_settings": {"master_key": "sk-long-enough"}, "router_settings": {"redis_host": "127.0.0.1"}}
    (remark,) = findings(more)
    assert (remark.path, remark.message) == ("router_settings.redis_host", "accepted, and has no effect yet")
    assert lint(from_dict({**BASE, **more}, environ={}), installed=INSTALLED | {"extensions": {"redis"}}) == []


def test_a_clean_file_has_no_findings() -> None:
    assert findings({"general_settings": {"master_key": "sk-long-enough"}}) == []


@pytest.mark.parametrize(
    ("more", "level", "path", "message", "mend"),
    [
        ({"modle_list": 1}, "warning", "modle_list", "not a section", "Did you mean `model_list`?"),
        ({"mcp_servers": {"y": "$NOPE"}}, "warning", "mcp_servers.y", "NOPE is not set", "Set NOPE"),
        ({"prompts": "vault://a"}, "info", "prompts", "kept by a secret manager", "vault://"),
        ({"general_settings": {"store_model_in_db": 1}}, "info", "general_settings.store_model_in_db", "no effect", ""),
        ({"general_settings": {"master_key": "sk-1234"}}, "warning", "general_settings.master_key", "guess", "token"),
        ({"general_settings": {"master_key": "short"}}, "warning", "general_settings.master_key", "shorter", "token"),
        (
            {"router_settings": {"routing_strategy": "latency-based-routing"}},
            "error", "router_settings.routing_strategy", "strategy", "pip install tianji-strategy-lowest-latency",
        ),
        (
            {"tianji_settings": {"callbacks": ["langfuse_otel"]}},
            "warning", "tianji_settings.callbacks[0]", "callback", "pip install tianji-callback-langfuse-otel",
        ),
        (
            {"tianji_settings": {"callback_configs": [{"type": "s3", "required": True}]}},
            "error", "tianji_settings.callback_configs[0]", "callback 's3'", "pip install tianji-callback-s3",
        ),
        (
            {"tianji_settings": {"callbacks": ["my.handler"]}},
            "warning", "tianji_settings.callbacks[0]", "my.handler", "--plugin ./callback.py",
        ),
        (
            {"guardrails": [{"guardrail_name": "g", "tianji_params": {"guardrail": "azure/prompt_shield"}}]},
            "error", "guardrails[0]", "azure/prompt_shield", "pip install tianji-guardrail-azure-prompt-shield",
        ),
        (
            {"tianji_settings": {"cache": True, "cache_params": {"type": "redis"}}},
            "warning", "tianji_settings.cache_params.type", "cache-redis", "pip install tianji-extension-cache-redis",
        ),
        (
            {"router_settings": {"fallbacks": [{"gpt-4o": ["cluade"]}]}},
            "error", "router_settings.fallbacks.gpt-4o", "no model group 'cluade'", "Did you mean 'claude'?",
        ),
        (
            {"tianji_settings": {"fallbacks": [{"gpt4o": ["claude"]}]}},
            "warning", "tianji_settings.fallbacks.gpt4o", "never used", "'gpt-4o'",
        ),
        (
            {"router_settings": {"default_fallbacks": ["zzz"]}},
            "error", "router_settings.default_fallbacks", "no model group 'zzz'", "model_list",
        ),
        (
            {"router_settings": {"context_window_fallbacks": [{"gpt-4o": ["gpt-4o", "claude"]}]}},
            "warning", "router_settings.context_window_fallbacks.gpt-4o", "falls back to itself", "Remove",
        ),
        (
            {"router_settings": {"max_fallbacks": 1, "fallbacks": {"gpt-4o": ["claude", "wild-a"]}}},
            "warning", "router_settings.fallbacks.gpt-4o", "never reached, because max_fallbacks is 1: wild-a", "to 2",
        ),
        (
            {"router_settings": {"model_group_alias": {"gpt": "gpt-4"}}},
            "error", "router_settings.model_group_alias.gpt", "'gpt' leads nowhere", "'gpt-4o'",
        ),
        (
            {"router_settings": {"model_group_alias": {"gpt": "gpt"}}},
            "error", "router_settings.model_group_alias.gpt", "stands for itself", "",
        ),
    ],
)  # fmt: skip
def test_one_finding_each(more: dict[str, Any], level: str, path: str, message: str, mend: str) -> None:
    (finding,) = findings(more)
    assert (finding.level, finding.path) == (level, path)
    assert message in finding.message
    assert mend in finding.mend


def test_names_that_are_fine() -> None:
    router = {
        "routing_strategy": "simple-shuffle",
        "model_group_alias": {"alias": "gpt-4o", "second": "alias"},
        "fallbacks": [{"*": ["alias"]}, {"alias": ["wild-7"]}],
    }
    assert findings({"router_settings": router, "tianji_settings": {"callbacks": ["otel"]}}) == []


def test_a_missing_provider_is_named_once_with_its_pip_line() -> None:
    entries = [{"model_name": "m", "tianji_params": {"model": f"together_ai/x{n}"}} for n in range(3)]
    entries += [{"model_name": "e", "tianji_params": {"model": "echo/x"}}]
    (finding,) = findings({"model_list": entries})
    assert finding.level == "error"
    assert finding.path == "model_list[0]"
    assert "'together_ai' is not installed (named 3 times)" in finding.message
    assert finding.mend == "pip install tianji-provider-together-ai"


def test_a_misspelt_provider_gets_both_hints() -> None:
    (finding,) = findings({"model_list": [{"model_name": "m", "tianji_params": {"model": "opanai/x"}}]})
    assert finding.mend == "pip install tianji-provider-opanai (or did you mean 'openai'?)"


def test_an_empty_key_is_a_finding() -> None:
    entry = {"model_name": "m", "tianji_params": {"model": "openai/x", "api_key": "os.environ/KEY"}}
    for environ in ({}, {"KEY": ""}):
        (finding,) = findings({"model_list": [entry]}, environ)
        assert finding.path == "model_list[0].tianji_params.api_key"
        assert "KEY" in finding.message


def test_names_given_twice() -> None:
    guardrail = {"guardrail_name": "g", "tianji_params": {"guardrail": "x"}}
    entry = {"model_name": "m", "tianji_params": {"model": "openai/x"}}
    found = findings({"guardrails": [guardrail, guardrail], "model_list": [entry, entry]})
    assert [(f.level, f.path) for f in found] == [
        ("error", "guardrails[0]"), ("warning", "guardrails[0]"), ("info", "model_list[1]"),
    ]  # fmt: skip
    assert "the same deployment as model_list[0]" in found[2].message


def test_errors_come_first_and_lines_are_given() -> None:
    text = "model_list: []\nnope: 1\nrouter_settings:\n  fallbacks:\n    - a: [b]\n"
    found = lint(loads(text, name="c.yaml", environ={}), installed={})
    assert [(f.level, f.path) for f in found] == [
        ("error", "c.yaml:5: router_settings.fallbacks.a"),
        ("warning", "c.yaml:2: nope"),
        ("warning", "c.yaml:5: router_settings.fallbacks.a"),
    ]
