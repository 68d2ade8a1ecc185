"""From a model name to the deployments to try, best first.

selector (if the group is a stand-in) → alias, group, wildcard → access → context window → filters → health → tiers →
strategy → what a filter prefers. Filters come before health, so that a deployment that must not serve a call never
does, not even when all others are out of order. Of what remains nothing is lost to health: deployments that are put
aside come last.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from tianji.accounting import estimate_input
from tianji.errors import BadRequest, ContextWindow, Failure, Internal, NoDeployment, TianjiError
from tianji.health import Health
from tianji.model import Call, Deployment
from tianji.plan import NO_ACCESS, Candidate, Plan, Route
from tianji.plugin import Filter
from tianji.registry import Hooks, Step
from tianji.router import Group, Router, open_to

logger = logging.getLogger("tianji.selection")

REGION = "allowed_model_region"
"""Where a call must stay: an option of the request, and a key of a principal's metadata."""
REGION_FILTER = "strategies:region-filter"
STAND_INS = 4
"""Selectors that may name one another before the call is refused."""


class Selection:
    """Chooses for one configuration. `check_context`: leave out deployments whose context window is too small."""

    def __init__(self, router: Router, health: Health, hooks: Hooks, *, check_context: bool = False) -> None:
        self.router = router
        self.health = health
        self.hooks = hooks
        self.check_context = check_context
        self._alone = frozenset(
            name
            for name, route in hooks.strategies.items()
            if getattr(getattr(route, "__self__", None), "alone", False)
        )
        """Strategies that are asked where there is nothing to choose from, too."""
        self._blind = not any(step.label == REGION_FILTER for step in hooks.narrow)
        """Nobody here looks at regions, so that a call that must stay in one is refused."""

    async def ranked(self, call: Call, model: str) -> Sequence[Deployment]:
        """The deployments to try for a model name, best first; at least one.

        Raises `UnknownModel`, `Forbidden`, `ContextWindow`, `NoDeployment`, or what a selector or filter raises.
        """
        plan: Plan | None = call.plan
        if plan is None:
            return await self._ranked(call, model, None)
        route = Route(model=model, candidates=[])
        plan.routes.append(route)
        try:
            ranked = await self._ranked(call, model, route)
        except Failure as failure:
            route.refused = f"{type(failure).__name__}: {failure.message}"
            raise
        finally:
            plan.seed = call.seed or 0
        places = {one.id: place for place, one in enumerate(ranked, 1)}
        for candidate in route.candidates:
            candidate.rank = places.get(candidate.deployment_id)
            if candidate.rank is None and candidate.dropped is None:
                candidate.dropped = f"left out by the strategy {route.strategy}"
        return ranked

    async def _ranked(self, call: Call, model: str, route: Route | None) -> Sequence[Deployment]:
        if self._blind and (REGION in call.options or call.principal.metadata.get(REGION)):
            raise _no_region()
        group = self.router.find(model, call.principal)
        members = self.router.allowed(group, call.principal, model)
        if group.selector:
            group, members = await self._selected(call, group, route)
        if route is not None:
            self._note(route, model, group, members)
        if self.check_context:
            members = self._fitting(call, members, route)
        if self.hooks.narrow:
            members = await self._narrowed(call, members, route)
        if len(members) == 1 and group.strategy not in self._alone:
            if route is not None:
                self._note_health(route, group, None)
            return members
        ranked = await self._ordered(call, group, members, route)
        if not ranked:
            raise NoDeployment(f"No deployment of '{model}' may be used right now.", param="model")
        return ranked

    async def permitted(self, call: Call, offered: Sequence[Deployment]) -> Sequence[Deployment]:
        """Those of the deployments that a plugin offers which access lists and filters let this call have."""
        members: Sequence[Deployment] = [one for one in offered if open_to(one, call.principal)]
        try:
            return await self._narrowed(call, members, None) if members else ()
        except Failure as refused:
            logger.info("what a plugin offers may not be used: %s", type(refused).__name__)
            return ()

    # -- which group ---------------------------------------------------------------------------------------------------

    async def _selected(self, call: Call, group: Group, route: Route | None) -> tuple[Group, Sequence[Deployment]]:
        """The group that a stand-in's selector names, and its deployments that are open to the caller."""
        for _ in range(STAND_INS):
            if route is not None:
                route.selected_by = group.selector
            name = await self._chosen(call, group)
            group = self.router.find(name, call.principal)
            if not group.selector:
                return group, self.router.open(group, call.principal, name)
        raise Internal(f"The selector of '{group.name}' leads in a circle.")

    async def _chosen(self, call: Call, group: Group) -> str:
        try:
            name: str = await self.hooks.selectors[group.selector](call)
        except TianjiError:
            raise
        except Exception as error:
            logger.exception("selector %s failed", group.selector)
            raise Internal(f"The selector '{group.selector}' failed. The log has the details.") from error
        return name

    # -- which deployments ---------------------------------------------------------------------------------------------

    def _fitting(self, call: Call, members: Sequence[Deployment], route: Route | None) -> Sequence[Deployment]:
        """Those whose context window is known to be large enough, or not known. Sizes are estimates."""
        limits = [one.max_input_tokens for one in members]
        least = min((limit for limit in limits if limit), default=None)
        if least is None or (call.raw is not None and len(call.raw) <= 4 * least):
            return members  # no text is longer than the request that it came in
        tokens = estimate_input(call)
        kept = [one for one, limit in zip(members, limits, strict=True) if not limit or tokens <= limit]
        self._drop(route, members, kept, lambda one: f"about {tokens} tokens; it takes {one.max_input_tokens}")
        if not kept:
            raise ContextWindow(
                f"The request has about {tokens} tokens; no deployment of this model takes more than "
                f"{max(limit or 0 for limit in limits)}.",
                param="messages",
            )
        return kept

    async def _narrowed(self, call: Call, members: Sequence[Deployment], route: Route | None) -> Sequence[Deployment]:
        """What the filters keep, one after the other."""
        label = ""
        try:
            for step in self.hooks.narrow:
                label = step.label
                kept: Sequence[Deployment] | None = await step.fn(call, members)
                if kept is None:
                    continue
                if route is not None:
                    self._drop(route, members, kept, partial(_reason, step, call), label)
                if not kept:
                    what = f"No deployment of '{call.model}' may be used right now ({label})."
                    raise NoDeployment(what, param="model")
                members = kept
        except TianjiError:
            raise
        except Exception as error:
            logger.exception("filter %s failed", label)
            raise Internal(f"The filter '{label}' failed. The log has the details.") from error
        return members

    async def _ordered(
        self, call: Call, group: Group, members: Sequence[Deployment], route: Route | None
    ) -> Sequence[Deployment]:
        """Tier by tier, and what is put aside at the end. The strategy orders the first tier that it has a use for.

        Raises the `NoDeployment` of the strategy where nothing is left to try.
        """
        split = self.health.split(members, claim=not call.dry)
        if route is not None:
            self._note_health(route, group, split.probe)
        ready = split.ready
        orders = {one.order for one in ready}
        tiers = [ready] if len(orders) < 2 else [[one for one in ready if one.order == tier] for tier in sorted(orders)]
        ranked: list[Deployment] = []
        refused: NoDeployment | None = None
        for tier in tiers:
            try:
                ranked += call.dice.shuffled(tier) if ranked else await self._first(call, group, tier, route)
            except NoDeployment as failure:
                refused = failure
            except BaseException:
                if split.probe is not None and not call.dry:
                    self.health.unclaim(split.probe)
                raise
        if split.probe is not None:
            ranked.insert(0, split.probe)
        ranked += split.spare
        if refused is not None and not ranked:
            raise refused
        return ranked

    async def _first(
        self, call: Call, group: Group, tier: Sequence[Deployment], route: Route | None
    ) -> Sequence[Deployment]:
        """The tier that goes first, as its strategy orders it, after the one that a filter prefers."""
        ranked = await self._route(call, group, tier)
        for plugin in self.hooks.preferers if len(ranked) > 1 else ():
            try:
                preferred = plugin.prefer(call, ranked)
            except Exception:
                logger.exception("filter %s failed to prefer a deployment", plugin.instance)
                continue
            if preferred is not None and preferred in ranked:
                for candidate in route.candidates if route is not None else ():
                    if candidate.deployment_id == preferred.id:
                        candidate.preferred_by = f"{plugin.family}:{plugin.instance}"
                return [preferred, *(one for one in ranked if one is not preferred)]
        return ranked

    async def _route(self, call: Call, group: Group, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Ask the group's strategy; the kernel's own order is the order of the configuration."""
        if len(candidates) == 0:
            return candidates
        route = self.hooks.strategies.get(group.strategy)
        if route is None:
            return candidates
        try:
            ranked: Sequence[Deployment] | None = await route(call, candidates)
        except TianjiError:
            raise
        except Exception:
            logger.exception("strategy %s failed; the configured order is used", group.strategy)
            return candidates
        return candidates if ranked is None else ranked

    # -- writing it down -----------------------------------------------------------------------------------------------

    def _note(self, route: Route, model: str, group: Group, members: Sequence[Deployment]) -> None:
        route.group = group.name
        route.strategy = group.strategy
        route.how = self.router.how(model)
        mine = {one.id for one in members}
        for one in group.deployments:
            dropped = None if one.id in mine else NO_ACCESS
            route.candidates.append(
                Candidate(
                    deployment_id=one.id, provider=one.provider, model=one.model, order=one.order, dropped=dropped
                )
            )

    def _note_health(self, route: Route, group: Group, probe: Deployment | None) -> None:
        for candidate, one in zip(route.candidates, group.deployments, strict=True):
            candidate.probe = probe is not None and probe.id == one.id
            candidate.health = "probing" if candidate.probe else self.health.name(one)
            candidate.cooling_for = round(self.health.cooling(one), 3)

    def _drop(
        self, route: Route | None, before: Sequence[Deployment], kept: Sequence[Deployment], why: Any,
        by: str | None = None,
    ) -> None:  # fmt: skip
        if route is None or len(kept) == len(before):
            return
        left = {one.id for one in kept}
        reasons = {one.id: why(one) for one in before if one.id not in left}
        for candidate in route.candidates:
            if candidate.deployment_id in reasons and candidate.dropped is None:
                candidate.dropped, candidate.dropped_by = reasons[candidate.deployment_id], by


def _reason(step: Step, call: Call, one: Deployment) -> str:
    """Why a filter left a deployment out, in its own words."""
    plugin = getattr(step.fn, "__self__", None)
    return plugin.reason(call, one) if isinstance(plugin, Filter) else f"left out by {step.label}"


def _no_region() -> BadRequest:
    return BadRequest(
        f"'{REGION}' cannot be kept to: this gateway does not know where its deployments are. Its operator gives them "
        "a `region`, with the filter installed: pip install tianji-strategy-region-filter",
        param=REGION,
        code="unsupported_parameter",
    )
