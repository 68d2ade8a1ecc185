"""Failures know their place on the wire, and statuses find their failure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji import errors
from tianji.errors import (
    BadCredentials,
    ClientGone,
    ConfigError,
    ContentPolicy,
    ContextWindow,
    Failure,
    Refused,
    Rejected,
    Throttled,
    Timeout,
    Unavailable,
    UpstreamFailure,
    UpstreamNotFound,
    classify,
    from_status,
)


def drawn() -> dict[str, int]:
    """Class to status, as the tree in the module's docstring has it; 0 where it names no number."""
    assert errors.__doc__ is not None
    found = {}
    for line in errors.__doc__.splitlines():
        words = line.replace("│", " ").replace("├──", " ").replace("└──", " ").split()
        if words and words[0].isidentifier() and isinstance(getattr(errors, words[0], None), type):
            found[words[0]] = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return found


def failures(cls: type[Failure] = Failure) -> Iterator[type[Failure]]:
    for kind in cls.__subclasses__():
        if kind.__module__ == "tianji.errors":
            yield kind
            yield from failures(kind)


def test_the_tree_that_is_drawn_is_the_tree_that_is_there() -> None:
    tree = drawn()
    others = {"TianjiError", "ConfigError", "PluginError", "Failure"}
    assert {kind.__name__ for kind in failures()} == tree.keys() - others
    for kind in failures():
        assert tree[kind.__name__] in (0, kind.status), kind


@pytest.mark.parametrize("kind", list(failures()))
def test_every_failure_has_openais_shape(kind: type[Failure]) -> None:
    failure = kind("It did not work.", param="messages[0]")
    body = failure.body()
    assert list(body) == ["message", "type", "param", "code"]
    assert body["message"] == "It did not work."
    assert body["param"] == "messages[0]"
    assert isinstance(body["code"], str)
    assert 400 <= failure.status < 600
    assert failure.type
    # A refusal never counts against a deployment; what counts against one may be tried on another.
    assert not (issubclass(kind, Refused) and kind.cools_down)
    assert kind.falls_back or not issubclass(kind, UpstreamFailure)


def test_fields_that_are_given_win() -> None:
    failure = Throttled(
        "slow", status=430, code="own", type="mine", provider="p", model="m", retry_after=2.5, extra={"more": 1}
    )
    assert failure.body() == {
        "message": "slow", "type": "mine", "param": None, "code": "own", "llm_provider": "p", "model": "m", "more": 1,
    }  # fmt: skip
    assert failure.status == 430
    assert failure.retry_after == 2.5
    assert (Throttled.status, Throttled.code, Throttled.type) == (429, None, "throttling_error")


@pytest.mark.parametrize(
    ("kind", "retry"),
    [
        (errors.OverBudget, False), (errors.RateLimited, True), (errors.Blocked, False), (BadCredentials, False),
        (Unavailable, True), (Rejected, False), (errors.NoDeployment, True), (errors.Internal, False),
        (ClientGone, False), (errors.GuardrailUnavailable, True), (Timeout, True),
    ],
)  # fmt: skip
def test_what_clients_are_told_about_retrying(kind: type[Failure], retry: bool) -> None:
    assert kind("x").should_retry is retry


@given(st.integers(400, 599), st.text(max_size=30))
def test_a_status_is_kept_and_finds_its_class(status: int, message: str) -> None:
    failure = from_status(status, message)
    assert failure.status == status
    assert failure.message == message
    known = {401: BadCredentials, 404: UpstreamNotFound, 408: Timeout, 429: Throttled}
    expected = known.get(status, Unavailable if status >= 500 else UpstreamFailure)
    assert isinstance(failure, expected)
    assert failure.retryable == (status in (401, 408, 429) or status >= 500)


@pytest.mark.parametrize(
    ("status", "message", "code", "kind", "becomes"),
    [
        (400, "This model's maximum context length is 8192 tokens", None, ContextWindow, 400),
        (413, "prompt is too long: 300000 tokens > 200000 maximum", None, ContextWindow, 400),
        (422, "x", "context_length_exceeded", ContextWindow, 400),
        (400, "The input token count (9) exceeds the maximum number of tokens allowed", None, ContextWindow, 400),
        (400, "The prompt was filtered, as it triggered the content management policy", None, ContentPolicy, 400),
        (400, "x", "content_filter", ContentPolicy, 400),
        (400, "API key not valid. Please pass a valid API key.", None, BadCredentials, 401),
        (400, "temperature must be a number", "invalid_type", Rejected, 400),
        (422, "no", None, Rejected, 422),
        (500, "maximum context length", None, Unavailable, 500),
        (429, "too many tokens", None, Throttled, 429),
        (418, "teapot", None, Rejected, 418),
    ],
)  # fmt: skip
def test_a_400_is_refined_by_what_it_says(
    status: int, message: str, code: str | None, kind: type[Failure], becomes: int
) -> None:
    failure = classify(status, message, code=code)
    assert type(failure) is kind
    assert failure.status == becomes


def test_a_config_error_says_where_what_and_the_mend() -> None:
    error = ConfigError("not a number", path="c.yaml:3: x", mend="Write 5")
    assert str(error) == "c.yaml:3: x: not a number. Write 5"
    assert str(ConfigError("not a number")) == "not a number"
