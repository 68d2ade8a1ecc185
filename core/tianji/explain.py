"""What would happen to a call, told without doing it: the hooks it meets, its routes, its fallbacks, what it may cost.

Nothing is sent, taken, counted or waited for. The routes are those of the real thing: `Selection` and the attempt loop
themselves are asked, with a call that is marked `dry` and carries a plan, and with dice of the same seed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from tianji import __version__, dialects
from tianji.accounting import reservation
from tianji.attempts import Attempts, Walk
from tianji.chance import seed_of
from tianji.errors import ContentPolicy, ContextWindow, Failure, Forbidden, Unavailable
from tianji.explanation import Acting, Chain, Estimate, Explanation
from tianji.model import Call, Deployment, Principal
from tianji.plan import NO_ACCESS, Candidate, Plan, Route, Tried, Unknowable, compact, explaining
from tianji.plugin import Guardrail, Plugin

if TYPE_CHECKING:
    from tianji.accounting import Charge
    from tianji.discovery import Catalogue, Found
    from tianji.gateway import Sealed

logger = logging.getLogger("tianji.explain")

KINDS: dict[str, type[Failure]] = {
    "general": Unavailable, "context_window": ContextWindow, "content_policy": ContentPolicy,
}  # fmt: skip
"""The kinds of failure that have fallbacks of their own, each with a failure of that kind."""


async def explain(sealed: Sealed, catalogue: Catalogue, call: Call) -> Explanation:
    """Explain a call that was identified and parsed, and that nobody will run. A refusal is part of the answer."""
    call.snapshot, call.dry = sealed, True
    if call.seed is None:
        call.seed = seed_of(call.id)
    call.deadline = call.started + sealed.pipeline._timeout(call)
    attempts = sealed.pipeline.attempts
    with explaining() as prevented:
        first = await _routed(attempts, call)
        chains = {kind: await _chain(attempts, call, first, failure) for kind, failure in _failures(first)}
        routes = [*first.plan.routes, *(route for chain in chains.values() for route in chain.routes)]
        stages = _stages(sealed, routes)
        said, unwilling = _says(sealed, call, stages)
    ranked = first.ranked or next((chain.ranked for chain in chains.values() if chain.ranked), ())
    refused = unwilling
    if refused is None and first.failure is not None and not ranked:
        refused = _refusal(first.failure, "kernel:routing")
    unknown = [*prevented, *first.unknown, *(one for chain in chains.values() for one in chain.unknown)]
    unknown += _unknown(sealed, said)
    caller = call.principal
    return Explanation(
        seed=call.seed,
        config=sealed.config.fingerprint if caller.is_admin else None,
        call=_facts(sealed, call, ranked),
        refused=refused,
        hooks=_acting(sealed, catalogue, stages),
        plugins=said,
        routes=_visible(caller, first.plan.routes),
        fallbacks={kind: _chain_for(caller, chain) for kind, chain in chains.items()},
        api_bases=_api_bases(sealed, routes) if caller.is_admin else {},
        estimated=_estimate(sealed, call, ranked[0] if ranked else None),
        unknown=list(dict.fromkeys(unknown)),
    )


def header(call: Call) -> str:
    """How a real call was routed and what was attempted so far, for a header: ASCII, at most 6 KiB."""
    plan: Plan = call.plan
    plan.seed = call.seed or 0
    charge: Charge | None = call.charge
    if charge is None or charge.failed:
        return compact(plan, plan.tried)
    reply = charge.reply
    outcome = "cancelled" if reply is None else "ok" if reply.stream is None else "streaming"
    return compact(plan, [*plan.tried, Tried(charge.deployment.id, outcome)])


# -- routes ------------------------------------------------------------------------------------------------------------


class _Routed:
    """What came of choosing deployments: a plan, and the deployments that would be tried."""

    __slots__ = ("failure", "note", "plan", "ranked", "targets", "unknown")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ranked: Sequence[Deployment] = ()
        self.failure: Failure | None = None
        self.unknown: list[str] = []
        self.targets: list[str] = []
        self.note = ""

    @property
    def routes(self) -> list[Route]:
        return self.plan.routes


def _again(call: Call) -> Call:
    """The same call from its beginning: fresh dice, an empty plan, a room of its own for plugins."""
    fresh = call.derive(body=call.body, dialect=call.dialect, op=call.op)
    fresh.state = dict(call.state)
    fresh.plan = Plan(seed=call.seed or 0)
    return fresh


async def _routed(attempts: Attempts, call: Call) -> _Routed:
    """The route of the model that is asked for."""
    call = _again(call)
    found = _Routed(call.plan)
    try:
        found.ranked = await attempts.selection.ranked(call, call.model)
    except Failure as failure:
        found.failure = failure
    except Unknowable as unknowable:
        found.unknown.append(str(unknowable))
    return found


def _failures(first: _Routed) -> Iterator[tuple[str, Failure]]:
    """The failures after which fallbacks come into question: any, or the one that the routing itself ends in."""
    if first.unknown:
        return
    if first.failure is None:
        yield from ((kind, cls("")) for kind, cls in KINDS.items())
    elif first.failure.falls_back:
        yield next((kind for kind, cls in KINDS.items() if isinstance(first.failure, cls)), "general"), first.failure


async def _chain(attempts: Attempts, call: Call, first: _Routed, failure: Failure) -> _Routed:
    """The routes that follow a failure of everything before, as the attempt loop would come to them."""
    call = _again(call)
    found = _Routed(call.plan)
    if call.options.get("disable_fallbacks"):
        found.note = "the request switches fallbacks off"
        return found
    walk = Walk(call, first.ranked, failure)
    walk.tried += first.ranked
    found.targets = list(attempts.targets(call, failure, walk.tried))
    left = attempts._usable(walk)
    with suppress(Failure):
        await attempts.selection.ranked(call, call.model)  # throws the dice as often as the real call has by then
    found.plan.routes.clear()
    most = attempts.settings.max_fallbacks
    try:
        for _ in range(most):
            offered = await attempts.offered(call, failure, walk.tried, left)
            if not offered:
                return found
            found.ranked = found.ranked or offered
            walk.tried += offered
    except Unknowable as unknowable:
        found.unknown.append(str(unknowable))
        found.note = "what follows depends on something that only a real call can know"
    if left and not found.note:
        found.note = f"a call tries no more than {most} of them (router_settings.max_fallbacks)"
    return found


# -- who acts ----------------------------------------------------------------------------------------------------------


def _stages(sealed: Sealed, routes: Sequence[Route]) -> dict[str, list[str]]:
    """Labels by stage, in the order of a call; the kernel's own parts stand last, where their turn comes."""
    hooks = sealed.hooks
    tried = [(route, one) for route in routes for one in route.candidates if one.rank is not None]
    ordered = [f"strategies:{route.strategy}" for route, _ in tried if route.strategy in hooks.strategies]
    return {
        "identify": [*_labels(hooks.identify), "kernel:master-key"],
        "pre_call": _labels(hooks.pre_call),
        "select": _once(f"strategies:{route.selected_by}" for route in routes if route.selected_by),
        "narrow": _labels(hooks.narrow),
        "route": _once(ordered) or (["kernel:configured-order"] if tried else []),
        "provider_call": _once(f"providers:{one.provider}" for _, one in tried),
        "fallback": [*_labels(hooks.fallback), "kernel:fallbacks"],
        "post_call": _labels(hooks.post_call),
        "log": _labels(hooks.log),
    }


