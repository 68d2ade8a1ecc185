"""From a model name to the deployments that may serve it, in the order in which to try them.

alias → exact group → deployment id → wildcard (longest pattern, then fewest `*`) → access → cooldown → order tier.
The strategy then ranks what is left; that is the attempt loop's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import msgspec

from tianji.errors import ConfigError, Forbidden, PluginError, UnknownModel
from tianji.model import Deployment, Principal


class Group(msgspec.Struct, frozen=True):
    """All deployments that share a `model_name`."""

    name: str
    deployments: tuple[Deployment, ...]
    strategy: str
    selector: str = ""
    """The selector that stands here and names another group; empty for a group of its own deployments."""


class Wildcard(msgspec.Struct, frozen=True):
    """A group whose name is a pattern, such as `openai/*`."""

    pattern: re.Pattern[str]
    group: Group


class Router:
    """The groups of one configuration. Immutable but for a bounded cache of filled wildcards.

    `refine` gives a filled wildcard deployment what depends on its concrete model (its price).
    """

    def __init__(
        self,
        deployments: Sequence[Deployment],
        *,
        strategy: str = "simple-shuffle",
        aliases: Mapping[str, tuple[str, bool]] | None = None,
        selectors: Mapping[str, str] | None = None,
        refine: object = None,
    ) -> None:
        self.aliases = dict(aliases or {})
        stand_ins = selectors or {}
        self.deployments = tuple(one for one in deployments if one.group not in stand_ins)
        """Those that answer: what stands for a selector cannot be tried."""
        self.groups: dict[str, Group] = {}
        by_name: dict[str, list[Deployment]] = {}
        for deployment in deployments:
            by_name.setdefault(deployment.group, []).append(deployment)
        for name, members in by_name.items():
            self.groups[name] = Group(name, tuple(members), strategy, stand_ins.get(name, ""))
        self.by_id = {one.id: Group(one.group, (one,), strategy, stand_ins.get(one.group, "")) for one in deployments}
        wild = [name for name in self.groups if "*" in name]
        wild.sort(key=lambda name: (-len(name), name.count("*")))
        self.wildcards = tuple(Wildcard(_pattern(name), self.groups[name]) for name in wild)
        self._filled: dict[str, Group] = {}
        self._refine = refine

    def find(self, model: str, principal: Principal | None = None) -> Group:
        """The group that a request's model name stands for.

        Raises `UnknownModel` with the near matches, among the names that the caller may use.
        """
        group = self.known(model)
        if group is None:
            raise UnknownModel(self._unknown(model, principal), param="model")
        return group

    def known(self, model: str) -> Group | None:
        """The same; None where there is none."""
        alias = self.aliases.get(model)
        name = alias[0] if alias is not None else model
        group = self.groups.get(name)
        if group is not None and "*" not in name:
            return group
        return self._filled.get(name) or self.by_id.get(name) or self._fill(name)

    def allowed(self, group: Group, principal: Principal, asked: str) -> Sequence[Deployment]:
        """The deployments of a group that the caller may use; `Forbidden` where there is none."""
        models = principal.models
        if "*" not in models and not principal.is_admin and not granted(models, asked, group.name):
            raise Forbidden(
                f"This key may not use model '{asked}'. It may use: {', '.join(models) or 'none'}.",
                param="model",
                code="key_model_access_denied",
            )
        return self.open(group, principal, asked)

    def open(self, group: Group, principal: Principal, asked: str) -> Sequence[Deployment]:
        """The deployments whose own access lists let the caller in."""
        members = group.deployments
        if principal.is_admin or not any(one.allowed_orgs or one.allowed_teams or one.allowed_keys for one in members):
            return members
        mine = [one for one in members if open_to(one, principal)]
        if not mine:
            raise Forbidden(f"This key may not use model '{asked}'.", param="model", code="access_denied")
        return mine

    def how(self, model: str) -> str:
        """In which way `known` finds a model: `alias`, `exact`, `deployment` or `wildcard`."""
        if model in self.aliases:
            return "alias"
        if model in self.groups and "*" not in model:
            return "exact"
        return "deployment" if model in self.by_id else "wildcard"

    def names(self) -> list[str]:
        """What `GET /v1/models` lists: groups and visible aliases, wildcards as written."""
        visible = [name for name, (_, hidden) in self.aliases.items() if not hidden]
        return [*self.groups, *(name for name in visible if name not in self.groups)]

    def _fill(self, name: str) -> Group | None:
        """The wildcard group that matches, with the captured parts put into its deployments' models."""
        for wildcard in self.wildcards:
            match = wildcard.pattern.fullmatch(name)
            if match is None:
                continue
            group = wildcard.group
            try:
                members = tuple(self._concrete(one, match.groups(), name) for one in group.deployments)
            except (ConfigError, PluginError):
                continue  # `model: "*"`, and the client named a provider that is not there, or not set up
            if len(self._filled) >= 10_000:
                self._filled.clear()  # names come from clients; a full reset is cheaper than bookkeeping, and rare
            filled = self._filled[name] = Group(group.name, members, group.strategy)
            return filled
        return None

    def _concrete(self, deployment: Deployment, parts: Iterable[str], name: str) -> Deployment:
        model = deployment.model
        if "*" not in model:
            return deployment
        for part in parts:
            model = model.replace("*", part, 1)
        if "*" in model:
            model = name
        return self.refined(msgspec.structs.replace(deployment, model=model))

    def refined(self, deployment: Deployment) -> Deployment:
        """A deployment whose model is known by now, with what depends on that."""
        refined: Deployment = self._refine(deployment) if callable(self._refine) else deployment
        return refined

    def _unknown(self, model: str, principal: Principal | None) -> str:
        names = [*self.names(), *self.by_id]
        if principal is not None and not principal.is_admin:
            names = [name for name in self.names() if granted(principal.models, name, name)]
        near = get_close_matches(model, names, n=3, cutoff=0.5)
        if near:
            hint = f" Did you mean {' or '.join(repr(name) for name in near)}?"
        else:
            hint = " GET /v1/models lists the models there are."
        return f"The model '{model[:200]}' does not exist.{hint}"


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("(.+)".join(re.escape(part) for part in name.split("*")))


def granted(models: Sequence[str], asked: str, group: str) -> bool:
    return any(
        name in (asked, group) or ("*" in name and _pattern(name).fullmatch(asked) is not None) for name in models
    )


def open_to(deployment: Deployment, principal: Principal) -> bool:
    """Whether a deployment's own access lists let the caller in."""
    if principal.is_admin or not (deployment.allowed_orgs or deployment.allowed_teams or deployment.allowed_keys):
        return True
    return (
        principal.org_id in deployment.allowed_orgs
        or principal.team_id in deployment.allowed_teams
        or principal.key_hash in deployment.allowed_keys
    )
