"""Round robin: deployments take turns, but for Anthropic subscriptions that are nearly used up.

Docs: https://docs.anthropic.com/en/api/rate-limits
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from time import time
from typing import Annotated, Any

from msgspec import Meta

from tianji import (
    Attempt,
    Call,
    ConfigError,
    Deployment,
    NoDeployment,
    PluginSettings,
    Secret,
    Strategy,
)

OAUTH = "sk-ant-oat"
"""How the keys of Claude subscriptions begin: they have limits over hours and days, which every answer states."""
PREFIX = "anthropic-ratelimit-unified-"
REFUSING = frozenset({"rate_limited", "overage", "rejected"})
THRESHOLD = 0.8
FLOOR = 60.0
"""Seconds after which a credential is tried again where it did not say when, and the least that a client is told."""
LONGEST = 8 * 86_400.0
"""The longest window is a week. A header that says more is wrong."""
MOST = 10_000
"""Deployments and credentials that are remembered."""


class RoundRobin(Strategy):
    name = "round-robin"
    alone = True

    class Settings(PluginSettings, frozen=True):
        ratelimit_alert_threshold: Annotated[float, Meta(gt=0, le=1)] | None = None
        """Part of a subscription's 5-hour or 7-day limit from which it is left alone. None: what the configuration says
        under this key at its top, else 0.8."""

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.turns: dict[str, int] = {}
        """Calls so far by model group."""
        self.keys: dict[str, Secret] = {}
        """The subscription's key, by the id of a deployment that was used."""
        self.until: dict[Secret, float] = {}
        """When a subscription that must be left alone can be used again; seconds since the epoch."""
        self.threshold()

    def threshold(self) -> float:
        """The threshold in use. Raises `ConfigError` for a value that is none."""
        own: float | None = self.settings.ratelimit_alert_threshold
        if own is not None:
            return own
        value = getattr(self.gateway.config, "sections", {}).get("ratelimit_alert_threshold", THRESHOLD)
        if type(value) not in (int, float) or not 0 < value <= 1:
            raise ConfigError("must be a number above 0 and at most 1", path="ratelimit_alert_threshold")
        return float(value)

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """The deployments in the order of the configuration, from the one whose turn it is.

        Raises `NoDeployment` with `retry_after` where all are subscriptions that must be left alone.
        """
        now = time()
        open_ = [one for one in candidates if self._until(one) <= now]
        if open_:
            start = self.turns.get(open_[0].group, 0) % len(open_)
            return [*open_[start:], *open_[:start]]
        if not candidates:
            return candidates
        raise NoDeployment(
            "The limits of every subscription for this model are used up.",
            param="model", type="rate_limit_error", code="rate_limit_exceeded",
            retry_after=max(FLOOR, min(self._until(one) for one in candidates) - now),
        )  # fmt: skip

    def begin(self, call: Call, deployment: Deployment) -> None:
        """The first attempt of a call in a group ends the turn."""
        begun: set[str] = call.state.setdefault(self.instance, set())
        if deployment.group not in begun:
            begun.add(deployment.group)
            self.turns[deployment.group] = self.turns.get(deployment.group, 0) + 1
        if _subscription(deployment) is not None and deployment.id not in self.keys:
            if len(self.keys) >= MOST:
                self.keys.clear()
            self.keys[deployment.id] = deployment.api_key  # type: ignore[assignment]

    def observe(self, attempt: Attempt) -> None:
        key = self.keys.get(attempt.deployment_id)
        if key is None or not any(name.startswith(PREFIX) for name in attempt.limits):
            return
        now = time()
        until = blocked_until(attempt.limits, self.threshold(), now)
        if until <= now:
            self.until.pop(key, None)
            return
        if len(self.until) >= MOST:
            self.until.clear()
        self.until[key] = until

    def _until(self, deployment: Deployment) -> float:
        """When a deployment may be used; 0 for those that are not a subscription, or not known to be used up."""
        key = _subscription(deployment)
        return 0.0 if key is None else self.until.get(key, 0.0)


def _subscription(deployment: Deployment) -> Secret | None:
    """The key of a subscription; it is only looked at, and goes nowhere from here."""
    key = deployment.api_key
    return key if key is not None and key.reveal().startswith(OAUTH) else None


def blocked_until(limits: Mapping[str, str], threshold: float, now: float) -> float:
    """When a subscription whose answer had these headers can be used again, in seconds since the epoch; 0: at once.

    What a header does not say, or says in a way that nobody understands, speaks against nothing.
    """
    resets = {window: _moment(limits.get(f"{PREFIX}{window}-reset")) for window in ("5h", "7d")}
    ends = [
        reset if reset is not None and reset > now else now + FLOOR
        for window, reset in resets.items()
        if (_number(limits.get(f"{PREFIX}{window}-utilization")) or 0.0) >= threshold
    ]
    if limits.get(f"{PREFIX}status", "").strip().lower() in REFUSING and not ends:
        said = _moment(limits.get(f"{PREFIX}reset"))
        coming = [reset for reset in (said, *resets.values()) if reset is not None and reset > now]
        ends.append(said if said in coming and said is not None else min(coming, default=now + FLOOR))
    return min(max(ends, default=0.0), now + LONGEST)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _moment(text: str | None) -> float | None:
    """Seconds since the epoch, from these or from ISO 8601."""
    number = _number(text)
    if number is not None or text is None:
        return number
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
