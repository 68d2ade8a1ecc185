"""Stand-ins: a selector names the group that answers. The kernel's part, and the auto router in a whole gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from kernel import Collector, ask, asking, assembled, config, deployment, scripted, text_of

from tianji.cli.check import examine
from tianji.config import from_dict, lint
from tianji.errors import ConfigError, Failure, Forbidden, Internal, PluginError, UnknownModel
from tianji.gateway import Gateway
from tianji.model import Call
from tianji.plan import Plan
from tianji.plugin import PluginSettings, Selector, Strategy
from tianji.testing import Upstream, make_call, make_principal
from tianji.testing.gateway import gateway
from tianji.testing.upstream import Request, Send, message


class Pointer(Selector):
    """Leads where its settings say."""

    name = "pointer"

    class Settings(PluginSettings, frozen=True):
        to: str
        """The name to answer with."""
        says: str | None = None
        """What `targets` says."""

    settings: Settings

    async def choose(self, call: Call) -> str:
        if self.settings.to == "raise":
            raise ValueError("a fault")
        if call.plan is not None:
            call.plan.because(f"it points to {self.settings.to}")
        return self.settings.to

    def targets(self) -> Mapping[str, str]:
        return {self.settings.says: "to"} if self.settings.says else {}


def pointing(name: str, to: str, **params: Any) -> dict[str, Any]:
    access = params.pop("access_control", {})
    return {
        "model_name": name,
        "tianji_params": {"model": f"pointer/{name}", "to": to, **params},
        "model_info": {"id": f"id-of-{name}"},
        "access_control": access,
    }


def made(*deployments: Mapping[str, Any], **sections: Any) -> Gateway:
    return assembled(config(*deployments, **sections), Pointer, scripted())


def called(gateway: Gateway, model: str, **fields: Any) -> Collector:
    return asyncio.run(ask(gateway, asking(model, **fields)))


def group(gateway: Gateway, model: str, **fields: Any) -> str:
    """The group that answered; the class of the failure where none did."""
    call = asking(model, **fields)
    found = asyncio.run(ask(gateway, call))
    return type(found.failure).__name__ if found.failure is not None else call.charge.deployment.group


# -- while calls come --------------------------------------------------------------------------------------------------


def test_the_group_that_is_named_answers() -> None:
    gateway = made(deployment("real"), pointing("auto", "real"))
    assert text_of(called(gateway, "auto").replied) == "ok"
    assert group(gateway, "auto") == "real"
    assert group(gateway, "id-of-auto") == "real", "the stand-in by its deployment's id"


def test_aliases_ids_and_wildcards_may_be_named() -> None:
    wild = deployment("wild/*", "*")
    gateway = made(
        deployment("real"), wild, pointing("by-alias", "other"), pointing("by-id", "real-one"),
        pointing("by-pattern", "wild/7"), router_settings={"model_group_alias": {"other": "real", "mine": "by-id"}},
    )  # fmt: skip
    assert [group(gateway, name) for name in ("by-alias", "by-id", "by-pattern", "mine")] == [
        "real", "real", "wild/*", "real"
    ]  # fmt: skip


def test_one_may_name_another() -> None:
    gateway = made(deployment("real"), pointing("a", "b"), pointing("b", "c"), pointing("c", "real"))
    call = asking("a")
    call.plan = Plan(routes=[])
    asyncio.run(ask(gateway, call))
    (route,) = call.plan.routes
    assert (route.group, route.selected_by) == ("real", "pointer:c")
    assert route.selected_because == "it points to b; it points to c; it points to real"


@pytest.mark.parametrize(
    ("to", "failure", "message"),
    [
        ("round", Internal, "circle"),
        ("reel", UnknownModel, "'reel' does not exist. Did you mean 'real'"),
        ("raise", Internal, "The selector 'pointer:auto' failed. The log has the details."),
    ],
)
def test_what_only_a_call_shows_refuses_it(to: str, failure: type[Failure], message: str) -> None:
    found = called(made(deployment("real"), pointing("auto", to), pointing("round", "auto")), "auto").failure
    assert isinstance(found, failure)
    assert message in found.message


def test_access_to_the_stand_in_is_enough_and_needed() -> None:
    gateway = made(deployment("real"), pointing("auto", "real"))
    assert group(gateway, "auto", principal=make_principal(models=("auto",))) == "real"
    assert group(gateway, "auto", principal=make_principal(models=("real",))) == "Forbidden"


def test_access_lists_hold_on_both_ends() -> None:
    mine = {"allowed_teams": ["mine"]}
    for one in (
        made(deployment("real", access_control=mine), pointing("auto", "real")),
        made(deployment("real"), pointing("auto", "real", access_control=mine)),
    ):
        assert group(one, "auto", principal=make_principal(team_id="mine")) == "real"
        failure = called(one, "auto", principal=make_principal(team_id="theirs")).failure
        assert isinstance(failure, Forbidden)


def test_a_stand_in_is_listed_and_never_tried() -> None:
    gateway = made(deployment("real"), pointing("auto", "real"))
    assert gateway.sealed.models == ("real", "auto")
    assert [one.group for one in gateway.sealed.router.deployments] == ["real"]


# -- before they come --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([pointing("auto", "reel", says="reel")], "there is no model group 'reel'. Did you mean 'real'?"),
        ([pointing("auto", "x", says="nothing-like-it")], "Add it to `model_list`"),
        ([pointing("auto", "auto", says="auto")], "'auto' leads back to 'auto'"),
        ([pointing("a", "b", says="b"), pointing("b", "a", says="a")], "'b' leads back to 'a'"),
        ([pointing("b", "c", says="c"), pointing("c", "b", says="b"), pointing("a", "b", says="b")], "back to 'b'"),
        ([pointing("auto", "real"), pointing("auto", "real")], "must be the only entry of its own"),
        ([pointing("auto-*", "real")], "must be the only entry of its own"),
        ([{"model_name": "auto", "tianji_params": {"model": "pointer/x"}}], "missing required field `to`"),
    ],
)  # fmt: skip
def test_what_cannot_work_stops_the_start(entries: list[dict[str, Any]], message: str) -> None:
    for number, entry in enumerate(entries):
        entry["model_info"] = {"id": str(number)}
    with pytest.raises(ConfigError) as caught:
        made(deployment("real"), *entries)
    assert message in str(caught.value)
    assert caught.value.path.startswith("model_list[1]")


AUTO: dict[str, Any] = {"model_name": "auto", "tianji_params": {"model": "auto_router/support"}}
TIANJI: dict[str, Any] = {"model_name": "auto_router/support", "tianji_params": {"model": "scripted/m"}}


@pytest.mark.parametrize("entry", [AUTO, TIANJI])
def test_without_the_plugin_the_start_names_it(entry: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="pip install tianji-strategy-auto-router"):
        made(entry)


def test_an_ordinary_strategy_is_no_selector() -> None:
    class Plain(Strategy):
        name = "plain"

    with pytest.raises(PluginError, match="pip install tianji-provider-plain"):
        assembled(config({"model_name": "x", "tianji_params": {"model": "plain/x"}}), Plain)


def test_a_group_may_have_a_plugins_name() -> None:
    class Named(Strategy):
        name = "group"

        async def rank(self, call: Call, candidates: Any) -> Any:
            return candidates

    assert group(
        assembled(config(deployment("group"), deployment("pointer/x")), Named, Pointer, scripted()), "pointer/x"
    )


# -- the auto router, in a whole gateway -------------------------------------------------------------------------------

ROUTES: list[dict[str, Any]] = [
    {"name": "code", "model": "coder", "examples": ["write a python function", "fix the bug in this code"]},
    {"name": "translator", "utterances": ["translate this into french"], "score_threshold": 0.8},
]


def served(up: Upstream, **router: Any) -> dict[str, Any]:
    """A LiteLLM configuration of models that are all at `up`, and of an auto router."""
    params = {"api_base": f"{up.url}/v1", "api_key": "sk-up"}
    models = {"chat": "gpt-chat", "coder": "gpt-code", "translator": "gpt-words", "embed": "text-embedding-3-large"}
    groups = [
        {"model_name": name, "litellm_params": {"model": f"openai/{model}", **params}} for name, model in models.items()
    ]
    auto = {
        "model": "auto_router/auto",
        "auto_router_config": json.dumps({"routes": ROUTES}),
        "auto_router_default_model": "chat",
        "auto_router_embedding_model": "embed",
    }
    return {"model_list": [*groups, {"model_name": "auto", "litellm_params": {**auto, **router}}]}


def upstream(up: Upstream) -> None:
    """Chat, and vectors whose places are for one word each."""

    def embed(request: Request) -> tuple[Send]:
        words = ("function", "bug", "translate", "weather")
        vectors = [[float(word in text.lower()) for word in words] for text in request.json()["input"]]
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
        body = {"object": "list", "model": "e", "data": data[::-1], "usage": {"prompt_tokens": 5, "total_tokens": 5}}
        return (Send(message(200, {"content-type": "application/json"}, json.dumps(body).encode())),)

    up.answer(embed, path="/v1/embeddings")
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    answer = {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]}
    up.reply(json=answer, path="/v1/chat/completions")


async def test_a_coding_prompt_goes_to_the_code_model() -> None:
    async with Upstream() as up, gateway(served(up)) as gw:
        upstream(up)
        reply = await gw.chat("auto", "Write a function that adds two numbers")
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-tianji-model-group"] == reply.headers["x-litellm-model-group"] == "coder"
        assert up.requests[-1].json()["model"] == "gpt-code"
        reply = await gw.chat("auto", "How is the weather?")
        assert reply.headers["x-tianji-model-group"] == "chat"
        assert [one.path.removeprefix("/v1/") for one in up.requests] == [
            "embeddings", "embeddings", "chat/completions", "embeddings", "chat/completions"
        ]  # fmt: skip
        anthropic = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "Translate: hello"}]}
        reply = await gw.client.post("/v1/messages", json=anthropic)
        assert reply.headers["x-tianji-model-group"] == "translator"
        stand_in = gw.gateway.sealed.router.groups["auto"].deployments[0].id
        assert (await gw.chat(stand_in, "bug")).headers["x-tianji-model-group"] == "coder", "by its id, too"


async def test_models_and_health_of_a_stand_in() -> None:
    async with Upstream() as up, gateway(served(up)) as gw:
        models = (await gw.client.get("/v1/models")).json()["data"]
        assert [one["id"] for one in models] == ["chat", "coder", "translator", "embed", "auto"]
        health = (await gw.client.get("/health")).json()
        assert {one["model_group"] for one in health["healthy_endpoints"]} == {"chat", "coder", "translator", "embed"}
        assert health["unhealthy_count"] == 0
        assert not up.requests


async def test_embeddings_that_fail_lead_to_the_default() -> None:
    async with Upstream() as up, gateway(served(up)) as gw:
        upstream(up)
        up.reply(status=400, json={"error": {"message": "no"}}, path="/v1/embeddings", times=1)
        assert (await gw.chat("auto", "bug")).headers["x-tianji-model-group"] == "chat"
        assert (await gw.chat("auto", "bug")).headers["x-tianji-model-group"] == "coder"


async def test_a_reload_with_another_embedding_model_learns_anew() -> None:
    async with Upstream() as up, gateway(served(up)) as gw:
        upstream(up)
        await gw.chat("auto", "bug")
        tree = served(up)
        tree["general_settings"] = {"master_key": gw.key}
        tree["model_list"][3]["litellm_params"]["model"] = "openai/text-embedding-3-small"
        kept = gw.gateway.sealed.hooks.selectors["auto-router:auto"].__self__  # type: ignore[attr-defined]
        await gw.gateway.reload(from_dict(tree))
        assert gw.gateway.sealed.hooks.selectors["auto-router:auto"].__self__ is kept  # type: ignore[attr-defined]
        await gw.chat("auto", "bug")
        asked = [one.json() for one in up.requests if one.path == "/v1/embeddings"]
        assert [(one["model"][-5:], len(one["input"])) for one in asked] == [
            ("large", 3), ("large", 1), ("small", 3), ("small", 1)
        ]  # fmt: skip


async def test_the_local_embedder_needs_no_model() -> None:
    async with Upstream() as up:
        upstream(up)
        config = served(up, auto_router_embedding_model="local")
        # TianjiLLM's way of naming one, whatever the model is.
        params = {**config["model_list"][-1]["litellm_params"], "model": "openai/nothing"}
        config["model_list"].append({"model_name": "auto_router/support", "litellm_params": params})
        async with gateway(config) as gw:
            reply = await gw.chat("auto_router/support", "Could you fix a bug in my Python code?")
            assert reply.headers["x-tianji-model-group"] == "coder"
            assert (await gw.chat("auto", "Hello!")).headers["x-tianji-model-group"] == "chat"
            assert {one.path for one in up.requests} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (
            {"auto_router_default_model": "caht"},
            "auto_router_default_model: there is no model group 'caht'. Did you mean",
        ),
        ({"auto_router_default_model": "auto"}, "'auto' leads back to 'auto'"),
        ({"auto_router_embedding_model": "auto"}, "auto_router_embedding_model: 'auto' leads back"),
        ({"auto_router_embedding_model": "e"}, "auto_router_embedding_model: there is no model group 'e'"),
        (
            {"auto_router_config": {"routes": [{"name": "nobody", "examples": ["x"]}]}},
            "auto_router_config.routes[0]: there is no model group 'nobody'",
        ),
        ({"auto_router_config": "{"}, "model_list[4].tianji_params.auto_router_config: "),
    ],
)
async def test_a_router_that_leads_nowhere_stops_the_start(router: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with gateway(served(Upstream(), **router)):
            pass
    assert message in str(caught.value)


# -- what `tianji check` says ------------------------------------------------------------------------------------------

INSTALLED = {"providers": {"openai"}, "strategies": {"auto-router", "auto_router"}}


def linted(installed: Mapping[str, set[str]] = INSTALLED, **params: Any) -> list[tuple[str, str, str]]:
    entry = {"model_name": "auto", "tianji_params": {"model": "auto_router/x", **params}}
    real = {"model_name": "text-embedding-3-small", "tianji_params": {"model": "openai/text-embedding-3-small"}}
    tree = {"model_list": [real, entry], "general_settings": {"master_key": "sk-long-enough"}}
    return [(one.level, one.message, one.mend) for one in lint(from_dict(tree, environ={}), installed=installed)]


def test_keys_of_a_selector_take_effect() -> None:
    assert linted(auto_router_config="{}", auto_router_default_model="m") == []


def test_a_selector_that_is_missing_is_no_provider() -> None:
    ((level, message, mend),) = linted({"providers": {"openai"}, "strategies": set()})
    assert (level, mend) == ("error", "pip install tianji-strategy-auto-router")
    assert "the strategy 'auto_router' is not installed" in message


def test_its_keys_elsewhere_do_nothing() -> None:
    ((level, message, mend),) = linted(model="openai/gpt-4o", auto_router_default_model="m")
    assert (level, message) == ("warning", "has no effect here")
    assert "auto_router/" in mend


def test_a_missing_embedding_model_is_told() -> None:
    tree = {
        "model_list": [{"model_name": "a", "tianji_params": {"model": "auto_router/x", "auto_router_config": "{}"}}]
    }
    messages = [one.message for one in lint(from_dict(tree, environ={}), installed=INSTALLED)]
    assert any("'text-embedding-3-small' to compare texts with" in one for one in messages)


def test_check_finds_what_a_selector_refuses(tmp_path: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "general_settings: {master_key: sk-long-enough}\n"
        "model_list:\n"
        "  - model_name: real\n"
        "    tianji_params: {model: echo/echo}\n"
        "  - model_name: auto\n"
        "    tianji_params: {model: auto_router/x, auto_router_embedding_model: real,\n"
        "      auto_router_config: {routes: [{name: reel, examples: [x]}]}}\n"
    )
    found = [one for one in examine(str(file)).findings if one.level == "error"]
    assert [(one.message, one.mend) for one in found] == [("there is no model group 'reel'", "Did you mean 'real'?")]
    assert "config.yaml:5" in found[0].path


# -- what a user said --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "dialect", "expected"),
    [
        ({"messages": [{"role": "user", "content": " Hi "}]}, "openai-chat", "Hi"),
        ({"messages": [{"role": "user", "content": ["a", {"type": "text", "text": "b"}]}]}, "openai-chat", "a\nb"),
        ({"messages": [{"role": "user", "content": None}]}, "openai-chat", ""),
        ({"messages": [{"role": "system", "content": "x"}]}, "openai-chat", ""),
        ({"messages": None}, "openai-chat", ""),
        ({"prompt": "Once"}, "openai-completions", "Once"),
        ({"prompt": ["a", "b"]}, "openai-completions", ""),
        ({"input": "x"}, "openai-embeddings", ""),
        ({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}, "anthropic-messages", "Hi"),
    ],
)
def test_the_question(body: dict[str, Any], dialect: str, expected: str) -> None:
    call = make_call({"model": "m", **body}, dialect=dialect)
    assert Selector.question(call) == expected
    assert call.dropped == (), "what a translation drops is not dropped from the call"
