"""Health between instances, and the background checks: in virtual time, with gateways that share one store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import pytest
from kernel import VirtualLoop, answer, ask, asking, assembled, books, by_model, config, deployment, scripted, virtually
from support import deployment as served_by

from tianji.config.schema import Config
from tianji.errors import BadCredentials, Failure, Overloaded, Throttled, Unavailable
from tianji.gateway import Gateway
from tianji.health_checks import Checks
from tianji.health_watch import Note
from tianji.hookspecs import hookimpl
from tianji.memory import MemoryKV
from tianji.model import Call, Deployment, Op, Record, Reply
from tianji.plugin import Callback, Extension, Plugin
from tianji.services import KV, Assembly
from tianji.testing import Upstream
from tianji.testing.gateway import add
from tianji.testing.gateway import gateway as running


class Store:
    """A store that several gateways see. `error` ails it; `hangs` lets it never answer."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.inside = MemoryKV(clock=loop.time)
        self.error: Exception | None = None
        self.hangs = False
        self.asked: list[str] = []
        """Requests about health, in order. Other parts of the gateway use the store as well."""
        self.keys: list[list[str]] = []

    async def _reached(self, what: str, key: str) -> None:
        if key.startswith("health:"):
            self.asked.append(what)
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    async def get(self, key: str) -> bytes | None:
        await self._reached("get", key)
        return await self.inside.get(key)

    async def many(self, keys: Sequence[str]) -> list[bytes | None]:
        await self._reached("many", keys[0])
        if keys[0].startswith("health:"):
            self.keys.append(list(keys))
        return await self.inside.many(keys)

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        await self._reached("set", key)
        await self.inside.set(key, value, ttl)

    async def delete(self, *keys: str) -> int:
        return await self.inside.delete(*keys)

    async def note(self, deployment_id: str) -> Note:
        value = await self.inside.get(f"health:{deployment_id}")
        assert value is not None
        return msgspec.json.decode(value, type=Note)


def offering(store: Store) -> type[Plugin]:
    class Offers(Extension):
        name = "offers"

        @hookimpl
        def configure(self, app: Assembly) -> None:
            app.provide(KV, store)  # type: ignore[type-abstract]

    return Offers


def three(**sections: Any) -> Config:
    return config(*(deployment(model=name) for name in ("one", "two", "three")), **sections)


class Instance:
    """One gateway of several, on the loop's clock."""

    def __init__(self, loop: VirtualLoop, store: Store | None, settings: Config | None = None, **kind: Any) -> None:
        plugins = [offering(store)] if store is not None else []
        self.gateway = assembled(settings or three(), *plugins, *kind.get("plugins", ()))
        self.gateway._sharing.wall = loop.time
        self.loop = loop
        self.tune()

    def tune(self) -> None:
        self.gateway.sealed.health.clock = self.loop.time
        self.gateway.sealed.health.uniform = lambda low, high: 1.0

    async def __aenter__(self) -> Instance:
        await self.gateway.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.stop(0.1)

    @property
    def members(self) -> tuple[Deployment, ...]:
        return self.gateway.sealed.router.deployments

    def names(self) -> list[str]:
        return [self.gateway.sealed.health.name(one) for one in self.members]

    def fail(self, number: int = 0, failure: Failure | None = None) -> None:
        self.gateway.sealed.health.failed(self.members[number], failure or Throttled("x"), len(self.members))

    def succeed(self, number: int = 0) -> None:
        self.gateway.sealed.health.succeeded(self.members[number])

    def probe(self) -> str | None:
        probe = self.gateway.sealed.health.split(self.members).probe
        return probe.id if probe is not None else None


