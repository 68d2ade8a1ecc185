"""`model_list`: what an entry means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tianji.config import AccessControl, Config, from_dict, parse_seconds
from tianji.errors import ConfigError
from tianji.model import Secret


@pytest.mark.parametrize(
    ("params", "provider", "model"),
    [
        ({"model": "openai/gpt-4o"}, "openai", "gpt-4o"),
        ({"model": "gpt-4o"}, "openai", "gpt-4o"),
        ({"model": "huggingface/meta-llama/Llama-3"}, "huggingface", "meta-llama/Llama-3"),
        ({"model": "ollama_chat/llama3"}, "ollama_chat", "llama3"),
        ({"model": "llama3", "custom_llm_provider": "ollama_chat"}, "ollama_chat", "llama3"),
        ({"model": "groq/x", "custom_llm_provider": "groq"}, "groq", "x"),
        ({"model": "meta/x", "custom_llm_provider": "openai_like"}, "openai_like", "meta/x"),
        ({"model": "openai/*"}, "openai", "*"),
        ({"model": "*"}, "*", "*"),
    ],
)
def test_provider_and_model(one: Callable[..., Config], params: dict[str, Any], provider: str, model: str) -> None:
    (deployment,) = one(params).deployments
    assert (deployment.provider, deployment.model) == (provider, model)


def test_what_goes_where(one: Callable[..., Config]) -> None:
    (deployment,) = one(
        {
            "model": "azure/d",
            "api_key": "k",
            "base_url": "https://b",
            "api_version": "v1",
            "temperature": 0.5,
            "max_budget": 5,
            "rpm": "60",
            "weight": 0.5,
            "timeout": "1h30m",
            "max_retries": 2,
            "num_retries": 4,
            "region_name": "eu",
            "headers": {"A": "1", "B": "1"},
            "extra_headers": {"B": "2", "Authorization": "Bearer x"},
            "input_cost_per_token": "1e-6",
            "cache_read_input_token_cost": 1e-7,
            "tags": ["b", "a"],
        },
        tags=["a"],
        model_info={"mode": "chat", "output_cost_per_token": 2e-6, "input_cost_per_token": 9, "cooldown_time": 7},
    ).deployments
    assert deployment.params == {"api_version": "v1", "temperature": 0.5}
    assert deployment.api_version == "v1"
    assert deployment.extra == {"max_budget": 5}
    assert deployment.api_base == "https://b"
    assert (deployment.rpm, deployment.weight, deployment.timeout) == (60, 0.5, 5400)
    assert deployment.num_retries == 4
    assert deployment.cooldown_time == 7
    assert deployment.region == "eu"
    assert deployment.extra_headers == {"A": "1", "B": "2", "Authorization": Secret("Bearer x")}
    assert deployment.pricing == {
        "input_cost_per_token": 1e-6, "cache_read_input_token_cost": 1e-7, "output_cost_per_token": 2e-6,
    }  # fmt: skip
    assert deployment.tags == ("a", "b")
    assert deployment.model_info["mode"] == "chat"
    assert deployment.access_control == AccessControl()


def test_credentials_lie_beneath_the_deployments_own(env: dict[str, str]) -> None:
    tree = {
        "credential_list": [
            {"credential_name": "c", "credential_values": {"api_key": "shared", "api_base": "https://c"}}
        ],
        "model_list": [
            {"model_name": "m", "tianji_params": {"model": "x", "tianji_credential_name": "c", "api_key": "own"}},
            {"model_name": "m", "tianji_params": {"model": "x", "litellm_credential_name": "c"}},
            {"model_name": "m", "tianji_params": {"model": "x", "tianji_credential_name": "none"}},
        ],
    }
    config = from_dict(tree, environ=env)
    assert [(d.api_key, d.api_base) for d in config.deployments] == [
        (Secret("own"), "https://c"),
        (Secret("shared"), "https://c"),
        (None, None),
    ]
    assert config.deployments[0].credential_name == "c"
    (warning,) = config.warnings
    assert warning.path == "model_list[2].tianji_params.tianji_credential_name"


def test_ids_are_stable_and_tell_deployments_apart() -> None:
    def ids(*params: dict[str, Any]) -> list[str]:
        entries = [{"model_name": "m", "tianji_params": {"model": "x", **more}} for more in params]
        return [d.id for d in from_dict({"model_list": entries}, environ={}).deployments]

    variants: list[dict[str, Any]] = [
        {}, {"api_key": "a"}, {"api_key": "b"}, {"api_base": "u"}, {"rpm": 1}, {"temperature": 1},
        {"api_key": "vault://a"}, {"extra_headers": {"X-Api-Key": "1"}}, {"extra_headers": {"X-Api-Key": "2"}},
    ]  # fmt: skip
    all_ids = ids(*variants)
    assert len(set(all_ids)) == len(variants)
    assert ids(*reversed(variants)) == all_ids[::-1], "order and neighbours do not matter"
    first, second, third = ids({}, {}, {})
    assert (first, second, third) == (all_ids[0], f"{all_ids[0]}-2", f"{all_ids[0]}-3")
    assert ids({"api_key": "a", "rpm": 5}) == ids({"rpm": 5, "api_key": "a"})


def test_groups_keep_the_order_of_the_file() -> None:
    names = ["b", "a", "b"]
    tree = {"model_list": [{"model_name": n, "tianji_params": {"model": f"x{i}"}} for i, n in enumerate(names)]}
    groups = from_dict(tree, environ={}).groups
    assert {name: [d.model for d in members] for name, members in groups.items()} == {"b": ["x0", "x2"], "a": ["x1"]}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(30, 30), (0.5, 0.5), ("30", 30), ("30s", 30), ("5m", 300), ("24h", 86400), ("7d", 604800), ("1w", 604800),
     ("250ms", 0.25), ("1h30m", 5400), ("1mo", 2592000), (" 5S ", 5)],
)  # fmt: skip
def test_durations(one: Callable[..., Config], written: Any, seconds: float) -> None:
    assert one({"model": "x", "timeout": written}).deployments[0].timeout == seconds


@pytest.mark.parametrize(
    "written", ["", "s", "5x", "5 m", "1h-3m", "nan", "inf", "-3s", True, [], {}, float("inf"), "9" * 400, 1e300]
)
def test_bad_durations(one: Callable[..., Config], written: Any) -> None:
    with pytest.raises(ConfigError):
        one({"model": "x", "timeout": written})


@pytest.mark.parametrize(
    ("written", "kept"),
    [("30d", "30d"), ("1m", "1m"), (" 1MO ", "1mo"), (60, "60s"), ("60", "60s"), (0.5, "0.5s"), ("1e3", "1000s")],
)
def test_periods_are_kept_as_written(written: Any, kept: str) -> None:
    config = from_dict({"tianji_settings": {"budget_duration": written}}, environ={})
    assert config.tianji_settings.budget_duration == kept
    assert parse_seconds(kept) is not None
