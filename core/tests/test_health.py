"""Health: every rule of the module's docstring, on a clock that moves when told to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji.errors import (
    BadCredentials,
    BadRequest,
    ContentPolicy,
    Failure,
    Overloaded,
    ProtocolError,
    Rejected,
    Throttled,
    Timeout,
    Unavailable,
    UpstreamNotFound,
)
from tianji.health import Health
from tianji.health_state import DeploymentHealth
from tianji.model import Deployment
from tianji.testing import FakeClock, make_deployment


def pool(count: int, **fields: object) -> list[Deployment]:
    return [make_deployment(id=f"d{number}", **fields) for number in range(count)]


def health(clock: FakeClock | None = None, **given: object) -> Health:
    given.setdefault("uniform", lambda low, high: (low + high) / 2)
    return Health(clock=clock or FakeClock(), **given)  # type: ignore[arg-type]


def order(state: Health, members: Sequence[Deployment], *, claim: bool = True) -> list[Deployment]:
    """All members in the order in which a call tries them."""
    split = state.split(members, claim=claim)
    return [*([split.probe] if split.probe else ()), *split.ready, *split.spare]


def spoil(state: Health, one: Deployment, size: int, times: int = 1) -> None:
    for _ in range(times):
        state.failed(one, Throttled("x"), size)


@pytest.mark.parametrize("kind", [Throttled, BadCredentials, UpstreamNotFound])
def test_some_failures_cool_at_once_where_there_is_another(kind: type[Failure]) -> None:
    clock = FakeClock()
    one, two = pool(2)
    state = health(clock)
    state.failed(one, kind("x"), 2)
    assert state.split([one, two]) == (None, [two], [one])
    assert state.cooling(one) == 5.0
    assert kind.__name__ in state.state(one).reason
    clock.advance(5.0)
    assert state.cooling(one) == 0.0
    assert state.split([one, two]) == (one, [two], [])
    state.succeeded(one)
    assert state.split([one, two]) == (None, [one, two], ())
    assert state.state(one).reason == ""


@pytest.mark.parametrize("kind", [Throttled, BadCredentials, Unavailable])
def test_a_deployment_that_is_alone_never_cools(kind: type[Failure]) -> None:
    (one,) = pool(1)
    state = health()
    for _ in range(50):
        state.failed(one, kind("x"), 1)
    assert state.cooling(one) == 0.0


@pytest.mark.parametrize("kind", [Unavailable, Timeout, ProtocolError])
@pytest.mark.parametrize(
    ("outcomes", "cools"),
    [
        ("ffff", False),  # fewer than five
        ("fffff", True),
        ("sssff", False),  # less than half
        ("fffsss", False),  # exactly half
        ("fsfsf", True),  # three of five
        ("ssssssssffff", False),
        ("sssssssssssssssssssssssssssssssssssssfffff", True),  # a few of many, and five in a row
    ],
)
def test_others_cool_when_more_than_half_of_five_failed(kind: type[Failure], outcomes: str, cools: bool) -> None:
    one, _ = pool(2)
    state = health()
    for outcome in outcomes:
        if outcome == "f":
            state.failed(one, kind("x"), 2)
        else:
            state.succeeded(one)
    assert (state.cooling(one) > 0) is cools


def test_only_the_last_minute_counts() -> None:
    clock = FakeClock()
    one, _ = pool(2)
    state = health(clock)
    state.succeeded(one)
    for _ in range(3):
        state.failed(one, Unavailable("x"), 2)
    assert state.state(one).counts(clock()) == (1, 3)
    clock.advance(61.0)
    state.failed(one, Unavailable("x"), 2)
    assert state.cooling(one) == 0.0
    assert state.state(one).counts(clock()) == (0, 1)


@pytest.mark.parametrize("kind", [Rejected, BadRequest])
def test_the_callers_own_mistakes_do_not_count(kind: type[Failure]) -> None:
    one, _ = pool(2)
    state = health(allowed_fails=0)
    for _ in range(20):
        state.failed(one, kind("x"), 2)
    assert state.cooling(one) == 0.0
    assert not state.states


def test_allowed_fails_counts_instead() -> None:
    one, _ = pool(2)
    state = health(allowed_fails=2)
    for _ in range(2):
        state.failed(one, Throttled("x"), 2)
        assert state.cooling(one) == 0.0
    state.failed(one, Throttled("x"), 2)
    assert state.cooling(one) == 5.0


def test_a_success_clears_the_count() -> None:
    one, _ = pool(2)
    state = health(allowed_fails=2)
    for _ in range(10):
        state.failed(one, Throttled("x"), 2)
        state.failed(one, Throttled("x"), 2)
        state.succeeded(one)
    assert state.cooling(one) == 0.0
    assert state.state(one).reason == ""


@pytest.mark.parametrize(
    ("own", "asked", "seconds"),
    [
        (None, None, 5.0), (None, 30.0, 30.0), (None, 1.0, 1.0), (None, 0.0, 5.0),
        (90.0, 30.0, 90.0), (7.0, 30.0, 7.0), (0.0, 30.0, 0.0), (None, 1e9, 3600.0),
    ],
)  # fmt: skip
def test_how_long(own: float | None, asked: float | None, seconds: float) -> None:
    one, _ = pool(2, cooldown_time=own)
    state = health()
    state.failed(one, Throttled("x", retry_after=asked), 2)
    assert state.cooling(one) == pytest.approx(seconds)


def test_a_shorter_cooldown_does_not_cut_a_longer_one() -> None:
    one, _ = pool(2)
    state = health()
    state.failed(one, Throttled("x", retry_after=100.0), 2)
    state.failed(one, Throttled("x"), 2)
    assert state.cooling(one) == 100.0
    state.failed(one, Throttled("x", retry_after=200.0), 2)
    assert state.cooling(one) == 200.0


def test_disabled() -> None:
    one, two = pool(2)
    state = health(disabled=True)
    state.failed(one, Throttled("x"), 2)
    assert state.split([one, two]) == (None, [one, two], ())


def test_when_all_are_aside_the_doubted_come_before_the_ejected_and_who_is_back_first_before_the_others() -> None:
    members = pool(4)
    state = health()
    for member, seconds in zip(members, (30.0, 10.0, 40.0, 20.0), strict=True):
        state.failed(member, Throttled("x", retry_after=seconds), 4)
    assert [state.name(one) for one in members] == ["ejected", "ejected", "doubted", "doubted"]
    split = state.split(members)
    assert (split.probe, split.ready) == (None, [])
    assert [one.id for one in split.spare] == ["d3", "d2", "d1", "d0"]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from([None, Throttled, BadCredentials, Unavailable, Timeout]),
            st.floats(0, 30),
        ),
        max_size=60,
    ),
    st.sampled_from([None, 0, 3]),
)
def test_a_group_is_never_put_aside_as_a_whole(
    steps: list[tuple[int, type[Failure] | None, float]], allowed_fails: int | None
) -> None:
    clock = FakeClock()
    state, members = health(clock, allowed_fails=allowed_fails), pool(4)
    for index, kind, seconds in steps:
        clock.advance(seconds)
        assert order(state, members, claim=False) == order(state, members, claim=False)
        tried = order(state, members)
        assert {one.id for one in tried} == {one.id for one in members}
        assert len(tried) == len(members)
        assert sum(state.name(one) == "ejected" for one in members) <= 2
        assert set(state.aside) == {key for key, one in state.states.items() if one.aside}
        chosen = tried[index % len(tried)]
        if kind is None:
            state.succeeded(chosen)
        else:
            state.failed(chosen, kind("x"), len(members))


def test_a_reload_keeps_what_is_known_of_those_that_stay() -> None:
    one, two = pool(2)
    old, new = health(), health()
    spoil(old, one, 2)
    spoil(old, two, 2)
    old.state(one).in_flight = 3
    new.keep({"d0"}, old)
    assert new.cooling(one) == 5.0
    assert new.state(one) is old.state(one)
    assert old.cooling(two) == 5.0, "the reload may yet fail, and the old configuration stays"
    old.clock.advance(5.0)  # type: ignore[attr-defined]
    old.succeeded(one)  # a call that began before the reload
    assert new.name(one) == "healthy"
    new.prune()
    assert (set(new.states), new.aside) == ({"d0"}, {})


def test_the_memory_of_outcomes_is_bounded() -> None:
    one, _ = pool(2)
    clock = FakeClock()
    state = health(clock)
    for _ in range(2000):
        clock.advance(1.0)
        state.succeeded(one)
        state.failed(one, Unavailable("x"), 1)
    assert len(state.state(one).cells) <= 8
    ok, bad = state.state(one).counts(clock())
    assert 50 <= ok == bad <= 61


class TestPolicies:
    def test_by_kind_of_failure(self) -> None:
        one, two = pool(2)
        state = health(allowed_fails=5, allowed_fails_policy={"RateLimitErrorAllowedFails": 2})
        for _ in range(2):
            state.failed(one, Throttled("x"), 2)
            state.failed(one, Timeout("x"), 2)  # counts for itself
        assert state.name(one) == "healthy"
        state.failed(one, Throttled("x"), 2)
        assert state.name(one) == "ejected"
        for number in range(6):
            assert state.name(two) == "healthy", number
            state.failed(two, Timeout("x"), 2)
        assert state.name(two) == "doubted"

    def test_any_server_error_is_an_internal_one_where_its_own_kind_is_not_named(self) -> None:
        one, _ = pool(2)
        state = health(allowed_fails_policy={"InternalServerErrorAllowedFails": 0})
        state.failed(one, Unavailable("x", status=503), 1)
        assert state.name(one) == "doubted", "a policy holds for a deployment that is alone, too"

    def test_a_kind_that_no_policy_names_goes_by_the_usual_rules(self) -> None:
        one, _ = pool(2)
        state = health(allowed_fails_policy={"TimeoutErrorAllowedFails": 9})
        state.failed(one, Throttled("x"), 2)
        assert state.name(one) == "ejected"

    @pytest.mark.parametrize("bad", [True, "3", None, {}, -1.5])
    def test_what_is_no_number_is_no_policy(self, bad: object) -> None:
        one, _ = pool(2, info={"allowed_fails": bad, "allowed_fails_policy": {"RateLimitErrorAllowedFails": bad}})
        state = health()
        state.failed(one, Throttled("x"), 2)
        assert state.name(one) == "ejected"

    def test_a_deployments_own(self) -> None:
        one, _ = pool(2, info={"allowed_fails_policy": {"BadRequestErrorAllowedFails": 1}, "allowed_fails": 3})
        state = health(allowed_fails=0, allowed_fails_policy={"RateLimitErrorAllowedFails": 0})
        for _ in range(3):
            state.failed(one, Throttled("x"), 2)
        assert state.name(one) == "healthy"
        state.failed(one, ContentPolicy("x"), 2)
        state.failed(one, Overloaded("no slot"), 2)
        assert state.state(one).row == 3, "neither named nor the deployment's fault"
        state.failed(one, Rejected("x"), 2)
        state.failed(one, Rejected("x"), 2)
        assert state.name(one) == "ejected"

    def test_a_deployments_own_count_does_not_put_one_aside_that_is_alone(self) -> None:
        (one,) = pool(1, info={"allowed_fails": 0})
        state = health()
        spoil(state, one, 1, times=9)
        assert state.name(one) == "healthy"


class TestHalfOpen:
    def test_one_call_is_the_probe_and_the_others_keep_away(self) -> None:
        clock = FakeClock()
        members = one, two, three = pool(3)
        state = health(clock)
        spoil(state, one, 3)
        clock.advance(5.0)
        for _ in range(3):
            assert state.split(members, claim=False).probe is one, "an explanation changes nothing"
        assert state.split(members) == (one, [two, three], [])
        assert state.name(one) == "probing"
        for _ in range(5):
            assert state.split(members) == (None, [two, three], [one])
        clock.advance(30.0)
        assert state.split(members).probe is one, "a probe that never ends does not hold it for ever"

    def test_a_failure_doubles_the_time_and_an_answer_ends_it(self) -> None:
        clock = FakeClock()
        members = one, _ = pool(2)
        state = health(clock)
        spoil(state, one, 2)
        times = []
        for _ in range(7):
            times.append(state.cooling(one))
            clock.advance(state.cooling(one))
            assert state.split(members).probe is one
            state.failed(one, Unavailable("x"), 2)
        assert times == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]

    def test_the_growth_is_forgotten_only_after_it_was_well_for_a_while(self) -> None:
        clock = FakeClock()
        one, _ = pool(2)
        state = health(clock)
        seconds = []
        for well in (30.0, 59.0, 61.0, 601.0, 1.0):
            spoil(state, one, 2)
            seconds.append(state.cooling(one))
            clock.advance(state.cooling(one))
            state.succeeded(one)
            clock.advance(well)
        assert seconds == [5.0, 20.0, 60.0, 60.0, 5.0], "a relapse counts twice, and is one for ten times as long"

    def test_grown_times_are_scattered_and_first_ones_are_as_configured(self) -> None:
        seen = set()
        for seed in range(50):
            clock = FakeClock()
            one, _ = pool(2)
            state = health(clock, uniform=random.Random(seed).uniform)
            spoil(state, one, 2)
            assert state.cooling(one) == 5.0
            clock.advance(5.0)
            spoil(state, one, 2)
            assert 9.0 <= state.cooling(one) <= 11.0
            seen.add(state.cooling(one))
        assert len(seen) > 40

    def test_what_the_provider_asks_for_does_not_grow(self) -> None:
        clock = FakeClock()
        one, _ = pool(2)
        state = health(clock)
        for _ in range(5):
            state.failed(one, Throttled("x", retry_after=30.0), 2)
            assert state.cooling(one) == 30.0
            clock.advance(30.0)
        spoil(state, one, 2)
        assert state.cooling(one) == 5.0

    def test_a_cooldown_longer_than_a_minute_does_not_shrink(self) -> None:
        clock = FakeClock()
        one, _ = pool(2, cooldown_time=90.0)
        state = health(clock)
        for _ in range(3):
            spoil(state, one, 2)
            assert state.cooling(one) == 90.0
            clock.advance(90.0)

    @pytest.mark.parametrize("failure", [Rejected("x"), Overloaded("no slot")])
    def test_a_probe_that_says_nothing_makes_way_for_the_next(self, failure: Failure) -> None:
        clock = FakeClock()
        members = one, _ = pool(2)
        state = health(clock)
        spoil(state, one, 2)
        clock.advance(5.0)
        assert state.split(members).probe is one
        state.failed(one, failure, 2)
        assert state.split(members).probe is one

    def test_late_outcomes_of_calls_sent_before_change_nothing(self) -> None:
        clock = FakeClock()
        one, _ = pool(2)
        state = health(clock)
        spoil(state, one, 2)
        clock.advance(1.0)
        state.succeeded(one)
        spoil(state, one, 2, times=50)
        assert (state.name(one), state.cooling(one)) == ("ejected", 4.0)

    def test_those_that_are_due_are_probed_one_for_each_call_the_longest_waiting_first(self) -> None:
        clock = FakeClock()
        members = pool(6)
        state = health(clock)
        for one in (members[4], members[1]):
            spoil(state, one, 6)
            clock.advance(1.0)
        clock.advance(10.0)
        assert [state.split(members).probe for _ in range(3)] == [members[4], members[1], None]

    def test_a_lower_tier_is_not_probed_while_a_higher_one_is_well(self) -> None:
        clock = FakeClock()
        first, second = make_deployment(id="a", order=1), make_deployment(id="b", order=2)
        state = health(clock)
        spoil(state, second, 2)
        clock.advance(5.0)
        assert state.split([first, second]) == (None, [first], [second])
        spoil(state, first, 2)
        assert state.split([first, second]).probe is second

    def test_a_check_that_found_it_well_ends_all_doubts(self) -> None:
        one, two = pool(2)
        state = health()
        spoil(state, one, 2)
        state.well(one)
        state.well(two)
        assert state.split([one, two]) == (None, [one, two], ())

    def test_what_failed_before_does_not_count_after_the_return(self) -> None:
        clock = FakeClock()
        one, _ = pool(2)
        state = health(clock)
        for _ in range(5):
            state.failed(one, Unavailable("x"), 2)
        clock.advance(5.0)
        state.succeeded(one)
        for _ in range(4):
            state.failed(one, Unavailable("x"), 2)
        assert state.name(one) == "healthy"
        assert state.state(one).counts(clock()) == (1, 9), "but it is still shown"


class TestOthers:
    """What another instance knows."""

    def learn(self, state: Health, one: Deployment, **given: object) -> None:
        now = state.clock()
        note = {"until": now + 20.0, "lease": 0.0, "times": 3, "reason": "Timeout 408", "at": now, **given}
        state.learn(one, 2, **note)  # type: ignore[arg-type]

    def test_it_is_put_aside_here_too_and_brought_back(self) -> None:
        clock = FakeClock()
        one, two = pool(2)
        state = health(clock)
        told: list[str] = []
        state.changed = told.append
        self.learn(state, one)
        assert (state.name(one), state.cooling(one), state.state(one).reason) == ("ejected", 20.0, "Timeout 408")
        clock.advance(1.0)
        state.learn_back(one, clock())
        state.learn_back(two, clock())
        assert state.split([one, two]) == (None, [one, two], ())
        assert told == [], "what was learnt is not told again"

    def test_it_never_shortens_what_is_known_here(self) -> None:
        clock = FakeClock()
        one, _ = pool(2)
        state = health(clock)
        state.failed(one, Throttled("x", retry_after=100.0), 2)
        clock.advance(1.0)
        self.learn(state, one)
        assert state.cooling(one) == 99.0
        self.learn(state, one, until=clock() + 1e9)
        assert state.cooling(one) == 99.0, "it is the same moment: known already"
        clock.advance(1.0)
        self.learn(state, one, until=clock() + 1e9, lease=clock() + 1e9, times=10**9)
        assert state.cooling(one) == 3600.0, "and nobody can put it aside for ever"

    def test_what_is_older_than_what_happened_here_is_ignored(self) -> None:
        clock = FakeClock()
        one, _ = pool(2)
        state = health(clock)
        before = clock()
        clock.advance(1.0)
        spoil(state, one, 2)
        state.learn_back(one, before)
        assert state.name(one) == "ejected"
        clock.advance(5.0)
        state.succeeded(one)
        self.learn(state, one, at=clock() - 1.0)
        assert state.name(one) == "healthy"

    def test_what_is_over_is_not_taken_over(self) -> None:
        one, _ = pool(2)
        state = health()
        self.learn(state, one, until=state.clock() - 1.0)
        assert state.name(one) == "healthy"

    def test_anothers_probe_keeps_this_ones_calls_away(self) -> None:
        clock = FakeClock()
        members = one, two = pool(2)
        state = health(clock)
        spoil(state, one, 2)
        clock.advance(5.0)
        self.learn(state, one, until=clock(), lease=clock() + 30.0)
        assert state.split(members) == (None, [two], [one])
        clock.advance(30.0)
        assert state.split(members).probe is one

    def test_no_more_than_half_of_a_group_is_ejected_by_what_is_learnt(self) -> None:
        members = pool(4)
        state = health()
        for one in members:
            state.learn(one, 4, until=state.clock() + 9, lease=0.0, times=1, reason="", at=state.clock())
        assert Counter(map(state.name, members)) == {"ejected": 2, "doubted": 2}


class Stream:
    """A stream of calls at a steady mean rate, for some minutes of virtual time. Failed calls go on to the next."""

    def __init__(self, size: int, alive: Callable[[int, float], bool], *, seed: int, rate: float = 20.0) -> None:
        dice = random.Random(seed)
        clock = FakeClock(0.0)
        clock.advance(1000.0)
        self.members = pool(size)
        self.health = health(clock, uniform=dice.uniform)
        self.transitions: Counter[str] = Counter()
        self.to_dead_after_detection = 0
        self.while_detected = 0
        self.unanswered_with_a_living_one = 0
        self.calls = 0
        end = clock() + 300.0
        while clock() < end:
            clock.advance(dice.expovariate(rate))
            self.calls += 1
            before = {one.id: self.health.name(one) != "healthy" for one in self.members}
            self._call(dice, lambda one: alive(int(one.id[1:]), clock() - 1000.0), before)
            for one in self.members:
                self.transitions[one.id] += before[one.id] != (self.health.name(one) != "healthy")

    def _call(self, dice: random.Random, alive: Callable[[Deployment], bool], before: dict[str, bool]) -> None:
        split = self.health.split(self.members)
        ready = list(split.ready)
        dice.shuffle(ready)
        others = any(alive(one) and not before[one.id] for one in self.members)
        for one in [*([split.probe] if split.probe else ()), *ready, *split.spare][:3]:
            dead = not alive(one)
            if others and any(before[other.id] and not alive(other) for other in self.members):
                self.while_detected += 1
                self.to_dead_after_detection += dead and before[one.id]
            if not dead:
                self.health.succeeded(one)
                return
            self.health.failed(one, Unavailable("down"), len(self.members))
        self.unanswered_with_a_living_one += others


SEEDS = range(8)


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_deployment_that_flaps_does_not_make_the_routing_flap(size: int, seed: int) -> None:
    """Ten seconds on, ten seconds off, for five minutes."""
    stream = Stream(size, lambda number, at: number != 0 or int(at / 10) % 2 == 0, seed=seed)
    assert 2 <= stream.transitions["d0"] <= 11, "the first, and at most two a minute after it"
    assert sum(stream.transitions.values()) == stream.transitions["d0"]
    assert stream.while_detected > 1000
    assert stream.to_dead_after_detection <= 0.01 * stream.while_detected
    assert stream.unanswered_with_a_living_one == 0


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_stays_dead_gets_probes_and_nothing_else(size: int, seed: int) -> None:
    stream = Stream(size, lambda number, at: number != 0 or at < 30.0, seed=seed)
    assert stream.transitions["d0"] == 1
    assert stream.to_dead_after_detection <= 12
    assert stream.to_dead_after_detection <= 0.01 * stream.while_detected


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize("pattern", ["all flap", "all fail", "all come back"])
def test_a_whole_group_in_trouble(size: int, pattern: str) -> None:
    alive: dict[str, Callable[[int, float], bool]] = {
        "all flap": lambda _, at: int(at / 10) % 2 == 0,
        "all fail": lambda _, at: False,
        "all come back": lambda _, at: not 10.0 < at < 100.0,
    }
    everywhere = 0
    for seed in SEEDS:
        stream = Stream(size, alive[pattern], seed=seed)
        assert max(stream.transitions.values()) <= 11, "the first, and at most two a minute after it, for each"
        everywhere += sum(stream.transitions.values())
        ejected = [one for one in stream.members if stream.health.name(one) == "ejected"]
        assert len(ejected) <= size // 2
        assert stream.unanswered_with_a_living_one == 0
        assert len(order(stream.health, stream.members, claim=False)) == size
        if size == 1:
            assert not stream.transitions["d0"], "one that is alone is never put aside"
        if pattern == "all come back":
            assert not stream.health.aside, "200 seconds later all of them are back"
    assert everywhere <= 2 * 5 * size * len(SEEDS), "on average two a minute at most"


def test_probes_are_spread_as_the_time_grows() -> None:
    """From the moments of the probes of one that stays dead: 5, 10, 20, 40 and then about 60 seconds apart."""
    clock = FakeClock()
    members = one, _ = pool(2)
    state = health(clock)
    spoil(state, one, 2)
    probes = [clock()]
    while clock() < 1300.0:
        clock.advance(0.5)
        if state.split(members).probe is one:
            probes.append(clock())
            state.failed(one, Unavailable("x"), 2)
    assert [round(after - before) for before, after in pairwise(probes)] == [5, 10, 20, 40, 60, 60, 60]


def test_a_report_says_what_is_known_and_stays_as_it_was() -> None:
    clock = FakeClock()
    one, _ = pool(2)
    (slots,) = pool(1, max_parallel_requests=4)
    state = health(clock)
    assert state.report(one) == DeploymentHealth(deployment=one)
    assert state.report(slots).in_flight == 0
    assert not state.states, "looking at it leaves no record"
    state.succeeded(one)
    spoil(state, one, 2)
    clock.advance(2.0)
    report = state.report(one)
    assert (report.state, report.cooling_for, report.reason) == ("ejected", 3.0, "Throttled 429")
    assert (report.successes, report.failures, report.cooldowns, report.in_flight) == (1, 1, 1, None)
    state.well(one)
    assert report.state == "ejected"
    assert (state.report(one).state, state.report(one).reason, state.report(one).cooldowns) == ("healthy", "", 1)


def test_times_put_aside_are_counted_where_they_happen() -> None:
    clock = FakeClock()
    one, two = pool(2)
    state = health(clock)
    for times in (1, 2, 3):
        spoil(state, one, 2)
        spoil(state, one, 2)  # a call that was sent before: it is aside already
        assert state.report(one).cooldowns == times
        clock.advance(state.cooling(one))
        assert state.split([one, two]).probe is one
    state.learn(two, 2, until=clock() + 9.0, lease=0.0, times=1, reason="told", at=clock())
    assert (state.report(two).state, state.report(two).reason) == ("doubted", "told")
    assert state.report(two).cooldowns == 0, "the instance that did it has counted it"
