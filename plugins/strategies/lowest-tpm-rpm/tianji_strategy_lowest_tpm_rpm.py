"""Lowest TPM/RPM: the deployment that used the least of its tokens a minute goes first, and none goes over its limits.

Docs: https://docs.litellm.ai/docs/routing (the semantics that operators expect of this name)
"""

from collections.abc import Sequence
from typing import Any

from tianji import (
    Attempt,
    Call,
    Deployment,
    NoDeployment,
    Overloaded,
    Release,
    Strategy,
    Tally,
    estimate_input,
    hookimpl,
)

NEVER = float("inf")


class LowestTpmRpm(Strategy):
    name = "lowest-tpm-rpm"
    alone = True

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.tally = Tally(gateway, "routing")
        """Of the last minute, by deployment id: `rpm:…` attempts, `tpm:…` tokens of those that ended."""
        self.expected: dict[str, int] = {}
        """Input tokens of attempts under way by deployment id; what they really used is counted when they end."""

    @hookimpl
    async def startup(self) -> None:
        self.tally.start()

    @hookimpl
    async def shutdown(self) -> None:
        await self.tally.stop()

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Of the deployments with room for the call: those with a `tpm` by the part of it in use, ties at random; then
        those without, drawn by weight.

        Raises `NoDeployment` with `retry_after` where none has room.
        """
        tokens = self._tokens(call, candidates)
        fitting = [one for one in candidates if self._wait(one, tokens) == 0.0]
        if not fitting and candidates:
            raise self._full(candidates, tokens)
        dice = call.dice
        limited = [one for one in fitting if one.tpm is not None]
        limited.sort(key=lambda one: (self.used(one) / (one.tpm or 1), dice.random()))
        return [*limited, *self.shuffled(call, [one for one in fitting if one.tpm is None])]

    def used(self, deployment: Deployment) -> int:
        """Tokens of the last minute, and what is expected of attempts under way."""
        return self.tally.sum(f"tpm:{deployment.id}") + self.expected.get(deployment.id, 0)

    def begin(self, call: Call, deployment: Deployment) -> Release | None:
        """Count the request and the tokens expected of it.

        Raises `Overloaded` with status 429 where the limit was reached meanwhile.
        """
        tokens = self._tokens(call, (deployment,))
        wait = self._wait(deployment, tokens)
        if wait:
            raise Overloaded(
                f"Deployment '{deployment.id}' has reached its limit of requests or tokens a minute.",
                status=429, type="rate_limit_error", code="rate_limit_exceeded",
                retry_after=None if wait == NEVER else wait,
            )  # fmt: skip
        chosen, expected = deployment.id, self.expected
        if deployment.rpm is not None:
            self.tally.add(f"rpm:{chosen}", 1)
        if deployment.tpm is None or not tokens:
            return None
        expected[chosen] = expected.get(chosen, 0) + tokens

        def give_back() -> None:
            left = expected[chosen] - tokens
            if left:
                expected[chosen] = left
            else:
                del expected[chosen]

        return give_back

    def observe(self, attempt: Attempt) -> None:
        if attempt.usage is not None and (tokens := attempt.usage.total_tokens) > 0:
            self.tally.add(f"tpm:{attempt.deployment_id}", tokens)

    def _tokens(self, call: Call, candidates: Sequence[Deployment]) -> int:
        """Input tokens of the call, estimated once; 0 where no limit asks for them."""
        if all(one.tpm is None for one in candidates):
            return 0
        return estimate_input(call)

    def _wait(self, deployment: Deployment, tokens: int) -> float:
        """Seconds until a deployment has room for a call of so many tokens; 0 where it has, `NEVER` where it cannot."""
        rpm, tpm, wait = deployment.rpm, deployment.tpm, 0.0
        if rpm is not None and (over := self.tally.sum(f"rpm:{deployment.id}") + 1 - rpm) > 0:
            wait = self.tally.frees(f"rpm:{deployment.id}", over) if rpm > 0 else NEVER
        if tpm is not None:
            if tokens > tpm or tpm == 0:
                return NEVER
            if (over := self.used(deployment) + tokens - tpm) > 0:
                # What is under way leaves at a time that nobody knows, and not before it ends.
                known = min(over, self.tally.sum(f"tpm:{deployment.id}"))
                wait = max(wait, self.tally.frees(f"tpm:{deployment.id}", known), 1.0)
        return wait

    def _full(self, candidates: Sequence[Deployment], tokens: int) -> NoDeployment:
        wait = min(self._wait(one, tokens) for one in candidates)
        if wait == NEVER:
            message = f"The request has about {tokens} tokens: more than any deployment here takes in a minute."
        else:
            message = "Every deployment of this model has reached its limit of requests or tokens a minute."
        return NoDeployment(
            message, param="model", type="rate_limit_error", code="rate_limit_exceeded",
            retry_after=None if wait == NEVER else wait,
        )  # fmt: skip
