"""`FilterSuite`: what every routing filter must do, on generated deployments, calls and histories.

    class TestTagFilter(FilterSuite):
        plugin = TagFilter

A call is played as the kernel runs it: `keep`, `prefer`, then `begin` for the deployments that were kept until one
takes the call, and what `begin` returned at the call's end. A filter that counts what is under way names the attributes
in `returns`. The calls carry tags, regions and bodies of several dialects, well-formed and odd; override `make_calls`
for a filter that reads something else.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from hypothesis import given
from hypothesis import strategies as st

from tianji.errors import Failure
from tianji.model import Attempt, Call, Deployment, Usage
from tianji.plugin import Filter
from tianji.testing.builders import make_attempt, make_call, make_deployment, make_principal
from tianji.testing.suites.base import Suite, assert_unseen, start, stop
from tianji.testing.suites.selector import BODIES
from tianji.testing.suites.strategy import OUTCOMES, REPEATABLE, Open, changed, numbers, run

REFUSALS = (400, 401, 403, 429, 503)
"""How `keep` may refuse a call: what it asks for cannot be had, is not the caller's, or is not there just now."""

_limits = st.sampled_from([None, None, 0, 1, 1000])
_TAGS = ((), ("default",), ("paid", "eu"), ("free",))
_REGIONS = (None, "eu", "eu-west1", "us-east1", "EU-West-1", "")
_one = st.fixed_dictionaries(
    {
        "group": st.sampled_from(["test-model", "other-model"]),
        "provider": st.sampled_from(["test", "openai"]),
        "rpm": _limits,
        "tpm": _limits,
        "tags": st.sampled_from(_TAGS),
        "region": st.sampled_from(_REGIONS),
        "max_budget": st.sampled_from([None, None, 0.0, 0.5]),
        "budget_duration": st.sampled_from([None, "1d", "1mo"]),
        "price": st.sampled_from([None, {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}]),
    }
)
_deployments = st.one_of(
    st.just([]), st.lists(_one, min_size=2, max_size=6), st.lists(_one, min_size=4, max_size=6)
).map(lambda fields: [make_deployment(id=f"deployment-{n}", **one) for n, one in enumerate(fields)])
_options: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(st.sampled_from(["paid", "eu", "free", "default", "!paid", "&eu", "!", "&", ""]), max_size=3),
        "allowed_model_region": st.sampled_from(["eu", "us", "eu-west1", "mars"]),
    },
)
_principals = st.fixed_dictionaries(
    {
        "tags": st.sampled_from([(), ("free",), ("&paid",)]),
        "metadata": st.sampled_from([{}, {}, {"allowed_model_region": "eu"}, {"allowed_model_region": None}]),
    }
).map(lambda fields: make_principal(**fields))
_calls = st.fixed_dictionaries(
    {"body": st.sampled_from(BODIES), "options": _options, "principal": _principals, "keep": st.just(True)}
)
"""A call that comes, as the arguments of `make_calls`."""
_attempts = st.fixed_dictionaries(
    {
        "deployment_id": st.sampled_from([*(f"deployment-{n}" for n in range(6)), "removed-meanwhile"]),
        "provider": st.sampled_from(["test", "openai"]),
        "outcome": st.sampled_from(OUTCOMES),
        "usage": st.sampled_from([None, Usage(), Usage(1000, 500)]),
        "nano": st.sampled_from([None, 0, 400_000_000]),
    }
).map(lambda fields: make_attempt(status=200 if fields["outcome"] == "ok" else 500, **fields))
_history = st.lists(
    st.one_of(_calls, _calls, st.just("fail over"), st.just("finish"), _attempts), min_size=4, max_size=12
)
"""What happens to a filter: a call comes, the newest open call goes on to another deployment, the oldest ends, an
attempt is observed."""


