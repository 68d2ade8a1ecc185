"""References to the environment and to secret managers, and which keys hold secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tianji.config import Config, from_dict
from tianji.errors import ConfigError
from tianji.model import Secret
from tianji.secrets import SCHEMES, Unresolved, expand, holds_secret

ENV = {"X": "value", "EMPTY": "", "Y_2": "two"}


@pytest.mark.parametrize(
    ("text", "value", "unset"),
    [
        ("os.environ/X", "value", ()),
        ("$X", "value", ()),
        ("${X}", "value", ()),
        ("https://${X}.example/${Y_2}", "https://value.example/two", ()),
        ("os.environ/NOPE", None, ("NOPE",)),
        ("$NOPE", None, ("NOPE",)),
        ("${NOPE}", None, ("NOPE",)),
        ("a ${NOPE} ${X}", "a ${NOPE} ${X}", ("NOPE",)),
        ("os.environ/EMPTY", "", ()),
        ("os.environ/", "os.environ/", ()),
        ("$", "$", ()),
        ("$5", "$5", ()),
        ("costs $X", "costs $X", ()),
        ("$X.", "$X.", ()),
        ("${}", "${}", ()),
        ("${not a name}", "${not a name}", ()),
        ("$${X}", "${X}", ()),
        ("a $${NOPE} b", "a ${NOPE} b", ()),
        ("pa$$word", "pa$$word", ()),
        ("https://x", "https://x", ()),
        ("", "", ()),
    ],
)
def test_expand(text: str, value: str | None, unset: tuple[str, ...]) -> None:
    found = expand(text, ENV, {})
    assert found.value == value
    assert found.unset == unset
    if value == text and not unset:
        assert found.reference is None


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_secret_managers(scheme: str) -> None:
    text = f"{scheme}://prod/openai"
    tree = {"model_list": [{"model_name": "m", "tianji_params": {"model": "x", "api_key": text, "rpm": f"{text}/rpm"}}]}
    config = from_dict(tree, environ={})
    key = config.deployments[0].api_key
    assert isinstance(key, Unresolved)
    assert config.deployments[0].rpm is None
    assert [(r.scheme, r.text) for r in config.secret_references] == [(scheme, text), (scheme, f"{text}/rpm")]
    assert config.secret_references[0].path == "model_list[0].tianji_params.api_key"
    with pytest.raises(ConfigError, match="has not been fetched"):
        key.reveal()
    assert text not in repr(key)
    again = from_dict(tree, environ={}, fetched={text: "real", f"{text}/rpm": "5"})
    assert again.deployments[0].api_key == Secret("real")
    assert again.deployments[0].rpm == 5
    assert again.secret_references == ()


def test_unset_variables_are_none_and_warn(of_yaml: Callable[[str], Config]) -> None:
    config = of_yaml(
        "model_list:\n- model_name: m\n  litellm_params:\n    model: x\n    api_key: os.environ/NOPE\n    user: $GONE"
    )
    deployment = config.deployments[0]
    assert deployment.api_key is None
    assert "user" not in deployment.params
    assert [(w.code, w.path) for w in config.warnings] == [
        ("unset-variable", "proxy_config.yaml:5: model_list[0].litellm_params.api_key"),
        ("unset-variable", "proxy_config.yaml:6: model_list[0].litellm_params.user"),
    ]
    assert "NOPE" in config.warnings[0].message


def test_a_model_from_an_unset_variable_is_missing(of_yaml: Callable[[str], Config]) -> None:
    with pytest.raises(ConfigError, match=r"os\.environ/MODEL is empty"):
        of_yaml("model_list: [{model_name: m, litellm_params: {model: os.environ/MODEL}}]")


@pytest.mark.parametrize("key", ["empty", "literal"])
def test_empty_keys_warn(env: dict[str, str], one: Callable[..., Config], key: str) -> None:
    env["KEY"] = ""
    config = one({"model": "x", "api_key": "os.environ/KEY" if key == "empty" else ""})
    (warning,) = config.warnings
    assert warning.path == "model_list[0].tianji_params.api_key"


@pytest.mark.parametrize(
    "key",
    [
        "api_key", "apikey", "qdrant_api_key", "API_KEY", "x-api-key", "Authorization", "password", "redis_password",
        "token", "auth_token", "azure_ad_token", "aws_session_token", "aws_web_identity_token", "master_key",
        "client_secret", "secret", "secret_key", "aws_secret_access_key", "secret_id", "vertex_credentials",
        "private_key", "database_url", "authentication_token", "auth_value", "SENTRY_DSN", "slack_webhook_url",
        "Ocp-Apim-Subscription-Key",
    ],
)  # fmt: skip
def test_keys_that_hold_secrets(key: str) -> None:
    assert holds_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        "max_tokens", "input_cost_per_token", "cache_read_input_token_cost", "max_input_tokens", "model", "api_base",
        "aws_access_key_id", "tianji_key_header_name", "token_rate_limit_type", "public_key", "credential_name",
        "key_alias_pattern", "disable_master_key_return", "tokenizer", "max_token", "secret_manager", "user",
    ],
)  # fmt: skip
def test_keys_that_hold_none(key: str) -> None:
    assert not holds_secret(key)


def test_secrets_are_wrapped_by_key_at_any_depth(of_dict: Callable[[dict[str, Any]], Config]) -> None:
    config = of_dict({"anything": [{"deep": {"api_key": "k", "password": 5, "token": True, "keys": ["a"]}}]})
    deep = config.sections["anything"][0]["deep"]
    assert deep == {"api_key": Secret("k"), "password": Secret("5"), "token": True, "keys": ["a"]}


def test_a_service_account_in_yaml_becomes_its_json(env: dict[str, str], one: Callable[..., Config]) -> None:
    env["PEM"] = "-----BEGIN"
    config = one({"model": "vertex_ai/x", "vertex_credentials": {"type": "s", "private_key": "$PEM"}})
    assert config.deployments[0].params["vertex_credentials"].reveal() == '{"type": "s", "private_key": "-----BEGIN"}'
