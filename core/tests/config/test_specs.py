"""Guardrails, callbacks and the `plugins` section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tianji.config import Config, PluginsSection
from tianji.model import Secret

Build = Callable[[dict[str, Any]], Config]


def test_guardrails_in_litellms_shape(of_dict: Build) -> None:
    params = {"guardrail": "presidio", "mode": ["pre_call", "post_call"], "default_on": "true", "api_key": "k", "x": 1}
    (guardrail,) = of_dict(
        {"guardrails": [{"guardrail_name": "pii", "litellm_params": params, "guardrail_info": {"a": 1}}]}
    ).guardrails
    assert (guardrail.plugin, guardrail.modes) == ("presidio", ("pre_call", "post_call"))
    assert guardrail.default_on
    assert guardrail.failure_policy == "fail_closed"
    assert guardrail.params == {"api_key": Secret("k"), "x": 1}
    assert guardrail.info == {"a": 1}


def test_guardrails_in_the_older_shape(of_dict: Build) -> None:
    entry = {
        "guardrail_name": "words",
        "default_on": True,
        "failure_policy": "fail_open",
        "tianji_params": {"mode": "content_filter", "threshold": 2},
    }
    (guardrail,) = of_dict({"guardrails": [entry]}).guardrails
    assert (guardrail.plugin, guardrail.modes, guardrail.params) == ("content_filter", (), {"threshold": 2})
    assert (guardrail.default_on, guardrail.failure_policy) == (True, "fail_open")


def test_modes_by_tag(of_dict: Build) -> None:
    mode = {"tags": {"hr": "pre_call"}, "default": ["post_call"]}
    (guardrail,) = of_dict(
        {"guardrails": [{"guardrail_name": "g", "tianji_params": {"guardrail": "x", "mode": mode}}]}
    ).guardrails
    assert guardrail.modes == ("post_call",)
    assert guardrail.modes_by_tag == {"hr": ("pre_call",)}


def test_a_doubtful_failure_policy_protects(of_dict: Build) -> None:
    entry = {"guardrail_name": "g", "failure_policy": "opne", "tianji_params": {"guardrail": "x", "mode": "pre_cal"}}
    config = of_dict({"guardrails": [entry]})
    assert config.guardrails[0].failure_policy == "fail_closed"
    assert config.guardrails[0].modes == ()
    assert sorted(warning.path for warning in config.warnings) == [
        "guardrails[0].failure_policy", "guardrails[0].tianji_params.mode",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"callbacks": ["a", "b"]}, [("a", "a", "all"), ("b", "b", "all")]),
        ({"callbacks": "a"}, [("a", "a", "all")]),
        ({"callbacks": ["a", "a"]}, [("a", "a", "all")]),
        ({"success_callback": ["a"], "failure_callback": ["b"]}, [("a", "a", "success"), ("b", "b", "failure")]),
        ({"success_callback": ["a"], "failure_callback": ["a"]}, [("a", "a", "all")]),
        ({"callbacks": ["a"], "success_callback": ["a"]}, [("a", "a", "all")]),
        ({"callback_configs": [{"type": "a"}]}, [("a", "a", "all")]),
        ({"callbacks": ["a"], "callback_configs": [{"type": "a", "k": 1}]}, [("a", "a", "all")]),
        ({"success_callback": ["a"], "callback_configs": [{"type": "a", "k": 1}]}, [("a", "a", "success")]),
        (
            {"callback_configs": [{"type": "a", "k": 1}, {"type": "a", "k": 2}]},
            [("a", "a", "all"), ("a", "a-2", "all")],
        ),
        ({"callback_configs": [{"type": "a", "name": "mine", "when": "failure"}]}, [("a", "mine", "failure")]),
        ({"callbacks": [{"otel": {"k": 1}}]}, [("otel", "otel", "all")]),
        ({"callbacks": [{"type": "otel", "k": 1}]}, [("otel", "otel", "all")]),
        ({"callbacks": ["my.module.handler", None]}, [("my.module.handler", "my.module.handler", "all")]),
    ],
)
def test_callbacks_become_one_each(of_dict: Build, settings: dict[str, Any], expected: list[tuple[str, ...]]) -> None:
    config = of_dict({"tianji_settings": settings})
    assert [(c.plugin, c.name, c.when) for c in config.callbacks] == expected
    assert config.warnings == ()


def test_parameters_of_callbacks(of_dict: Build) -> None:
    config = of_dict(
        {
            "tianji_settings": {
                "callbacks": ["langfuse", "posthog", "my_log"],
                "callback_configs": [{"type": "posthog", "api_key": "k", "base_url": "u", "required": True}],
            },
            "callback_settings": {
                "langfuse": {"message_logging": False},
                "posthog": {"base_url": "beneath", "site": "eu"},
                "my_log": {"callback_type": "generic_api", "endpoint": "https://x"},
                "otel": {"starts": "nothing"},
            },
        }
    )
    by_name = {callback.name: callback for callback in config.callbacks}
    assert by_name["langfuse"].params == {"message_logging": False}
    assert by_name["posthog"].params == {"api_key": Secret("k"), "base_url": "u", "site": "eu"}
    assert by_name["posthog"].required
    assert (by_name["my_log"].plugin, by_name["my_log"].params) == ("generic_api", {"endpoint": "https://x"})
    assert list(by_name) == ["langfuse", "posthog", "my_log"]


def test_plugins_section(of_dict: Build) -> None:
    section = {"disable": ["x"], "require": "presidio>=0.2", "pin": {"providers/groq": "acme-groq"}}
    assert of_dict({"plugins": section}).plugins == PluginsSection(
        disable=("x",), require=("presidio>=0.2",), pin={"providers/groq": "acme-groq"}
    )
    assert of_dict({"plugins": {"only": []}}).plugins.only == (), "an empty list allows nothing; no list allows all"
    assert of_dict({"plugins": {}}).plugins.only is None
