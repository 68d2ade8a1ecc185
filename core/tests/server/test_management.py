"""Models, health, plugins and the description of the API: who may see what, and that it is true."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from support import Pair, deployment, served

from tianji.hookspecs import hookimpl
from tianji.model import Call, Ingress, Principal, Record, Reply
from tianji.plugin import Callback, Extension, Strategy
from tianji.testing import Upstream, make_principal
from tianji.testing.gateway import RunningGateway, gateway


class Guest(Extension):
    """Knows one key, which may use `fast` and `open/*`."""

    name = "guest"
    order = 100

    @hookimpl
    async def identify(self, ingress: Ingress) -> Principal | None:
        if ingress.header("authorization") == "Bearer sk-guest":
            return make_principal(key_id="guest", models=("fast", "open/*"))
        return None


class Broken(Callback):
    name = "broken-sink"

    def __init__(self, *_: Any, **__: Any) -> None:
        raise OSError("no disk")


class Failing(Callback):
    name = "failing-sink"

    async def export(self, records: Sequence[Record]) -> None:
        raise OSError("peer is down")


def config(up: Upstream) -> dict[str, Any]:
    wild = deployment(up, "open/*")
    wild["tianji_params"]["model"] = "openai/*"
    return {
        "model_list": [deployment(up), deployment(up, "secret"), wild],
        "router_settings": {"model_group_alias": {"nice": "fast", "quiet": {"model": "fast", "hidden": True}}},
        "tianji_settings": {"callbacks": ["broken-sink", "failing-sink"]},
    }


@pytest.fixture
async def running() -> Any:
    async with Upstream() as up, gateway(config(up), plugins=[Guest, Broken, Failing]) as gw:
        yield gw


async def as_guest(gw: RunningGateway, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gw.url, headers={"authorization": "Bearer sk-guest"}) as client:
        return await client.get(path)


class TestModels:
    @pytest.mark.parametrize("path", ["/v1/models", "/models"])
    async def test_the_list(self, running: RunningGateway, path: str) -> None:
        body = (await running.client.get(path)).json()
        names = [one["id"] for one in body["data"]]
        assert body["object"] == "list"
        assert {"fast", "secret", "nice", "open/gpt-4o-mini"} <= set(names)
        assert "quiet" not in names
        assert len(names) == len(set(names))
        for one in body["data"]:
            assert (one["object"], one["created"], one["owned_by"]) == ("model", 1677610602, "openai")
        assert next(one for one in body["data"] if one["id"] == "fast")["max_input_tokens"] == 128_000

    async def test_a_key_sees_what_it_may_use(self, running: RunningGateway) -> None:
        names = [one["id"] for one in (await as_guest(running, "/v1/models")).json()["data"]]
        assert "fast" in names
        assert "open/gpt-4o-mini" in names
        assert "secret" not in names

    @pytest.mark.parametrize(
        ("name", "status"),
        [("fast", 200), ("nice", 200), ("quiet", 200), ("open/any/thing", 200), ("nope", 404)],
    )
    async def test_one_of_them(self, running: RunningGateway, name: str, status: int) -> None:
        reply = await running.client.get(f"/v1/models/{name}")
        assert reply.status_code == status
        if status == 200:
            assert reply.json()["id"] == name
        else:
            assert reply.json()["error"]["code"] == "model_not_found"

    async def test_one_that_is_not_the_callers(self, running: RunningGateway) -> None:
        assert (await as_guest(running, "/v1/models/fast")).status_code == 200
        assert (await as_guest(running, "/v1/models/secret")).status_code in (403, 404)


class TestHealth:
    async def test_liveness_and_readiness_need_no_key(self, running: RunningGateway) -> None:
        async with httpx.AsyncClient(base_url=running.url) as anyone:
            for path in ("/health/liveness", "/health/liveliness"):
                assert (await anyone.get(path)).json() == {"status": "alive"}
            ready = await anyone.get("/health/readiness")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")  # a callback is broken
            assert "disk" not in ready.text

    @pytest.mark.parametrize("path", ["/health", "/health/plugins"])
    async def test_details_are_the_administrators(self, running: RunningGateway, path: str) -> None:
        assert (await as_guest(running, path)).status_code == 403
        assert (await running.client.get(path)).status_code == 200

    async def test_deployments_that_cool_down(self) -> None:
        async with Upstream() as bad, Upstream() as good:
            bad.reply(status=429, json={"error": {"message": "slow"}}, headers={"retry-after": "30"})
            good.reply(json={"choices": [], "model": "m"})
            settings = {"model_list": [deployment(bad, order=1), deployment(good, order=2)]}
            async with gateway(settings) as gw:
                before = (await gw.client.get("/health")).json()
                assert (before["healthy_count"], before["unhealthy_count"]) == (2, 0)
                assert (await gw.chat("fast")).status_code == 200
                after = (await gw.client.get("/health")).json()
                (sick,) = after["unhealthy_endpoints"]
                assert (sick["model_group"], sick["model"], sick["reason"]) == (
                    "fast",
                    "openai/gpt-4o-mini",
                    "Throttled 429",
                )
                assert 25 < sick["cooling_for"] <= 30
                assert "sk-upstream" not in str(after)


class TestPlugins:
    async def test_their_states(self, running: RunningGateway) -> None:
        body = (await running.client.get("/health/plugins")).json()
        rows = {(row["family"], row["instance"]): row for row in body["plugins"]}
        assert rows["extensions", "guest"]["state"] == "ok"
        assert rows["providers", "openai"]["state"] == "ok"
        broken = rows["callbacks", "broken-sink"]
        assert broken["state"] == "broken"
        assert "OSError: no disk" in broken["last_error"]
        assert rows["callbacks", "failing-sink"]["delivered"] == 0
        assert body["reloads"] == 0

    async def test_what_a_callback_loses_is_counted_and_a_call_is_not_hurt(self, running: RunningGateway) -> None:
        assert (await running.chat("nope")).status_code == 404
        (outlet,) = running.gateway.pipeline.log.outlets
        await outlet.stop(2.0)
        row = next(
            one for one in (await running.client.get("/health/plugins")).json()["plugins"]
            if one["instance"] == "failing-sink"
        )  # fmt: skip
        assert (row["dropped"], row["last_error"]) == (1, "OSError: peer is down")

    async def test_they_stand_in_the_order_of_a_call(self, running: RunningGateway) -> None:
        rows = (await running.client.get("/health/plugins")).json()["plugins"]
        assert rows[0]["instance"] == "guest"


class TestDescription:
    async def test_the_document_has_every_route(self, pair: Pair) -> None:
        async with httpx.AsyncClient(base_url=pair.gw.url) as anyone:
            document = (await anyone.get("/openapi.json")).json()
            page = await anyone.get("/docs")
        assert document["openapi"].startswith("3.1")
        for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/models", "/health/plugins"):
            assert path in document["paths"], path
            assert path in page.text
        assert document["paths"]["/v1/chat/completions"]["post"]["security"] == [{"key": []}]
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "http" not in page.text.replace("http-equiv", "")

    async def test_it_can_be_switched_off(self) -> None:
        async with Upstream() as up, served(up, general_settings={"docs": False}) as gw:
            for path in ("/openapi.json", "/docs", "/", "/openapi/management.json"):
                assert (await gw.client.get(path)).status_code == 404, path


async def test_stages_are_timed_on_request() -> None:
    class Looks(Extension):
        name = "looks"

        @hookimpl
        async def pre_call(self, call: Call) -> None:
            await asyncio.sleep(0)

        @hookimpl
        async def post_call(self, call: Call, reply: Reply) -> None: ...

    class Ranks(Strategy):
        name = "ranks"

        async def rank(self, call: Call, candidates: Any) -> Any:
            return candidates

    async with Upstream() as up:
        up.reply(json={"choices": [], "model": "m"})
        async with served(up, plugins_under_test=[Looks, Ranks], router_settings={"routing_strategy": "ranks"}) as gw:
            headers = {"x-tianji-timing": "1"}
            reply = await gw.client.post(
                "/v1/chat/completions", json={"model": "fast", "messages": []}, headers=headers
            )
            names = [part.partition(";")[0] for part in reply.headers["server-timing"].split(", ")]
            own = [name for name in names if "extensions" not in name or "looks" in name]
            assert own == ["pre-call-extensions-looks", "provider", "post-call-extensions-looks", "total"]
