"""The strategy suite passes for sound strategies and fails for each fault that it is there to find."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import Phase, settings

from tianji import BadRequest, Overloaded, Release, Strategy
from tianji.model import Attempt, Call, Deployment
from tianji.testing import StrategySuite
from tianji.testing.suites import strategy

Run = Callable[[type[Any]], dict[str, str]]


@pytest.fixture(autouse=True)
def _unshrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a fault is found is the question here; a small example of it costs seconds."""
    monkeypatch.setattr(strategy, "REPEATABLE", settings(strategy.REPEATABLE, phases=[Phase.generate]))


class Shuffle(Strategy):
    """By chance, heavier ones more often first."""

    name = "shuffle"

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return self.shuffled(call, candidates)


class LeastBusy(Strategy):
    """The one with the fewest running calls first."""

    name = "least-busy"

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.in_flight: Counter[str] = Counter()
        self.latency: dict[str, float] = {}

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return sorted(candidates, key=lambda one: self.in_flight[one.id])

    def begin(self, call: Call, deployment: Deployment) -> Release | None:
        self.in_flight[deployment.id] += 1

        def release() -> None:
            self.in_flight[deployment.id] -= 1

        return release

    def observe(self, attempt: Attempt) -> None:
        self.latency[attempt.deployment_id] = attempt.duration


class Waits(Strategy):
    """One call at a time: all others wait in `rank` for it to end."""

    name = "waits"

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.busy = 0

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        while self.busy and not call.dry:
            await asyncio.sleep(0)
        return candidates

    def begin(self, call: Call, deployment: Deployment) -> Release | None:
        if self.busy:
            raise Overloaded("One at a time.", status=429)
        self.busy += 1

        def release() -> None:
            self.busy -= 1

        return release


class TestShuffle(StrategySuite):
    plugin = Shuffle


class TestLeastBusy(StrategySuite):
    plugin = LeastBusy
    returns = ("in_flight",)


class TestWaits(StrategySuite):
    plugin = Waits
    returns = ("busy",)


def changed(base: type[Strategy] = LeastBusy, returns: tuple[str, ...] = (), **methods: Any) -> type[StrategySuite]:
    cls = type("Changed", (base,), {"__doc__": "Broken.", "__module__": __name__, **methods})
    return type("Suite", (StrategySuite,), {"plugin": cls, "returns": returns, "__module__": __name__})


def test_sound_strategies_pass(failed: Run) -> None:
    assert failed(changed(Shuffle)) == {}
    assert failed(changed()) == {}
    assert failed(changed(returns=("in_flight",))) == {}
    assert failed(changed(Waits, returns=("busy",))) == {}


def test_a_dropped_and_a_doubled_candidate_are_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return [candidates[0], candidates[0], *candidates[2:]] if len(candidates) > 1 else candidates

    assert "offered a deployment twice" in failed(changed(rank=rank))["test_ranks_a_permutation"]


def test_a_foreign_deployment_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        self.all = list({one.id: one for one in [*getattr(self, "all", ()), *candidates]}.values())
        from tianji.testing import make_deployment

        return [*candidates, make_deployment(id="other")] if candidates else candidates

    assert "not given" in failed(changed(rank=rank))["test_ranks_a_permutation"]


def test_a_sorted_input_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: list[Deployment]) -> Sequence[Deployment]:
        candidates.sort(key=lambda one: -one.order)
        return candidates

    assert "changed its input" in failed(changed(rank=rank))["test_ranks_a_permutation"]


def test_failing_on_nothing_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        first = min(candidates, key=lambda one: one.order)
        return [first, *(one for one in candidates if one is not first)]

    assert {"test_none_and_one", "test_ranks_a_permutation"} <= failed(changed(rank=rank)).keys()


def test_leaving_the_only_one_out_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return candidates[1:]

    assert set(failed(changed(Shuffle, rank=rank))) == {"test_none_and_one"}


def test_a_leak_is_found(failed: Run) -> None:
    def begin(self: Any, call: Call, deployment: Deployment) -> None:
        self.in_flight[deployment.id] += 1

    found = failed(changed(begin=begin, returns=("in_flight",)))
    assert {"test_calls_end_balanced", "test_ranks_a_permutation", "test_calls_may_overlap"} <= found.keys()


