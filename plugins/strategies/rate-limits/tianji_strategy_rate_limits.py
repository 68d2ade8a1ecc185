"""Rate limits: holds deployments to their requests and tokens a minute, whatever the strategy.

Docs: https://docs.litellm.ai/docs/proxy/load_balancing (the check `enforce_model_rate_limits`, as operators know it)
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

from tianji import (
    Attempt,
    Call,
    Deployment,
    Filter,
    NoDeployment,
    Overloaded,
    Release,
    Tally,
    estimate_input,
    hookimpl,
)

SHORT = 2048
"""Bytes of a request whose input tokens are not looked at closely."""
NEVER = float("inf")


class Full(NamedTuple):
    """The limit that a call would exceed."""

    limit: int
    unit: str
    wait: float
    """Seconds until there is room; `NEVER` where waiting does not help."""


class RateLimits(Filter):
    name = "rate-limits"
    order = 600

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.tally = Tally(gateway, "rate-limits")
        """The last minute by deployment id: `requests:…` that began, `tokens:…` of attempts that ended."""
        self.under_way: dict[str, int] = {}
        """Input tokens expected of attempts that have not ended, by deployment id."""

    @hookimpl
    async def startup(self) -> None:
        self.tally.start()

    @hookimpl
    async def shutdown(self) -> None:
        await self.tally.stop()

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Those with room for the call. Raises `NoDeployment` with `retry_after` where there is none."""
        if all(one.rpm is None and one.tpm is None for one in candidates):
            return candidates
        full = {one.id: self._full(call, one) for one in candidates}
        kept = [one for one in candidates if full[one.id] is None]
        if not kept and candidates:
            wait = min(one.wait for one in full.values() if one is not None)
            raise NoDeployment(
                f"All deployments of '{call.model}' have reached their limit of requests or tokens a minute.",
                param="model", type="rate_limit_error", code="rate_limit_exceeded", retry_after=_seconds(wait),
            )  # fmt: skip
        return kept

    def reason(self, call: Call, deployment: Deployment) -> str:
        full = self._full(call, deployment)
        if full is None:
            return "it had reached its limit"
        when = "" if full.wait == NEVER else f"; there is room in {ceil(full.wait)} s"
        return f"its limit of {full.limit} {full.unit} a minute is reached{when}"

    def begin(self, call: Call, deployment: Deployment) -> Release | None:
        """Look once more, and count, in one step: other calls began since `keep`.

        Raises `Overloaded` with status 429 where the limit was reached meanwhile.
        """
        if deployment.rpm is None and deployment.tpm is None:
            return None
        full = self._full(call, deployment)
        if full is not None:
            raise Overloaded(
                f"Deployment '{deployment.id}' has reached its limit of {full.unit} a minute.",
                status=429, type="rate_limit_error", code="rate_limit_exceeded", retry_after=_seconds(full.wait),
            )  # fmt: skip
        if deployment.rpm is not None:
            self.tally.add(f"requests:{deployment.id}", 1)
        if deployment.tpm is None or not (tokens := _tokens(call)):
            return None
        under_way, key = self.under_way, deployment.id
        under_way[key] = under_way.get(key, 0) + tokens

        def give_back() -> None:
            left = under_way[key] - tokens
            if left:
                under_way[key] = left
            else:
                del under_way[key]

        return give_back

    def observe(self, attempt: Attempt) -> None:
        """Tokens that were really used. They are counted for all deployments: which have a limit is not said here."""
        if attempt.usage is not None and (tokens := attempt.usage.total_tokens) > 0:
            self.tally.add(f"tokens:{attempt.deployment_id}", tokens)

    def _full(self, call: Call, deployment: Deployment) -> Full | None:
        """The limit that one more call would exceed, the one that lasts longest; None where there is room."""
        found: list[Full] = []
        rpm, tpm, key = deployment.rpm, deployment.tpm, deployment.id
        if rpm is not None and (over := self.tally.sum(f"requests:{key}") + 1 - rpm) > 0:
            wait = self.tally.frees(f"requests:{key}", over) if rpm else NEVER
            found.append(Full(rpm, "requests", wait))
        if tpm is not None:
            tokens, used = _tokens(call), self.tally.sum(f"tokens:{key}")
            if tokens > tpm or not tpm:
                found.append(Full(tpm, "tokens", NEVER))
            elif (over := used + self.under_way.get(key, 0) + tokens - tpm) > 0 or used >= tpm:
                # Nobody knows when what is under way ends, so there is no room before what has ended leaves.
                wait = self.tally.frees(f"tokens:{key}", min(max(over, 1), used))
                found.append(Full(tpm, "tokens", max(wait, 1.0)))
        return max(found, key=lambda one: one.wait) if found else None


def _tokens(call: Call) -> int:
    """Input tokens of the call, estimated: of a short one by its size, as telling its texts apart would cost more."""
    raw = call.raw
    return len(raw) // 4 + 1 if raw is not None and len(raw) <= SHORT else estimate_input(call)


def _seconds(wait: float) -> float | None:
    return None if wait == NEVER else wait
