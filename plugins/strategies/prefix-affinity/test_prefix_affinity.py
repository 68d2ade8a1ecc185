"""The conformance suite, and where conversations go."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import tianji_strategy_prefix_affinity as module
from tianji_strategy_prefix_affinity import MOST, PrefixAffinity

from tianji import KV, Call, Deployment, Reply
from tianji.testing import FakeClock, FakeGateway, FilterSuite, make_call, make_deployment, make_plugin

GROUP = [make_deployment(id=name) for name in ("a", "b", "c")]
A, B, C = GROUP
LONG = "You are a patient teacher of the Greek language. " * 120
"""About 1,500 tokens."""
Turn = dict[str, Any]


def said(*texts: str) -> list[Turn]:
    """A conversation: what user and assistant said in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def a_call(turns: Sequence[Turn], *, system: str = LONG, **body: Any) -> Call:
    first = [{"role": "system", "content": system}] if system else []
    return make_call({"model": "test-model", "messages": [*first, *turns], **body})


def affinity(gateway: FakeGateway | None = None, **settings: Any) -> PrefixAffinity:
    return make_plugin(PrefixAffinity, settings, gateway=gateway or FakeGateway())


async def preferred(plugin: PrefixAffinity, call: Call, group: Sequence[Deployment] = GROUP) -> str | None:
    assert list(await plugin.keep(call, group)) == list(group), "nobody is left out"
    found = plugin.prefer(call, list(group))
    return None if found is None else found.id


async def serve(plugin: PrefixAffinity, call: Call, chosen: Deployment, *, answered: bool = True) -> None:
    """A call from its routing to its end."""
    await plugin.keep(call, GROUP)
    release = plugin.begin(call, chosen)
    if answered:
        call.reply = Reply({})
    if release is not None:
        release()


