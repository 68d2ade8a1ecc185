"""Whole files: both spellings, what the settings say, merging, includes and `.env`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tianji.config import Config, from_dict, load, loads
from tianji.errors import ConfigError

FULL = (Path(__file__).parent / "full_litellm.yaml").read_text()
TWIN = re.sub(
    r"\b((?:default_)?)litellm_(params|settings|credential_name|key_header_name|jwtauth):", r"\1tianji_\2:", FULL
)
SECRETS = {
    "AZURE_KEY_EU": "azkey-11111111",
    "EXTRA_TOKEN": "extra-22222222",
    "AWS_SECRET": "aws-33333333",
    "PRIVATE_KEY": "pem-44444444",
    "OPENAI_API_KEY": "openai-55555555",
    "REDIS_PASSWORD": "redis-66666666",
    "MASTER": "sk-master-77777777",
    "COHERE": "cohere-88888888",
    "LAKERA": "lakera-99999999",
    "MCP": "mcp-00000000",
    "TAVILY": "tavily-12121212",
}


@pytest.fixture
def full() -> Config:
    return loads(FULL, environ=dict(SECRETS))


def test_everything_documented_loads_without_a_warning(full: Config) -> None:
    assert full.warnings == ()
    assert full.spelling == "litellm"


def test_both_spellings_are_the_same_configuration(full: Config) -> None:
    twin = loads(TWIN, environ=dict(SECRETS))
    assert twin.spelling == "tianji"
    for field in Config.__struct_fields__:
        if field != "spelling":
            assert getattr(twin, field) == getattr(full, field), field


def test_settings_are_typed_and_merged(full: Config) -> None:
    router, settings, general = full.router, full.tianji_settings, full.general_settings
    assert (router.num_retries, settings.num_retries) == (1, 3), "router_settings wins for the router"
    assert router.allowed_fails == 4, "taken from tianji_settings"
    assert router.timeout == 20
    assert router.fallbacks == {"gpt-4o": ("claude", "vertex"), "claude": ("gpt-4o",)}
    assert router.context_window_fallbacks == {"gpt-4o": ("claude",)}
    assert router.default_fallbacks == ("claude",)
    assert router.model_group_alias["secret-gpt"].hidden
    assert router.model_group_alias["gpt-4"].model == "gpt-4o"
    assert router.retry_policy == {"TimeoutErrorRetries": 3, "BadRequestErrorRetries": 0}
    assert router.provider_budget_config["openai"].budget_limit == 10.5
    assert router.default_tianji_params == {"temperature": 0}
    assert router.extra == {"redis_host": "cache.internal"}, "environment_variables are exported before references"
    assert settings.request_timeout == 600
    assert settings.budget_duration == "30d"
    assert settings.cache_params["port"] == 6379
    assert general.health_check_interval == 300
    assert general.port == 4001
    assert general.master_key is not None
    assert general.master_key.reveal() == SECRETS["MASTER"]
    assert general.tianji_key_header_name == "X-Key"
    assert general.extra["tianji_jwtauth"] == {"team_id_jwt_field": "client_id"}
    assert general.pass_through_endpoints[0]["path"] == "/v1/rerank"
    assert full.sections["mcp_servers"]["litellm_docs"]["url"] == "https://mcp.example.com", "names are not renamed"
    assert full.sections["search_tools"][0]["tianji_params"]["search_provider"] == "tavily"
    assert "environment_variables" not in full.sections


def test_secrets_are_never_shown(full: Config) -> None:
    parts = [full, full.tianji_settings, full.router, full.general_settings, *full.deployments, *full.guardrails]
    text = " ".join(map(repr, [*parts, *full.callbacks, full.plugins, full.sections, full.locations, full.warnings]))
    text += " ".join(repr(d.params) + repr(d.extra_headers) + repr(d.model_info) for d in full.deployments)
    text += " ".join(repr(g.params) for g in full.guardrails) + repr(full.tianji_settings.cache_params)
    for value in (*SECRETS.values(), "hunter2hunter2"):
        assert value not in text
    with pytest.raises(TypeError):
        json.dumps(full.tianji_settings.cache_params)


def test_a_groups_retry_policy_is_typed(of_yaml: Callable[[str], Config]) -> None:
    head = "router_settings: {model_group_retry_policy: {g: "
    policy = '{num_retries: "5", timeout: 1m, retry_after: "2", RateLimitErrorRetries: "3", none: ~}'
    read = of_yaml(head + policy + "}}").router.model_group_retry_policy
    assert read == {"g": {"num_retries": 5, "timeout": 60.0, "retry_after": 2.0, "RateLimitErrorRetries": 3}}
    for key, bad in (("num_retries", "-1"), ("BadRequestErrorRetries", "soon"), ("timeout", "[]")):
        with pytest.raises(ConfigError, match=rf"model_group_retry_policy\.g\.{key}"):
            of_yaml(head + f"{{{key}: {bad}}}}}}}")


def test_defaults(of_yaml: Callable[[str], Config]) -> None:
    config = of_yaml("")
    router, general = config.router, config.general_settings
    assert (router.routing_strategy, router.num_retries, router.max_fallbacks) == ("simple-shuffle", None, 5)
    assert (router.allowed_fails, router.cooldown_time, router.timeout) == (None, 5, None)
    assert (general.host, general.port, general.master_key, general.docs) == ("127.0.0.1", 4000, None, True)
    assert config.deployments == ()
    assert config.spelling == "tianji"


def test_request_timeout_is_the_routers_when_it_has_none(of_yaml: Callable[[str], Config]) -> None:
    assert of_yaml("tianji_settings: {request_timeout: 5m}").router.timeout == 300


def test_tianji_spelling_wins_over_litellm(of_yaml: Callable[[str], Config]) -> None:
    for text in (
        "tianji_settings: {num_retries: 1}\nlitellm_settings: {num_retries: 9}",
        "litellm_settings: {num_retries: 9}\ntianji_settings: {num_retries: 1}",
    ):
        config = of_yaml(text)
        assert config.router.num_retries == 1
        (warning,) = config.warnings
        assert warning.code == "superseded"
        assert "litellm_settings" in warning.path


def test_fingerprint_follows_the_content_and_not_the_writing() -> None:
    one = loads("litellm_settings:\n  num_retries: 1  # a comment", environ={})
    two = loads("tianji_settings: {num_retries: 1}", environ={})
    three = loads("tianji_settings: {num_retries: 2}", environ={})
    assert one.fingerprint == two.fingerprint != three.fingerprint


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TIANJI_MASTER_KEY": "sk-tianji", "LITELLM_MASTER_KEY": "sk-litellm"}, "sk-tianji"),
        ({"LITELLM_MASTER_KEY": "sk-litellm"}, "sk-litellm"),
        ({}, None),
    ],
)
def test_master_key_of_the_environment(variables: dict[str, str], expected: str | None) -> None:
    key = loads("general_settings: {}", environ=variables).general_settings.master_key
    assert (None if key is None else key.reveal()) == expected
    own = loads("general_settings: {master_key: sk-own}", environ=variables).general_settings.master_key
    assert own is not None
    assert own.reveal() == "sk-own"


def test_pass_through_endpoints_come_from_both_places(of_yaml: Callable[[str], Config]) -> None:
    config = of_yaml("pass_through_endpoints: [{path: /a}]\ngeneral_settings: {pass_through_endpoints: [{path: /b}]}")
    assert [endpoint["path"] for endpoint in config.general_settings.pass_through_endpoints] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([{"a": ["b", "c"]}, {"d": "e"}], {"a": ("b", "c"), "d": ("e",)}),
        ({"a": ["b"], "d": "e"}, {"a": ("b",), "d": ("e",)}),
        ([{"a": ["b"], "d": ["e"]}], {"a": ("b",), "d": ("e",)}),
        (["x", "y"], {"*": ("x", "y")}),
        ([{"a": [{"model": "b", "messages": []}]}], {"a": ("b",)}),
        ([{"api_token": ["litellm_b"]}], {"api_token": ("litellm_b",)}),
        ([{"a": None}, None], {"a": ()}),
    ],
)
def test_shapes_of_fallbacks(
    of_dict: Callable[[dict[str, Any]], Config], written: Any, expected: dict[str, tuple[str, ...]]
) -> None:
    for section in ("router_settings", "tianji_settings"):
        assert of_dict({section: {"fallbacks": written}}).router.fallbacks == expected


def test_yaml_surprises_stay_text(of_yaml: Callable[[str], Config]) -> None:
    text = (
        "custom:\n  on: 1\n  2: x\n  date: 2024-05-01\n  clock: 12:30\n  base: &b {k: 1, l: 2}\n  more: {<<: *b, k: 3}"
    )
    custom = of_yaml(text).sections["custom"]
    assert custom["on"] == 1
    assert custom["2"] == "x"
    assert custom["date"] == "2024-05-01"
    assert custom["clock"] == "12:30"
    assert custom["more"] == {"k": 3, "l": 2}


def test_dotenv_and_include(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# keys\nexport OPENAI_API_KEY=from-file\nTAKEN=no\nQUOTED=\"a # b\\n\"\nSINGLE='$x'\nBARE=v # comment\n???\n"
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "models.yaml").write_text(
        "model_list:\n- model_name: b\n  litellm_params: {model: openai/b, rpm: many}\n"
    )
    main = tmp_path / "proxy_config.yaml"
    main.write_text(
        "include: [more/models.yaml, rest.yaml]\n"
        "model_list:\n- model_name: a\n  litellm_params: {model: openai/a, api_key: os.environ/OPENAI_API_KEY}\n"
        "litellm_settings: {num_retries: 1, drop_params: true}\n"
    )
    (tmp_path / "rest.yaml").write_text("tianji_settings: {num_retries: 7}\nsearch_tools: []\n")
    environ = {"TAKEN": "yes"}
    with pytest.raises(ConfigError, match="number") as caught:
        load(main, environ=environ)
    assert caught.value.path == f"{tmp_path / 'more' / 'models.yaml'}:3: model_list[0].litellm_params.rpm"

    (tmp_path / "more" / "models.yaml").write_text(
        "model_list:\n- model_name: b\n  litellm_params: {model: openai/b}\n"
    )
    config = load(main, environ=environ)
    assert environ == {
        "TAKEN": "yes", "OPENAI_API_KEY": "from-file", "QUOTED": "a # b\n", "SINGLE": "$x", "BARE": "v",
    }  # fmt: skip
    assert [deployment.model_name for deployment in config.deployments] == ["a", "b"]
    assert config.deployments[1].path == "model_list[1]"
    assert config.deployments[0].api_key is not None
    assert config.tianji_settings.num_retries == 7, "the included file wins"
    assert config.tianji_settings.drop_params
    assert sorted(warning.code for warning in config.warnings) == ["ignored", "superseded"]
    assert config.source == str(main)


def test_includes_that_go_wrong(tmp_path: Path) -> None:
    main = tmp_path / "a.yaml"
    main.write_text("include: [b.yaml]\n")
    with pytest.raises(ConfigError, match="no file") as caught:
        load(main, environ={})
    assert caught.value.path == f"{main}:1: include[0]"
    (tmp_path / "b.yaml").write_text("include: [a.yaml]\n")
    with pytest.raises(ConfigError, match="includes itself"):
        load(main, environ={})


def test_environment_variables_are_exported_but_for_the_dangerous() -> None:
    environ = {"A": "old", "B": "b"}
    text = (
        "environment_variables: {A: new, FROM: os.environ/B, FLAG: true, N: 5, GONE: os.environ/NOPE, LD_PRELOAD: x.so}"
    )
    config = loads(text, environ=environ)
    assert environ == {"A": "new", "B": "b", "FROM": "b", "FLAG": "true", "N": "5"}
    assert sorted(warning.code for warning in config.warnings) == ["refused", "unset-variable"]


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIANJI_TEST_RPM", "7")
    tree = {
        "environment_variables": {"TIANJI_TEST_OUT": "1"},
        "model_list": [{"model_name": "m", "tianji_params": {"model": "x", "rpm": "$TIANJI_TEST_RPM"}}],
    }
    monkeypatch.delenv("TIANJI_TEST_OUT", raising=False)
    assert from_dict(tree).deployments[0].rpm == 7
    assert os.environ.pop("TIANJI_TEST_OUT") == "1"


def test_importing_the_configuration_is_light(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = "import sys, tianji.config; print([m for m in ('litestar', 'httpx', 'uvicorn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
