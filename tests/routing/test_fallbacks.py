"""Fallbacks and aliases as an operator writes them, between real sockets: which provider is asked, in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tianji.testing import Upstream
from tianji.testing.gateway import gateway

TOO_LONG = {"error": {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}}
POLICY = {"error": {"message": "content management policy", "code": "content_filter"}}


def answer(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def config(up: Upstream, *names: str, **router: Any) -> dict[str, Any]:
    def entry(name: str) -> dict[str, Any]:
        params = {"model": f"openai/{name}", "api_base": f"{up.url}/{name}", "api_key": "sk-up"}
        return {"model_name": name, "litellm_params": params}

    return {"model_list": [entry(name) for name in names], "router_settings": router}


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    """A provider for each group; each answers with its own name until a test says otherwise."""
    async with Upstream() as upstream:
        for name in ("gpt-4", "claude-3", "gemini-pro", "gpt-4-turbo-preview"):
            upstream.reply(json=answer(name), path=path(name))
        yield upstream


def path(name: str) -> str:
    return f"/{name}/chat/completions"


def breaks(up: Upstream, name: str, status: int = 500, body: Any = None) -> None:
    up.reply(status=status, json=body or {"error": {"message": "broken"}}, path=path(name))


def asked(up: Upstream) -> list[str]:
    return [one.path.split("/")[1] for one in up.requests]


GROUPS = ("gpt-4", "claude-3", "gemini-pro")


async def test_a_failure_is_answered_by_the_next_group_and_then_by_the_one_after(up: Upstream) -> None:
    """A4.1"""
    async with gateway(config(up, *GROUPS, fallbacks=[{"gpt-4": ["claude-3", "gemini-pro"]}])) as gw:
        breaks(up, "gpt-4")
        reply = await gw.chat("gpt-4")
        assert reply.json()["choices"][0]["message"]["content"] == "claude-3"
        assert asked(up) == ["gpt-4", "claude-3"]
        breaks(up, "claude-3")
        reply = await gw.chat("gpt-4")
        assert reply.json()["choices"][0]["message"]["content"] == "gemini-pro"
        assert asked(up)[2:] == ["gpt-4", "claude-3", "gemini-pro"]
        breaks(up, "gemini-pro", 503)
        reply = await gw.chat("gpt-4")
        assert reply.status_code == 500, "the failure of the group that was asked for"
        assert asked(up)[5:] == ["gpt-4", "claude-3", "gemini-pro"]


async def test_with_retries_each_group_has_its_own(up: Upstream) -> None:
    router = {"num_retries": 1, "fallbacks": [{"gpt-4": ["claude-3"]}]}
    async with gateway(config(up, *GROUPS, **router)) as gw:
        breaks(up, "gpt-4")
        breaks(up, "claude-3")
        assert (await gw.chat("gpt-4")).status_code == 500
        assert asked(up) == ["gpt-4", "gpt-4", "claude-3", "claude-3"]


async def test_default_fallbacks_are_those_of_any_model_without_its_own(up: Upstream) -> None:
    """A4.2"""
    router = {"fallbacks": [{"claude-3": ["gpt-4"]}], "default_fallbacks": ["gemini-pro"]}
    async with gateway(config(up, *GROUPS, **router)) as gw:
        breaks(up, "gpt-4", 503)
        breaks(up, "claude-3", 503)
        assert (await gw.chat("gpt-4")).json()["choices"][0]["message"]["content"] == "gemini-pro"
        assert asked(up) == ["gpt-4", "gemini-pro"]
        assert (await gw.chat("claude-3")).status_code == 503
        assert asked(up)[2:4] == ["claude-3", "gpt-4"]
        assert (await gw.chat("no-such-model")).json()["choices"][0]["message"]["content"] == "gemini-pro"


async def test_an_alias_routes_to_its_group(up: Upstream) -> None:
    """A5.1"""
    router = {"model_group_alias": {"gpt-4": "gpt-4-turbo-preview"}, "fallbacks": [{"gpt-4": ["claude-3"]}]}
    async with gateway(config(up, "gpt-4-turbo-preview", "claude-3", **router)) as gw:
        assert (await gw.chat("gpt-4")).json()["choices"][0]["message"]["content"] == "gpt-4-turbo-preview"
        assert up.requests[0].json()["model"] == "gpt-4-turbo-preview"
        breaks(up, "gpt-4-turbo-preview")
        assert (await gw.chat("gpt-4")).json()["choices"][0]["message"]["content"] == "claude-3"
        assert (await gw.chat("gpt-4-turbo-preview")).status_code == 500, "fallbacks are those of the name asked for"


@pytest.mark.parametrize(
    ("body", "kind"), [(TOO_LONG, "context_window_fallbacks"), (POLICY, "content_policy_fallbacks")]
)
async def test_fallbacks_by_kind(up: Upstream, body: dict[str, Any], kind: str) -> None:
    router = {kind: [{"gpt-4": ["claude-3"]}], "fallbacks": [{"gpt-4": ["gemini-pro"]}]}
    async with gateway(config(up, *GROUPS, **router)) as gw:
        breaks(up, "gpt-4", 400, body)
        assert (await gw.chat("gpt-4")).json()["choices"][0]["message"]["content"] == "claude-3"
        assert asked(up) == ["gpt-4", "claude-3"]
        breaks(up, "gemini-pro", 400, body)
        assert (await gw.chat("gemini-pro")).status_code == 400
        breaks(up, "gpt-4", 503)
        assert (await gw.chat("gpt-4")).status_code == 503
        assert asked(up)[3:5] == ["gpt-4", "gemini-pro"]


async def test_the_request_may_bring_its_own_or_refuse_any(up: Upstream) -> None:
    async with gateway(config(up, *GROUPS, default_fallbacks=["claude-3"])) as gw:
        breaks(up, "gpt-4", 503)
        own = await gw.chat("gpt-4", fallbacks=[{"model": "nope"}, "gemini-pro"])
        assert own.json()["choices"][0]["message"]["content"] == "gemini-pro"
        assert all("fallbacks" not in one.json() for one in up.requests)
        assert (await gw.chat("gpt-4", disable_fallbacks=True, num_retries=0)).status_code == 503
        assert asked(up) == ["gpt-4", "gemini-pro", "gpt-4"]


async def test_a_streamed_answer_falls_back_before_its_first_byte(up: Upstream) -> None:
    async with gateway(config(up, *GROUPS, fallbacks=[{"gpt-4": ["claude-3"]}])) as gw:
        breaks(up, "gpt-4", 503)
        piece = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":"stop"}]}\n\n'
        up.stream([piece, b"data: [DONE]\n\n"], path=path("claude-3"))
        reply = await gw.chat("gpt-4", stream=True)
        assert reply.status_code == 200
        assert '"ok"' in reply.text
        assert "broken" not in reply.text
        assert asked(up) == ["gpt-4", "claude-3"]


async def test_retries_by_group(up: Upstream) -> None:
    """B5: gpt-4 is asked again five times, claude twice."""
    policy = {"gpt-4": {"num_retries": 5}, "claude-3": {"InternalServerErrorRetries": 2}}
    async with gateway(config(up, *GROUPS, model_group_retry_policy=policy)) as gw:
        gw.gateway.pipeline.attempts.rules.wait = lambda *_: 0.0  # type: ignore[method-assign]
        for name in GROUPS:
            breaks(up, name)
            assert (await gw.chat(name)).status_code == 500
        assert [asked(up).count(name) for name in GROUPS] == [6, 3, 3]