class FilterSuite(Suite):
    """Subclass it with `plugin` and, where the filter counts what is under way, `returns`."""

    family = "strategies"
    plugin: type[Filter]
    returns: ClassVar[tuple[str, ...]] = ()
    """Attributes that must be back where they began once every call has ended (an absent count is zero)."""

    # -- running one ---------------------------------------------------------------------------------------------------

    def make_calls(self, body: tuple[str, dict[str, Any]], options: Mapping[str, Any], principal: Any) -> Call:
        """The calls that the suite plays: a dialect with its body, the request's options, the caller."""
        dialect, fields = body
        content = {"model": "test-model", **copy.deepcopy(fields)}
        return make_call(content, dialect=dialect, options=dict(options), principal=principal)

    async def kept(self, plugin: Any, call: Call, deployments: Sequence[Deployment]) -> list[Deployment]:
        """What `keep` kept, checked, with the reasons for the rest; nothing where it refused."""
        candidates = list(deployments)
        body = copy.deepcopy(call.body)
        try:
            async with asyncio.timeout(10):
                kept = await plugin.keep(call, candidates)
        except Failure as failure:
            _check(failure)
            assert_unseen(self.secret_values(), failure.body())
            kept = []
        assert isinstance(kept, Sequence), f"keep returns a sequence, not {type(kept).__name__}"
        assert [id(one) for one in candidates] == [id(one) for one in deployments], "keep changed its input"
        places = {id(one): place for place, one in enumerate(deployments)}
        assert all(id(one) in places for one in kept), "keep kept a deployment that it was not given"
        order = [places[id(one)] for one in kept]
        assert order == sorted(set(order)), "keep kept one twice, or put them in another order: that is for `prefer`"
        assert call.body == body, "keep changed the call's body"
        assert not call.take_undo(), "keep deferred something; what an attempt takes, it takes in `begin`"
        assert call.state.keys() <= {plugin.instance}, "keep wrote into another plugin's room of call.state"
        for one in deployments:
            if one not in kept:
                reason = plugin.reason(call, one)
                assert isinstance(reason, str), "reason returns a sentence"
                assert reason.strip(), f"reason says nothing about {one.id}"
                assert_unseen(self.secret_values(), reason)
        return list(kept)

    async def ordered(self, plugin: Any, call: Call, deployments: Sequence[Deployment]) -> list[Deployment]:
        """What is kept, after the one that is preferred."""
        kept = await self.kept(plugin, call, deployments)
        if len(kept) < 2:
            return kept
        ranked = list(kept)
        first = plugin.prefer(call, ranked)
        assert ranked == kept, "prefer changed its input"
        assert first is None or any(first is one for one in kept), "prefer named a deployment that it was not given"
        return kept if first is None else [first, *(one for one in kept if one is not first)]

    async def play(
        self, deployments: list[Deployment], history: Sequence[Any], *, explained: bool = False
    ) -> list[list[str]]:
        """Run a history against a fresh filter, and check all that is kept. The ids that were kept, call by call.

        `explained`: every call is explained before it comes, which must make no difference.
        """
        gateway = self.make_gateway()
        plugin = self.make_plugin(gateway)
        await start(plugin, gateway)
        began = dict(numbers(vars(plugin)))
        running: deque[Open] = deque()
        answers: list[list[str]] = []
        for step in history:
            if isinstance(step, Attempt):
                assert plugin.observe(step) is None
            elif step == "finish":
                if running:
                    await running.popleft().finish()
            elif step == "fail over":
                if running:
                    running[-1].begin(plugin)
            else:
                if explained:
                    await self._explain(plugin, step, deployments, len(answers) + 1)
                call = self._call(step, len(answers) + 1)
                order = await self.ordered(plugin, call, deployments)
                answers.append([one.id for one in order])
                running.append(Open(call, order))
                running[-1].begin(plugin)
        before = dict(numbers(vars(plugin)))
        while running:
            await running.popleft().finish()
        after = dict(numbers(vars(plugin)))
        for path in (began.keys() | before.keys() | after.keys()) if self.returns else ():
            if path.split(".")[0] in self.returns:
                first, last = began.get(path, 0), after.get(path, 0)
                assert first == last, f"{path} was {first} before the calls, and is {last} after all of them ended"
        await stop(plugin, gateway)
        return answers

    def _call(self, step: Mapping[str, Any], seed: int) -> Call:
        call = self.make_calls(step["body"], step["options"], step["principal"])
        call.seed = seed
        return call

    async def _explain(
        self, plugin: Any, step: Mapping[str, Any], deployments: Sequence[Deployment], seed: int
    ) -> None:
        call = self._call(step, seed)
        call.dry = True
        before = dict(numbers(vars(plugin), float))
        await self.ordered(plugin, call, deployments)
        changed(before, dict(numbers(vars(plugin), float)), "explaining a call changed it")

    # -- the checks ----------------------------------------------------------------------------------------------------

    def test_declares_what_returns(self) -> None:
        """`returns` names an attribute that the filter does not have, or a method is not what the kernel calls."""
        plugin = self.make_plugin()
        for name in self.returns:
            assert hasattr(plugin, name), f"no attribute {name!r}"
        assert inspect.iscoroutinefunction(plugin.keep), "keep must be async"
        for name in ("begin", "observe", "prefer", "reason"):
            assert not inspect.iscoroutinefunction(getattr(plugin, name)), f"{name} must not be async, nor block"

    def test_keeps_some_of_what_it_is_given(self) -> None:
        """`keep` makes deployments up, reorders them or fails; or `observe` or `reason` fails.

        Calls come in every dialect and shape, with tags and regions or without; attempts have every outcome, and their
        deployment may be gone. Raise nothing but a `Failure` of the 4xx kind.
        """

        @REPEATABLE
        @given(_deployments, _history)
        def play(deployments: list[Deployment], history: list[Any]) -> None:
            run(self.play(deployments, history))

        play()
        every = [(tags, region) for tags in _TAGS for region in _REGIONS]
        deployments = [make_deployment(id=f"d{n}", tags=tags, region=region) for n, (tags, region) in enumerate(every)]
        options: tuple[dict[str, Any], ...] = (
            {},
            {"tags": ["paid"]},
            {"tags": ["!paid", "&eu"]},
            {"allowed_model_region": "eu"},
        )
        steps = [{"body": body, "options": one, "principal": make_principal()} for body in BODIES for one in options]
        run(self.play(deployments, steps))

    def test_keeping_takes_nothing(self) -> None:
        """`keep` or `prefer` counts, so that a call that is only explained has an effect.

        Whatever an attempt takes it takes in `begin`, which is called when the attempt is made.
        """

        @REPEATABLE
        @given(_deployments, _history)
        def play(deployments: list[Deployment], history: list[Any]) -> None:
            plain = run(self.play(deployments, history))
            assert run(self.play(deployments, history, explained=True)) == plain

        play()

    def test_calls_end_balanced(self) -> None:
        """What `begin` counted up is not counted down at the end, so a deployment looks used for ever.

        Return a function from `begin` that gives back what was taken, once. A call may begin several attempts. Do not
        rely on `observe`: it comes later, or not at all.
        """

        @REPEATABLE
        @given(_deployments, st.lists(st.one_of(_calls, st.just("fail over")), min_size=1, max_size=15))
        def play(deployments: list[Deployment], steps: list[Any]) -> None:
            run(self.play(deployments, steps))

        play()

    def test_none_and_one(self) -> None:
        """`keep` fails on no candidates, or leaves out the only one, although nothing speaks against it."""
        plain = {"body": BODIES[0], "options": {}, "principal": make_principal()}
        one = make_deployment()
        assert run(self.play([], [plain])) == [[]]
        assert run(self.play([one], [plain])) == [[one.id]]

    def test_calls_may_overlap(self) -> None:
        """Calls that run at the same time disturb each other, or what they took is not returned.

        Keep what belongs to one call in local variables or in `call.state`, not in the filter.
        """

        async def overlap() -> None:
            gateway = self.make_gateway()
            plugin = self.make_plugin(gateway)
            await start(plugin, gateway)
            began = {path: n for path, n in numbers(vars(plugin)) if path.split(".")[0] in self.returns}
            deployments = [make_deployment(id=f"deployment-{n}") for n in range(6)]

            async def one(seed: int) -> Open:
                call = self._call({"body": BODIES[seed % 3], "options": {}, "principal": make_principal()}, seed)
                opened = Open(call, await self.ordered(plugin, call, deployments[seed % 4 : seed % 4 + 3]))
                opened.begin(plugin)
                return opened

            calls = await asyncio.gather(*(one(seed) for seed in range(1, 31)))
            await asyncio.gather(*(call.finish() for call in reversed(calls)))
            after = {path: n for path, n in numbers(vars(plugin)) if path.split(".")[0] in self.returns}
            nonzero = {path: n for path, n in after.items() if n != began.get(path, 0)}
            assert not nonzero, f"not returned: {nonzero}"
            await stop(plugin, gateway)

        run(overlap())


def _check(failure: Failure) -> None:
    assert failure.status in REFUSALS, f"keep refuses with {failure.status}, which says something else"