class Shared:
    """A store that others see, and that takes its time."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.data: dict[str, bytes] = {}
        self.seconds = seconds
        self.error = error
        self.asked = 0

    async def many(self, keys: Sequence[str]) -> list[bytes | None]:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return [self.data.get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        assert ttl == 300
        if self.error is not None:
            raise self.error
        self.data[key] = value


class TestPrefixAffinity(FilterSuite):
    plugin = PrefixAffinity
    settings = {"affinity_min_tokens": 5}

    async def test_the_next_turn_goes_where_the_last_one_went(self) -> None:
        plugin = affinity()
        first = a_call(said("Hello"))
        assert await preferred(plugin, first) is None
        await serve(plugin, first, B)
        assert await preferred(plugin, a_call(said("Hello", "Hi!", "How are you?"))) == "b"
        assert await preferred(plugin, a_call(said("Something else"))) == "b", "the system prompt is the same"
        assert await preferred(plugin, a_call(said("Hello"), system=LONG + "!")) is None

    async def test_the_longest_beginning_wins(self) -> None:
        plugin = affinity()
        await serve(plugin, a_call(said("Hello")), B)
        await serve(plugin, a_call(said("Hello", "Hi!", "How are you?")), C)
        assert await preferred(plugin, a_call(said("Hello", "Hi!", "How are you?", "Fine.", "And now?"))) == "c"
        assert await preferred(plugin, a_call(said("Hello", "Good day.", "And now?"))) == "b"

    async def test_up_to_the_last_cache_marker(self) -> None:
        plugin = affinity()
        marked: Turn = {
            "role": "user", "content": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]
        }  # fmt: skip
        await serve(plugin, a_call([marked, *said("x", "y", "z")], system=""), C)
        assert await preferred(plugin, a_call([marked, *said("other")], system="")) == "c"
        assert await preferred(plugin, a_call([*said("y"), marked], system="")) is None
        tools = [{"name": "f", "description": LONG, "cache_control": {"type": "ephemeral"}}]
        await serve(plugin, a_call(said("one", "two", "three"), system="", tools=tools), A)
        assert await preferred(plugin, a_call(said("four"), system="", tools=tools)) == "a"

    @pytest.mark.parametrize(
        ("dialect", "body"),
        [
            ("anthropic-messages", {"system": LONG, "messages": said("a", "b", "c"), "max_tokens": 5}),
            ("openai-chat", {"tools": [{"function": {"description": LONG}}], "messages": said("a", "b", "c")}),
            ("gemini", {"systemInstruction": {"parts": [{"text": LONG}]}, "contents": said("a")}),
            ("openai-responses", {"instructions": LONG, "input": said("a")}),
        ],
    )
    async def test_dialects(self, dialect: str, body: dict[str, Any]) -> None:
        plugin = affinity()

        def call(more: Sequence[Turn] = ()) -> Call:
            made = make_call({"model": "test-model"}, op="chat")
            made.dialect, made.body = dialect, {
                key: [*value, *more] if key in ("messages", "contents", "input") else value
                for key, value in body.items()
            }  # fmt: skip
            return made

        await serve(plugin, call(), B)
        assert await preferred(plugin, call(said("d", "e"))) == "b"

    async def test_short_prompts_are_not_looked_at(self) -> None:
        plugin = affinity()
        for call in (a_call(said("Hello"), system="Be brief."), make_call({"model": "m", "prompt": LONG})):
            await serve(plugin, call, B)
            assert call.state == {}
        bytes_only = a_call(said("Hello"))
        bytes_only.raw = b"{}"
        await serve(plugin, bytes_only, B)
        assert (bytes_only.state, plugin.known) == ({}, {})

    async def test_only_an_answer_warms(self) -> None:
        plugin = affinity()
        await serve(plugin, a_call(said("Hello")), B, answered=False)
        assert not plugin.known

    async def test_after_a_failure_it_moves_to_who_answered(self) -> None:
        plugin = affinity()
        await serve(plugin, a_call(said("Hello")), B)
        call = a_call(said("Hello", "Hi!", "And?"))
        assert await preferred(plugin, call) == "b"
        failed = plugin.begin(call, B)
        assert failed is not None
        failed()
        await serve(plugin, call, C)
        assert await preferred(plugin, a_call(said("Hello", "Hi!", "And?", "So.", "Thanks"))) == "c"

    async def test_who_is_not_offered_is_not_preferred(self) -> None:
        plugin = affinity()
        await serve(plugin, a_call(said("Hello")), B)
        assert await preferred(plugin, a_call(said("Hello")), [A, C]) is None
        other = [make_deployment(id="b", group="other"), make_deployment(id="x", group="other")]
        assert await preferred(plugin, a_call(said("Hello")), other) is None

    async def test_it_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = FakeClock()
        monkeypatch.setattr(module, "monotonic", clock)
        plugin = affinity()
        await serve(plugin, a_call(said("Hello")), B)
        clock.advance(299)
        assert await preferred(plugin, a_call(said("Hello"))) == "b"
        clock.advance(1)
        assert await preferred(plugin, a_call(said("Hello"))) is None

    async def test_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MOST", 5)
        plugin = affinity()
        for number in range(20):
            await serve(plugin, a_call(said(str(number))), B)
        assert (len(plugin.known), len(plugin.untold)) == (5, 5)
        assert MOST == 10_000

    async def test_processes_tell_each_other(self) -> None:
        store = Shared()
        first, second = (affinity(FakeGateway(services={KV: store})) for _ in range(2))
        await serve(first, a_call(said("Hello")), B)
        await first.tell()
        assert not first.untold
        follow = a_call(said("Hello", "Hi!", "And?"))
        assert await preferred(second, follow) == "b"
        asked = store.asked
        assert await preferred(first, a_call(said("Hello"))) == "b"
        assert store.asked == asked, "who knows does not ask"
        dry = a_call(said("Hello"))
        dry.dry = True
        assert await preferred(affinity(FakeGateway(services={KV: store})), dry) is None

    async def test_the_kernels_own_store_is_not_asked(self) -> None:
        plugin = affinity()
        assert plugin._store() is None
        await serve(plugin, a_call(said("Hello")), B)
        await plugin.tell()
        assert not plugin.untold

    async def test_a_store_that_is_slow_or_broken_is_not_waited_for(self, caplog: pytest.LogCaptureFixture) -> None:
        slow = affinity(FakeGateway(services={KV: Shared(seconds=30)}), affinity_deadline=0.005)
        assert await asyncio.wait_for(preferred(slow, a_call(said("Hello"))), 5) is None
        broken = affinity(FakeGateway(services={KV: Shared(error=ConnectionError("away"))}))
        for number in range(3):
            assert await preferred(broken, a_call(said("Hello"), system=LONG + str(number))) is None
            await serve(broken, a_call(said("another")), B)
            await broken.tell()
        assert sum("cannot be exchanged" in record.getMessage() for record in caplog.records) == 1
        assert await preferred(broken, a_call(said("another"))) == "b", "its own memory is there"
