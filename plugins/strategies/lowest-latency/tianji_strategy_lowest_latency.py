"""Lowest latency: the deployment that answers soonest goes first.

Docs: https://docs.litellm.ai/docs/routing (the semantics that operators expect of this name)
"""

from collections.abc import Sequence
from time import monotonic
from typing import Annotated, Any

from msgspec import Meta

from tianji import Attempt, Call, Deployment, PluginSettings, Strategy

PENALTY = 10.0
"""Seconds that a failure adds to a deployment's latency: more than any pace per token, less than for ever."""
FORGIVEN = 60.0
"""Seconds after which a failure no longer counts. Without it a deployment that failed would never be tried again."""
FAULTS = frozenset(
    {
        "BadCredentials", "PermissionDenied", "ProtocolError", "Throttled", "Timeout", "Unavailable",
        "UpstreamNotFound",
    }
)  # fmt: skip
"""Outcomes that speak against the deployment. What the client or the gateway caused says nothing about it."""
MOST = 10_000
"""Deployments that are remembered. Ids change with the configuration, and what is gone would stay for ever."""


class LowestLatency(Strategy):
    name = "lowest-latency"

    class Settings(PluginSettings, frozen=True):
        ttl: Annotated[float, Meta(gt=0)] = 3600
        """Seconds after which a measurement is forgotten, and the deployment tried anew."""
        lowest_latency_buffer: Annotated[float, Meta(ge=0)] = 0.0
        """Deployments at most this fraction slower than the fastest share the first place at random."""
        alpha: Annotated[float, Meta(gt=0, le=1)] = 0.3
        """Weight of the newest measurement in the moving average, above 0 and at most 1."""
        max_latency_list_size: int = 10
        """Accepted for LiteLLM's configurations and without effect: a moving average keeps no list."""
        ttft_percentile: float | None = None
        """Accepted for LiteLLM's configurations and without effect, for the same reason."""

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.pace: dict[str, Average] = {}
        """Seconds per output token of whole answers, by deployment id."""
        self.first: dict[str, Average] = {}
        """Seconds to the first token of streams."""
        self.failed: dict[str, float] = {}
        """When a deployment last failed. A success takes the entry out."""

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Deployments without a measurement first, so that they get one; then by latency, the near-equal at random.

        Streams are compared by their time to the first token, whole answers by their time per token.
        """
        now = monotonic()
        averages = self.first if call.stream else self.pace
        latency = {one.id: self._latency(averages, one.id, now) for one in candidates}
        measured = [seconds for seconds in latency.values() if seconds is not None]
        border = min(measured, default=0.0) * (1.0 + self.settings.lowest_latency_buffer)

        dice = call.dice

        def place(one: Deployment) -> tuple[int, float]:
            seconds = latency[one.id]
            if seconds is None:
                return 0, dice.random()
            return (1, dice.random()) if seconds <= border else (2, seconds)

        return sorted(candidates, key=place)

    def observe(self, attempt: Attempt) -> None:
        now, key = monotonic(), attempt.deployment_id
        if attempt.outcome in FAULTS:
            _make_room(self.failed, key)
            self.failed[key] = now
        if attempt.outcome != "ok":
            return
        self.failed.pop(key, None)
        if attempt.time_to_first_token is not None:
            self._measure(self.first, key, attempt.time_to_first_token, now)
        else:
            tokens = attempt.usage.output_tokens if attempt.usage is not None else 0
            self._measure(self.pace, key, attempt.duration / max(1, tokens), now)

    def _measure(self, averages: dict[str, "Average"], key: str, seconds: float, now: float) -> None:
        before = averages.get(key)
        if before is None or now - before.at > self.settings.ttl:
            _make_room(averages, key)
            averages[key] = Average(seconds, now)
        else:
            before.seconds += self.settings.alpha * (seconds - before.seconds)
            before.at = now

    def _latency(self, averages: dict[str, "Average"], key: str, now: float) -> float | None:
        """A deployment's latency in seconds with the penalty for a recent failure; None: nothing is known."""
        average = averages.get(key)
        known = average.seconds if average is not None and now - average.at <= self.settings.ttl else None
        failed = self.failed.get(key)
        if failed is not None and now - failed < FORGIVEN:
            return (known or 0.0) + PENALTY
        return known


def _make_room(kept: dict[str, Any], key: str) -> None:
    """Forget the longest known deployment where one more would be too many."""
    if len(kept) >= MOST and key not in kept:
        del kept[next(iter(kept))]


class Average:
    """A moving average and when it was last fed."""

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float, at: float) -> None:
        self.seconds = seconds
        self.at = at
