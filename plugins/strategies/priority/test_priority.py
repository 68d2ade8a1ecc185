"""The conformance suite, the queue, and contention behind the gateway."""

import asyncio
from typing import Any, ClassVar

import pytest
from tianji_strategy_priority import Priority

from tianji import Call, Deployment, Op, Overloaded, Provider, Release, Reply
from tianji.testing import StrategySuite, make_call, make_deployment, make_plugin
from tianji.testing.gateway import gateway

ONE = [make_deployment(id="a", max_parallel_requests=1)]


def asking(priority: int | None = None) -> Call:
    return make_call(options={} if priority is None else {"priority": priority})


async def settled() -> None:
    """Let everybody go as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


class Line:
    """Calls for the one slot of `ONE`. `served` fills in the order in which they get it."""

    def __init__(self, **settings: Any) -> None:
        self.strategy = make_plugin(Priority, settings)
        self.served: list[str] = []
        self.ends: list[Release] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def call(self, name: str, priority: int | None = None, *, deployments: list[Deployment] = ONE) -> None:
        async def go() -> None:
            call = asking(priority)
            first = (await self.strategy.rank(call, deployments))[0]
            end = self.strategy.begin(call, first)
            assert end is not None
            self.ends.append(end)
            self.served.append(name)

        self.tasks[name] = asyncio.create_task(go())

    async def free(self) -> None:
        """The oldest running call ends."""
        self.ends.pop(0)()
        await settled()

    async def failure(self, name: str) -> Overloaded:
        with pytest.raises(Overloaded) as refused:
            await self.tasks[name]
        return refused.value

    async def drain(self) -> None:
        while self.ends:
            await self.free()
        assert (self.strategy.busy, self.strategy.waiting) == ({}, {}), "nothing is left behind"


class TestPriority(StrategySuite):
    plugin = Priority
    returns = ("busy", "waiting")

    async def test_without_limits_it_is_a_shuffle_by_weight(self) -> None:
        group = [make_deployment(id="heavy", weight=9.0), make_deployment(id="light", weight=1.0)]
        strategy = self.make_plugin()
        first = [(await strategy.rank(make_call(), group))[0].id for _ in range(300)]
        assert 0.8 < first.count("heavy") / 300 < 1
        assert strategy.begin(make_call(), group[0]) is None

    async def test_only_what_has_room_is_offered(self) -> None:
        free = make_deployment(id="b", max_parallel_requests=1)
        strategy = self.make_plugin()
        strategy.begin(make_call(), ONE[0])
        assert await strategy.rank(make_call(), [*ONE, free]) == [free]

    async def test_the_most_urgent_goes_first(self) -> None:
        line = Line()
        for name, priority in (("first", None), ("low", 200), ("3", 3), ("plain", None), ("0", 0)):
            line.call(name, priority)
            await settled()
        assert line.served == ["first"]
        await line.drain()
        assert line.served == ["first", "0", "3", "plain", "low"]

    async def test_the_oldest_of_one_priority_goes_first(self) -> None:
        line = Line()
        for name in "abcd":
            line.call(name, 5)
        await settled()
        await line.drain()
        assert line.served == ["a", "b", "c", "d"]

    async def test_a_newcomer_does_not_overtake(self) -> None:
        line = Line()
        for name in ("runs", "waits"):
            line.call(name)
        await settled()
        line.ends.pop(0)()
        line.call("newcomer")  # before the waiting call has run on: its slot is taken all the same
        await settled()
        assert line.served == ["runs", "waits"]
        await line.drain()

    async def test_a_call_waits_for_any_of_its_deployments(self) -> None:
        other = make_deployment(id="b", max_parallel_requests=1)
        line = Line()
        line.call("on a", 5, deployments=ONE)
        line.call("on b", 5, deployments=[other])
        await settled()
        line.call("a only", 5, deployments=ONE)
        line.call("either", 5, deployments=[*ONE, other])
        await settled()
        line.ends.pop(1)()
        await settled()
        assert line.served == ["on a", "on b", "either"], "the slot on b is of no use to the one before"
        await line.drain()

    async def test_who_leaves_gives_up_the_place(self) -> None:
        line = Line()
        for name in ("runs", "leaves", "stays"):
            line.call(name)
        await settled()
        line.tasks["leaves"].cancel()
        await settled()
        await line.drain()
        assert line.served == ["runs", "stays"]

    async def test_a_slot_handed_to_one_who_left_is_handed_on(self) -> None:
        line = Line()
        for name in ("runs", "leaves", "stays"):
            line.call(name)
        await settled()
        line.ends.pop(0)()
        line.tasks["leaves"].cancel()  # it has the slot, and has not run on
        await settled()
        assert line.served == ["runs", "stays"]
        await line.drain()

    async def test_waiting_too_long(self) -> None:
        line = Line(timeout=0.01)
        for name in ("runs", "waits"):
            line.call(name)
        refused = await line.failure("waits")
        assert (refused.status, refused.code, refused.type) == (429, "queue_timeout", "rate_limit_error")
        assert line.strategy.waiting == {}
        await line.drain()

    async def test_waiting_ends_with_the_calls_time(self) -> None:
        strategy, call = self.make_plugin(), make_call()
        strategy.begin(make_call(), ONE[0])
        call.deadline = call.started
        with pytest.raises(Overloaded, match="free slot"):
            await strategy.rank(call, ONE)

    async def test_a_full_queue_refuses_the_last(self) -> None:
        line = Line(max_queue=2)
        for name, priority in (("runs", 1), ("low", 9), ("middle", 5)):
            line.call(name, priority)
            await settled()
        line.call("lower still", 10)
        refused = await line.failure("lower still")
        assert (refused.status, refused.code, refused.retry_after) == (429, "queue_full", 1.0)
        line.call("urgent", 0)
        await settled()
        assert (await line.failure("low")).code == "queue_full", "the least urgent makes room"
        await line.drain()
        assert line.served == ["runs", "urgent", "middle"]

    async def test_no_queue_at_all(self) -> None:
        line = Line(max_queue=0)
        line.call("runs")
        line.call("waits", 0)
        assert (await line.failure("waits")).code == "queue_full"
        await line.drain()

    async def test_explaining_does_not_wait(self) -> None:
        strategy, call = self.make_plugin(), make_call()
        strategy.begin(make_call(), ONE[0])
        call.dry = True
        assert await strategy.rank(call, ONE) == ONE

    async def test_a_slot_that_no_attempt_took_is_given_back(self) -> None:
        strategy, call = self.make_plugin(), make_call()
        end = strategy.begin(make_call(), ONE[0])
        waiting = asyncio.create_task(strategy.rank(call, ONE))
        await settled()
        end()
        assert await waiting == ONE
        assert strategy.busy == {"a": 1}
        for undo in call.take_undo():  # the call ends without an attempt
            await undo()
        assert strategy.busy == {}

    async def test_an_attempt_elsewhere_gives_the_slot_back(self) -> None:
        strategy, call, probe = self.make_plugin(), make_call(), make_deployment(id="probe")
        end = strategy.begin(make_call(), ONE[0])
        waiting = asyncio.create_task(strategy.rank(call, ONE))
        await settled()
        end()
        await waiting
        strategy.begin(call, probe)
        assert strategy.busy == {}

    async def test_no_slot_is_taken_twice(self) -> None:
        strategy = self.make_plugin()
        strategy.begin(make_call(), ONE[0])
        with pytest.raises(Overloaded) as refused:
            strategy.begin(make_call(), ONE[0])
        assert refused.value.status == 429

    async def test_slots_by_the_settings(self) -> None:
        strategy = make_plugin(Priority, {"max_parallel_requests": 1})
        plain, wide = make_deployment(id="plain"), make_deployment(id="wide", max_parallel_requests=2)
        for one in (plain, wide):
            strategy.begin(make_call(), one)
        assert await strategy.rank(make_call(), [plain, wide]) == [wide]


class Gate(Provider):
    """Answers when it is told to, and notes the order in which it is asked."""

    name = "gate"
    needs_key = False
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT})
    asked: ClassVar[list[str]] = []
    open: ClassVar[asyncio.Event]

    async def call(self, call: Call, deployment: Deployment) -> Reply:
        self.asked.append(call.body["messages"][0]["content"])
        await self.open.wait()
        message = {"role": "assistant", "content": "ok"}
        return Reply({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def config(**router: Any) -> dict[str, Any]:
    return {
        "model_list": [{"model_name": "chat", "tianji_params": {"model": "gate/one", "max_parallel_requests": 1}}],
        "router_settings": {"routing_strategy": "priority", **router},
    }


async def test_contention_behind_the_gateway() -> None:
    """One deployment with one slot: whoever says 0 is served before 3, and before those that say nothing."""
    Gate.asked, Gate.open = [], asyncio.Event()
    async with gateway(config(default_priority=200), plugins=[Gate]) as gw:
        tasks = [asyncio.create_task(gw.chat("chat", "first"))]
        strategy = next(one for one in gw.gateway.sealed.registry.plugins if isinstance(one, Priority))
        for place, (text, fields) in enumerate((("plain", {}), ("three", {"priority": 3}), ("zero", {"priority": 0}))):
            while not Gate.asked or len(strategy.waiting.get("chat", ())) < place:
                await asyncio.sleep(0.005)
            tasks.append(asyncio.create_task(gw.chat("chat", text, **fields)))
        while len(strategy.waiting.get("chat", ())) < 3:
            await asyncio.sleep(0.005)
        Gate.open.set()
        answers = await asyncio.gather(*tasks)
    assert [one.status_code for one in answers] == [200] * 4
    assert Gate.asked == ["first", "zero", "three", "plain"]
    assert (strategy.busy, strategy.waiting) == ({}, {})


async def test_a_client_that_leaves_the_queue() -> None:
    Gate.asked, Gate.open = [], asyncio.Event()
    async with gateway(config(), plugins=[Gate]) as gw:
        strategy = next(one for one in gw.gateway.sealed.registry.plugins if isinstance(one, Priority))
        first = asyncio.create_task(gw.chat("chat", "first"))
        while not Gate.asked:
            await asyncio.sleep(0.005)
        leaving = asyncio.create_task(gw.chat("chat", "leaves"))
        while not strategy.waiting:
            await asyncio.sleep(0.005)
        leaving.cancel()
        while strategy.waiting:
            await asyncio.sleep(0.005)
        Gate.open.set()
        assert (await first).status_code == 200
    assert Gate.asked == ["first"]


@pytest.mark.parametrize(("value", "code"), [("high", "invalid_type"), (256, "invalid_value"), (-1, "invalid_value")])
async def test_a_priority_that_is_none(value: Any, code: str) -> None:
    async with gateway(config(), plugins=[Gate]) as gw:
        answer = await gw.chat("chat", priority=value)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("priority", code)
