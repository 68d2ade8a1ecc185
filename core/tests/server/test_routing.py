"""Router settings and fallbacks at run time, over a real server: who may, what happens at once, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from support import ANSWER, DONE, chunk

from tianji.config import from_dict, load
from tianji.errors import ConfigError
from tianji.hookspecs import hookimpl
from tianji.model import Ingress, Principal
from tianji.overrides import CHANGEABLE, KEY, MASK, Stored, merged
from tianji.overrides import refused as refusal
from tianji.plugin import Extension
from tianji.services import KV, Assembly
from tianji.testing import Upstream, make_principal
from tianji.testing.gateway import KEY as MASTER
from tianji.testing.gateway import RunningGateway, gateway

SETTINGS = "/router/settings"


class Guest(Extension):
    """Knows one key, which may use every model and manage nothing."""

    name = "guest"
    order = 100

    @hookimpl
    async def identify(self, ingress: Ingress) -> Principal | None:
        return make_principal(key_id="guest") if ingress.header("authorization") == "Bearer sk-guest" else None


class Store:
    """A shared KV that can fail."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.broken = False

    async def get(self, key: str) -> bytes | None:
        if self.broken:
            raise OSError("no connection")
        return self.data.get(key)

    async def many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [await self.get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        if self.broken:
            raise OSError("no connection")
        self.data[key] = value

    async def delete(self, *keys: str) -> int:
        return sum(self.data.pop(key, None) is not None for key in keys)


class Shared(Extension):
    name = "shared"
    store: ClassVar[Store]

    @hookimpl
    def configure(self, app: Assembly) -> None:
        app.provide(KV, self.store)  # type: ignore[type-abstract]


def shared() -> type[Shared]:
    return type("Shared", (Shared,), {"store": Store()})


def entry(up: Upstream, name: str, key: str = "sk-upstream-secret") -> dict[str, Any]:
    params = {"model": f"openai/{name}", "api_base": f"{up.url}/{name}", "api_key": key}
    return {"model_name": name, "tianji_params": params, "model_info": {"id": f"id-{name}"}}


def config(up: Upstream, **router: Any) -> dict[str, Any]:
    return {
        "model_list": [entry(up, name) for name in ("a", "b", "c")],
        "router_settings": {
            "num_retries": 0, "routing_strategy_args": {"ttl": 60, "redis_password": "hunter2hunter2"}, **router,
        },
    }  # fmt: skip


def path(name: str) -> str:
    return f"/{name}/chat/completions"


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        upstream.reply(json=ANSWER)
        yield upstream


@pytest.fixture
async def gw(up: Upstream) -> AsyncIterator[RunningGateway]:
    async with gateway(config(up), plugins=[Guest]) as running:
        yield running


async def values(gw: RunningGateway) -> dict[str, Any]:
    answer = await gw.client.get(SETTINGS)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()["current_values"]
    return found


async def changed(gw: RunningGateway, **patch: Any) -> dict[str, Any]:
    answer = await gw.client.patch(SETTINGS, json=patch)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def refused(gw: RunningGateway, status: int = 400, **patch: Any) -> dict[str, Any]:
    before = gw.gateway.sealed
    answer = await gw.client.patch(SETTINGS, json=patch)
    assert answer.status_code == status, answer.text
    assert gw.gateway.sealed is before
    assert gw.gateway.overrides.values == {}
    error: dict[str, Any] = answer.json()["error"]
    return error


class TestWho:
    REQUESTS = (
        ("GET", SETTINGS), ("PATCH", SETTINGS), ("GET", "/router/fields"), ("POST", "/fallback"),
        ("GET", "/fallback/a"), ("DELETE", "/fallback/a"),
    )  # fmt: skip

    @pytest.mark.parametrize(("method", "where"), REQUESTS)
    async def test_administrators_only(self, gw: RunningGateway, method: str, where: str) -> None:
        for key, status in ((None, 401), ("sk-wrong", 401), ("sk-guest", 403)):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            async with httpx.AsyncClient(base_url=gw.url, headers=headers, trust_env=False) as client:
                answer = await client.request(method, where, content=b"{" if method in ("PATCH", "POST") else None)
            assert answer.status_code == status
            assert answer.json()["error"]["type"] in ("auth_error", "permission_error")
        assert gw.gateway.reloads == 0


class TestSettings:
    async def test_what_is_shown(self, gw: RunningGateway) -> None:
        body = (await gw.client.get(SETTINGS)).json()
        assert body["current_values"]["num_retries"] == 0
        assert body["current_values"]["routing_strategy"] == "simple-shuffle"
        assert body["current_values"].keys() == CHANGEABLE.keys()
        assert (body["overrides"], body["scope"]) == ({}, "process")
        strategy = next(one for one in body["fields"] if one["field_name"] == "routing_strategy")
        assert "simple-shuffle" in strategy["options"]
        assert strategy["field_value"] == strategy["field_default"] == "simple-shuffle"
        assert set(strategy["options"]) == body["routing_strategy_descriptions"].keys()
        fields = (await gw.client.get("/router/fields")).json()["fields"]
        assert [one["field_name"] for one in fields] == [one["field_name"] for one in body["fields"]]
        assert {one["field_value"] for one in fields} == {None}

    async def test_no_secret_is_shown(self, gw: RunningGateway) -> None:
        for answer in (await gw.client.get(SETTINGS), await gw.client.patch(SETTINGS, json={"num_retries": 1})):
            assert answer.json()["current_values"]["routing_strategy_args"]["redis_password"] == MASK
            for secret in ("hunter2", "sk-upstream-secret", MASTER):
                assert secret not in answer.text

    async def test_a_strategys_secret_stays_the_files(self, gw: RunningGateway) -> None:
        shown = (await values(gw))["routing_strategy_args"]
        await changed(gw, routing_strategy_args={**shown, "ttl": 30})
        args = gw.gateway.config.router.routing_strategy_args
        assert (args["ttl"], args["redis_password"].reveal()) == (30, "hunter2hunter2")
        assert "hunter2" not in str(gw.gateway.overrides.values)
        assert MASK not in str(gw.gateway.overrides.values)
        await changed(gw, routing_strategy_args=None)
        assert gw.gateway.config.router.routing_strategy_args["ttl"] == 60

    async def test_a_change_takes_effect_at_once(self, gw: RunningGateway, up: Upstream) -> None:
        up.reply(status=503, path=path("a"))
        assert (await gw.chat("a")).status_code == 503
        assert len(up.requests) == 1
        body = await changed(gw, num_retries=2, fallbacks=[{"a": ["b"]}])
        assert body["overrides"] == {"num_retries": 2, "fallbacks": [{"a": ["b"]}]}
        assert (await gw.chat("a")).status_code == 200
        assert [one.path for one in up.requests[1:]] == [path("a")] * 3 + [path("b")]
        await changed(gw, fallbacks=None)
        assert (await values(gw))["num_retries"] == 2
        assert (await gw.chat("a")).status_code == 503
        body = await changed(gw, num_retries=None)
        assert (body["overrides"], body["current_values"]["num_retries"]) == ({}, 0)

    @pytest.mark.parametrize(
        ("patch", "kept"),
        [
            ({"cooldown_time": "30s"}, 30.0), ({"timeout": 5}, 5.0), ({"allowed_fails": "3"}, 3),
            ({"disable_cooldowns": True}, True), ({"retry_policy": {"RateLimitErrorRetries": 3}}, None),
            ({"model_group_retry_policy": {"a": {"num_retries": 5, "timeout": 9.0}}}, None),
            ({"default_fallbacks": ["c"]}, None), ({"model_group_alias": {"nice": "a"}}, None),
            ({"model_group_alias": {"nice": {"model": "a", "hidden": True}}}, None), ({"max_fallbacks": 0}, 0),
            ({"context_window_fallbacks": [{"a": ["b", "c"]}]}, None), ({"routing_strategy": "least-busy"}, None),
            ({"fallbacks": {"*": ["b"]}}, [{"*": ["b"]}]), ({"enable_pre_call_checks": True}, True),
        ],
    )  # fmt: skip
    async def test_what_can_be_changed(self, gw: RunningGateway, patch: dict[str, Any], kept: Any) -> None:
        ((key, value),) = patch.items()
        await changed(gw, **patch)
        found = (await values(gw))[key]
        assert found == (value if kept is None else kept)
        assert (await gw.chat("a")).status_code == 200
        # What was shown can be sent as it is.
        await changed(gw, **{key: found})
        assert (await values(gw))[key] == found

    @pytest.mark.parametrize(
        ("patch", "param", "says"),
        [
            ({"num_retry": 3}, "num_retry", "Did you mean 'num_retries'?"),
            ({"zzz": 3}, "zzz", "These can: routing_strategy"),
            ({"provider_budget_config": {}}, "provider_budget_config", "configuration file"),
            ({"num_retries": -1}, "num_retries", "0 or more"), ({"num_retries": "many"}, "num_retries", "a number"),
            ({"num_retries": 1.5}, "num_retries", "whole number"), ({"timeout": {}}, "timeout", "a number"),
            ({"disable_cooldowns": "perhaps"}, "disable_cooldowns", "true or false"),
            ({"fallbacks": 5}, "fallbacks", "a mapping"),
            ({"fallbacks": [{"a": [5, {}]}]}, "fallbacks[0].a[1].model", "text"),
            ({"fallbacks": [{"a": ["bb"]}]}, "fallbacks.a", "Did you mean 'b'?"),
            ({"default_fallbacks": ["nope"]}, "default_fallbacks", "'nope'"),
            ({"model_group_alias": {"x": "nope"}}, "model_group_alias.x", "'nope'"),
            ({"model_group_retry_policy": {"a": {"num_retries": "x"}}}, "model_group_retry_policy.a.num_retries", "n"),
            ({"routing_strategy": "no-such"}, "routing_strategy", "no-such"),
            ({"routing_strategy": 5.5}, "routing_strategy", "5.5"),
            ({"routing_strategy_args": {"redis_password": "x"}}, "routing_strategy_args.redis_password", "secret"),
            ({"routing_strategy_args": {"x": [MASK]}}, "routing_strategy_args.x[0]", "secret"),
            ({}, "request_body", "at least one"),
        ],
    )  # fmt: skip
    async def test_what_is_refused(self, gw: RunningGateway, patch: dict[str, Any], param: str, says: str) -> None:
        error = await refused(gw, **patch)
        assert error["param"] == param
        assert says in error["message"]
        assert error["type"] == "invalid_request_error"

    async def test_all_or_nothing(self, gw: RunningGateway) -> None:
        await refused(gw, num_retries=3, cooldown_time=-1)
        assert (await values(gw))["num_retries"] == 0

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"[" * 1000, b"\xff", b"null"])
    async def test_what_is_no_object(self, gw: RunningGateway, body: bytes) -> None:
        for method, where in (("PATCH", SETTINGS), ("POST", "/fallback")):
            answer = await gw.client.request(method, where, content=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "request_body"

    async def test_too_much(self, gw: RunningGateway) -> None:
        big = json.dumps({"routing_strategy_args": {"x": "y" * 300_000}}).encode()
        assert (await gw.client.patch(SETTINGS, content=big)).status_code == 413

    async def test_several_at_once_lose_nothing(self, gw: RunningGateway) -> None:
        patches = [
            {"num_retries": 3}, {"cooldown_time": 7}, {"allowed_fails": 2}, {"timeout": 50}, {"max_fallbacks": 4},
            {"retry_after": 1},
        ]  # fmt: skip
        await asyncio.gather(*(changed(gw, **one) for one in patches))
        found = await values(gw)
        for one in patches:
            ((key, value),) = one.items()
            assert found[key] == value
        assert gw.gateway.overrides.values.keys() == {key for one in patches for key in one}

    async def test_a_running_stream_is_not_disturbed(self, gw: RunningGateway, up: Upstream) -> None:
        go_on = asyncio.Event()
        first, rest = chunk({"content": "One"}), [chunk({"content": " two"}), chunk({}, "stop"), DONE]
        up.stream([first, *rest], path=path("a"), delay=0.1)
        body = {"model": "a", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        seen = b""
        async with gw.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for piece in answer.aiter_raw():
                if not go_on.is_set():
                    go_on.set()
                    await changed(gw, routing_strategy="least-busy", timeout=0.01, model_group_alias={"a": "b"})
                seen += piece
        assert b"One" in seen
        assert b" two" in seen
        assert seen.endswith(DONE)
        assert b"error" not in seen


class TestReload:
    """What a change becomes when the file is read again."""

    async def test_the_same_file_keeps_it_and_another_starts_anew(self, gw: RunningGateway, up: Upstream) -> None:
        await changed(gw, num_retries=4)
        tree = {**config(up), "general_settings": {"master_key": MASTER}}
        await gw.gateway.reload(from_dict(tree))
        assert gw.gateway.config.router.num_retries == 4
        tree = {**config(up, max_fallbacks=2), "general_settings": {"master_key": MASTER}}
        await gw.gateway.reload(from_dict(tree))
        assert (gw.gateway.config.router.num_retries, gw.gateway.config.router.max_fallbacks) == (0, 2)
        assert (await gw.client.get(SETTINGS)).json()["overrides"] == {}

    async def test_a_bad_file_changes_nothing(self, gw: RunningGateway, up: Upstream) -> None:
        await changed(gw, num_retries=4)
        bad = {**config(up, routing_strategy="no-such"), "general_settings": {"master_key": MASTER}}
        with pytest.raises(Exception, match="no-such"):
            await gw.gateway.reload(from_dict(bad))
        assert gw.gateway.config.router.num_retries == 4
        await changed(gw, cooldown_time=9)
        assert gw.gateway.config.router.num_retries == 4

    async def test_changes_and_reloads_at_once(self, gw: RunningGateway, up: Upstream) -> None:
        tree = {**config(up), "general_settings": {"master_key": MASTER}}
        jobs = [changed(gw, num_retries=number) for number in (1, 2, 3)]
        await asyncio.gather(*jobs, *(gw.gateway.reload(from_dict(tree)) for _ in range(3)))
        assert gw.gateway.config.router.num_retries == gw.gateway.overrides.values["num_retries"]
        assert (await gw.chat("a")).status_code == 200


class TestShared:
    """Two instances with one store."""

    async def both(self, first: RunningGateway, second: RunningGateway, **expected: Any) -> None:
        for one in (first, second):
            async with asyncio.timeout(5):
                while any(getattr(one.gateway.config.router, key) != value for key, value in expected.items()):
                    await asyncio.sleep(0.02)

    async def test_one_follows_the_other(self, up: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tianji.overrides.FOLLOW", 0.05)
        kv = shared()
        async with gateway(config(up), plugins=[kv]) as first, gateway(config(up), plugins=[kv]) as second:
            assert (await changed(first, num_retries=5))["scope"] == "shared"
            await self.both(first, second, num_retries=5)
            await changed(second, cooldown_time=9)
            await self.both(first, second, num_retries=5, cooldown_time=9.0)
            reloads = first.gateway.reloads
            await asyncio.sleep(0.2)
            assert first.gateway.reloads == reloads, "nothing is new, so nothing is done"
            await changed(first, num_retries=None, cooldown_time=None)
            await self.both(first, second, num_retries=0, cooldown_time=5.0)
            # One that comes later finds what there is.
            await changed(first, max_fallbacks=1)
            async with gateway(config(up), plugins=[kv]) as third:
                assert third.gateway.config.router.max_fallbacks == 1

    async def test_another_file_is_another_matter(self, up: Upstream) -> None:
        kv = shared()
        async with gateway(config(up), plugins=[kv]) as first:
            await changed(first, num_retries=5)
        async with gateway(config(up, max_fallbacks=1), plugins=[kv]) as second:
            assert second.gateway.config.router.num_retries == 0

    async def test_what_cannot_be_used_here_is_left(self, up: Upstream) -> None:
        kv = shared()
        fingerprint = from_dict({**config(up), "general_settings": {"master_key": MASTER}}).fingerprint
        unusable: list[dict[str, Any]] = [
            {"routing_strategy": "no-such"}, {"num_retries": []}, {"fallbacks": [{"a": ["gone"]}]},
        ]  # fmt: skip
        for one in unusable:
            kv.store.data[KEY] = json.dumps({"fingerprint": fingerprint, "values": one}).encode()
            async with gateway(config(up), plugins=[kv]) as gw:
                assert gw.gateway.overrides.values == {}
                reloads = gw.gateway.reloads
                await gw.gateway.overrides.follow()
                assert gw.gateway.reloads == reloads
                await changed(gw, num_retries=1)
        for junk in (b"", b"{", b"[]", b'{"fingerprint": 5}'):
            kv.store.data[KEY] = junk
            async with gateway(config(up), plugins=[kv]) as gw:
                assert gw.gateway.overrides.values == {}

    async def test_a_store_that_fails_changes_nothing(self, up: Upstream) -> None:
        kv = shared()
        async with gateway(config(up), plugins=[kv]) as gw:
            await changed(gw, num_retries=1)
            store = kv.store
            store.broken = True
            answer = await gw.client.patch(SETTINGS, json={"num_retries": 7})
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "overloaded_error")
            await gw.gateway.overrides.follow()
            assert gw.gateway.config.router.num_retries == 1
            store.broken = False
            store.data.clear()
            await gw.gateway.overrides.follow()
            kept = json.loads(kv.store.data[KEY])
            assert Stored(**kept).values == {"num_retries": 1}, "what the store lost is given to it again"


class TestFallback:
    async def test_its_life(self, gw: RunningGateway, up: Upstream) -> None:
        up.reply(status=503, path=path("a"))
        asked = {"model": "a", "fallback_models": ["b", "c"], "fallback_type": "general"}
        answer = await gw.client.post("/fallback", json=asked)
        assert answer.status_code == 200
        assert answer.json() == {**asked, "message": "Fallback configuration created successfully"}
        assert (await gw.chat("a")).status_code == 200
        assert (await gw.client.get("/fallback/a")).json() == asked
        again = await gw.client.post("/fallback/", json={"model": "a", "fallbacks": ["c"]})
        assert again.json()["message"] == "Fallback configuration updated successfully"
        assert (await values(gw))["fallbacks"] == [{"a": ["c"]}]
        gone = await gw.client.delete("/fallback/a")
        assert (gone.status_code, gone.json()["fallback_type"]) == (200, "general")
        assert (await gw.chat("a")).status_code == 503
        for method in ("GET", "DELETE"):
            assert (await gw.client.request(method, "/fallback/a")).status_code == 404
        assert gw.gateway.overrides.values == {}, "as the file says: nothing is overridden any more"

    @pytest.mark.parametrize("kind", ["context_window", "content_policy"])
    async def test_by_kind(self, gw: RunningGateway, kind: str) -> None:
        asked = {"model": "a", "fallback_models": ["b"], "fallback_type": kind}
        assert (await gw.client.post("/fallback", json=asked)).status_code == 200
        where = f"/fallback/a?fallback_type={kind}"
        assert (await gw.client.get(where)).json() == asked
        assert (await gw.client.get("/fallback/a")).status_code == 404
        assert (await values(gw))[f"{kind}_fallbacks"] == [{"a": ["b"]}]
        assert (await gw.client.delete(where)).status_code == 200

    async def test_for_all_and_beside_the_files(self, up: Upstream) -> None:
        tree = config(up, fallbacks=[{"a": ["b"]}])
        tree["model_list"].append(
            {"model_name": "open/*", "tianji_params": {"model": "openai/*", "api_key": "k", "api_base": up.url}}
        )
        async with gateway(tree) as gw:
            for body in (
                {"model": "*", "fallback_models": ["c"]},
                {"model": "open/*", "fallback_models": [{"model": "a"}]},
            ):
                assert (await gw.client.post("/fallback", json=body)).status_code == 200
            assert (await gw.client.get("/fallback/b")).json()["fallback_models"] == ["c"]
            assert (await gw.client.get("/fallback/open/*")).json()["fallback_models"] == ["a"]
            assert (await gw.client.get("/fallback/a")).json()["fallback_models"] == ["b"]
            assert (await gw.client.delete("/fallback/a")).status_code == 200
            assert (await values(gw))["fallbacks"] == [{"*": ["c"]}, {"open/*": ["a"]}]

    @pytest.mark.parametrize(
        ("body", "status", "param"),
        [
            ({"model": "aa", "fallback_models": ["b"]}, 404, "model"),
            ({"model": "a", "fallback_models": ["bb"]}, 400, "fallback_models[0]"),
            ({"model": "a", "fallback_models": ["b", "a"]}, 400, "fallback_models[1]"),
            ({"model": "a", "fallback_models": []}, 400, "fallback_models"),
            ({"model": "a", "fallback_models": "b"}, 400, "fallback_models"),
            ({"model": "a", "fallback_models": ["b"] * 21}, 400, "fallback_models"),
            ({"model": "a", "fallback_models": [5]}, 400, "fallback_models[0]"),
            ({"model": "a", "fallbacks": [{"model": 5}]}, 400, "fallbacks[0]"),
            ({"model": "a"}, 400, "fallback_models"), ({"fallback_models": ["b"]}, 400, "model"),
            ({"model": 5, "fallback_models": ["b"]}, 400, "model"), ({"model": "", "fallbacks": ["b"]}, 400, "model"),
            ({"model": "a" * 600, "fallbacks": ["b"]}, 400, "model"),
            ({"model": "a", "fallback_models": ["b"], "fallback_type": "x"}, 400, "fallback_type"),
            ({"model": "a", "fallback_models": ["b"], "fallback_type": 1}, 400, "fallback_type"),
            ({"model": "a", "fallback_models": ["b"], "falback_type": "general"}, 400, "falback_type"),
        ],
    )  # fmt: skip
    async def test_what_is_refused(self, gw: RunningGateway, body: Any, status: int, param: str) -> None:
        answer = await gw.client.post("/fallback", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
        assert gw.gateway.overrides.values == {}

    async def test_an_unknown_kind_in_the_path(self, gw: RunningGateway) -> None:
        for method in ("GET", "DELETE"):
            answer = await gw.client.request(method, "/fallback/a?fallback_type=x")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "fallback_type")

    async def test_several_at_once_lose_nothing(self, gw: RunningGateway) -> None:
        bodies = [
            {"model": one, "fallback_models": [other]}
            for one, other in (("a", "b"), ("b", "c"), ("c", "a"), ("*", "a"))
        ]
        await asyncio.gather(*(gw.client.post("/fallback", json=body) for body in bodies))
        assert sorted(map(str, (await values(gw))["fallbacks"])) == sorted(
            str({body["model"]: body["fallback_models"]}) for body in bodies
        )


async def test_a_refusal_does_not_tell_where_the_file_is(up: Upstream, tmp_path: Path) -> None:
    """The key that a change names is in the file as well, and errors of the file say file and line."""
    file = tmp_path / "c.yaml"
    tree = config(up) | {"general_settings": {"master_key": MASTER}}
    tree["router_settings"] = {"fallbacks": [{"a": ["b"]}]}
    file.write_text(json.dumps(tree, indent=1))
    base = load(file)
    with pytest.raises(ConfigError) as caught:
        merged(base, {"fallbacks": [{"a": ["nope"]}]})
    assert str(file) in caught.value.path
    answer = refusal(caught.value)
    assert answer.param == "fallbacks.a"
    assert str(tmp_path) not in answer.message
