"""`FilterSuite` finds the faults that it is there for, and none where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tianji.model import Call, Deployment
from tianji.plugin import Filter
from tianji.testing import FilterSuite


class Plain(Filter):
    name = "plain"

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return candidates


class Shuffles(Plain):
    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return list(reversed(candidates))


class Invents(Plain):
    def prefer(self, call: Call, ranked: Sequence[Deployment]) -> Deployment | None:
        return Deployment(id="mine", group="g", provider="p", model="m")


class Counts(Plain):
    seen = 0

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        self.seen = vars(self).get("seen", 0) + 1
        return candidates


class Holds(Plain):
    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.held = 0

    def begin(self, call: Call, deployment: Deployment) -> None:
        self.held += 1


class Faults(Plain):
    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return [one for one in candidates if one.region.startswith("eu")]  # type: ignore[union-attr]


class Silent(Plain):
    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        return [one for one in candidates if not one.tags]

    def reason(self, call: Call, deployment: Deployment) -> str:
        return ""


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (Shuffles, "test_keeps_some_of_what_it_is_given"), (Faults, "test_keeps_some_of_what_it_is_given"),
        (Silent, "test_keeps_some_of_what_it_is_given"), (Invents, "test_keeps_some_of_what_it_is_given"),
        (Counts, "test_keeping_takes_nothing"), (Holds, "test_calls_end_balanced"),
    ],
)  # fmt: skip
def test_the_suite_finds(cls: type[Filter], check: str) -> None:
    suite: Any = type("Suite", (FilterSuite,), {"plugin": cls, "returns": ("held",) if cls is Holds else ()})()
    with pytest.raises((AssertionError, AttributeError)):
        getattr(suite, check)()
    plain: Any = type("Suite", (FilterSuite,), {"plugin": Plain})()
    getattr(plain, check)()