class TestSharing:
    def test_what_one_learns_the_others_know_a_second_later_and_so_the_return(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, store) as one, Instance(loop, store) as two, Instance(loop, store) as late:
                one.fail()
                assert two.names() == ["healthy"] * 3
                await asyncio.sleep(1.01)
                assert one.names() == two.names() == late.names() == ["ejected", "healthy", "healthy"]
                health = two.gateway.sealed.health
                assert 3.9 < health.cooling(two.members[0]) < 4.0
                assert health.state(two.members[0]).reason == "Throttled 429"
                assert (await store.note("group-one")).times == 1
                await asyncio.sleep(4.1)
                assert one.probe() == "group-one"
                await asyncio.sleep(1.01)
                assert (one.names()[0], two.names()[0], two.probe()) == ("probing", "probing", None)
                one.succeed()
                await asyncio.sleep(1.01)
                assert one.names() == two.names() == late.names() == ["healthy"] * 3

        virtually(main)

    def test_a_probe_that_fails_extends_the_time_for_all(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, store) as one, Instance(loop, store) as two:
                one.fail()
                await asyncio.sleep(5.01)
                assert two.probe() == "group-one"
                two.fail(failure=Unavailable("x"))
                await asyncio.sleep(1.01)
                assert 8.9 < one.gateway.sealed.health.cooling(one.members[0]) < 9.0
                assert one.probe() is None
                assert (await store.note("group-one")).reason == "Unavailable 503"

        virtually(main)

    def test_an_instance_that_starts_learns_what_the_others_know(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, store) as one:
                one.fail(failure=Throttled("x", retry_after=300.0))
                await asyncio.sleep(100.0)
                async with Instance(loop, store) as two:
                    await asyncio.sleep(1.01)
                    assert 198 < two.gateway.sealed.health.cooling(two.members[0]) < 200

        virtually(main)

    def test_one_reading_a_second_for_all_deployments_and_none_without_a_shared_store(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, store), Instance(loop, None) as alone:
                await asyncio.sleep(10.5)
                assert store.asked == ["many"] * 10
                assert store.keys[0] == ["health:group-one", "health:group-two", "health:group-three"]
                alone.fail()
                assert alone.gateway.sealed.health.changed is None
                assert not any("health" in job.get_name() for job in alone.gateway._jobs)

        virtually(main)

    def test_with_cooldowns_switched_off_nothing_is_shared(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, store, three(router_settings={"disable_cooldowns": True})) as one:
                one.fail()
                await asyncio.sleep(3.0)
                assert store.asked == []

        virtually(main)

    @pytest.mark.parametrize("ailment", ["fails", "hangs"])
    def test_a_store_that_ails_is_reported_once_and_harms_nothing(
        self, ailment: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, store) as one, Instance(loop, store) as two:
                store.hangs, store.error = ailment == "hangs", ConnectionError("gone: redis://:secret@host")
                await asyncio.sleep(30.0)
                begun = loop.time()
                one.fail(failure=Throttled("x", retry_after=100.0))
                assert (await ask(one.gateway)).replied is not None
                assert loop.time() == begun, "a call does not wait for the store"
                await asyncio.sleep(10.0)
                assert two.names() == ["healthy"] * 3
                store.hangs, store.error = False, None
                await asyncio.sleep(6.0)
                assert two.names() == ["ejected", "healthy", "healthy"], "told as soon as that is possible"

        with caplog.at_level(logging.INFO, "tianji.health"):
            virtually(main)
        said = [record.message for record in caplog.records if record.name == "tianji.health"]
        assert sum("does not answer" in line for line in said) == 2, "once for each instance"
        assert sum("answers again" in line for line in said) == 2
        assert not any("secret" in line for line in said)

    @pytest.mark.parametrize(
        "value",
        [b"", b"null", b"[]", b"{", b'{"until": "soon"}', b'{"until": 1e999}', b"\xff\xfe", b'{"times": 3}',
         b'{"until": 1, "times": "x"}', b'{"until": 5e9, "at": 1}'],
    )  # fmt: skip
    def test_what_cannot_be_read_or_is_long_over_is_ignored(self, value: bytes) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, store) as one:
                one.succeed()
                one.gateway.sealed.health.state(one.members[0]).changed_at = loop.time()
                await store.set("health:group-one", value)
                await asyncio.sleep(2.0)
                assert one.names() == ["healthy"] * 3

        virtually(main)

    def test_a_reload_goes_on_sharing_and_forgets_what_is_gone(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, store) as one, Instance(loop, store) as two:
                one.fail(0, Throttled("x", retry_after=100.0))
                one.fail(2, Throttled("x", retry_after=100.0))
                await one.gateway.reload(config(deployment(model="one"), deployment(model="two")))
                one.tune()
                health = one.gateway.sealed.health
                assert (one.names(), set(health.aside)) == (["ejected", "healthy"], {"group-one"})
                one.fail(1)
                await asyncio.sleep(1.01)
                assert two.names()[1] != "healthy"
                assert sum(what == "many" for what in store.asked) == 2, "still one loop for each instance"

        virtually(main)

    def test_a_store_that_comes_with_a_reload_is_used_from_then_on(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            store = Store(loop)
            async with Instance(loop, None) as one:
                await asyncio.sleep(3.0)
                assert store.asked == []
                add(one.gateway.catalogue, offering(store))
                await one.gateway.reload(three())
                one.tune()
                await asyncio.sleep(1.5)
                assert store.asked == ["many"]

        virtually(main)


class Records(Callback):
    name = "records"
    seen: list[Record]

    async def export(self, records: Sequence[Record]) -> None:
        type(self).seen.extend(records)


def checked(*deployments: dict[str, Any], provider: type[Plugin], loop: VirtualLoop, **general: Any) -> Instance:
    records = type("Records", (Records,), {"seen": []})
    settings = config(
        *deployments,
        general_settings={"background_health_checks": True, **general},
        tianji_settings={"callbacks": ["records"]},
    )
    one = Instance(loop, None, settings, plugins=(provider, records))
    one.gateway._checks = Checks(one.gateway, uniform=lambda low, high: high / 2)
    one.records = records.seen  # type: ignore[attr-defined]
    return one


class TestChecks:
    def test_every_interval_each_deployment_gets_one_small_request(self) -> None:
        calls: list[tuple[Op, str, dict[str, Any], float | None]] = []

        async def script(call: Call, deployment: Deployment) -> Reply:
            calls.append((call.op, deployment.model, call.body, deployment.timeout))
            return answer()

        async def main(loop: VirtualLoop) -> None:
            one = checked(
                deployment(model="one"),
                deployment("vectors", "two", model_info={"mode": "embedding", "health_check_timeout": 7}),
                deployment("old", "three", model_info={"mode": "completion", "health_check_max_tokens": 9}),
                deployment("any/*", "*", model_info={"health_check_model": "scripted/four"}),
                deployment("some/*", "*"),
                deployment("quiet", "five", model_info={"disable_background_health_check": True}),
                deployment("pictures", "six", model_info={"mode": "image_generation"}),
                provider=scripted(script),
                loop=loop,
                health_check_interval=60,
            )
            async with one:
                await asyncio.sleep(59.0)
                assert sorted(model for _, model, _, _ in calls) == ["four", "one", "three", "two"]
                bodies = {model: (op, body, timeout) for op, model, body, timeout in calls}
                chat = {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
                assert bodies["one"] == (Op.CHAT, {"model": "group", **chat}, 60.0)
                assert bodies["two"] == (Op.EMBEDDINGS, {"model": "vectors", "input": "ping"}, 7.0)
                said = bodies["three"][1]  # in chat, as the provider knows no completions
                assert (said["max_tokens"], said["messages"][-1]["content"]) == (9, "ping")
                assert bodies["four"][1] == {"model": "any/*", **chat}
                await asyncio.sleep(60.0)
                assert len(calls) == 8
                state = one.gateway.sealed.health.state(one.members[0])
                assert state.check is not None
                assert (state.check.ok, state.check.error) == (True, "")

        virtually(main)

    def test_they_are_paid_for_by_the_master_key_and_tagged_and_never_tried_again(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            provider = by_model(one=lambda: Unavailable("down", retry_after=0.1), two=None)
            one = checked(
                deployment(model="one"), deployment(model="two"), deployment("other", "two"),
                provider=provider, loop=loop, health_check_interval=100,
            )  # fmt: skip
            one.gateway.sealed.config.router.fallbacks["group"] = ("other",)
            async with one:
                await asyncio.sleep(90.0)
                await one.gateway.pipeline.log.outlets[0].stop(1.0)
                records: list[Record] = one.records  # type: ignore[attr-defined]
                assert sorted(provider.asked) == ["one", "two", "two"]
                assert {(one.key_id, one.tags, len(one.attempts)) for one in records} == {
                    ("master-key", ("health-check",), 1)
                }
                assert books(one.gateway).spend("master-key") == 2 * 20_000, "10 tokens in and 5 out each"
                assert books(one.gateway).open == 0

        virtually(main)

    def test_a_failure_counts_and_an_answer_ends_doubts(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            failures: dict[str, Failure] = {"one": BadCredentials("bad key sk-own-key")}

            async def script(call: Call, deployment: Deployment) -> Reply:
                if deployment.model in failures:
                    raise failures[deployment.model]
                return answer()

            pair = (deployment(model="one", api_key="sk-own-key", cooldown_time=1000), deployment(model="two"))
            one = checked(*pair, provider=scripted(script), loop=loop, health_check_interval=100)
            async with one:
                await asyncio.sleep(50.0)
                state = one.gateway.sealed.health.state(one.members[0])
                assert one.names() == ["ejected", "healthy"]
                assert state.check is not None
                assert (state.check.ok, state.check.error) == (False, "BadCredentials 401: bad key ***")
                failures.clear()
                await asyncio.sleep(100.0)
                assert one.names() == ["healthy", "healthy"]
                assert state.check.ok

        virtually(main)

    def test_one_that_asked_to_be_left_alone_is(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            provider = scripted()
            pair = (deployment(model="one"), deployment(model="two"))
            one = checked(*pair, provider=provider, loop=loop, health_check_interval=100)
            async with one:
                one.fail(0, Throttled("x", retry_after=90.0))
                await asyncio.sleep(50.0)
                assert provider.asked == ["two"]
                assert one.names() == ["ejected", "healthy"]

        virtually(main)

    def test_what_is_refused_on_this_side_says_nothing_about_the_deployment(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            async def script(call: Call, deployment: Deployment) -> Reply:
                raise Overloaded("no slot")

            one = checked(deployment(), deployment(model="two"), provider=scripted(script), loop=loop)
            async with one:
                await asyncio.sleep(250.0)
                assert one.names() == ["healthy", "healthy"]
                assert one.gateway.sealed.health.state(one.members[0]).check is None

        virtually(main)

    def test_no_more_than_five_at_once_and_one_that_hangs_ends_with_its_timeout(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            now, most = 0, 0

            async def script(call: Call, deployment: Deployment) -> Reply:
                nonlocal now, most
                now += 1
                most = max(most, now)
                try:
                    await asyncio.sleep(1000.0 if deployment.model == "m0" else 3.0)
                finally:
                    now -= 1
                return answer()

            many = [deployment(model=f"m{number}") for number in range(12)]
            one = checked(*many, provider=scripted(script), loop=loop)
            async with one:
                await asyncio.sleep(100.0)
                assert (most, now) == (5, 0)
                checks = [one.gateway.sealed.health.state(each).check for each in one.members]
                assert [check.ok for check in checks if check is not None] == [False] + [True] * 11
                assert checks[0] is not None
                assert checks[0].error.startswith("Timeout 408")

        virtually(main)

    def test_they_can_be_switched_on_and_off_by_a_reload(self) -> None:
        async def main(loop: VirtualLoop) -> None:
            provider = scripted()
            off = config(deployment())
            on = config(deployment(), general_settings={"background_health_checks": True, "health_check_interval": 10})
            one = Instance(loop, None, off, plugins=(provider,))
            async with one:
                await asyncio.sleep(100.0)
                assert provider.asked == []
                for _ in range(2):
                    await one.gateway.reload(on)
                await asyncio.sleep(55.0)
                asked = len(provider.asked)
                assert 5 <= asked <= 6, "one job, however often the configuration is loaded"
                await one.gateway.reload(off)
                await asyncio.sleep(100.0)
                assert len(provider.asked) == asked

        virtually(main)


class TestRoute:
    """`GET /health`."""

    async def test_states_counts_and_checks_and_no_secret(self) -> None:
        async with Upstream() as bad, Upstream() as good:
            bad.reply(status=429, json={"error": {"message": "slow"}})
            good.reply(json={"choices": [], "model": "m"})
            sick, well = served_by(bad, order=1), served_by(good, order=2, max_parallel_requests=3)
            sick["tianji_params"]["api_base"] = f"{bad.url}/v1?token=hidden".replace("http://", "http://user:secret@")
            other = served_by(good, "other")
            settings = {"model_list": [sick, well, other], "router_settings": {"model_group_alias": {"nice": "other"}}}
            async with running(settings) as gw:
                health = gw.gateway.sealed.health
                group = gw.gateway.sealed.router.groups["fast"].deployments
                health.failed(group[0], Throttled("x", retry_after=30.0), 2)
                assert (await gw.chat("fast")).status_code == 200
                body = (await gw.client.get("/health")).json()
                assert (body["healthy_count"], body["unhealthy_count"]) == (2, 1)
                (row,) = body["unhealthy_endpoints"]
                assert (row["state"], row["reason"], row["successes"], row["failures"]) == (
                    "ejected", "Throttled 429", 0, 1,
                )  # fmt: skip
                assert 25 < row["cooling_for"] <= 30
                assert row["last_check"] is None
                assert row["api_base"].endswith("/v1")
                row = next(one for one in body["healthy_endpoints"] if one["model_group"] == "fast")
                assert (row["state"], row["successes"], row["failures"], row["in_flight"]) == ("healthy", 1, 0, 0)
                for secret in ("hidden", "secret", "sk-upstream"):
                    assert secret not in str(body)
                for name in ("other", "nice", gw.gateway.sealed.router.groups["other"].deployments[0].id):
                    some = (await gw.client.get("/health", params={"model": name})).json()
                    assert [one["model_group"] for one in some["healthy_endpoints"]] == ["other"]
                    assert some["unhealthy_count"] == 0
                assert (await gw.client.get("/health", params={"model": "nope"})).status_code == 404

    async def test_a_check_that_failed_makes_an_endpoint_unhealthy_though_it_is_used(self) -> None:
        async with Upstream() as up:
            up.reply(status=500, json={"error": {"message": "broken"}})
            settings = {
                "model_list": [served_by(up)],
                "general_settings": {"background_health_checks": True, "health_check_interval": 1},
            }
            async with running(settings) as gw:
                row: dict[str, Any] = {}
                async with asyncio.timeout(20.0):
                    while not row.get("last_check"):
                        await asyncio.sleep(0.05)
                        body = (await gw.client.get("/health")).json()
                        row = (body["unhealthy_endpoints"] or body["healthy_endpoints"])[0]
                assert body["unhealthy_count"] == 1
                assert (row["state"], row["last_check"]["ok"]) == ("healthy", False)
                assert row["error"] == row["last_check"]["error"]
                assert "broken" in row["error"]
                assert up.requests[0].json()["max_tokens"] == 1

    async def test_only_an_administrator_may_see_it(self) -> None:
        async with Upstream() as up, running({"model_list": [served_by(up)]}) as gw:
            async with httpx.AsyncClient(base_url=gw.url) as anyone:
                assert (await anyone.get("/health")).status_code == 401


def test_a_call_of_the_hot_path_asks_for_nothing_while_all_are_well() -> None:
    gateway: Gateway = assembled(three())
    members = gateway.sealed.router.deployments

    class Forbidden(dict[str, Any]):
        def __contains__(self, key: object) -> bool:
            raise AssertionError("nobody is aside")

    gateway.sealed.health.aside = Forbidden()
    assert gateway.sealed.health.split(members) == (None, members, ())
    assert asking().model == "group"
