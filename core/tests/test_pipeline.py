"""The life of a call: which stages it meets, in which order, and what each way of ending leaves behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel import (
    Collector,
    answer,
    ask,
    asking,
    assembled,
    books,
    config,
    deployment,
    failing,
    scripted,
    streamed,
    text_of,
)

from tianji.errors import Blocked, Failure, Forbidden, Internal, Rejected, Throttled, Unavailable
from tianji.hookspecs import hookimpl
from tianji.model import Attempt, Call, Deployment, Record, Reply
from tianji.plugin import Callback, Extension, Strategy
from tianji.testing import captured_logs

Do = Callable[[Call], Any]


class Stage(Extension):
    """Notes every stage it meets in `trace`; `acts` says what else to do there."""

    order = 500
    trace: list[str] = []
    acts: dict[str, Do] = {}

    def _do(self, stage: str, call: Call) -> Any:
        self.trace.append(f"{self.name}.{stage}")
        act = self.acts.get(stage)
        return act(call) if act is not None else None

    @hookimpl
    async def pre_call(self, call: Call) -> Reply | None:
        async def undo() -> None:
            self._do("undo", call)

        call.defer(undo)
        reply: Reply | None = self._do("pre", call)
        return reply

    @hookimpl
    async def post_call(self, call: Call, reply: Reply) -> Reply | None:
        changed: Reply | None = self._do("post", call)
        return changed


def stages(trace: list[str], **acts: dict[str, Do]) -> list[type[Stage]]:
    """The plugins `a` (100), `b` (400) and `c` (500), all writing into one trace."""
    rows = (("a", 100), ("b", 400), ("c", 500))
    return [
        type("Made", (Stage,), {"name": name, "order": at, "trace": trace, "acts": acts.get(name, {})})
        for name, at in rows
    ]


def raising(failure: BaseException) -> Do:
    def act(call: Call) -> Any:
        raise failure

    return act


def watching(check: Callable[[], Awaitable[None]]) -> Do:
    return lambda call: call.watch(check())


def said(text: str) -> Do:
    return lambda call: answer(text)


async def bad_check() -> None:
    raise Blocked("the check says no")


async def faulty_check() -> None:
    raise ValueError("a secret detail")


DOWN = ["a.pre", "b.pre", "c.pre"]
UP = ["c.post", "b.post", "a.post"]
UNDO = ["c.undo", "b.undo", "a.undo"]
OK = [*DOWN, "provider", *UP, "bytes", *UNDO]
CASES: dict[str, tuple[dict[str, dict[str, Do]], list[str], str | int]] = {
    "nothing special": ({}, OK, "ok"),
    "b answers": (
        {"b": {"pre": said("cached")}},
        ["a.pre", "b.pre", "b.post", "a.post", "bytes", "b.undo", "a.undo"],
        "cached",
    ),
    "a refuses": ({"a": {"pre": raising(Forbidden("no"))}}, ["a.pre", "refused 403", "a.undo"], 403),
    "c refuses": ({"c": {"pre": raising(Blocked("no"))}}, [*DOWN, "refused 400", *UNDO], 400),
    "b replaces the answer": ({"b": {"post": said("other")}}, OK, "other"),
    "b refuses the answer": (
        {"b": {"post": raising(Blocked("no"))}},
        [*DOWN, "provider", "c.post", "b.post", "refused 400", *UNDO],
        400,
    ),
    "a faulty pre_call": (
        {"b": {"pre": raising(KeyError("secret detail"))}},
        ["a.pre", "b.pre", "refused 500", "b.undo", "a.undo"],
        500,
    ),
    "a faulty post_call": (
        {"c": {"post": raising(TypeError("secret detail"))}},
        [*DOWN, "provider", "c.post", "refused 500", *UNDO],
        500,
    ),
    "a faulty undo": ({"b": {"undo": raising(OSError("disk"))}}, OK, "ok"),
    "a check passes": ({"a": {"pre": watching(lambda: asyncio.sleep(0))}}, OK, "ok"),
    "a check refuses": ({"a": {"pre": watching(bad_check)}}, [*DOWN, "provider", "refused 400", *UNDO], 400),
    "a check is faulty": ({"a": {"pre": watching(faulty_check)}}, [*DOWN, "provider", "refused 500", *UNDO], 500),
    "a check refuses an answer of a plugin": (
        {"a": {"pre": watching(bad_check)}, "b": {"pre": said("cached")}},
        ["a.pre", "b.pre", "refused 400", "b.undo", "a.undo"],
        400,
    ),
    "refused while a check waits": (
        {"a": {"pre": watching(bad_check)}, "b": {"pre": raising(Forbidden("no"))}},
        ["a.pre", "b.pre", "refused 403", "b.undo", "a.undo"],
        403,
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_stages_of_a_call(name: str) -> None:
    acts, expected, outcome = CASES[name]
    trace: list[str] = []

    async def script(call: Call, deployment: Deployment) -> Reply:
        trace.append("provider")
        return answer()

    gateway = assembled(config(), scripted(script), *stages(trace, **acts))
    call = asking()
    with captured_logs() as logs:
        got = await ask(gateway, call, collector=Collector(trace=trace))
    assert trace == expected
    if isinstance(outcome, str):
        assert text_of(got.replied) == outcome
    else:
        assert got.failure is not None
        assert got.failure.status == outcome
    if outcome == 500:
        assert isinstance(got.failure, Internal)
        assert call.id in got.failure.message
        assert "secret detail" not in got.failure.message
        assert any("secret detail" in line and "Traceback" in line for line in logs)
    assert (books(gateway).open, gateway.pipeline.in_flight) == (0, 0)
    await gateway.stop()


async def test_checks_run_beside_the_provider_and_before_the_first_byte() -> None:
    trace: list[str] = []
    started = asyncio.Event()

    async def check() -> None:
        started.set()
        await asyncio.sleep(0.02)
        trace.append("checked")

    async def script(call: Call, deployment: Deployment) -> Reply:
        await started.wait()  # would never come, if the check were run before or after
        trace.append("provider")
        return streamed("a", "b")

    gateway = assembled(config(), scripted(script), *stages(trace, a={"pre": watching(check)}))
    await ask(gateway, asking(stream=True), collector=Collector(trace=trace))
    assert [one for one in trace if "." not in one] == ["provider", "checked", "bytes"]
    await gateway.stop()


async def test_a_check_is_cancelled_when_the_provider_fails() -> None:
    ended: list[str] = []

    async def check() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def script(call: Call, deployment: Deployment) -> Reply:
        await asyncio.sleep(0)
        raise Rejected("no")

    gateway = assembled(config(), scripted(script), *stages([], a={"pre": watching(check)}))
    assert isinstance((await ask(gateway)).failure, Rejected)
    assert ended == ["cancelled"]
    await gateway.stop()


class TestStreams:
    async def test_undo_runs_after_the_last_byte(self) -> None:
        trace: list[str] = []
        gateway = assembled(config(), scripted(_stream("a", "b")), *stages(trace))
        got = await ask(gateway, asking(stream=True), collector=Collector(trace=trace))
        assert len(got.chunks) == 2
        assert trace == [*DOWN, *UP, "bytes", *UNDO]
        assert books(gateway).spend("key-1") == 10 * 1000 + 2 * 2000
        await gateway.stop()

    @pytest.mark.parametrize("leave_after", [0, 1, 2])
    async def test_a_client_that_leaves(self, leave_after: int) -> None:
        trace: list[str] = []
        made: list[Reply] = []

        async def script(call: Call, deployment: Deployment) -> Reply:
            made.append(streamed("a", "b", "c"))
            return made[-1]

        gateway = assembled(config(), scripted(script), *stages(trace))
        with pytest.raises(asyncio.CancelledError):
            await ask(gateway, asking(stream=True), collector=Collector(leave_after=leave_after, trace=trace))
        assert trace == [*DOWN, *UP, *UNDO]
        assert made[0].upstream is not None
        assert made[0].upstream.ended
        last = books(gateway).entries[-1]
        assert (last.kind, last.status, books(gateway).open) == ("settle", "cancelled", 0)
        assert last.usage is not None
        assert last.usage.estimated
        assert last.usage.output_tokens >= leave_after
        assert gateway.pipeline.in_flight == 0
        await gateway.stop()

    async def test_a_stream_that_breaks_is_partial(self) -> None:
        gateway = assembled(config(), scripted(_stream("a", Unavailable("broken"))), *stages([]))
        await ask(gateway, asking(stream=True))
        assert books(gateway).entries[-1].status == "partial"
        await gateway.stop()

    async def test_where_the_provider_bills_in_full_it_is_read_to_the_end(self) -> None:
        provider = scripted(_stream("a", "b", "c"))
        provider.drain = True  # type: ignore[attr-defined]
        gateway = assembled(config(), provider)
        with pytest.raises(asyncio.CancelledError):
            await ask(gateway, asking(stream=True), collector=Collector(leave_after=1))
        await gateway.pipeline.stop(1.0)
        last = books(gateway).entries[-1]
        assert last.usage is not None
        assert (last.usage.output_tokens, last.usage.estimated, last.status) == (3, False, "cancelled")
        await gateway.stop()


def _stream(*pieces: str | Failure) -> Any:
    async def script(call: Call, deployment: Deployment) -> Reply:
        return streamed(*pieces)

    return script


OUTCOMES: tuple[str, ...] = ("ok", "stream", "break", "leave", "down", "throttled", "rejected", "fault", "cut off")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4), min_size=1, max_size=12),
    st.integers(0, 2**32),
)
async def test_the_books_balance_whatever_happens(plans: list[list[str]], seed: int) -> None:
    """One reservation before each attempt, one settlement after it, and the spend is the sum of the entries."""
    rng = random.Random(seed)

    async def script(call: Call, deployment: Deployment) -> Reply:
        plan: list[str] = call.state["plan"]
        step = plan.pop(0) if plan else "ok"
        reserved = [one for one in books(gateway).entries if one.call_id == call.id]
        assert reserved[-1].kind == "reserve"
        if rng.random() < 0.5:
            await asyncio.sleep(0)
        match step:
            case "stream" | "leave":
                return streamed("a", "b", "c")
            case "break":
                return streamed("a", Unavailable("broken"))
            case "fault":
                raise KeyError("a fault of the plugin")
            case "cut off":
                raise asyncio.CancelledError
            case "down":
                raise Unavailable("down")
            case "throttled":
                raise Throttled("slow")
            case "rejected":
                raise Rejected("no")
        return answer()

    names = [deployment(model=model) for model in ("one", "two", "three")]
    gateway = assembled(config(*names, router_settings={"disable_cooldowns": True}), scripted(script))

    async def one(plan: list[str]) -> None:
        call = asking(stream="stream" in plan)
        call.state["plan"] = list(plan)
        try:
            await ask(gateway, call, collector=Collector(leave_after=1 if "leave" in plan else None))
        except asyncio.CancelledError:
            pass

    await asyncio.gather(*(one(plan) for plan in plans))
    ledger = books(gateway)
    assert (ledger.open, ledger.held, gateway.pipeline.in_flight) == (0, 0, 0)
    kinds: dict[tuple[str, int], list[str]] = {}
    for entry in ledger.entries:
        kinds.setdefault((entry.call_id, entry.attempt), []).append(entry.kind)
    assert all(kind in (["reserve", "settle"], ["reserve", "void"]) for kind in kinds.values())
    assert len({entry.entry_id for entry in ledger.entries}) == len(ledger.entries)
    spent = sum(entry.nano or 0 for entry in ledger.entries if entry.kind == "settle")
    assert ledger.spend("key-1") == spent
    for entry in ledger.entries:
        assert entry.nano is not None
        assert entry.kind != "void" or entry.nano == 0
    await gateway.stop()


class TestRecords:
    async def test_a_record_is_complete_and_later_stages_cannot_lose_it(self) -> None:
        records: list[Record] = []

        class Sink(Callback):
            name = "sink"
            wants_content = True

            async def export(self, batch: Sequence[Record]) -> None:
                records.extend(batch)

        class Clumsy(Strategy):
            name = "clumsy"

            async def rank(self, call: Call, candidates: Any) -> Any:
                return candidates

            def observe(self, attempt: Attempt) -> None:
                raise ZeroDivisionError

        settings = config(
            deployment(),
            tianji_settings={"callbacks": ["sink"]},
            router_settings={"routing_strategy": "clumsy", "num_retries": 1, "retry_after": 0},
        )
        gateway = assembled(settings, failing(Throttled("slow", retry_after=0.001)), Sink, Clumsy)
        await ask(gateway, asking(user="me", options={"tags": None, "metadata": {"a": 1}}))
        await ask(gateway, asking("nope"))
        await gateway.stop()
        done, lost = records
        assert (done.status, done.http_status, done.group, done.upstream_model) == ("success", 200, "group", "one")
        assert [one.outcome for one in done.attempts] == ["Throttled", "ok"]
        assert done.cost is not None
        assert done.cost.nano == 10 * 1000 + 5 * 2000
        assert (done.end_user, done.metadata, done.response_model) == ("me", {"a": 1}, "m")
        assert done.request is not None
        assert done.response is not None
        assert (lost.status, lost.http_status, lost.cost, lost.attempts) == ("failure", 404, None, ())
        assert lost.error is not None
        assert lost.error["class"] == "UnknownModel"

    async def test_content_is_kept_only_for_those_that_want_it(self) -> None:
        records: list[Record] = []

        class Sink(Callback):
            name = "sink"

            async def export(self, batch: Sequence[Record]) -> None:
                records.extend(batch)

        gateway = assembled(config(tianji_settings={"callbacks": ["sink"]}), Sink)
        await ask(gateway)
        await gateway.stop()
        assert (records[0].request, records[0].response) == (None, None)


async def test_an_unpriced_model_is_counted_and_is_not_free() -> None:
    spec = deployment()
    for key in ("input_cost_per_token", "output_cost_per_token"):
        del spec["tianji_params"][key]
    gateway = assembled(config(spec))
    await ask(gateway)
    assert books(gateway).unpriced == 1
    assert books(gateway).entries[-1].nano is None
    assert books(gateway).spend("key-1") == 0
    await gateway.stop()
