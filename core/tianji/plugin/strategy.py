"""Routing plugins: which model group answers, which of its deployments may, and which of those goes first.

Three bases, in the order in which a call meets them. A `Selector` stands in for a model group and names another one. A
`Filter` leaves out the deployments that must not serve a call. A `Strategy` puts what is left in order.

All three are asked for every call and also when a call is only explained (`call.dry`), so choosing changes nothing:
what an attempt takes, it takes in `begin`. Chance comes from `call.dice`, so that a route can be had again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, final

from tianji import dialects
from tianji.errors import Failure
from tianji.hookspecs import hookimpl
from tianji.model import Attempt, Call, Deployment
from tianji.plugin.base import Plugin

Release = Callable[[], None]
"""Gives back what an attempt took. The kernel calls it exactly once, when the attempt or its stream has ended."""


class Routing(Plugin):
    """What the three have in common: they see attempts begin and end. Not a base to choose; take one below."""

    family: ClassVar[str] = "strategies"

    def begin(self, call: Call, deployment: Deployment) -> Release | None:
        """An attempt is about to be made. Count it here; return what gives it back, if anything must be.

        Raising a `Failure` (`Overloaded` with status 429, say) refuses this deployment, and the next one is tried.
        Must not block.
        """
        return None

    def observe(self, attempt: Attempt) -> None:
        """Learn from one finished attempt. Called for every attempt, after the call; must not block."""


class Strategy(Routing):
    """Orders a model group's deployments. One instance serves all groups.

    `Settings` are filled from `router_settings.routing_strategy_args` and from the keys of `router_settings` that have
    the same name.
    """

    alone: ClassVar[bool] = False
    """Asked also where one deployment is left and there is nothing to order, as it may have to refuse or to wait."""

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """The candidates, best first: a permutation, or fewer where some must not be used at all.

        An empty answer means that none may be used now; the call is refused with 429 unless another tier can serve it.
        Raise `NoDeployment` to the same end where there is more to say, such as `retry_after`.
        """
        raise NotImplementedError

    @staticmethod
    def shuffled(call: Call, candidates: Sequence[Deployment]) -> list[Deployment]:
        """A random permutation: at every place, each deployment left is drawn in proportion to its weight.

        Weights are the first of `weight`, `rpm` and `tpm` that any candidate has; a candidate without it counts as 0
        and comes after all others. Where none is set, or all are 0, every order is equally likely.
        """
        weights = _weights(candidates)
        if weights is None:
            return call.dice.shuffled(candidates)
        # Sorting by u^(1/w) draws without replacement in one pass (Efraimidis and Spirakis, 2006).
        dice = call.dice
        drawn = [(dice.random() ** (1.0 / weight) if weight > 0 else -dice.random()) for weight in weights]
        order = sorted(range(len(candidates)), key=drawn.__getitem__, reverse=True)
        return [candidates[index] for index in order]

    @final
    @hookimpl
    async def route(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment] | None:
        return await self.rank(call, candidates)


def _weights(candidates: Sequence[Deployment]) -> list[float] | None:
    for field in ("weight", "rpm", "tpm"):
        values = [getattr(one, field) for one in candidates]
        if any(value is not None for value in values):
            weights = [max(0.0, float(value or 0)) for value in values]
            return weights if any(weights) else None
    return None


class Filter(Routing):
    """Leaves out deployments that must not serve a call, or prefers one. Filters compose with every strategy.

    It is used where the configuration asks for it: `router_settings.filters` names it, or a key of LiteLLM's does
    (`enable_tag_filtering`, `provider_budget_config`, `optional_pre_call_checks`). `Settings` are filled as a
    strategy's are.
    """

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Those that may serve the call, in the given order.

        An empty answer refuses the call with 429; raise a `Failure` to say more. A fault of the filter refuses it
        with 500: what guards does not fail open.
        """
        raise NotImplementedError

    def prefer(self, call: Call, ranked: Sequence[Deployment]) -> Deployment | None:
        """The one of these that is to be tried first, whatever the strategy thinks; None: no matter.

        Asked after the strategy, of the healthy deployments of the tier that goes first. Of several filters the first
        that prefers one has its way; a fault is logged, and the strategy's order stays.
        """
        return None

    def reason(self, call: Call, deployment: Deployment) -> str:
        """Why `keep` left this deployment out, for explanations."""
        return f"not kept by {self.instance}"

    @final
    @hookimpl
    async def narrow(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment] | None:
        return await self.keep(call, candidates)


class Selector(Routing):
    """Stands in for a model group and names the group that answers instead.

    A deployment whose provider is the plugin's name (`model: auto_router/support`) makes its group such a stand-in.
    One instance serves one group; `Settings` are filled from that deployment's `tianji_params`.
    """

    async def choose(self, call: Call) -> str:
        """The name of a model group (or alias, or deployment id). The caller's access to the stand-in is enough.

        Why, for explanations: `call.plan.because(...)` where there is a plan. A call that is only explained
        (`call.dry`) must not cost anything.
        """
        raise NotImplementedError

    def targets(self) -> Mapping[str, str]:
        """The names that the settings lead to, each with its place in `tianji_params`.

        A name that does not exist, or that leads back here, stops the start.
        """
        return {}

    @staticmethod
    def question(call: Call) -> str:
        """What the user said last, in any dialect: the text of the last user message. Empty where there is none."""
        dialect = dialects.get(call.dialect)
        body = call.body
        if call.dialect != "openai-chat":
            if not dialect.translates:
                return ""
            try:  # on a copy: what a translation drops is not dropped from the call
                body = dialect.to_chat(call.derive(body=body, dialect=call.dialect, op=call.op))
            except Failure:
                return ""
        for message in reversed(body.get("messages") or ()):
            if message.get("role") == "user":
                content = message.get("content")
                parts = content if isinstance(content, list) else [content]
                texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
                return "\n".join(text for text in texts if isinstance(text, str)).strip()
        return ""

    @final
    @hookimpl
    async def select(self, call: Call) -> str | None:
        return await self.choose(call)
