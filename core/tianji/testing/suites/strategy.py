"""`StrategySuite`: what every strategy must do, on generated deployments and histories.

    class TestLeastBusy(StrategySuite):
        plugin = LeastBusy
        returns = ("in_flight",)

Examples are generated in the same way in every run, so that a failure can be repeated.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tianji import errors
from tianji.errors import Failure
from tianji.model import Attempt, Call, Deployment, Usage
from tianji.plugin import Strategy
from tianji.pricing import custom
from tianji.testing.builders import make_attempt, make_call, make_deployment
from tianji.testing.suites.base import Suite, start, stop

OUTCOMES = (
    "ok",
    *sorted(kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Failure)),
)
"""Every `Attempt.outcome` that there is."""

REPEATABLE = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],  # "explain" takes seconds and says little here
    suppress_health_check=[HealthCheck.too_slow],
)

_prices = st.sampled_from(
    [None, custom({"input_cost_per_token": 0.0}), custom({"input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6})]
)
_limits = st.sampled_from([None, 1, 1000])
_deployments = st.lists(
    st.fixed_dictionaries(
        {
            "weight": st.sampled_from([None, 0.0, 1.0, 2.5]),
            "rpm": _limits,
            "tpm": _limits,
            "max_parallel_requests": _limits,
            "order": st.integers(0, 2),
            "tags": st.sampled_from([(), ("default",), ("paid", "eu")]),
            "region": st.sampled_from([None, "eu", "us"]),
            "price": _prices,
        }
    ),
    max_size=6,
).map(lambda fields: [make_deployment(id=f"deployment-{n}", **one) for n, one in enumerate(fields)])
_attempts = st.fixed_dictionaries(
    {
        "deployment_id": st.sampled_from([*(f"deployment-{n}" for n in range(6)), "removed-meanwhile"]),
        "outcome": st.sampled_from(OUTCOMES),
        "duration": st.sampled_from([0.0, 0.01, 2.0, 600.0]),
        "time_to_first_token": st.sampled_from([None, 0.0, 0.5]),
        "usage": st.sampled_from([None, Usage(), Usage(1000, 500)]),
    }
).map(lambda fields: make_attempt(status=200 if fields["outcome"] == "ok" else 500, **fields))
_history = st.lists(
    st.one_of(st.just("rank"), st.just("rank"), st.just("finish"), _attempts),
    max_size=12,
)
"""What happens to a strategy: it ranks for a call, the oldest open call ends, an attempt is observed."""


class StrategySuite(Suite):
    """Subclass it with `plugin` and, where the strategy counts what is under way, `returns`."""

    family = "strategies"
    plugin: type[Strategy]
    returns: ClassVar[tuple[str, ...]] = ()
    """Attributes that must be back where they began once every call has ended (an absent count is zero)."""

    # -- running one ---------------------------------------------------------------------------------------------------

    def make_calls(self) -> Call:
        """The calls that the suite ranks for. Override it for a strategy that reads something particular."""
        return make_call()

    async def play(self, deployments: list[Deployment], history: Sequence[str | Attempt]) -> list[list[str]]:
        """Run a history against a fresh strategy, and check every ranking. All rankings, as ids."""
        gateway = self.make_gateway()
        strategy = self.make_plugin(gateway)
        await start(strategy, gateway)
        began = dict(numbers(vars(strategy)))
        running: deque[Call] = deque()
        rankings = []
        for step in [*history, "rank"]:
            if isinstance(step, Attempt):
                assert strategy.observe(step) is None
            elif step == "finish":
                if running:
                    await finish(running.popleft())
            else:
                running.append(self.make_calls())
                rankings.append([one.id for one in await ranked(strategy, running[-1], deployments)])
        before = dict(numbers(vars(strategy)))
        while running:
            await finish(running.popleft())
        self._check_balance(began, before, dict(numbers(vars(strategy))))
        await stop(strategy, gateway)
        return rankings

    def _check_balance(self, began: Mapping[str, int], before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """What the deferred functions touched, and what `returns` names, is back where it began."""
        for path in began.keys() | before.keys() | after.keys():
            touched = before.get(path, 0) != after.get(path, 0)
            named = path.split(".")[0] in self.returns
            if named or (touched and not self.returns):
                first, last = began.get(path, 0), after.get(path, 0)
                assert first == last, f"{path} was {first} before the calls, and is {last} after all of them ended"

    # -- the checks ----------------------------------------------------------------------------------------------------

    def test_declares_what_returns(self) -> None:
        """`returns` names an attribute that the strategy does not have."""
        strategy = self.make_plugin()
        for name in self.returns:
            assert hasattr(strategy, name), f"no attribute {name!r}"
        assert inspect.iscoroutinefunction(strategy.rank), "rank must be async"
        assert not inspect.iscoroutinefunction(strategy.observe), "observe must not be async; it may not block either"

    def test_ranks_a_permutation(self) -> None:
        """`rank` offers a deployment twice, one that it was not given, or changes its input; or `observe` fails.

        Return the given objects in another order (`sorted(candidates, key=...)`), fewer where some must not be used.
        Attempts have every outcome, may lack usage and first-token time, and their deployment may be gone.
        """

        @REPEATABLE
        @given(_deployments, _history)
        def play(deployments: list[Deployment], history: list[str | Attempt]) -> None:
            run(self.play(deployments, history))

        play()

    def test_calls_end_balanced(self) -> None:
        """What `rank` counted up is not counted down after the call, so a deployment looks busy for ever.

        Return it with `call.defer(...)` in `rank` itself, for the same deployment that was counted. Do not rely on
        `observe`: there may be no attempt, or several.
        """

        @REPEATABLE
        @given(_deployments, st.integers(1, 20))
        def play(deployments: list[Deployment], calls: int) -> None:
            run(self.play(deployments, ["rank"] * calls))

        play()

    def test_none_and_one(self) -> None:
        """`rank` fails on no candidates or leaves the only one out, although nothing speaks against it."""
        one = make_deployment()
        assert run(self.play([], [])) == [[]]
        assert run(self.play([one], [])) == [[one.id]]

    def test_same_seed_same_order(self) -> None:
        """The same history gives another order although `random` was seeded alike, so nothing can be reproduced.

        Take chance from the module `random`, and break ties by the given order, not by a set's or by `id()`.
        """
        deployments = [make_deployment(id=f"deployment-{n}", weight=float(n)) for n in range(5)]
        attempts = [make_attempt(deployment_id=f"deployment-{n}", duration=0.5) for n in range(5)]
        history: list[str | Attempt] = ["rank", *attempts, "rank", "finish", *["rank"] * 10]
        before = random.getstate()
        try:
            seen = []
            for _ in range(2):
                random.seed(7)
                seen.append(run(self.play(deployments, history)))
        finally:
            random.setstate(before)
        assert seen[0] == seen[1]

    def test_calls_may_overlap(self) -> None:
        """Rankings that run at the same time disturb each other, or what they took is not returned.

        Between reading a count and changing it there must be no `await`, or a lock around both.
        """

        async def overlap() -> None:
            gateway = self.make_gateway()
            strategy = self.make_plugin(gateway)
            await start(strategy, gateway)
            began = dict(numbers(vars(strategy)))
            deployments = [make_deployment(id=f"deployment-{n}") for n in range(3)]
            calls = [self.make_calls() for _ in range(30)]
            await asyncio.gather(*(ranked(strategy, call, deployments) for call in calls))
            before = dict(numbers(vars(strategy)))
            await asyncio.gather(*(finish(call) for call in calls))
            self._check_balance(began, before, dict(numbers(vars(strategy))))
            await stop(strategy, gateway)

        run(overlap())


async def ranked(strategy: Strategy, call: Call, deployments: Sequence[Deployment]) -> Sequence[Deployment]:
    """One ranking, checked: some of the candidates, each once, and the input untouched."""
    candidates = list(deployments)
    order = await strategy.rank(call, candidates)
    assert all(one is two for one, two in zip(candidates, deployments, strict=True)), "rank changed its input"
    assert isinstance(order, Sequence), f"rank returns a sequence, not {type(order).__name__}"
    given = {id(one) for one in candidates}
    assert all(id(one) in given for one in order), "rank offered a deployment that it was not given"
    assert len({id(one) for one in order}) == len(order), "rank offered a deployment twice"
    return order


async def finish(call: Call) -> None:
    """End a call: run what was deferred."""
    for undo in call.take_undo():
        await undo()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on a loop of its own: hypothesis calls its examples from synchronous code."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work, 10))
    finally:
        loop.close()


def numbers(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """All integers in a strategy's state, by where they are; what it was given (settings, gateway) is left out."""
    if type(value) is int:
        yield path, value
    elif depth > 4:
        return
    elif isinstance(value, Mapping):
        for key, item in list(value.items()):
            if depth or key not in ("settings", "gateway", "instance"):
                yield from numbers(item, f"{path}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, (list, tuple, deque, set, frozenset)):
        if isinstance(value, (set, frozenset, deque)):
            yield f"{path}.len", len(value)
        else:
            for index, item in enumerate(value):
                yield from numbers(item, f"{path}.{index}", depth + 1)
    elif type(value).__module__ not in ("builtins", "tianji.model") and not callable(value):
        names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
        for name in names:
            yield from numbers(getattr(value, name, None), f"{path}.{name}", depth + 1)
