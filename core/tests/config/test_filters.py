"""What asks for routing filters, what they are told, what `tianji check` says of them, and what a request may say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from kernel import assembled, config, deployment

from tianji.config import from_dict, lint
from tianji.config.filters import wanted
from tianji.dialects import get as dialect_of
from tianji.discovery import Catalogue, scan
from tianji.errors import BadRequest, ConfigError, PluginError
from tianji.gateway import Gateway
from tianji.model import Call, Ingress
from tianji.plugin import Plugin
from tianji.server import ingress
from tianji.testing import make_principal

FILTERS = ("tag-filter", "region-filter", "budget-limiter", "prefix-affinity", "rate-limits")
CATALOGUE = Catalogue(scan())
needs_filters = pytest.mark.skipif(
    not set(CATALOGUE.names("strategies")).issuperset(FILTERS), reason="the filters are not installed"
)


def load(*names: str) -> list[type[Plugin]]:
    return [CATALOGUE.load("strategies", name) for name in names]


def gateway(*deployments: Mapping[str, Any], **router: Any) -> Gateway:
    """A gateway with the filters that the configuration asks for."""
    settings = config(*deployments, router_settings=router)
    return assembled(settings, *load(*wanted(settings)))


# -- what asks for a filter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "router", "found"),
    [
        ({}, {}, {}),
        ({"tags": ["a"]}, {}, {}),
        ({}, {"enable_tag_filtering": True}, {"tag-filter": "router_settings.enable_tag_filtering"}),
        ({"region": "eu"}, {}, {"region-filter": "model_list[].tianji_params.region"}),
        ({"aws_region_name": "eu-west-1"}, {}, {"region-filter": "model_list[].tianji_params.region"}),
        ({"vertex_location": "europe-west4"}, {}, {"region-filter": "model_list[].tianji_params.region"}),
        ({"max_budget": 5}, {}, {"budget-limiter": "model_list[0].tianji_params.max_budget"}),
        (
            {},
            {"provider_budget_config": {"openai": {"budget_limit": 1, "time_period": "1d"}}},
            {"budget-limiter": "router_settings.provider_budget_config"},
        ),
        (
            {},
            {"optional_pre_call_checks": ["prompt_caching", "enforce_model_rate_limits", "something_else"]},
            {
                "prefix-affinity": "router_settings.optional_pre_call_checks",
                "rate-limits": "router_settings.optional_pre_call_checks",
            },
        ),
        ({"region": "eu"}, {"filters": ["region-filter", "mine"]},
         {"region-filter": "router_settings.filters", "mine": "router_settings.filters"}),
    ],
)  # fmt: skip
def test_keys_that_ask_for_filters(params: dict[str, Any], router: dict[str, Any], found: dict[str, str]) -> None:
    assert wanted(config(deployment(**params), router_settings=router)) == found


def test_a_filter_that_is_not_installed_stops_the_start() -> None:
    for router in ({"enable_tag_filtering": True}, {"filters": ["region-filter"]}):
        name = wanted(config(router_settings=router)).popitem()[0]
        with pytest.raises(PluginError, match=f"tianji-strategy-{name}"):
            assembled(config(router_settings=router))
    assembled(config(deployment(region="eu")))  # a label, as long as nobody must stay there


@needs_filters
def test_something_else_is_no_filter() -> None:
    with pytest.raises(ConfigError, match="not a filter"):
        assembled(config(router_settings={"filters": ["simple-shuffle"]}), *load("simple-shuffle"))


@pytest.mark.parametrize(
    ("more", "level", "path", "words"),
    [
        ({"enable_tag_filtering": True}, "error", "router_settings.enable_tag_filtering", "tag-filter"),
        ({"filters": ["mine"]}, "error", "router_settings.filters", "mine"),
        ({"provider_budget_config": {"o": {"budget_limit": 1}}}, "error", "router_settings.provider_budget_config",
         "budget-limiter"),
        ({"optional_pre_call_checks": ["session_affinity"]}, "warning", "router_settings.optional_pre_call_checks",
         "prompt_caching"),
        ({"optional_pre_call_checks": ["prompt_caching"]}, "error", "router_settings.optional_pre_call_checks",
         "prefix-affinity"),
        ({"tag_routing_prefix": "x"}, "info", "router_settings.tag_routing_prefix", "no effect"),
    ],
)  # fmt: skip
def test_what_check_says(more: dict[str, Any], level: str, path: str, words: str) -> None:
    tree = {"model_list": [{"model_name": "m", "tianji_params": {"model": "openai/m"}}], "router_settings": more}
    found = lint(from_dict(tree, environ={}), installed={"providers": {"openai"}})
    assert [one for one in found if (one.level, one.path) == (level, path) and words in f"{one.message} {one.mend}"]
    if level == "error":
        assert any(one.mend.startswith(f"pip install tianji-strategy-{words}") for one in found)
    assert not [one for one in found if "not enforced" in one.message]


def test_check_is_content_where_the_filters_are_there() -> None:
    params = {"model": "openai/m", "region": "eu", "max_budget": 5, "budget_duration": "1d", "tags": ["a"]}
    router = {"enable_tag_filtering": True, "tag_routing_prefix": "r:", "tag_filtering_match_any": False}
    tree = {"model_list": [{"model_name": "m", "tianji_params": params}], "router_settings": router}
    settings = from_dict(tree, environ={})
    assert lint(settings, installed={"providers": {"openai"}, "strategies": set(FILTERS)}) == []
    without = lint(settings, installed={"providers": {"openai"}, "strategies": {*FILTERS} - {"region-filter"}})
    assert [(one.level, one.mend) for one in without] == [("info", "pip install tianji-strategy-region-filter")]


@needs_filters
def test_settings_come_from_the_router_settings() -> None:
    made = gateway(
        deployment(tags=["a"]), enable_tag_filtering=True, tag_filtering_match_any=False, tag_routing_prefix="r:",
        provider_budget_config={"scripted": {"budget_limit": "2.5", "time_period": "1d"}},
        optional_pre_call_checks=["prompt_caching"], routing_strategy_args={"affinity_ttl": 60},
    )  # fmt: skip
    found = {one.instance: one.settings for one in made.sealed.registry.plugins}
    assert (found["tag-filter"].tag_filtering_match_any, found["tag-filter"].tag_routing_prefix) == (False, "r:")
    assert found["budget-limiter"].provider_budget_config["scripted"].budget_limit == 2.5
    assert found["prefix-affinity"].affinity_ttl == 60
    order = [step.label.partition(":")[2] for step in made.sealed.hooks.narrow]
    assert order == ["tag-filter", "budget-limiter", "prefix-affinity"]


@needs_filters
@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({}, (None, None)),
        ({"max_budget": 5}, (5.0, None)),
        ({"max_budget": "0.5", "budget_duration": "1MO"}, (0.5, "1mo")),
        ({"max_budget": 5, "budget_duration": 3600}, (5.0, "3600")),
        ({"budget_duration": "1d"}, (None, None)),
    ],
)
def test_a_deployments_budget(params: dict[str, Any], fields: tuple[float | None, str | None]) -> None:
    (one,) = gateway(deployment(**params)).sealed.router.deployments
    assert (one.max_budget, one.budget_duration) == fields


@needs_filters
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"max_budget": "much"}, "max_budget"), ({"max_budget": -1}, "max_budget"), ({"max_budget": [1]}, "max_budget"),
        ({"max_budget": True}, "max_budget"), ({"max_budget": "nan"}, "max_budget"),
        ({"max_budget": 1, "budget_duration": "soon"}, "budget_duration"),
        ({"max_budget": 1, "budget_duration": "0s"}, "budget_duration"),
        ({"max_budget": 1, "budget_duration": "500ms"}, "budget_duration"),
        ({"max_budget": 1, "budget_duration": "9999999mo"}, "budget_duration"),
    ],
)  # fmt: skip
def test_a_budget_that_is_none_stops_the_start(params: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gateway(deployment(**params))
    assert caught.value.path.endswith(f"model_list[0].tianji_params.{field}")


# -- what a request says -----------------------------------------------------------------------------------------------


def parsed(body: dict[str, Any], headers: Mapping[bytes, bytes] | None = None) -> Call:
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **body}).encode()
    came = Ingress("POST", "/v1/chat/completions", headers or {}, "127.0.0.1")
    return ingress.make_call(came, make_principal(), dialect_of("openai-chat"), raw, path_model=None, guardrails=())


def test_tags_and_region_of_a_request() -> None:
    call = parsed({"tags": ["a", "!b"], "allowed_model_region": "eu"})
    assert (call.options["tags"], call.options["allowed_model_region"]) == (["a", "!b"], "eu")
    assert call.body.keys() == {"model", "messages"}, "the provider does not see them"
    assert parsed({"metadata": {"tags": ["a"]}}).options["tags"] == ["a"]
    assert parsed({"tags": ["a"]}, {b"x-tianji-tags": b"b, c"}).options["tags"] == ["b", "c"]
    assert "allowed_model_region" not in parsed({"allowed_model_region": None}).options


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tags": "a"}, "tags"), ({"tags": {"a": 1}}, "tags"), ({"tags": ["a", 1]}, "tags[1]"),
        ({"tags": [None]}, "tags[0]"), ({"allowed_model_region": 1}, "allowed_model_region"),
        ({"allowed_model_region": ["eu"]}, "allowed_model_region"),
        ({"allowed_model_region": ""}, "allowed_model_region"), ({"allowed_model_region": " "}, "allowed_model_region"),
    ],
)  # fmt: skip
def test_what_is_no_tag_and_no_region(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parsed(body)
    assert (caught.value.status, caught.value.param) == (400, param)
