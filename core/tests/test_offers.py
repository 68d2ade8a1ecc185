"""What a plugin offers as a fallback is as bound by filters and access lists as what the configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from kernel import Scripted, ask, asking, assembled, by_model, config, deployment

from tianji.errors import Failure, Unavailable
from tianji.hookspecs import hookimpl
from tianji.model import Call, Deployment
from tianji.plugin import Extension, Filter
from tianji.testing import make_principal


class Offering(Extension):
    """Offers every other deployment there is."""

    name = "offering"

    @hookimpl
    async def fallback(self, call: Call, tried: Sequence[Deployment]) -> Sequence[Deployment] | None:
        seen = {one.id for one in tried}
        return [one for one in call.snapshot.router.deployments if one.id not in seen] or None


class Here(Filter):
    """Keeps what is `here`."""

    name = "here"

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return [one for one in candidates if "here" in one.tags]


class Broken(Filter):
    name = "broken"

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        if any(one.group != "a" for one in candidates):
            raise RuntimeError("a fault")
        return candidates


def down() -> Failure:
    return Unavailable("down")


def entry(group: str, model: str, *tags: str, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = deployment(group, model)
    return {**made, "tags": list(tags), **fields}


async def attempted(filters: list[str], **fields: Any) -> list[str]:
    provider: type[Scripted] = by_model(one=down)
    entries = [entry("a", "one", "here"), entry("b", "two", "elsewhere"), entry("b", "three", "here", **fields)]
    settings = config(*entries, router_settings={"filters": filters, "num_retries": 0})
    gateway = assembled(settings, provider, Offering, Here, Broken)
    caller = make_principal(role="internal_user", models=("a", "b"))
    await ask(gateway, asking("a", principal=caller))
    return list(provider.asked)


@pytest.mark.parametrize(
    ("filters", "fields", "asked"),
    [
        ([], {}, ["one", "two"]),
        (["here"], {}, ["one", "three"]),
        (["here"], {"access_control": {"allowed_teams": ["another"]}}, ["one"]),
        ([], {"access_control": {"allowed_teams": ["another"]}}, ["one", "two"]),
        (["broken"], {}, ["one"]),
    ],
)
async def test_offers_are_filtered(filters: list[str], fields: dict[str, Any], asked: list[str]) -> None:
    assert await attempted(filters, **fields) == asked
