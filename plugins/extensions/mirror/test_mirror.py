"""The conformance suite, and copies of real calls through a whole gateway."""

import asyncio
from typing import Any

import pytest
from tianji_extension_mirror import Mirror

from tianji import ConfigError
from tianji.testing import ExtensionSuite, FakeGateway, Upstream, make_call, make_plugin
from tianji.testing.gateway import gateway
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
        await plugin.pre_call(call)
    await plugin.pre_call(make_call({"model": "other", "messages": []}))
    await fake.run_spawned()
    assert 320 < len(fake.asked) < 480
    assert {one.model for one in fake.asked} == {"next"}


async def test_a_copy_is_a_call_of_its_own() -> None:
    plugin, fake = made()
    call = make_call({"model": "stable", "messages": [{"role": "user", "content": "hello"}], "stream": True})
    await plugin.pre_call(call)
    await fake.run_spawned()
    (twin,) = fake.asked
    assert (twin.principal.key_id, twin.stream, twin.options["num_retries"]) == ("mirror", True, 0)
    assert twin.options["metadata"] == {"mirror_of": call.id}
    assert twin.id != call.id
    assert twin.body["messages"] == call.body["messages"]
    await plugin.pre_call(twin)
    assert len(fake.asked) == 1, "a copy is not copied again"


async def test_copies_are_bounded_and_counted() -> None:
    plugin, fake = made(max_in_flight=2)
    for _ in range(5):
        await plugin.pre_call(make_call({"model": "stable", "messages": []}))
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
