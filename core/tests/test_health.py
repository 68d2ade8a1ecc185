"""Cooldown: every rule of the module's docstring, on a clock that moves when told to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji.errors import (
    BadCredentials,
    BadRequest,
    Failure,
    ProtocolError,
    Rejected,
    Throttled,
    Timeout,
    Unavailable,
    UpstreamNotFound,
)
from tianji.health import Health
from tianji.model import Deployment
from tianji.testing import FakeClock, make_deployment


def pool(count: int, **fields: object) -> list[Deployment]:
    return [make_deployment(id=f"d{number}", **fields) for number in range(count)]


def health(clock: FakeClock | None = None, **given: object) -> Health:
    return Health(clock=clock or FakeClock(), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Throttled, BadCredentials, UpstreamNotFound])
def test_some_failures_cool_at_once_where_there_is_another(kind: type[Failure]) -> None:
    clock = FakeClock()
    one, two = pool(2)
    state = health(clock)
    state.failed(one, kind("x"), 2)
    assert state.available([one, two]) == [two]
    assert state.cooling(one) == 5.0
    assert kind.__name__ in state.state(one).reason
    clock.advance(5.0)
    assert state.available([one, two]) == [one, two]
    assert state.cooling(one) == 0.0


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
        ("fsfsfsf", True),  # four of seven, at the seventh
    ],
)
def test_others_cool_when_more_than_half_of_five_failed(kind: type[Failure], outcomes: str, cools: bool) -> None:
    one, _ = pool(2)
    state = health()
    state.state(one).outcomes.append((state.clock(), True))  # successes count only once something has failed
    state.state(one).outcomes.clear()
    for outcome in outcomes:
        if outcome == "f":
            state.failed(one, kind("x"), 2)
        else:
            state.state(one).outcomes.append((state.clock(), True))
    assert (state.cooling(one) > 0) is cools


def test_only_the_last_minute_counts() -> None:
    clock = FakeClock()
    one, _ = pool(2)
    state = health(clock)
    for _ in range(4):
        state.failed(one, Unavailable("x"), 2)
    clock.advance(61.0)
    state.failed(one, Unavailable("x"), 2)
    assert state.cooling(one) == 0.0


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
        (None, None, 5.0), (None, 30.0, 30.0), (None, 1.0, 5.0),
        (90.0, 30.0, 90.0), (0.0, 30.0, 0.0), (None, 1e9, 3600.0),
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
    assert state.state(one).cooldowns == 2


def test_disabled() -> None:
    one, two = pool(2)
    state = health(disabled=True)
    state.failed(one, Throttled("x"), 2)
    assert state.available([one, two]) == [one, two]


def test_when_all_cool_the_one_that_comes_back_first_goes_first() -> None:
    members = pool(3)
    state = health()
    for member, seconds in zip(members, (30.0, 10.0, 20.0), strict=True):
        state.failed(member, Throttled("x", retry_after=seconds), 3)
    assert [one.id for one in state.available(members)] == ["d1", "d2", "d0"]


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
        usable = state.available(members)
        assert usable
        assert set(usable) <= set(members)
        chosen = usable[index % len(usable)]
        if kind is None:
            state.succeeded(chosen)
        else:
            state.failed(chosen, kind("x"), len(usable))


def test_a_reload_keeps_what_is_known_of_those_that_stay() -> None:
    one, two = pool(2)
    old, new = health(), health()
    old.failed(one, Throttled("x"), 2)
    old.failed(two, Throttled("x"), 2)
    old.state(one).in_flight = 3
    new.keep({"d0"}, old)
    assert new.cooling(one) == 5.0
    assert new.state(one) is old.state(one)
    assert new.cooling(two) == 0.0


def test_the_memory_of_outcomes_is_bounded() -> None:
    one, _ = pool(2)
    state = health()
    for _ in range(2000):
        state.failed(one, Unavailable("x"), 2)
    assert len(state.state(one).outcomes) == 500
