"""The conformance suite, and copies of real calls through a whole gateway."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from tianji_extension_mirror import Mirror

from tianji import Callback, ConfigError, Extension, Ingress, Principal, Record, Reply, hookimpl
from tianji.testing import ExtensionSuite, FakeGateway, Upstream, make_call, make_plugin
from tianji.testing.gateway import RunningGateway, gateway
from tianji.testing.upstream import Reset, Stall

COPIES = [{"group": "stable", "to": "next", "percent": 100}]
ANSWER = {
    "id": "1", "object": "chat.completion", "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}  # fmt: skip


class TestMirror(ExtensionSuite):
    plugin = Mirror
    settings = {"copies": COPIES}


class TestUnconfigured(ExtensionSuite):
    plugin = Mirror


def made(**settings: Any) -> tuple[Mirror, FakeGateway]:
    fake = FakeGateway()
    plugin = make_plugin(Mirror, {"copies": COPIES, **settings}, gateway=fake)
    plugin._copies = {"stable": plugin.settings.copies}
    return plugin, fake


async def test_a_share_is_copied() -> None:
    plugin, fake = made(copies=[{"group": "stable", "to": "next", "percent": 20}], max_in_flight=10_000)
    for seed in range(2000):
        call = make_call({"model": "stable", "messages": []})
        call.seed = seed
        await plugin.post_call(call, Reply())
    await plugin.post_call(make_call({"model": "other", "messages": []}), Reply())
    await fake.run_spawned()
    assert 320 < len(fake.asked) < 480
    assert {one.model for one in fake.asked} == {"next"}


async def test_a_copy_is_a_call_of_its_own() -> None:
    plugin, fake = made()
    call = make_call({"model": "stable", "messages": [{"role": "user", "content": "hello"}], "stream": True})
    await plugin.post_call(call, Reply())
    await fake.run_spawned()
    (twin,) = fake.asked
    assert (twin.principal.key_id, twin.stream, twin.options["num_retries"]) == ("mirror", True, 0)
    assert twin.options["metadata"] == {"mirror_of": call.id}
    assert twin.id != call.id
    assert twin.body["messages"] == call.body["messages"]
    await plugin.post_call(twin, Reply())
    assert len(fake.asked) == 1, "a copy is not copied again"


async def test_copies_are_bounded_and_counted() -> None:
    plugin, fake = made(max_in_flight=2)
    for _ in range(5):
        await plugin.post_call(make_call({"model": "stable", "messages": []}), Reply())
    assert plugin.counts == {"sent": 0, "failed": 0, "dropped": 3}
    await fake.run_spawned()
    assert plugin.counts == {"sent": 2, "failed": 2, "dropped": 3}, "no answer was scripted, so both failed"
    assert plugin.in_flight == 0


@pytest.mark.parametrize("percent", [0, 101, "many"])
def test_a_bad_percentage(percent: object) -> None:
    with pytest.raises(ConfigError, match="percent"):
        make_plugin(Mirror, {"copies": [{"group": "a", "to": "b", "percent": percent}]}, gateway=FakeGateway())


def served(stable: Upstream, other: Upstream, **mirror: Any) -> dict[str, Any]:
    def entry(name: str, upstream: Upstream) -> dict[str, Any]:
        params = {"model": "openai/m", "api_base": f"{upstream.url}/v1", "api_key": "sk-x"}
        return {"model_name": name, "tianji_params": params}

    return {"model_list": [entry("stable", stable), entry("next", other)], "mirror": {"copies": COPIES, **mirror}}


async def test_the_client_is_not_concerned() -> None:
    """Whether the copy hangs, fails or answers."""
    async with Upstream() as stable, Upstream() as other:
        stable.reply(json=ANSWER)
        other.reply(json=ANSWER)
        other.answer(lambda _: (Stall(),), times=1)
        other.answer(lambda _: (Reset(),), times=1)
        async with gateway(served(stable, other, timeout=0.3)) as running:
            for _ in range(3):
                answer = await asyncio.wait_for(running.chat("stable", "hello"), 5)
                assert answer.status_code == 200
                assert answer.json()["model"] == "stable"
            async with asyncio.timeout(5):
                while True:
                    rows = (await running.client.get("/health/plugins")).json()["plugins"]
                    counts = next(row["counts"] for row in rows if row["name"] == "mirror")
                    if counts["sent"] == 3 and counts["failed"] == 2:
                        break
                    await asyncio.sleep(0.02)
            assert len(other.requests) == 3
            entries = running.gateway.pipeline.ledger.entries  # type: ignore[attr-defined]
            assert [one.kind for one in entries if one.key_id == "master-key"].count("settle") == 3
            assert sorted(one.kind for one in entries if one.key_id == "mirror").count("void") == 2


# -- what holds for a copy, and what does not --------------------------------------------------------------------------


class Second(Extension):
    """A key that may use `open` alone."""

    name = "second"
    order = 100

    @hookimpl
    async def identify(self, ingress: Ingress) -> Principal | None:
        own = ingress.headers.get(b"authorization") == b"Bearer sk-second"
        return Principal(key_id="second", role="internal_user", models=("open",)) if own else None


async def copied(running: RunningGateway, other: Upstream) -> int:
    """How many copies have arrived, once none is under way any more."""
    mirror = next(one for one in running.gateway.sealed.registry.plugins if isinstance(one, Mirror))
    async with asyncio.timeout(5):
        while mirror.in_flight:
            await asyncio.sleep(0.01)
    return len(other.requests)


async def test_a_refused_call_is_not_copied() -> None:
    """Whoever may not use a model cannot make the operator pay for its copies."""
    async with Upstream() as stable, Upstream() as other:
        other.reply(json=ANSWER)
        async with gateway(served(stable, other), plugins=[Second]) as running:
            body = {"model": "stable", "messages": [{"role": "user", "content": "hello"}]}
            answer = await running.client.post(
                "/v1/chat/completions", json=body, headers={"authorization": "Bearer sk-second"}
            )
            assert answer.status_code == 403
            assert await copied(running, other) == 0


async def test_a_copy_stays_in_the_region() -> None:
    async with Upstream() as stable, Upstream() as other:
        stable.reply(json=ANSWER)
        other.reply(json=ANSWER)
        config = served(stable, other)
        for entry, region in zip(config["model_list"], ("eu-west1", "us-east1"), strict=True):
            entry["tianji_params"]["region"] = region
        async with gateway(config) as running:
            answer = await running.chat("stable", allowed_model_region="eu")
            assert answer.status_code == 200
            assert await copied(running, other) == 0
            assert (await running.chat("stable")).status_code == 200
            assert await copied(running, other) == 1


async def test_the_region_of_a_key_binds_the_copies_of_its_calls() -> None:
    plugin, fake = made()
    key = Principal(key_id="k", role="internal_user", models=("*",), metadata={"allowed_model_region": "eu", "a": 1})
    options = {"allowed_model_region": "eu-west1"}
    call = make_call({"model": "stable", "messages": []}, principal=key, options=options)
    await plugin.post_call(call, Reply())
    await fake.run_spawned()
    (twin,) = fake.asked
    assert (twin.principal.key_id, twin.principal.metadata) == ("mirror", {"allowed_model_region": "eu"})
    assert twin.options["allowed_model_region"] == "eu-west1"


class Keeper(Callback):
    """Keeps what was recorded."""

    name = "keeper"
    records: ClassVar[list[Record]] = []

    async def export(self, records: Sequence[Record]) -> None:
        self.records.extend(records)


async def test_the_tag_of_a_copy_does_not_route_it() -> None:
    async with Upstream() as stable, Upstream() as other:
        stable.reply(json=ANSWER)
        other.reply(json=ANSWER)
        config = served(stable, other) | {
            "router_settings": {"enable_tag_filtering": True},
            "tianji_settings": {"callbacks": ["keeper"]},
        }
        Keeper.records.clear()
        async with gateway(config, plugins=[Keeper]) as running:
            assert (await running.chat("stable")).status_code == 200
            assert await copied(running, other) == 1
            async with asyncio.timeout(5):
                while len(Keeper.records) < 2:
                    await asyncio.sleep(0.01)
            assert {one.key_id: one.tags for one in Keeper.records} == {"master-key": (), "mirror": ("mirror",)}


def test_only_administrators_are_told_where_copies_go() -> None:
    plugin, _ = made()
    call = make_call({"model": "stable", "messages": []})
    call.principal = Principal(key_id="k", role="internal_user", models=("stable",))
    assert plugin.explain(call) == {"copies": [{"percent": 100.0}]}
    call.principal = Principal(key_id="k", role="proxy_admin", models=("*",))
    assert plugin.explain(call) == {"copies": [{"to": "next", "percent": 100.0}]}


async def test_an_explanation_holds_for_a_call_that_is_copied() -> None:
    """The seed of a call has the same order again, whether or not it is copied."""
    async with Upstream() as stable, Upstream() as other:
        stable.reply(json=ANSWER)
        other.reply(json=ANSWER)
        config = served(stable, other, copies=[{"group": "stable", "to": "next", "percent": 50}])
        config["model_list"][:1] = [{**config["model_list"][0], "model_info": {"id": name}} for name in "abcd"]
        async with gateway(config) as running:
            body = {"model": "stable", "messages": [{"role": "user", "content": "hello"}]}
            for seed in range(12):
                told = (await running.client.post(f"/v1/explain?seed={seed}", json=body)).json()
                first = next(one["deployment_id"] for one in told["routes"][0]["candidates"] if one["rank"] == 1)
                answer = await running.client.post(
                    "/v1/chat/completions", json=body, headers={"x-tianji-seed": str(seed)}
                )
                assert answer.headers["x-tianji-model-id"] == first
