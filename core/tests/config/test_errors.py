"""Errors and warnings name file, line and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tianji.config import Config, from_dict, load
from tianji.errors import ConfigError

ENTRY = "model_list:\n  - model_name: m\n    litellm_params:\n      model: openai/x\n"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("model_list: 5", "proxy_config.yaml:1: model_list", "expected a list, got a number"),
        ("- a", "proxy_config.yaml:1", "expected a mapping such as"),
        ("a: 1\nb: [\n", "proxy_config.yaml:3", "not valid YAML"),
        ("a: 1\n\tb: 2\n", "proxy_config.yaml:2", "(column 1)"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "proxy_config.yaml:4: b.c", "given twice (first in line 3)"),
        ("a: *nope", "proxy_config.yaml:1", "undefined alias"),
        ("a: !!python/object:os.system x", "proxy_config.yaml:1: a", "tag"),
        ("a: !!int x", "proxy_config.yaml:1: a", "!!int"),
        ("a: &x\n  b: *x\n", "proxy_config.yaml:2: a.b", "contains itself"),
        ("? [a]\n: b", "proxy_config.yaml:1", "a key must be text"),
        ("a: {<<: 5}", "proxy_config.yaml:1: a['<<']", "takes a mapping"),
        ("a: 1\x00", "proxy_config.yaml", "not valid YAML"),
        ("a: 1\n---\nb: 2", "proxy_config.yaml:2", "single document"),
        ("model_list:\n  - litellm_params: {model: x}", "proxy_config.yaml:2: model_list[0].model_name", "missing"),
        ("model_list:\n  - model_name: m", "proxy_config.yaml:2: model_list[0].tianji_params", "missing"),
        ("model_list:\n\n  - hello", "proxy_config.yaml:3: model_list[0]", "expected a mapping, got text"),
        (
            "model_list:\n  - model_name: m\n    litellm_params:\n      rpm: 1",
            "proxy_config.yaml:3: model_list[0].litellm_params.model",
            "missing: `provider/model`",
        ),
        (ENTRY.replace("openai/x", "/x"), "proxy_config.yaml:4: model_list[0].litellm_params.model", "provider/model"),
        (ENTRY.replace("openai/x", "[]"), "proxy_config.yaml:4: model_list[0].litellm_params.model", "got a list"),
        (ENTRY + "      rpm: lots", "proxy_config.yaml:5: model_list[0].litellm_params.rpm", "a number, got text"),
        (ENTRY + "      rpm: 1.5", "proxy_config.yaml:5: model_list[0].litellm_params.rpm", "whole number"),
        (ENTRY + "      tpm: -1", "proxy_config.yaml:5: model_list[0].litellm_params.tpm", "0 or more"),
        (ENTRY + "      weight: .inf", "proxy_config.yaml:5: model_list[0].litellm_params.weight", "a number"),
        (
            ENTRY + "      timeout: 5 parsecs",
            "proxy_config.yaml:5: model_list[0].litellm_params.timeout",
            "'5 parsecs'",
        ),
        (ENTRY + "      timeout: -1", "proxy_config.yaml:5: model_list[0].litellm_params.timeout", "not a duration"),
        (
            ENTRY + "      drop_params: maybe",
            "proxy_config.yaml:5: model_list[0].litellm_params.drop_params",
            "true or",
        ),
        (ENTRY + "    model_info: []", "proxy_config.yaml:5: model_list[0].model_info", "a mapping, got a list"),
        (ENTRY + "    tags: {a: b}", "proxy_config.yaml:5: model_list[0].tags", "list of texts"),
        ("router_settings:\n  num_retries: {}", "proxy_config.yaml:2: router_settings.num_retries", "got a mapping"),
        ("litellm_settings:\n  num_retries: x", "proxy_config.yaml:2: litellm_settings.num_retries", "a number"),
        (
            "router_settings:\n  fallbacks:\n  - 5",
            "proxy_config.yaml:3: router_settings.fallbacks[0]",
            "a mapping such",
        ),
        (
            "router_settings:\n  model_group_alias:\n    gpt-4.1: {hidden: true}",
            "proxy_config.yaml:3: router_settings.model_group_alias['gpt-4.1'].model",
            "missing",
        ),
        (
            "router_settings:\n  provider_budget_config:\n    openai: {time_period: 1d}",
            "proxy_config.yaml:3: router_settings.provider_budget_config.openai.budget_limit",
            "missing",
        ),
        ("general_settings:\n  port: web", "proxy_config.yaml:2: general_settings.port", "a number"),
        ("general_settings: [a]", "proxy_config.yaml:1: general_settings", "a mapping, got a list"),
        ("guardrails:\n- litellm_params: {}", "proxy_config.yaml:2: guardrails[0].guardrail_name", "missing"),
        (
            "guardrails:\n- guardrail_name: g\n  litellm_params: {mode: pre_call}",
            "proxy_config.yaml:3: guardrails[0].litellm_params.guardrail",
            "missing: the type",
        ),
        ("litellm_settings:\n  callbacks:\n  - 5", "proxy_config.yaml:3: litellm_settings.callbacks[0]", "a callback"),
        ("litellm_settings:\n  callback_configs: [{}]", "proxy_config.yaml:2", "missing: the callback"),
        ("credential_list: [{}]", "proxy_config.yaml:1: credential_list[0].credential_name", "missing"),
        ("plugins: {only: {a: b}}", "proxy_config.yaml:1: plugins.only", "list of texts"),
        ("include: nothing.yaml", "proxy_config.yaml:1: include", "expected a list"),
        ("environment_variables: {'A=B': c}", "proxy_config.yaml:1", "environment can hold"),
        ("a: 1" + "0" * 40, "proxy_config.yaml:1: a", "30 digits"),
    ],
)
def test_where_and_what(text: str, path: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tianji.config import loads

    with pytest.raises(ConfigError) as caught:
        # `A=B` is refused by the process's environment only; a dict would take it.
        loads(text, name="proxy_config.yaml") if "A=B" in text else loads(text, name="proxy_config.yaml", environ={})
    assert caught.value.path.startswith(path)
    if path.count(":") > 1:
        assert caught.value.path == path or message in {"missing: the callback", "environment can hold"}
    assert message in str(caught.value)


def test_duplicate_ids_name_both_places(of_yaml: Callable[[str], Config]) -> None:
    entry = "- model_name: m\n  litellm_params: {model: x}\n  model_info: {id: one}\n"
    with pytest.raises(ConfigError, match="'one' is taken by") as caught:
        of_yaml("model_list:\n" + entry + entry)
    assert caught.value.path == "proxy_config.yaml:7: model_list[1].model_info.id"
    assert "proxy_config.yaml:2: model_list[0]" in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        load(tmp_path / "none.yaml", environ={})
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path, environ={})
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe\xfa")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "latin.yaml", environ={})


def test_aliases_that_multiply_are_stopped(of_yaml: Callable[[str], Config]) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(ConfigError, match="values"):
        of_yaml("\n".join(levels))


def test_deep_nesting_is_stopped(of_yaml: Callable[[str], Config]) -> None:
    with pytest.raises(ConfigError, match="nested"):
        of_yaml("a: " + "[" * 200 + "]" * 200)


@pytest.mark.parametrize("tree", [{"a": b"bytes"}, {"a": object()}, {"a": {1, 2}}, {"a": {None: 1}}, [1], 5])
def test_trees_that_are_no_configuration(tree: Any) -> None:
    with pytest.raises(ConfigError):
        from_dict(tree, environ={})


def test_a_tree_that_contains_itself() -> None:
    tree: dict[str, Any] = {}
    tree["a"] = [tree]
    with pytest.raises(ConfigError, match="contains itself"):
        from_dict(tree, environ={})


def test_errors_do_not_show_what_a_reference_stood_for(env: dict[str, str], one: Callable[..., Config]) -> None:
    env["KEY"] = "topsecret"
    for key in ("rpm", "timeout", "drop_params", "weight"):
        with pytest.raises(ConfigError) as caught:
            one({"model": "x", key: "os.environ/KEY"})
        assert "topsecret" not in str(caught.value)
        assert "os.environ/KEY" in str(caught.value), "the message says where the value came from"


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ("modle_list: []", "proxy_config.yaml:1: modle_list", "Did you mean `model_list`?"),
        ("master_key: x", "proxy_config.yaml:1: master_key", "`master_key` belongs in `general_settings`"),
        ("enable_jwt_auth: true", "proxy_config.yaml:1: enable_jwt_auth", "belongs in `general_settings`"),
        ("router_settings: {num_retrys: 1}", "proxy_config.yaml:1: router_settings.num_retrys", "`num_retries`"),
        ("router_settings: {num-retries: 1}", "proxy_config.yaml:1: router_settings.num-retries", "`num_retries`"),
        ("litellm_settings: {drop_param: 1}", "proxy_config.yaml:1: litellm_settings.drop_param", "`drop_params`"),
        ("general_settings: {zzz: 1}", "proxy_config.yaml:1: general_settings.zzz", ""),
        (
            "litellm_settings: {cache_params: {similarity_treshold: 1}}",
            "proxy_config.yaml:1: litellm_settings.cache_params.similarity_treshold",
            "`similarity_threshold`",
        ),
        (ENTRY + "    modelinfo: {}", "proxy_config.yaml:5: model_list[0].modelinfo", "`model_info`"),
        (ENTRY + "      api_kye: x", "proxy_config.yaml:5: model_list[0].litellm_params.api_kye", "`api_key`"),
        ("plugins: {disabled: []}", "proxy_config.yaml:1: plugins.disabled", "`disable`"),
    ],
)
def test_unknown_keys_warn_once(of_yaml: Callable[[str], Config], text: str, path: str, hint: str) -> None:
    (warning,) = of_yaml(text).warnings
    assert warning.path == path
    assert hint in warning.mend
    assert bool(hint) == bool(warning.mend)
