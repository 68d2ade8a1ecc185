"""The selector suite passes for sound selectors and fails for each fault that it is there to find."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from tianji import BadRequest, Call, Op, Selector
from tianji.testing import SelectorSuite

Run = Callable[[type[Any]], dict[str, str]]


class Longer(Selector):
    """Long questions to a large model."""

    name = "longer"

    async def choose(self, call: Call) -> str:
        if call.plan is not None:
            call.plan.because("by length")
        return "large" if len(self.question(call)) > 20 else "small"

    def targets(self) -> Mapping[str, str]:
        return {"large": "large_model", "small": "small_model"}


class Strict(Longer):
    async def choose(self, call: Call) -> str:
        if not self.question(call):
            raise BadRequest("There is no text to choose by.", param="messages")
        return "large"


def suite(cls: type[Selector]) -> type[SelectorSuite]:
    return type("Test", (SelectorSuite,), {"plugin": cls})


def variant(choose: Any) -> type[SelectorSuite]:
    """`Longer`, choosing in another way."""
    return suite(type("Variant", (Longer,), {"choose": choose}))


def test_sound_selectors_pass(failed: Run) -> None:
    assert failed(suite(Longer)) == {}
    assert failed(suite(Strict)) == {}


def test_a_call_of_another_shape_is_found(failed: Run) -> None:
    async def choose(self: Any, call: Call) -> str:
        return "large" if len(call.body["messages"][-1]["content"]) > 20 else "small"

    assert "test_chooses_for_every_call" in failed(variant(choose))


def test_a_name_that_is_not_a_target_is_found(failed: Run) -> None:
    async def choose(self: Any, call: Call) -> str:
        return "medium"

    assert set(failed(variant(choose))) == {"test_chooses_for_every_call"}


def test_no_name_is_found(failed: Run) -> None:
    async def choose(self: Any, call: Call) -> Any:
        return None

    assert "returns the name of a model group" in failed(variant(choose))["test_chooses_for_every_call"]


def test_a_changed_call_is_found(failed: Run) -> None:
    async def choose(self: Any, call: Call) -> str:
        call.body["messages"] = []
        return "large"

    async def defers(self: Any, call: Call) -> str:
        call.defer(asyncio.sleep)  # type: ignore[arg-type]
        return "large"

    for fault in (choose, defers):
        assert set(failed(variant(fault))) == {"test_choosing_changes_nothing"}


def test_a_costly_explanation_is_found(failed: Run) -> None:
    async def choose(self: Any, call: Call) -> str:
        try:
            await self.gateway.ask(call.derive(body={}, dialect="openai-embeddings", op=Op.EMBEDDINGS))
        except Exception:
            return "small"
        return "large"

    assert set(failed(variant(choose))) == {"test_explaining_costs_nothing"}


def test_chance_of_its_own_is_found(failed: Run) -> None:
    async def choose(self: Any, call: Call) -> str:
        return random.choice(("large", "small"))

    async def dice(self: Any, call: Call) -> str:
        return str(call.dice.shuffled(["large", "small"])[0])

    assert "test_same_call_same_group" in failed(variant(choose))
    assert "test_same_call_same_group" not in failed(variant(dice))


def test_disturbed_choices_are_found(failed: Run) -> None:
    calls = count()

    async def choose(self: Any, call: Call) -> str:
        mine = next(calls)
        await asyncio.sleep(0)
        return "large" if mine % 2 else "small"

    assert "test_calls_may_overlap" in failed(variant(choose))


def test_a_failing_gateway_that_is_not_caught_is_found(failed: Run) -> None:
    async def choose(self: Any, call: Call) -> str:
        if call.dry:
            return "small"
        try:
            await self.gateway.ask(call)
        except Exception as error:
            raise RuntimeError from error
        return "large"

    assert "test_a_gateway_that_answers_nothing" in failed(variant(choose))


def test_a_target_from_nowhere_is_found(failed: Run) -> None:
    cls = type("Nowhere", (Longer,), {"targets": lambda self: {"large": "", "small": "small_model"}})
    assert set(failed(suite(cls))) == {"test_declares_where_it_leads"}
