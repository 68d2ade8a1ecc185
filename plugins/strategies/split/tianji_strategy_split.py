"""Split: a model name whose calls go to several model groups by weight, for canaries and A/B tests.

    - model_name: chat
      tianji_params: {model: split/chat, split: {chat-stable: 95, chat-next: 5}}

Docs: https://docs.litellm.ai/docs/proxy/load_balancing (weights there are between deployments of one group)
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec

from tianji import Call, ConfigError, PluginSettings, Selector

Weight = Annotated[float, msgspec.Meta(ge=0)]


class Split(Selector):
    name = "split"

    class Settings(PluginSettings, frozen=True):
        split: dict[str, Weight]
        """Model groups and their weights; percentages, if they add up to 100."""
        split_by: Literal["call", "user", "key"] = "call"
        """What stays together: nothing, the calls of an end user (else of a key), or the calls of a key."""

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self._total = sum(settings.split.values())
        if self._total <= 0:
            raise ConfigError("no model group has a weight", path="split", mend="Write `split: {group: 95, other: 5}`")

    async def choose(self, call: Call) -> str:
        """A group by chance in proportion to its weight, or the one that the caller always has."""
        point = self._point(call) * self._total
        chosen = ""
        for group, weight in self.settings.split.items():
            if weight <= 0:
                continue
            chosen = group
            point -= weight
            if point < 0:
                break
        if call.plan is not None:
            share = self.settings.split[chosen] / self._total
            call.plan.because(f"{share:.4g} of the calls, by {self.settings.split_by}")
        return chosen

    def targets(self) -> Mapping[str, str]:
        return dict.fromkeys(self.settings.split, "split")

    def _point(self, call: Call) -> float:
        """From 0 up to 1: a throw, or the same number whenever the same caller comes."""
        if self.settings.split_by == "call":
            return call.dice.random()
        user = call.body.get("user") if self.settings.split_by == "user" else None
        who = f"user {user}" if isinstance(user, str) and user else f"key {call.principal.key_id}"
        # The instance is part of it, so that two splits do not put the same callers first.
        digest = blake2b(f"{self.instance} {who}".encode(errors="replace"), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64
