"""`SelectorSuite`: what every selector must do, whatever it chooses by.

    class TestAutoRouter(SelectorSuite):
        plugin = AutoRouter
        settings = {"auto_router_default_model": "chat", ...}

A selector that needs a service or an answer of the gateway provides them in `make_gateway`. The suite's calls come in
every dialect and shape, and nothing but a `Failure` may be raised for one.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from tianji.errors import Failure
from tianji.model import Call
from tianji.plan import Plan, Route
from tianji.plugin import Selector
from tianji.testing.builders import make_call
from tianji.testing.fakes import FakeGateway
from tianji.testing.purity import captured_logs
from tianji.testing.suites.base import Suite, assert_unseen, start, stop
from tianji.testing.suites.strategy import run

_PARTS = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "https://x.example/1"}}]
_TOOL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("openai-chat", {"messages": [{"role": "user", "content": "Write a function that sorts a list."}]}),
    ("openai-chat", {"messages": [{"role": "user", "content": "写一个排序函数 🙂"}], "stream": True}),
    ("openai-chat", {"messages": [{"role": "user", "content": _PARTS}]}),
    ("openai-chat", {"messages": [{"role": "user", "content": _PARTS[1:]}]}),
    ("openai-chat", {"messages": [{"role": "user", "content": ""}]}),
    ("openai-chat", {"messages": [{"role": "user", "content": "x " * 50_000}]}),
    ("openai-chat", {"messages": [{"role": "system", "content": "Be brief."}]}),
    (
        "openai-chat",
        {
            "messages": [
                {"role": "user", "content": "Call f."},
                {"role": "assistant", "content": None, "tool_calls": [_TOOL]},
                {"role": "tool", "tool_call_id": "t1", "content": "42"},
            ]
        },
    ),
    ("openai-chat", {"messages": []}),
    ("openai-completions", {"prompt": "Once upon a time"}),
    ("openai-completions", {"prompt": [1, 2, 3]}),
    ("openai-embeddings", {"input": ["a text"]}),
    ("anthropic-messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "Translate: hello"}]}),
    (
        "anthropic-messages",
        {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
    ),
)
"""Requests as they come, the awkward ones among them, by dialect."""


def calls() -> Iterator[Call]:
    """A fresh call for each of `BODIES`."""
    for dialect, body in BODIES:
        call = make_call({"model": "stand-in", **copy.deepcopy(body)}, dialect=dialect)
        call.seed = 7  # what is left to chance comes out alike
        yield call


class SelectorSuite(Suite):
    """Subclass it with `plugin` and `settings`."""

    family = "strategies"
    plugin: type[Selector]

    async def chosen(self, selector: Any, call: Call) -> str | None:
        """One choice, checked: the name of a group. None where it refused the call with a `Failure`."""
        try:
            async with asyncio.timeout(10):
                name = await selector.choose(call)
        except Failure as failure:
            assert_unseen(self.secret_values(), failure.body())
            return None
        assert isinstance(name, str), f"choose returns the name of a model group, not {name!r}"
        assert name, "choose returned an empty name"
        return name

    def play(self, selector_calls: list[Call], gateway: FakeGateway | None = None) -> list[str | None]:
        """The choices of a fresh selector for calls that come one after the other."""

        async def play() -> list[str | None]:
            fake = gateway or self.make_gateway()
            selector = self.make_plugin(fake)
            await start(selector, fake)
            names = [await self.chosen(selector, call) for call in selector_calls]
            await stop(selector, fake)
            return names

        names: list[str | None] = run(play())
        return names

    # -- the checks ----------------------------------------------------------------------------------------------------

    def test_declares_where_it_leads(self) -> None:
        """`targets` does not say which groups the settings name, so that a wrong name is found by a client.

        It returns `{name: its place in tianji_params}`; an empty mapping where the settings name none.
        """
        selector = self.make_plugin()
        assert inspect.iscoroutinefunction(selector.choose), "choose must be async"
        targets = selector.targets()
        assert isinstance(targets, Mapping)
        for name, place in targets.items():
            assert name, "an empty name"
            assert place, f"targets does not say where {name!r} is from"

    def test_chooses_for_every_call(self) -> None:
        """`choose` fails on a call of another dialect or without a text, or names a group that `targets` does not.

        Take the text from `self.question(call)`. Raise nothing but a `Failure`.
        """
        names = self.play(list(calls()))
        targets = self.make_plugin().targets()
        assert not targets or {name for name in names if name is not None} <= targets.keys()

    def test_choosing_changes_nothing(self) -> None:
        """`choose` changed the call, or took something on its account. It is asked for explanations as well.

        What an attempt takes, it takes in `begin`. Translate a copy of the call, not the call.
        """
        before, after = list(calls()), list(calls())
        self.play(after)
        for one, other in zip(before, after, strict=True):
            assert one.body == other.body, "choose changed the body"
            assert (one.model, one.dialect, one.op) == (other.model, other.dialect, other.op)
            assert not other.take_undo(), "choose deferred something"
            assert (other.watched, other.headers, other.dropped, other.state) == (None, None, (), {})

    def test_explaining_costs_nothing(self) -> None:
        """`choose` sent something for a call that is only explained (`call.dry`).

        Choose by what is known without asking anybody, and say in `call.plan.because(...)` what was left out.
        """
        gateway = self.make_gateway()
        explained = list(calls())
        for call in explained:
            call.dry = True
            call.plan = Plan(routes=[Route(model="stand-in", candidates=[])])
        names = self.play(explained, gateway)
        assert not gateway.asked, "it asked a model"
        assert not gateway.requests, "it sent a request"
        for call, name in zip(explained, names, strict=True):
            reason = call.plan.routes[0].selected_because
            assert name is None or reason is None or reason.strip(), "an empty reason"

    def test_same_call_same_group(self) -> None:
        """Another instance chooses differently for the same calls. Take chance from `call.dice`."""
        first, second = list(calls()), list(calls())
        for one, other in zip(first, second, strict=True):
            one.seed = other.seed = 7
        assert self.play(first) == self.play(second)

    def test_calls_may_overlap(self) -> None:
        """Choices that are made at the same time disturb each other, or one that is cancelled takes others along."""

        async def overlap() -> None:
            gateway = self.make_gateway()
            selector = self.make_plugin(gateway)
            await start(selector, gateway)
            leaving = asyncio.ensure_future(selector.choose(next(calls())))
            choices = [asyncio.ensure_future(self.chosen(selector, next(calls()))) for _ in range(30)]
            await asyncio.sleep(0)
            leaving.cancel()
            assert len(set(await asyncio.gather(*choices))) == 1
            await asyncio.gather(leaving, return_exceptions=True)
            await stop(selector, gateway)

        run(overlap())

    def test_a_gateway_that_answers_nothing(self) -> None:
        """`choose` fails when what it asks for cannot be had, or shows a secret while it says so.

        Choose what is right without it, or raise a `Failure`.
        """
        gateway = self.make_gateway()
        gateway.replies.clear()
        with captured_logs() as lines:
            self.play(list(calls()), gateway)
        assert_unseen(self.secret_values(), *lines)
