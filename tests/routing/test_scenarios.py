"""Choosing among the deployments of a model, between real sockets, by configuration alone: what was asked is counted at
the providers. Fallbacks, aliases and retries are in `test_fallbacks.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tianji.testing import Upstream
from tianji.testing.gateway import RunningGateway, gateway
from tianji.testing.upstream import Request, Send, Sleep, Step, message


def answer(text: str, tokens: int = 1) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def entry(up: Upstream, name: str, *, group: str = "gpt-4", tags: list[str] | None = None, **params: Any) -> Any:
    """A deployment whose provider is found under the path `/{name}`."""
    up.reply(json=answer(name), path=f"/{name}/chat/completions")
    params = {"model": f"openai/{name}", "api_base": f"{up.url}/{name}", "api_key": "sk-up", **params}
    return {"model_name": group, "tianji_params": params, "model_info": {"id": name}, "tags": tags or []}


def asked(up: Upstream) -> list[str]:
    return [one.path.split("/")[1] for one in up.requests]


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


async def test_a_call_stays_in_its_region(up: Upstream) -> None:
    """B1: `allowed_model_region: eu` uses eu-west1, never us-east1; where there is no such region, nobody is asked."""
    models = [entry(up, "virginia", region="us-east1"), entry(up, "belgium", region="eu-west1")]
    async with gateway({"model_list": models}) as gw:
        for _ in range(6):
            reply = await gw.chat("gpt-4", allowed_model_region="eu")
            assert reply.json()["choices"][0]["message"]["content"] == "belgium"
        assert asked(up) == ["belgium"] * 6
        refused = await gw.chat("gpt-4", allowed_model_region="ap")
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "allowed_model_region")
        assert len(up.requests) == 6


async def test_the_deployment_with_less_use_is_preferred(up: Upstream) -> None:
    """B2: of two deployments with a limit of tokens a minute, the one that used less of it is asked next."""
    models = [entry(up, "one", tpm=1000), entry(up, "two", tpm=1000)]
    up.reply(json=answer("one", tokens=500), path="/one/chat/completions")
    up.reply(json=answer("two", tokens=100), path="/two/chat/completions")
    async with gateway({"model_list": models, "router_settings": {"routing_strategy": "lowest-tpm-rpm"}}) as gw:
        for _ in range(6):
            assert (await gw.chat("gpt-4")).status_code == 200
        heavy, light = asked(up).count("one"), asked(up).count("two")
        assert heavy == 1, "500 tokens were more than all the others"
        assert light == 5


async def test_the_more_urgent_call_is_served_first(up: Upstream) -> None:
    """B3: with one slot taken, priority 0 is served before priority 3 that came earlier."""
    release = asyncio.Event()

    def slow(request: Request) -> list[Step]:
        return [Sleep(0.0 if release.is_set() else 0.3), Send(whole)]

    whole = message(200, {"content-type": "application/json"}, json.dumps(answer("one")).encode())
    models = [entry(up, "one", max_parallel_requests=1)]
    up.answer(slow, path="/one/chat/completions")
    async with gateway({"model_list": models, "router_settings": {"routing_strategy": "priority"}}) as gw:
        first = asyncio.create_task(gw.chat("gpt-4", "first"))
        await up.wait_requests(1)
        release.set()
        later = [
            asyncio.create_task(gw.chat("gpt-4", text, priority=number)) for text, number in (("low", 3), ("mid", 2))
        ]
        await waiting(gw, 3)
        later.append(asyncio.create_task(gw.chat("gpt-4", "high", priority=0)))
        await waiting(gw, 4)
        replies = await asyncio.gather(first, *later)
        assert {reply.status_code for reply in replies} == {200}
        said = [json.loads(one.body)["messages"][0]["content"] for one in up.requests]
        assert said == ["first", "high", "mid", "low"]


async def waiting(gw: RunningGateway, calls: int) -> None:
    """Until so many calls are under way in the gateway."""
    async with asyncio.timeout(5):
        while gw.gateway.pipeline.in_flight < calls:
            await asyncio.sleep(0.005)


async def test_a_coding_prompt_goes_to_the_code_model(up: Upstream) -> None:
    """B4: by the likeness of the prompt to examples, with no network but the chosen provider's."""
    routes = [
        {"name": "coder", "examples": ["write a python function", "fix this bug in my code", "refactor this class"]},
        {"name": "translator", "examples": ["translate this sentence into French", "translate the letter"]},
    ]
    smart = {
        "model": "auto_router/smart",
        "auto_router_config": json.dumps({"routes": routes}),
        "auto_router_default_model": "general",
        "auto_router_embedding_model": "local",
    }
    models = [entry(up, name, group=name) for name in ("coder", "translator", "general")]
    models.append({"model_name": "smart", "tianji_params": smart})
    async with gateway({"model_list": models}) as gw:
        for prompt, group in (
            ("Please write a Python function that adds two numbers", "coder"),
            ("Translate this letter into French", "translator"),
            ("How tall is Mont Blanc?", "general"),
        ):
            reply = await gw.chat("smart", prompt)
            assert reply.json()["model"] == "smart"
            assert reply.headers["x-tianji-model-group"] == group
        assert asked(up) == ["coder", "translator", "general"]


@pytest.mark.parametrize(
    ("any_matches", "tags", "names"),
    [(True, ["fast"], {"both"}), (False, ["fast", "cheap"], {"both"}), (False, ["fast", "large"], set())],
)
async def test_tags(up: Upstream, any_matches: bool, tags: list[str], names: set[str]) -> None:
    """B6: one common tag is enough, or every tag of the request must be on the deployment."""
    models = [entry(up, "both", tags=["fast", "cheap"]), entry(up, "neither", tags=["slow"])]
    router = {"enable_tag_filtering": True, "tag_filtering_match_any": any_matches}
    async with gateway({"model_list": models, "router_settings": router}) as gw:
        replies = [await gw.chat("gpt-4", metadata={"tags": tags}) for _ in range(5)]
        assert set(asked(up)) == names
        assert {reply.status_code for reply in replies} == ({200} if names else {401})
