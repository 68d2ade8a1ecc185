"""What surrounds an answer that is gone on with: records, ledger, slots, wrappers, clients that leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from kernel import Collector, ask, assembled, books, config, deployment
from survival import (
    Talker,
    accounts,
    breaks,
    chat,
    gateway_of,
    heard,
    run,
    sink,
    spent,
    talker,
)

from tianji.attempts import Attempts
from tianji.errors import OverBudget
from tianji.hookspecs import hookimpl
from tianji.model import Call, Chunk, Entry, Record, Reply
from tianji.plugin import Extension


def test_the_record_tells_of_every_attempt() -> None:
    async def main() -> None:
        records: list[Record] = []
        provider = talker(breaks={"a": 2, "b": 1}, rng=random.Random(3))
        gateway = gateway_of(provider, "a", "b", "c", plugins=[sink(records)])
        _, call = await heard(gateway)
        await gateway.stop()
        (record,) = records
        assert record.status == "success"
        assert [(one.number, one.outcome) for one in record.attempts] == [
            (1, "Unavailable"),
            (2, "Unavailable"),
            (3, "ok"),
        ]
        given, made, nano = spent(gateway, call)
        assert record.usage is not None
        assert (record.usage.input_tokens, record.usage.output_tokens) == (given, made)
        assert made == sum(one.usage.output_tokens for one in record.attempts if one.usage)
        assert record.cost is not None
        assert record.cost.nano == nano
        assert record.deployment_id == "group-c"
        assert record.request is not None
        assert len(record.request["messages"]) == 1, "what the client asked, not what the last attempt was asked"
        assert all(one.time_to_first_token is not None for one in record.attempts)

    run(main)


def test_a_wrapper_of_the_stream_sees_one_stream() -> None:
    seen: list[str] = []

    class Watcher(Extension):
        name = "watcher"

        @hookimpl
        async def post_call(self, call: Call, reply: Reply) -> Reply | None:
            stream = reply.stream
            assert stream is not None

            async def watched() -> AsyncIterator[Chunk]:
                async for chunk in stream:
                    for event in chunk.events:
                        seen.extend(choice["delta"].get("content", "") for choice in event["choices"])
                    yield chunk

            reply.stream = watched()
            return None

    async def main() -> None:
        gateway = gateway_of(talker(breaks={"a": 3}), "a", "b", plugins=[Watcher])
        told, call = await heard(gateway)
        assert told.text == "".join(seen) == Talker.text
        assert accounts(gateway, call) == ["partial", "success"]

    run(main)


@pytest.mark.parametrize("after", range(1, 8))
def test_a_client_that_leaves_in_the_middle_leaves_nothing_open(after: int) -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2}, rng=random.Random(5))
        gateway = gateway_of(provider, "a", "b")
        call = chat()
        with pytest.raises(asyncio.CancelledError):
            await ask(gateway, call, collector=Collector(leave_after=after))
        statuses = accounts(gateway, call)
        assert statuses in (["cancelled"], ["partial", "cancelled"])
        assert call.charge.reply.upstream.ended

    run(main)


def test_a_client_that_leaves_while_another_is_asked() -> None:
    async def main() -> None:
        class Slow(Talker):
            calls: ClassVar[list[Any]] = []
            breaks: ClassVar[dict[str, int | None]] = {"a": 2}

            async def call(self, call: Call, deployment: Any) -> Reply:
                if deployment.model == "b":
                    await asyncio.sleep(1000)
                return await super().call(call, deployment)

        gateway = gateway_of(Slow, "a", "b")
        call = chat()
        collector = Collector()
        task = asyncio.ensure_future(ask(gateway, call, collector=collector))
        await asyncio.sleep(5)
        collector.gone = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert accounts(gateway, call) == ["partial", "cancelled"]

    run(main)


def test_a_ledger_that_is_away_stops_it_and_loses_nothing() -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2})
        gateway = gateway_of(provider, "a", "b")
        ledger = books(gateway)
        settle = ledger.settle
        failures = [OSError("away"), OSError("away")]

        async def flaky(entry: Entry) -> None:
            if failures:
                raise failures.pop()
            await settle(entry)

        ledger.settle = flaky  # type: ignore[method-assign]
        _, call, _ = await breaks(gateway)
        assert len(provider.calls) == 1
        assert ledger.open == 1, "owed"
        told, _ = await heard(gateway)
        assert told.done
        assert accounts(gateway, call) == ["partial"]

    run(main)


def test_a_ledger_that_refuses_the_second_leaves_the_first_settled() -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2})
        gateway = gateway_of(provider, "a", "b")
        ledger = books(gateway)
        reserve = ledger.reserve

        async def once(entry: Entry, principal: Any) -> None:
            if entry.attempt > 1:
                raise OverBudget("The budget is used up.")
            await reserve(entry, principal)

        ledger.reserve = once  # type: ignore[method-assign]
        _, call, failure = await breaks(gateway)
        assert failure.code == "connection_error"
        assert accounts(gateway, call) == ["partial"]

    run(main)


def test_the_slot_of_the_broken_one_is_free_at_once() -> None:
    async def main() -> None:
        class Looking(Talker):
            calls: ClassVar[list[Any]] = []
            breaks: ClassVar[dict[str, int | None]] = {"a": 2}
            held: ClassVar[list[int]] = []

            async def call(self, call: Call, deployment: Any) -> Reply:
                first = gateway.pipeline.attempts.router.groups["group"].deployments[0]
                self.held.append(gateway.pipeline.attempts.health.state(first).in_flight)
                return await super().call(call, deployment)

        specs = [deployment("group", one, max_parallel_requests=1) for one in "ab"]
        gateway = assembled(config(*specs, router_settings={"continue_streams": True}), Looking)
        told, _ = await heard(gateway)
        assert told.done
        assert Looking.held == [1, 0]
        states = gateway.pipeline.attempts.health.states.values()
        assert [one.in_flight for one in states] == [0, 0]

    run(main)


def test_what_the_provider_did_not_say_is_estimated_and_added() -> None:
    async def main() -> None:
        class Silent(Talker):
            calls: ClassVar[list[Any]] = []
            breaks: ClassVar[dict[str, int | None]] = {"a": 2}

            async def call(self, call: Call, deployment: Any) -> Reply:
                reply = await super().call(call, deployment)
                meter: Any = reply.meter
                nothing = property(lambda _: None, lambda _, __: None)
                meter.__class__ = type("Silent", (type(meter),), {"usage": nothing})
                return reply

        gateway = gateway_of(Silent, "a", "b")
        told, call = await heard(gateway)
        assert told.text == Talker.text
        assert accounts(gateway, call) == ["partial", "success"]
        assert call.reply is not None
        assert call.reply.usage is not None
        assert call.reply.usage.estimated
        first, second = (one for one in books(gateway).entries if one.kind == "settle")
        assert first.usage is not None
        assert second.usage is not None
        assert second.usage.input_tokens > first.usage.input_tokens, "it was shown the beginning too"

    run(main)


def test_switched_off_the_stream_is_the_providers_own() -> None:
    async def main() -> None:
        provider = talker()
        gateway = gateway_of(provider, "a", continue_streams=False)
        assert type(gateway.pipeline.attempts) is Attempts
        collector = await ask(gateway, chat())
        assert collector.replied is not None
        assert type(collector.replied.stream).__name__ == "async_generator"

    run(main)
