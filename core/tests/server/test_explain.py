"""`POST /v1/explain`, and the headers that explain a real call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support import ANSWER, STREAM, deployment, events

from tianji.errors import RateLimited
from tianji.hookspecs import hookimpl
from tianji.model import Call, Ingress, Principal, Reply
from tianji.plugin import Extension
from tianji.testing import Upstream, make_principal
from tianji.testing.gateway import RunningGateway, gateway

HELLO = {"model": "fast", "messages": [{"role": "user", "content": "Hello"}]}
CLAUDE = {**HELLO, "max_tokens": 10}


class Guest(Extension):
    """Knows one key, which may use `fast`; and a word that it has had enough of."""

    name = "guest"
    order = 100

    @hookimpl
    async def identify(self, ingress: Ingress) -> Principal | None:
        if ingress.header("authorization") == "Bearer sk-guest":
            return make_principal(key_id="guest", models=("fast",))
        return None

    @hookimpl
    async def pre_call(self, call: Call) -> Reply | None:
        if call.options.get("tags") == ["enough"]:
            raise RateLimited("Enough.")
        return None


def named(up: Upstream, name: str, ident: str, path: str = "") -> dict[str, Any]:
    return {**deployment(up, name, prefix=path), "model_info": {"id": ident}}


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def gw(up: Upstream) -> AsyncIterator[RunningGateway]:
    """Four deployments of one group behind one upstream, a fallback, and a group that guests may not use."""
    members = [named(up, "fast", f"fast-{n}", f"/{n}") for n in range(4)]
    config = {
        "model_list": [*members, named(up, "slow", "slow-0", "/slow"), named(up, "secret", "secret-0", "/secret")],
        "router_settings": {"fallbacks": [{"fast": ["secret", "slow"]}], "num_retries": 1},
    }
    async with gateway(config, plugins=[Guest]) as running:
        yield running


def as_guest(**headers: str) -> dict[str, str]:
    return {"authorization": "Bearer sk-guest", **headers}


async def explain(gw: RunningGateway, body: Any = HELLO, query: str = "", **given: Any) -> httpx.Response:
    return await gw.client.post(f"/v1/explain{query}", json=body, **given)


def ranks(route: dict[str, Any]) -> list[str]:
    """Deployment ids in the order in which they are tried."""
    ranked = [one for one in route["candidates"] if one.get("rank")]
    return [one["deployment_id"] for one in sorted(ranked, key=lambda one: int(one["rank"]))]


# -- the endpoint ------------------------------------------------------------------------------------------------------


async def test_nothing_is_sent_and_the_document_is_whole(gw: RunningGateway, up: Upstream) -> None:
    answer = await explain(gw)
    document = answer.json()
    assert answer.status_code == 200
    assert not up.requests
    assert document["call"]["principal"]["key_id"] == "master-key"
    assert document["refused"] is None
    assert sorted(ranks(document["routes"][0])) == ["fast-0", "fast-1", "fast-2", "fast-3"]
    assert [one["model"] for one in document["fallbacks"]["general"]["routes"]] == ["secret", "slow"]
    assert document["api_bases"]["fast-0"] == f"{up.url}/0/v1"
    assert document["estimated"]["reserved_nano"] > 0
    shuffle = document["hooks"]["route"][0]
    assert (shuffle["plugin"], shuffle["distribution"]) == ("simple-shuffle", "tianji-strategy-simple-shuffle")
    assert shuffle["version"][0].isdigit()
    for word in ("sk-upstream", gw.key, "key_hash"):
        assert word not in answer.text


async def test_the_same_seed_gives_the_same_document(gw: RunningGateway) -> None:
    first = (await explain(gw, query="?seed=7")).json()
    assert first["seed"] == 7
    assert (await explain(gw, query="?seed=7")).json() == first
    orders = {tuple(ranks((await explain(gw, query=f"?seed={n}")).json()["routes"][0])) for n in range(12)}
    assert len(orders) > 3


async def test_a_guest_sees_what_guests_may_use(gw: RunningGateway, up: Upstream) -> None:
    answer = await explain(gw, headers=as_guest())
    document = answer.json()
    assert (document["fallbacks"]["general"]["routes"], document["api_bases"]) == ([], {})
    assert document["call"]["principal"]["key_id"] == "guest"
    for word in ("secret", "slow", up.url):
        assert word not in answer.text
    refused = (await explain(gw, {**HELLO, "model": "secret"}, headers=as_guest())).json()["refused"]
    assert (refused["status"], refused["code"]) == (403, "key_model_access_denied")


async def test_no_key_no_document(gw: RunningGateway) -> None:
    async with httpx.AsyncClient(base_url=gw.url) as nobody:
        answer = await nobody.post("/v1/explain", json=HELLO)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "missing_api_key"


@pytest.mark.parametrize(
    ("path", "dialect", "body"),
    [
        ("/v1/chat/completions", "openai-chat", {"model": "fast"}),
        ("/v1/chat/completions", "openai-chat", {**HELLO, "stream": "yes"}),
        ("/v1/chat/completions", "openai-chat", {**HELLO, "api_base": "http://x"}),
        ("/v1/chat/completions", "openai-chat", {**HELLO, "guardrails": ["none"]}),
        ("/v1/chat/completions", "openai-chat", []),
        ("/v1/embeddings", "openai-embeddings", {"model": "fast"}),
        ("/v1/messages", "anthropic-messages", {"model": "fast", "messages": 3, "max_tokens": 1}),
    ],
)
async def test_a_malformed_body_is_refused_as_on_the_real_route(
    gw: RunningGateway, path: str, dialect: str, body: Any
) -> None:
    real = await gw.client.post(path, json=body)
    told = await explain(gw, body, f"?dialect={dialect}")
    assert told.status_code == real.status_code >= 400
    strip = ("request_id",)
    assert {k: v for k, v in told.json().items() if k not in strip} == {
        k: v for k, v in real.json().items() if k not in strip
    }
    assert told.headers["x-should-retry"] == real.headers["x-should-retry"]


@pytest.mark.parametrize(
    ("query", "param"), [("?dialect=klingon", "dialect"), ("?seed=x", "seed"), ("?seed=-1", "seed")]
)
async def test_a_wrong_query_names_the_field(gw: RunningGateway, query: str, param: str) -> None:
    answer = await explain(gw, query=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_odd_requests(gw: RunningGateway) -> None:
    assert (await gw.client.get("/v1/explain")).status_code == 405
    assert (await gw.client.post("/v1/explain", content=b"{")).json()["error"]["code"] == "invalid_json"
    assert (await gw.client.post("/v1/explain", content=b"")).status_code == 400
    answer = await explain(gw, {**HELLO, "metadata": {"n": 2**63 - 1, "x": [None, 1.5]}, "tags": ["ä"]})
    assert answer.json()["call"]["options"]["tags"] == ["ä"]


async def test_other_dialects(gw: RunningGateway) -> None:
    document = (await explain(gw, CLAUDE, "?dialect=anthropic-messages")).json()
    assert (document["call"]["op"], document["call"]["dialect"]) == ("chat", "anthropic-messages")
    assert document["estimated"]["input_tokens"] == 2


async def test_a_body_over_the_limit(up: Upstream) -> None:
    config = {"model_list": [deployment(up)], "general_settings": {"max_request_size_mb": 0.001}}
    async with gateway(config) as gw:
        answer = await explain(gw, {**HELLO, "user": "x" * 2000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


# -- the headers of a real call ----------------------------------------------------------------------------------------


async def test_a_real_call_goes_as_explained(gw: RunningGateway, up: Upstream) -> None:
    for seed in range(8):
        up.reply(json=ANSWER)
        told = (await explain(gw, query=f"?seed={seed}")).json()
        answer = await gw.client.post(
            "/v1/chat/completions", json=HELLO, headers={"x-tianji-explain": "1", "x-tianji-seed": str(seed)}
        )
        said = json.loads(answer.headers["x-tianji-explain"])
        assert answer.status_code == 200
        assert said["seed"] == told["seed"] == seed
        assert ranks(said["routes"][0]) == ranks(told["routes"][0])
        assert said["attempts"] == [{"deployment_id": ranks(told["routes"][0])[0], "outcome": "ok"}]
        assert answer.headers["x-tianji-model-id"] == ranks(told["routes"][0])[0]


async def test_a_seed_of_its_own_can_be_had_again(gw: RunningGateway, up: Upstream) -> None:
    up.reply(json=ANSWER)
    answer = await gw.client.post("/v1/chat/completions", json=HELLO, headers={"x-tianji-explain": "1"})
    said = json.loads(answer.headers["x-tianji-explain"])
    told = (await explain(gw, query=f"?seed={said['seed']}")).json()
    assert ranks(told["routes"][0]) == ranks(said["routes"][0])


async def test_errors_and_fallbacks_are_explained(gw: RunningGateway, up: Upstream) -> None:
    up.reply(status=400, json={"error": {"message": "no", "type": "invalid_request_error", "code": "bad"}})
    answer = await gw.client.post("/v1/chat/completions", json=HELLO, headers={"x-tianji-explain": "1"})
    said = json.loads(answer.headers["x-tianji-explain"])
    assert answer.status_code == 400
    assert [one["model"] for one in said["routes"]] == ["fast", "secret", "slow"]
    assert [one["outcome"] for one in said["attempts"]] == ["Rejected"] * 3
    assert [one["deployment_id"] for one in said["attempts"]][1:] == ["secret-0", "slow-0"]


async def test_a_refusal_before_the_route(gw: RunningGateway) -> None:
    answer = await gw.client.post(
        "/v1/chat/completions", json={**HELLO, "tags": ["enough"]}, headers={"x-tianji-explain": "1"}
    )
    said = json.loads(answer.headers["x-tianji-explain"])
    assert answer.status_code == 429
    assert (said["routes"], said["attempts"]) == ([], [])


async def test_a_stream_is_explained_as_far_as_it_is_known(gw: RunningGateway, up: Upstream) -> None:
    up.stream(STREAM)
    answer = await gw.client.post(
        "/v1/chat/completions", json={**HELLO, "stream": True}, headers={"x-tianji-explain": "1"}
    )
    said = json.loads(answer.headers["x-tianji-explain"])
    assert len(events(answer.text)) > 3
    assert [one["outcome"] for one in said["attempts"]] == ["streaming"]


@pytest.mark.parametrize("value", ["-1", "x", "1.5", str(2**64), "9" * 5000, "٣"])
async def test_a_seed_that_is_none(gw: RunningGateway, value: str) -> None:
    headers = [(b"x-tianji-seed", value.encode())]
    answer = await gw.client.post("/v1/chat/completions", json=HELLO, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-tianji-seed")


async def test_others_are_not_explained_to(gw: RunningGateway, up: Upstream) -> None:
    up.reply(json=ANSWER)
    headers = as_guest(**{"x-tianji-explain": "1", "x-tianji-seed": "nonsense"})
    answer = await gw.client.post("/v1/chat/completions", json=HELLO, headers=headers)
    assert answer.status_code == 200
    assert "x-tianji-explain" not in answer.headers


async def test_a_long_plan_fits_into_a_header(up: Upstream) -> None:
    up.reply(json=ANSWER)
    many = [named(up, "fast", f"{n}-{'x' * 60}") for n in range(120)]
    async with gateway({"model_list": many}) as gw:
        answer = await gw.client.post("/v1/chat/completions", json=HELLO, headers={"x-tianji-explain": "1"})
    text = answer.headers["x-tianji-explain"]
    assert answer.status_code == 200
    assert len(text) <= 6 * 1024
    assert json.loads(text)["truncated"] is True
