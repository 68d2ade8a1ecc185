"""`StrategySuite`: what every strategy must do, on generated deployments and histories.

    class TestLeastBusy(StrategySuite):
        plugin = LeastBusy
        returns = ("in_flight",)

A call is played as the kernel runs it: `rank`, then `begin` for the deployments in their order until one takes it, and
what `begin` returned at the call's end. Examples are generated in the same way in every run, so that a failure can be
repeated.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tianji import errors
from tianji.errors import Failure
from tianji.model import Attempt, Call, Deployment, Usage
from tianji.plugin import Release, Routing, Strategy
from tianji.pricing import custom
from tianji.testing.builders import make_attempt, make_call, make_deployment
from tianji.testing.suites.base import Suite, start, stop

T = TypeVar("T")

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
    st.one_of(st.just("rank"), st.just("rank"), st.just("fail over"), st.just("finish"), _attempts),
    max_size=12,
)
"""What happens to a strategy: it ranks for a call, the newest open call goes on to another deployment, the oldest open
call ends, an attempt is observed."""

REFUSALS = (429, 503)
"""How `rank` and `begin` may refuse: too much now, and perhaps not later."""


class Open:
    """One open call: what it was given, what it holds."""

    def __init__(self, call: Call, order: Sequence[Deployment]) -> None:
        self.call = call
        self.left = list(order)
        self.held: Release | None = None

    def begin(self, strategy: Routing) -> None:
        """Begin an attempt with the next deployment that takes the call; the attempt before it is over."""
        self.end_attempt()
        while self.left:
            deployment = self.left.pop(0)
            try:
                held = strategy.begin(self.call, deployment)
            except Failure as failure:
                _check_refusal("begin", failure)
                continue
            assert held is None or callable(held), f"begin returns a function or None, not {type(held).__name__}"
            assert not inspect.iscoroutinefunction(held), "what begin returns is called, not awaited"
            self.held = held
            return

    def end_attempt(self) -> None:
        held, self.held = self.held, None
        if held is not None:
            held()

    async def finish(self) -> None:
        """End the call: give back what its attempt took, and run what was deferred."""
        self.end_attempt()
        for undo in self.call.take_undo():
            await undo()


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

    async def play(
        self, deployments: list[Deployment], history: Sequence[str | Attempt], *, explained: bool = False
    ) -> list[list[str]]:
        """Run a history against a fresh strategy, and check every ranking. All rankings, as ids.

        `explained`: every call is explained before it is ranked for, which must make no difference.
        """
        gateway = self.make_gateway()
        strategy = self.make_plugin(gateway)
        await start(strategy, gateway)
        began = dict(numbers(vars(strategy)))
        running: deque[Open] = deque()
        rankings: list[list[str]] = []
        for step in [*history, "rank"]:
            if isinstance(step, Attempt):
                assert strategy.observe(step) is None
            elif step == "finish":
                if running:
                    await running.popleft().finish()
            elif step == "fail over":
                if running:
                    running[-1].begin(strategy)
            else:
                if explained:
                    await self.explain(strategy, deployments, seed=len(rankings) + 1)
                call = self._call(len(rankings) + 1)
                order = await self._let_go(ranked(strategy, call, deployments), running)
                rankings.append([one.id for one in order])
                running.append(Open(call, order))
                running[-1].begin(strategy)
        before = dict(numbers(vars(strategy)))
        while running:
            await running.popleft().finish()
        self._check_balance(began, before, dict(numbers(vars(strategy))))
        await stop(strategy, gateway)
        return rankings

    async def explain(self, strategy: Strategy, deployments: Sequence[Deployment], *, seed: int = 1) -> list[str]:
        """Rank for a call that is only explained: at once, and nothing is different afterwards. The order, as ids."""
        call = self._call(seed)
        call.dry = True
        before = dict(numbers(vars(strategy), float))
        order = await asyncio.wait_for(ranked(strategy, call, deployments), 1)
        changed(before, dict(numbers(vars(strategy), float)), "explaining a call changed it")
        assert not call.take_undo(), "something was deferred for a call that is only explained"
        return [one.id for one in order]

    def _call(self, seed: int) -> Call:
        call = self.make_calls()
        call.seed = seed
        return call

    async def _let_go(self, work: Coroutine[Any, Any, T], running: deque[Open]) -> T:
        """The result of a ranking. While it waits, the oldest open calls end: `rank` may wait for them."""
        task = asyncio.ensure_future(work)
        while True:
            for _ in range(20):
                if task.done() or not running:
                    return await task
                await asyncio.sleep(0)
            await running.popleft().finish()

    def _check_balance(self, began: Mapping[str, int], before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """What the ends of calls touched, and what `returns` names, is back where it began."""
        for path in began.keys() | before.keys() | after.keys():
            touched = before.get(path, 0) != after.get(path, 0)
            named = path.split(".")[0] in self.returns
            if named or (touched and not self.returns):
                first, last = began.get(path, 0), after.get(path, 0)
                assert first == last, f"{path} was {first} before the calls, and is {last} after all of them ended"

    # -- the checks ----------------------------------------------------------------------------------------------------

    def test_declares_what_returns(self) -> None:
        """`returns` names an attribute that the strategy does not have, or a method is not what the kernel calls."""
        strategy = self.make_plugin()
        for name in self.returns:
            assert hasattr(strategy, name), f"no attribute {name!r}"
        assert inspect.iscoroutinefunction(strategy.rank), "rank must be async"
        assert not inspect.iscoroutinefunction(strategy.begin), "begin must not be async; it may not block either"
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

    def test_ranking_takes_nothing(self) -> None:
        """`rank` counts, or throws other dice than the call's, so that a call that is only explained has an effect.

        Whatever an attempt takes it takes in `begin`, which is called when the attempt is made. A call that is only
        explained (`call.dry`) neither waits nor defers anything.
        """

        @REPEATABLE
        @given(_deployments, _history)
        def play(deployments: list[Deployment], history: list[str | Attempt]) -> None:
            plain = run(self.play(deployments, history))
            assert run(self.play(deployments, history, explained=True)) == plain

        play()
        free = [make_deployment(id=f"deployment-{n}") for n in range(3)]
        run(self._rank_often(free))

    async def _rank_often(self, deployments: list[Deployment]) -> None:
        gateway = self.make_gateway()
        strategy = self.make_plugin(gateway)
        await start(strategy, gateway)
        before = dict(numbers(vars(strategy), float))
        for seed in range(1, 4):
            await ranked(strategy, self._call(seed), deployments)
        changed(before, dict(numbers(vars(strategy), float)), "rank changed it")
        await stop(strategy, gateway)

    def test_calls_end_balanced(self) -> None:
        """What `begin` counted up is not counted down at the end, so a deployment looks busy for ever.

        Return a function from `begin` that gives back what was taken, once, for the same deployment that was counted.
        A call may begin several attempts, one after the other. Do not rely on `observe`: it comes later, or not at all.
        """

        @REPEATABLE
        @given(_deployments, st.lists(st.sampled_from(["rank", "rank", "fail over"]), min_size=1, max_size=20))
        def play(deployments: list[Deployment], steps: list[str | Attempt]) -> None:
            run(self.play(deployments, steps))

        play()

    def test_none_and_one(self) -> None:
        """`rank` fails on no candidates or leaves the only one out, although nothing speaks against it."""
        one = make_deployment()
        assert run(self.play([], [])) == [[]]
        assert run(self.play([one], [])) == [[one.id]]

    def test_same_seed_same_order(self) -> None:
        """The same history gives another order for calls of the same seed, so nothing can be repeated or explained.

        Take chance from `call.dice`, and break ties by the given order, not by a set's or by `id()`.
        """
        deployments = [make_deployment(id=f"deployment-{n}", weight=float(n)) for n in range(5)]
        attempts = [make_attempt(deployment_id=f"deployment-{n}", duration=0.5) for n in range(5)]
        history: list[str | Attempt] = ["rank", *attempts, "rank", "finish", *["rank"] * 10]
        assert run(self.play(deployments, history)) == run(self.play(deployments, history))

    def test_calls_may_overlap(self) -> None:
        """Calls that run at the same time disturb each other, or what they took is not returned.

        Keep what belongs to one call in local variables or in `call.state`, not in the strategy.
        """

        async def overlap() -> None:
            gateway = self.make_gateway()
            strategy = self.make_plugin(gateway)
            await start(strategy, gateway)
            began = dict(numbers(vars(strategy)))
            deployments = [make_deployment(id=f"deployment-{n}") for n in range(6)]

            async def one(seed: int) -> Open:
                call = self._call(seed)
                opened = Open(call, await ranked(strategy, call, deployments[seed % 4 : seed % 4 + 3]))
                opened.begin(strategy)
                return opened

            waiting = [asyncio.ensure_future(one(seed)) for seed in range(1, 31)]
            for _ in range(20):
                await asyncio.sleep(0)
            before = dict(numbers(vars(strategy)))
            while waiting:  # some may need the end of others
                ready = [call for call in waiting if call.done()]
                waiting = [call for call in waiting if call not in ready]
                for call in reversed(await asyncio.gather(*ready)):
                    await call.finish()
                await asyncio.sleep(0)
            self._check_balance(began, before, dict(numbers(vars(strategy))))
            await stop(strategy, gateway)

        run(overlap())


def _check_refusal(method: str, failure: Failure) -> None:
    assert failure.status in REFUSALS, f"{method} refuses with {failure.status}, which is not for later"


async def ranked(strategy: Strategy, call: Call, deployments: Sequence[Deployment]) -> Sequence[Deployment]:
    """One ranking, checked: some of the candidates, each once, and the input untouched. Nothing where it refuses."""
    candidates = list(deployments)
    try:
        order = await strategy.rank(call, candidates)
    except Failure as failure:
        _check_refusal("rank", failure)
        order = []
    assert all(one is two for one, two in zip(candidates, deployments, strict=True)), "rank changed its input"
    assert isinstance(order, Sequence), f"rank returns a sequence, not {type(order).__name__}"
    given = {id(one) for one in candidates}
    assert all(id(one) in given for one in order), "rank offered a deployment that it was not given"
    assert len({id(one) for one in order}) == len(order), "rank offered a deployment twice"
    return order


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on a loop of its own: hypothesis calls its examples from synchronous code."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(work, 10))
    finally:
        loop.close()


def changed(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> None:
    """Fail where two looks at a strategy's numbers differ."""
    paths = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    said = [f"{path} {before.get(path)} → {after.get(path)}" for path in sorted(paths)]
    assert not said, f"{what}: {', '.join(said)}"


_GIVEN = ("settings", "gateway", "instance")


def numbers(value: Any, *kinds: type, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All integers in a strategy's state, by where they are, and numbers of further `kinds`.

    What the strategy was given (settings, gateway) is left out.
    """
    if type(value) is int or type(value) in kinds:
        yield path, value
    elif depth > 4:
        return
    elif isinstance(value, Mapping):
        for key, item in list(value.items()):
            if depth or key not in _GIVEN:
                yield from numbers(item, *kinds, path=f"{path}.{key}".lstrip("."), depth=depth + 1)
    elif isinstance(value, (list, tuple, deque, set, frozenset)):
        if isinstance(value, (set, frozenset, deque)):
            yield f"{path}.len", len(value)
        else:
            for index, item in enumerate(value):
                yield from numbers(item, *kinds, path=f"{path}.{index}", depth=depth + 1)
    elif type(value).__module__ not in ("builtins", "tianji.model") and not callable(value):
        for name in [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]:
            if name not in _GIVEN:
                yield from numbers(getattr(value, name, None), *kinds, path=f"{path}.{name}", depth=depth + 1)
