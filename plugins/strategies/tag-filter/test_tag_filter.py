"""The conformance suite, and who is kept for which tags."""

from typing import Any

import pytest
from tianji_strategy_tag_filter import TagFilter

from tianji import Forbidden
from tianji.testing import FilterSuite, make_call, make_deployment, make_plugin, make_principal

GROUP = [
    make_deployment(id=name, tags=tags)
    for name, tags in {
        "free": ("free",), "paid": ("paid",), "eu": ("paid", "eu"), "spare": ("default",), "bare": (),
    }.items()
]  # fmt: skip
NO_DEFAULT = [one for one in GROUP if one.id != "spare"]


async def kept(tags: list[str], group: list[Any] = GROUP, *, key: tuple[str, ...] = (), **settings: Any) -> list[str]:
    plugin = make_plugin(TagFilter, settings)
    call = make_call(options={"tags": tags} if tags else {}, principal=make_principal(tags=key))
    return [one.id for one in await plugin.keep(call, group)]


class TestTagFilter(FilterSuite):
    plugin = TagFilter

    @pytest.mark.parametrize(
        ("tags", "any_of", "all_of"),
        [
            (["paid"], ["paid", "eu"], ["paid", "eu"]),
            (["paid", "eu"], ["paid", "eu"], ["eu"]),
            (["free", "eu"], ["free", "eu"], ["spare"]),
            (["unheard-of"], ["spare"], ["spare"]),
            (["default"], ["spare"], ["spare"]),
            (["!paid"], ["spare"], ["spare"]),
            (["&paid"], ["paid", "eu"], ["paid", "eu"]),
            (["&paid", "&eu"], ["eu"], ["eu"]),
            (["&paid", "!eu"], ["paid"], ["paid"]),
            (["paid", "!eu"], ["paid"], ["paid"]),
            (["free", "paid", "!eu"], ["free", "paid"], ["spare"]),
            (["paid", "&eu"], ["eu"], ["eu"]),
            (["!", "&", ""], ["spare"], ["spare"]),
        ],
    )
    async def test_who_is_kept(self, tags: list[str], any_of: list[str], all_of: list[str]) -> None:
        assert await kept(tags) == any_of
        assert await kept(tags, tag_filtering_match_any=False) == all_of

    async def test_match_all_is_a_subset(self) -> None:
        """The specification's example: `[fast]` is a subset of `[fast, cheap]`, `[fast, eu]` is not."""
        both = [make_deployment(id="both", tags=("fast", "cheap"))]
        assert await kept(["fast"], both, tag_filtering_match_any=True) == ["both"]
        assert await kept(["fast"], both, tag_filtering_match_any=False) == ["both"]
        with pytest.raises(Forbidden):
            await kept(["fast", "eu"], both, tag_filtering_match_any=False)

    async def test_without_tags(self) -> None:
        assert await kept([]) == ["spare"]
        assert await kept([], NO_DEFAULT) == ["free", "paid", "eu", "bare"]
        assert await kept(["!paid"], NO_DEFAULT) == ["free", "bare"]

    @pytest.mark.parametrize("tags", [["unheard-of"], ["&free", "&paid"], ["&free", "paid"], ["!free", "free"]])
    async def test_nobody_is_left(self, tags: list[str]) -> None:
        with pytest.raises(Forbidden) as caught:
            await kept(tags, NO_DEFAULT)
        assert (caught.value.status, caught.value.param, caught.value.body()["code"]) == (401, "tags", "401")
        assert caught.value.message.startswith("Not allowed to access model due to tags configuration")
        assert not caught.value.falls_back

    async def test_a_required_tag_is_not_served_by_a_default(self) -> None:
        with pytest.raises(Forbidden):
            await kept(["&unheard-of"])
        with pytest.raises(Forbidden):
            await kept(["!default"])

    async def test_the_keys_tags_count_too(self) -> None:
        assert await kept([], key=("free",)) == ["free"]
        assert await kept(["eu"], key=("free",)) == ["free", "eu"]
        assert await kept(["eu"], key=("&paid",)) == ["eu"]

    async def test_a_request_cannot_loosen_what_its_key_requires(self) -> None:
        for tags in (["paid"], ["default"], ["paid", "eu"], ["free"], ["&free"]):
            try:
                assert await kept(tags, key=("&free",)) == ["free"]
            except Forbidden:
                assert tags != ["free"]

    async def test_prefix(self) -> None:
        for tags in (["route:paid"], ["paid"], ["route:&paid"]):
            assert await kept(tags, tag_routing_prefix="route:") == ["paid", "eu"]
        assert await kept(["route:paid"]) == ["spare"]

    def test_reasons(self) -> None:
        plugin = self.make_plugin()

        def reason(tags: list[str], index: int) -> str:
            return str(plugin.reason(make_call(options={"tags": tags}), GROUP[index]))

        assert reason(["paid"], 0) == "the call asks for one of paid; its tags: free"
        assert reason(["!paid"], 1) == "the call excludes paid; its tags: paid"
        assert reason(["&eu"], 4) == "the call requires eu; its tags: none"
        assert "others are tagged `default`" in reason([], 0)
        assert "others are tagged `default`" in reason(["!paid"], 0)