def test_a_wrong_release_is_found_without_being_declared(failed: Run) -> None:
    def begin(self: Any, call: Call, deployment: Deployment) -> Release:
        self.in_flight[deployment.id] += 1

        def release() -> None:
            self.in_flight["deployment-0"] -= 1

        return release

    assert "test_calls_end_balanced" in failed(changed(begin=begin))


def test_a_release_that_fails_is_found(failed: Run) -> None:
    def begin(self: Any, call: Call, deployment: Deployment) -> Release:
        self.in_flight[deployment.id] += 1

        def release() -> None:
            self.in_flight.pop(deployment.id)  # nothing is left for the second of two calls

        return release

    assert "test_calls_end_balanced" in failed(changed(begin=begin))


def test_a_release_that_gives_back_twice_is_found(failed: Run) -> None:
    def begin(self: Any, call: Call, deployment: Deployment) -> Release:
        self.in_flight[deployment.id] += 1

        def release() -> None:
            self.in_flight[deployment.id] -= 1

        async def undo() -> None:
            release()

        call.defer(undo)
        return release

    assert "test_calls_end_balanced" in failed(changed(begin=begin, returns=("in_flight",)))


def test_an_asynchronous_begin_is_found(failed: Run) -> None:
    async def begin(self: Any, call: Call, deployment: Deployment) -> None: ...

    assert "test_declares_what_returns" in failed(changed(begin=begin))


def test_a_release_that_is_none_is_found(failed: Run) -> None:
    def begin(self: Any, call: Call, deployment: Deployment) -> int:
        return 1

    assert "returns a function or None" in failed(changed(begin=begin))["test_calls_end_balanced"]


def test_counting_in_rank_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        self.turn = getattr(self, "turn", 0) + 1
        return candidates

    found = failed(changed(Shuffle, rank=rank))
    assert "explaining a call changed it" in found["test_ranking_takes_nothing"]


def test_counting_in_rank_for_real_calls_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        if not call.dry:
            self.latency["rank"] = self.latency.get("rank", 0.0) + 0.5
        return candidates

    assert "rank changed it" in failed(changed(rank=rank))["test_ranking_takes_nothing"]


def test_deferring_for_an_explanation_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        async def undo() -> None: ...

        call.defer(undo)
        return candidates

    assert set(failed(changed(rank=rank))) == {"test_ranking_takes_nothing"}


def test_waiting_for_an_explanation_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        while self.busy:
            await asyncio.sleep(0.01)
        return candidates

    assert "TimeoutError" in failed(changed(Waits, rank=rank))["test_ranking_takes_nothing"]


@pytest.mark.parametrize("method", ["rank", "begin"])
def test_a_refusal_that_is_no_refusal_is_found(failed: Run, method: str) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        raise BadRequest("No.")

    def begin(self: Any, call: Call, deployment: Deployment) -> Release | None:
        raise BadRequest("No.")

    found = failed(changed(rank=rank) if method == "rank" else changed(begin=begin))
    assert f"{method} refuses with 400" in found["test_ranks_a_permutation"]


def test_what_one_call_leaves_for_another_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        self.candidates = candidates
        await asyncio.sleep(0)
        return list(self.candidates)

    assert "test_calls_may_overlap" in failed(changed(rank=rank))


def test_unseeded_chance_is_found(failed: Run) -> None:
    async def rank(self: Any, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return random.SystemRandom().sample(list(candidates), len(candidates))

    found = set(failed(changed(Shuffle, rank=rank)))
    assert found == {"test_same_seed_same_order", "test_ranking_takes_nothing"}


def test_a_choosy_observer_is_found(failed: Run) -> None:
    def observe(self: Any, attempt: Attempt) -> None:
        self.tokens = defaultdict(int)
        self.tokens[attempt.deployment_id] += attempt.usage.total_tokens  # type: ignore[union-attr]

    assert "test_ranks_a_permutation" in failed(changed(observe=observe))


def test_an_asynchronous_observer_is_found(failed: Run) -> None:
    async def observe(self: Any, attempt: Attempt) -> None: ...

    assert "test_declares_what_returns" in failed(changed(observe=observe))


def test_a_misspelt_return_is_found(failed: Run) -> None:
    assert "test_declares_what_returns" in failed(changed(returns=("inflight",)))