def _labels(steps: Iterable[Any]) -> list[str]:
    return [step.label for step in steps]


def _once(labels: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(labels))


def _acting(sealed: Sealed, catalogue: Catalogue, stages: dict[str, list[str]]) -> dict[str, list[Acting]]:
    plugins = {f"{one.family}:{one.instance}": one for one in sealed.registry.plugins}
    return {
        stage: [_fact(catalogue, label, plugins.get(label)) for label in labels] for stage, labels in stages.items()
    }


def _fact(catalogue: Catalogue, label: str, plugin: Plugin | None) -> Acting:
    family, _, name = label.partition(":")
    if plugin is None:
        return Acting(name, name, family, "tianji-core", __version__, None)
    found = catalogue.get(family, plugin.name)
    dist, version = (found.dist, _version(found)) if found is not None else ("", "")
    return Acting(plugin.name, plugin.instance, family, dist, version, plugin.order)


@lru_cache(maxsize=1024)
def _version(found: Found) -> str:
    """Read from the distribution's metadata, which takes a file."""
    return found.version


def _says(
    sealed: Sealed, call: Call, stages: dict[str, list[str]]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """What the plugins that act say of themselves, and the error with which the first of them would refuse the call."""
    acting = {label for labels in stages.values() for label in labels}
    said: dict[str, dict[str, Any]] = {}
    for plugin in sealed.registry.row():
        label = f"{plugin.family}:{plugin.instance}"
        if label not in acting or type(plugin).explain is Plugin.explain:
            continue
        try:
            words = plugin.explain(call)
        except Failure as failure:
            return said, _refusal(failure, label)
        except Exception as error:
            logger.exception("%s could not explain a call", label)
            words = {"unknown": f"it could not say ({type(error).__name__})"}
        if words is not None:
            said[label] = words
    return said, None


def _refusal(failure: Failure, by: str) -> dict[str, Any]:
    return {"by": by, "status": failure.status, **failure.body()}


def _unknown(sealed: Sealed, said: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What plugins will do that cannot be told before they do it."""
    for plugin in sealed.registry.row():
        label = f"{plugin.family}:{plugin.instance}"
        words = said.get(label)
        mine = [
            stage for stage in ("pre_call", "post_call") if any(s.label == label for s in getattr(sealed.hooks, stage))
        ]
        if words is not None and "unknown" in words:
            yield f"{label}: {words['unknown']}"
        elif isinstance(plugin, Guardrail):
            if words is not None and words.get("applies") and plugin.modes != {"logging_only"}:
                yield f"{label}: its verdict; it may refuse the call, or change its texts"
        elif mine and words is None:
            yield f"{label}: what it does in {' and '.join(mine)}"
    yield from (f"{step.label}: what it offers after a failure" for step in sealed.hooks.fallback)


# -- facts -------------------------------------------------------------------------------------------------------------


def _facts(sealed: Sealed, call: Call, ranked: Sequence[Deployment]) -> dict[str, Any]:
    seconds = round(call.deadline - call.started, 3)
    timeouts = {"call": seconds}
    if ranked:
        timeless = _again(call)
        timeless.deadline = inf  # what is left of the call's time now is not what a first attempt will have
        clocks = sealed.exchange._clocks(timeless, ranked[0])
        timeouts["connect"] = clocks.connect
        timeouts["first_event" if call.stream else "attempt"] = min(seconds, clocks.headers)
    caller = call.principal
    return {
        "model": call.model,
        "dialect": call.dialect,
        "op": call.op.value,
        "stream": call.stream,
        "strict": call.strict,
        "options": dict(call.options),
        "timeouts": timeouts,
        "principal": {
            name: getattr(caller, name)
            for name in ("key_id", "alias", "role", "models", "user_id", "team_id", "org_id", "tags", "guardrails")
        },
    }


def _estimate(sealed: Sealed, call: Call, deployment: Deployment | None) -> Estimate:
    reserved = reservation(call, deployment) if deployment is not None else None
    return Estimate(
        input_tokens=dialects.get(call.dialect).estimate(call.body),
        deployment_id=deployment.id if deployment is not None else None,
        price_known=reserved is not None,
        reserved_nano=reserved,
        spent_nano=sealed.pipeline.ledger.spend(call.principal.key_id),
    )


# -- who may see what --------------------------------------------------------------------------------------------------


def _visible(caller: Principal, routes: Sequence[Route]) -> list[Route]:
    """Routes as a caller may see them: others than administrators see of deployments what they may use."""
    if caller.is_admin:
        return list(routes)
    return [
        msgspec.structs.replace(
            route, candidates=[_bare(one) for one in route.candidates if one.dropped != NO_ACCESS]
        )
        for route in routes
    ]  # fmt: skip


def _bare(candidate: Candidate) -> Candidate:
    """Without what a filter says of the operator's affairs, such as a budget."""
    if candidate.dropped_by is None:
        return candidate
    return msgspec.structs.replace(candidate, dropped=f"not kept by {candidate.dropped_by}")


def _chain_for(caller: Principal, chain: _Routed) -> Chain:
    """A chain of fallbacks, without the groups that the caller may not even know of."""
    routes, targets = chain.routes, chain.targets
    if not caller.is_admin:
        closed = f"{Forbidden.__name__}:"
        routes = [route for route in routes if not (route.refused or "").startswith(closed)]
        mine = {route.model for route in routes}
        targets = [name for name in targets if name in mine]
    return Chain(targets=targets, routes=_visible(caller, routes), note=chain.note)


def _api_bases(sealed: Sealed, routes: Sequence[Route]) -> dict[str, str]:
    router = sealed.router
    known = {one.id: one for one in router.deployments}
    for route in routes:
        group = router.known(route.model)
        if group is not None:
            known.update((one.id, one) for one in group.deployments)
    shown = {one.deployment_id for route in routes for one in route.candidates}
    addresses = ((key, _address(one.api_base or "")) for key, one in known.items() if key in shown)
    return {key: address for key, address in addresses if address}


def _address(url: str) -> str:
    """A URL without credentials, query and fragment; empty where it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")) if host else ""
