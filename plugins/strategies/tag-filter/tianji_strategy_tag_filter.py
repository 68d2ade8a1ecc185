"""Tag filter: routes calls to the deployments that carry their tags.

Docs: https://docs.litellm.ai/docs/proxy/tag_routing (the semantics that operators expect of these keys)
"""

from collections.abc import Sequence
from typing import NamedTuple

from tianji import Call, Deployment, Filter, Forbidden, PluginSettings

DEFAULT = "default"
"""The tag of deployments that serve calls which no other deployment's tags match."""


class Wish(NamedTuple):
    """What the tags of a call ask for."""

    plain: frozenset[str]
    required: frozenset[str]
    """Of `&tag`."""
    excluded: frozenset[str]
    """Of `!tag`."""


class TagFilter(Filter):
    name = "tag-filter"
    order = 310

    class Settings(PluginSettings, frozen=True):
        tag_filtering_match_any: bool = True
        """One common tag is enough. False: a deployment must carry every tag of the call."""
        tag_routing_prefix: str = ""
        """Taken off the front of a call's tags: with `route:`, `route:paid` and `paid` both ask for `paid`."""

    settings: Settings

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Those whose tags match, else those tagged `default`. A call without tags: those, or all where there are none.

        Raises `Forbidden` with LiteLLM's status, 401, where nothing is left.
        """
        wish = self._wish(call)
        if wish is None:
            return _default(candidates) or candidates
        allowed = [one for one in candidates if _allows(wish, one.tags)]
        if wish.plain:
            kept = [one for one in allowed if self._matches(wish.plain, one.tags)] or _default(allowed)
        elif wish.required:
            kept = allowed
        else:
            pool = _default(candidates) or candidates
            kept = [one for one in pool if _allows(wish, one.tags)]
        if not kept and candidates:
            raise Forbidden(
                "Not allowed to access model due to tags configuration. No deployment of "
                f"'{call.model}' has the tags that the request and its key ask for.",
                status=401, param="tags",
            )  # fmt: skip
        return kept

    def reason(self, call: Call, deployment: Deployment) -> str:
        wish = self._wish(call)
        if wish is None:
            return f"the call has no tags, and others are tagged `{DEFAULT}`"
        tags = ", ".join(deployment.tags) or "none"
        if not wish.excluded.isdisjoint(deployment.tags):
            return f"the call excludes {_listed(wish.excluded)}; its tags: {tags}"
        if not wish.required.issubset(deployment.tags):
            return f"the call requires {_listed(wish.required)}; its tags: {tags}"
        if not wish.plain:
            return f"the call has no tags to choose by, and others are tagged `{DEFAULT}`"
        how = "one" if self.settings.tag_filtering_match_any else "all"
        return f"the call asks for {how} of {_listed(wish.plain)}; its tags: {tags}"

    def _wish(self, call: Call) -> Wish | None:
        """What the tags of the request and those of its key ask for; None where there are none."""
        tags = (*(call.options.get("tags") or ()), *call.principal.tags)
        if not tags:
            return None
        if prefix := self.settings.tag_routing_prefix:
            tags = tuple(tag.removeprefix(prefix) for tag in tags)
        marked = {mark: frozenset(tag[1:] for tag in tags if tag[:1] == mark and tag[1:]) for mark in "&!"}
        plain = frozenset(tag for tag in tags if tag and tag[0] not in "&!")
        wish = Wish(plain, marked["&"], marked["!"])
        return wish if any(wish) else None

    def _matches(self, wanted: frozenset[str], tags: tuple[str, ...]) -> bool:
        return not wanted.isdisjoint(tags) if self.settings.tag_filtering_match_any else wanted.issubset(tags)


def _allows(wish: Wish, tags: tuple[str, ...]) -> bool:
    return wish.excluded.isdisjoint(tags) and wish.required.issubset(tags)


def _default(candidates: Sequence[Deployment]) -> list[Deployment]:
    return [one for one in candidates if DEFAULT in one.tags]


def _listed(tags: frozenset[str]) -> str:
    return ", ".join(sorted(tags))
