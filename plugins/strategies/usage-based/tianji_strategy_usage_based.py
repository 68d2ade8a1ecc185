"""Usage-based: the deployment with the smallest part of its limits in use goes first.

Docs: https://docs.litellm.ai/docs/routing (the semantics that operators expect of this name)
"""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from tianji import Attempt, Call, Deployment, PluginSettings, Strategy, Tally, hookimpl


class UsageBased(Strategy):
    name = "usage-based"

    class Settings(PluginSettings, frozen=True):
        default_rpm: Annotated[int, Meta(ge=1)] = 60
        """Requests a minute that a deployment without `rpm` is taken to allow."""
        default_tpm: Annotated[int, Meta(ge=1)] = 100_000
        """Tokens a minute that a deployment without `tpm` is taken to allow."""

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.tally = Tally(gateway, "routing")
        """Of the last minute, by deployment id: `rpm:…` attempts, `tpm:…` tokens of those that ended."""

    @hookimpl
    async def startup(self) -> None:
        self.tally.start()

    @hookimpl
    async def shutdown(self) -> None:
        await self.tally.stop()

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """By the larger of the two parts in use, requests and tokens; ties at random."""
        dice = call.dice
        return sorted(candidates, key=lambda one: (self.load(one), dice.random()))

    def load(self, deployment: Deployment) -> float:
        """The part of its limits that a deployment has used in the last minute; above 1 where it is over one."""
        rpm = deployment.rpm or self.settings.default_rpm
        tpm = deployment.tpm or self.settings.default_tpm
        return max(self.tally.sum(f"rpm:{deployment.id}") / rpm, self.tally.sum(f"tpm:{deployment.id}") / tpm)

    def begin(self, call: Call, deployment: Deployment) -> None:
        self.tally.add(f"rpm:{deployment.id}", 1)

    def observe(self, attempt: Attempt) -> None:
        if attempt.usage is not None and (tokens := attempt.usage.total_tokens) > 0:
            self.tally.add(f"tpm:{attempt.deployment_id}", tokens)
