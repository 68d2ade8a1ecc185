"""How often, and after how long, an attempt is repeated: the configuration's rules and the budget over all calls.

Counts come, as in LiteLLM (https://docs.litellm.ai/docs/routing), from the first of: the request, the deployment, the
group's policy, the router's policy by kind of failure, `num_retries`. They hold for each group that a call tries. Where
none of them says, a call makes three attempts in all, and a deployment is not asked again while a fallback waits: the
fallback is more likely to answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from time import monotonic
from typing import Any

from tianji.config.schema import RouterSettings
from tianji.errors import (
    BadCredentials,
    ContentPolicy,
    Failure,
    PermissionDenied,
    Rejected,
    Throttled,
    Timeout,
    UpstreamFailure,
    UpstreamNotFound,
)
from tianji.model import Call, Deployment

ATTEMPTS = 3
"""Of one call, where nothing was configured. A fallback is always worth one of its own."""
MOST = 10
"""What a policy may ask for at most."""

_STEMS: tuple[tuple[type[Failure], str], ...] = (
    (ContentPolicy, "ContentPolicyViolationError"),
    (Rejected, "BadRequestError"),
    (BadCredentials, "AuthenticationError"),
    (PermissionDenied, "PermissionDeniedError"),
    (UpstreamNotFound, "NotFoundError"),
    (Throttled, "RateLimitError"),
    (Timeout, "TimeoutError"),
)
_BY_STATUS = {429: "RateLimitError", 502: "BadGatewayError", 503: "ServiceUnavailableError"}


def kind_of(failure: Failure) -> str:
    """LiteLLM's name for a kind of failure, as its policies use it: `RateLimitError`, `InternalServerError`, …"""
    for kind, stem in _STEMS:
        if isinstance(failure, kind):
            return stem
    return _BY_STATUS.get(failure.status, "InternalServerError")


def by_kind(policy: Mapping[str, Any], failure: Failure, suffix: str) -> int | None:
    """What a policy by kind says of a failure: `{kind}{suffix}`, else `InternalServerError…` for any 5xx, else none."""
    stem = kind_of(failure)
    count = policy.get(stem + suffix)
    if count is None and failure.status >= 500:
        count = policy.get("InternalServerError" + suffix)
    if count is None and suffix == "Retries":
        count = policy.get("DefaultRetries")
    return count if type(count) is int else None


class RetryBudget:
    """How many retries all calls together may still make: 20 % of first attempts, a little at once, slowly more.

    `rate` is a little less than that share, so that what is there at once and what comes with time fit into it. Only
    attempts at a deployment in doubt are counted; going on to a healthy one hurts nobody.
    """

    __slots__ = ("_at", "cap", "denied", "rate", "tokens")

    def __init__(self, *, rate: float = 0.18, cap: float = 20.0) -> None:
        self.rate = rate
        self.cap = cap
        self.tokens = cap
        self.denied = 0
        self._at = monotonic()

    def earn(self) -> None:
        self.tokens = min(self.cap, self.tokens + self.rate)

    def left(self) -> float:
        """Tokens that there are now. Changes nothing."""
        return min(self.cap, self.tokens + 0.1 * (monotonic() - self._at))

    def spend(self) -> bool:
        self.tokens = self.left()
        self._at = monotonic()
        if self.tokens < 1.0:
            self.denied += 1
            return False
        self.tokens -= 1.0
        return True


class Rules:
    """The retry rules of one configuration."""

    def __init__(self, settings: RouterSettings) -> None:
        self.settings = settings

    def count(self, call: Call, deployment: Deployment, failure: Failure) -> int | None:
        """Retries that this failure of this deployment is worth; None where nobody said, and another attempt may help.

        What another attempt cannot mend is worth none, unless a policy names its very kind.
        """
        asked = call.options.get("num_retries")
        count = asked if type(asked) is int and asked >= 0 else deployment.num_retries
        if not failure.retryable:
            named = self._named(deployment.group, failure) if isinstance(failure, UpstreamFailure) else 0
            return named if count is None else min(named, count, MOST)
        if count is None:
            count = self._policy(deployment.group, failure)
        if count is None:
            count = self.settings.num_retries
        return None if count is None else min(count, MOST)

    def _policy(self, group: str, failure: Failure) -> int | None:
        """What the policies say of a failure: the group's, by kind or for all, else the router's."""
        settings = self.settings
        count = None
        if own := settings.model_group_retry_policy.get(group):
            count = by_kind(own, failure, "Retries")
            if count is None and type(own.get("num_retries")) is int:
                count = own["num_retries"]
        if count is None and settings.retry_policy:
            count = by_kind(settings.retry_policy, failure, "Retries")
        return None if count is None else max(0, count)

    def _named(self, group: str, failure: Failure) -> int:
        """The same, of a failure whose kind is not repeated otherwise: only a policy that names it counts."""
        settings = self.settings
        key = kind_of(failure) + "Retries"
        count = settings.model_group_retry_policy.get(group, {}).get(key, settings.retry_policy.get(key))
        return min(max(0, count), MOST) if type(count) is int else 0

    def wait(self, deployment: Deployment, asked: float, made: int) -> float:
        """Seconds before a deployment is asked again: what it asked for, else exponential with full jitter."""
        if asked > 0.0:
            return asked + random.uniform(0.0, 0.25)
        floor = self.settings.retry_after
        group = self.settings.model_group_retry_policy.get(deployment.group)
        if group and isinstance(seconds := group.get("retry_after"), (int, float)):
            floor = float(seconds)
        return max(floor, random.uniform(0.0, min(8.0, 0.5 * 2.0 ** min(made - 1, 10))))
