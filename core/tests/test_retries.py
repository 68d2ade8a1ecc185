"""The retry rules: whose number counts, for which kind of failure, and how long the pause is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from kernel import ask, asking, assembled, by_model, config, deployment

from tianji.config import from_dict
from tianji.errors import (
    BadCredentials,
    BadRequest,
    ContentPolicy,
    ContextWindow,
    Failure,
    Internal,
    OverBudget,
    Overloaded,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    Rejected,
    Throttled,
    Timeout,
    Unavailable,
    UpstreamNotFound,
)
from tianji.retries import ATTEMPTS, MOST, Rules, by_kind, kind_of
from tianji.testing import make_deployment

THROTTLED, DOWN, REJECTED = Throttled("slow"), Unavailable("down"), Rejected("no")


def rules(**router: Any) -> Rules:
    return Rules(from_dict({"router_settings": router}, environ={}).router)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ContentPolicy(""), "ContentPolicyViolationError"), (ContextWindow(""), "BadRequestError"),
        (REJECTED, "BadRequestError"), (BadCredentials(""), "AuthenticationError"),
        (PermissionDenied(""), "PermissionDeniedError"), (UpstreamNotFound(""), "NotFoundError"),
        (THROTTLED, "RateLimitError"), (Overloaded("", status=429), "RateLimitError"), (Timeout(""), "TimeoutError"),
        (ProtocolError(""), "BadGatewayError"), (DOWN, "ServiceUnavailableError"),
        (Unavailable("", status=500), "InternalServerError"), (Unavailable("", status=529), "InternalServerError"),
    ],
)  # fmt: skip
def test_kinds_have_the_names_of_policies(failure: Failure, kind: str) -> None:
    assert kind_of(failure) == kind


@pytest.mark.parametrize(
    ("policy", "failure", "count"),
    [
        ({"RateLimitErrorRetries": 3}, THROTTLED, 3), ({"RateLimitErrorRetries": 3}, DOWN, None),
        ({"InternalServerErrorRetries": 4}, DOWN, 4), ({"InternalServerErrorRetries": 4}, THROTTLED, None),
        ({"InternalServerErrorRetries": 4, "ServiceUnavailableErrorRetries": 1}, DOWN, 1),
        ({"DefaultRetries": 7}, THROTTLED, 7), ({"RateLimitErrorRetries": True}, THROTTLED, None),
        ({"RateLimitErrorRetries": "3"}, THROTTLED, None), ({}, DOWN, None),
    ],
)  # fmt: skip
def test_what_a_policy_says_of_a_kind(policy: dict[str, Any], failure: Failure, count: int | None) -> None:
    assert by_kind(policy, failure, "Retries") == count


GROUP = {"model_group_retry_policy": {"g": {"num_retries": 5}}}
BY_KIND = {"model_group_retry_policy": {"g": {"RateLimitErrorRetries": 4, "num_retries": 1}}}
POLICY = {"retry_policy": {"RateLimitErrorRetries": 3, "BadRequestErrorRetries": 1}}


@pytest.mark.parametrize(
    ("router", "own", "asked", "failure", "count"),
    [
        ({}, None, None, DOWN, None),
        ({"num_retries": 0}, None, None, DOWN, 0),
        ({"num_retries": 2}, None, None, DOWN, 2),
        ({"num_retries": 2, **POLICY}, None, None, THROTTLED, 3),
        ({"num_retries": 2, **POLICY}, None, None, DOWN, 2),
        ({"num_retries": 2, **POLICY, **GROUP}, None, None, THROTTLED, 5),
        ({**POLICY, **BY_KIND}, None, None, THROTTLED, 4),
        ({**POLICY, **BY_KIND}, None, None, DOWN, 1),
        ({**GROUP}, 1, None, DOWN, 1),
        ({**GROUP}, 0, None, DOWN, 0),
        ({**GROUP}, 1, 0, DOWN, 0),
        ({**GROUP}, 1, 9, DOWN, 9),
        ({"num_retries": 400}, None, None, DOWN, MOST),
        ({}, 400, None, DOWN, MOST),
        ({}, None, 400, DOWN, MOST),
        # Nothing is mended by asking again, unless a policy names the very kind.
        ({"num_retries": 2}, None, None, REJECTED, 0),
        ({"retry_policy": {"DefaultRetries": 3}}, None, None, REJECTED, 0),
        ({}, 3, 3, REJECTED, 0),
        (POLICY, None, None, REJECTED, 1),
        (POLICY, None, 0, REJECTED, 0),
        (POLICY, None, 5, REJECTED, 1),
        ({"model_group_retry_policy": {"g": {"BadRequestErrorRetries": 2}}}, None, None, REJECTED, 2),
        ({"model_group_retry_policy": {"other": {"BadRequestErrorRetries": 2}}}, None, None, REJECTED, 0),
        (POLICY, None, None, BadRequest(""), 0),
        (POLICY, None, None, OverBudget(""), 0),
        (POLICY, None, None, Internal(""), 0),
    ],
)
def test_whose_number_counts(
    router: dict[str, Any], own: int | None, asked: int | None, failure: Failure, count: int | None
) -> None:
    call = asking("g", options={} if asked is None else {"num_retries": asked})
    assert rules(**router).count(call, make_deployment(group="g", num_retries=own), failure) == count


async def attempts(settings: Any, model: str, failure: Failure, options: dict[str, Any] | None = None) -> int:
    """How often a provider is asked that always fails in the same way, without a pause."""
    provider = by_model(**dict.fromkeys(("one", "two"), lambda: failure))
    gateway = assembled(settings, provider)
    gateway.pipeline.attempts.rules.wait = lambda *_: 0.0  # type: ignore[method-assign]
    got = await ask(gateway, asking(model, options=options or {}))
    assert type(got.failure) is type(failure)
    await gateway.stop()
    return len(provider.asked)


async def test_groups_have_their_own_numbers() -> None:
    """B5: gpt-4 is asked again five times, claude twice; both shapes of a policy."""
    for shape in ("num_retries", "ServiceUnavailableErrorRetries", "InternalServerErrorRetries"):
        policy = {"gpt-4": {shape: 5}, "claude": {shape: 2}}
        settings = config(
            deployment("gpt-4"), deployment("claude"), deployment("else"),
            router_settings={"num_retries": 0, "model_group_retry_policy": policy},
        )  # fmt: skip
        found = {name: await attempts(settings, name, DOWN) for name in ("gpt-4", "claude", "else")}
        assert found == {"gpt-4": 6, "claude": 3, "else": 1}


async def test_a_named_kind_is_repeated() -> None:
    settings = config(router_settings={"retry_policy": {"BadRequestErrorRetries": 1}})
    assert await attempts(settings, "group", REJECTED) == 2
    assert await attempts(settings, "group", REJECTED, {"num_retries": 0}) == 1
    assert await attempts(settings, "group", DOWN) == ATTEMPTS


async def test_each_kind_has_its_own_number() -> None:
    settings = config(router_settings={"retry_policy": {"RateLimitErrorRetries": 4, "TimeoutErrorRetries": 0}})
    assert await attempts(settings, "group", THROTTLED) == 5
    assert await attempts(settings, "group", Timeout("late")) == 1


async def test_the_number_holds_in_each_group() -> None:
    settings = config(
        deployment("a", "one"), deployment("b", "two"),
        router_settings={"num_retries": 1, "fallbacks": [{"a": ["b"]}], "model_group_retry_policy": {
            "b": {"num_retries": 3}}},
    )  # fmt: skip
    provider = by_model(**dict.fromkeys(("one", "two"), lambda: DOWN))
    gateway = assembled(settings, provider)
    gateway.pipeline.attempts.rules.wait = lambda *_: 0.0  # type: ignore[method-assign]
    await ask(gateway, asking("a"))
    assert Counter(provider.asked) == {"one": 2, "two": 4}
    await gateway.stop()


async def test_a_limit_of_the_caller_is_not_repeated_as_a_providers_would_be() -> None:
    assert RateLimited("").retryable
    settings = config(router_settings={"retry_policy": {"BadRequestErrorRetries": 3}})
    assert await attempts(settings, "group", BadRequest("no")) == 1


class TestPause:
    def test_what_the_provider_asked_for_and_a_little_more(self) -> None:
        waits = [rules(retry_after=9).wait(make_deployment(), 3.0, 1) for _ in range(200)]
        assert 3.0 <= min(waits) < max(waits) <= 3.25

    @pytest.mark.parametrize(
        ("router", "least"),
        [
            ({"retry_after": 9}, 9.0),
            ({"retry_after": 9, "model_group_retry_policy": {"g": {"retry_after": "20s"}}}, 20.0),
            ({"retry_after": 9, "model_group_retry_policy": {"g": {"retry_after": 0}}}, 0.0),
            ({"retry_after": 9, "model_group_retry_policy": {"other": {"retry_after": 20}}}, 9.0),
        ],
    )
    def test_never_less_than_configured(self, router: dict[str, Any], least: float) -> None:
        waits = [rules(**router).wait(make_deployment(group="g"), 0.0, 1) for _ in range(200)]
        assert least <= min(waits)
        assert max(waits) <= max(least, 0.5)

    def test_it_grows_up_to_eight_seconds(self) -> None:
        for made in range(1, 40):
            assert rules().wait(make_deployment(), 0.0, made) <= min(8.0, 0.5 * 2 ** (made - 1))


def test_the_pause_after_very_many_attempts_is_a_number() -> None:
    """A group of a thousand deployments that are all full is gone through before there is a pause."""
    assert 0.0 <= rules().wait(make_deployment(), 0.0, 5000) <= 8.0
