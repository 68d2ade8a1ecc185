"""Which plugins there are, and the way from a name to a checked class. Distributions are made up in a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji.discovery import Catalogue, Found, normal, satisfies, scan
from tianji.errors import PluginError
from tianji.plugin import SINGULAR

BOOM = "raise RuntimeError('this module must not be imported')\n"


class Site:
    """A folder on `sys.path` with distributions in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def dist(
        self, name: str, entries: dict[str, str], *, version: str = "1.2.3", source: str | None = None,
        requires: str = "", module: str = "",
    ) -> str:  # fmt: skip
        """One distribution: `entries` are `family.name` to class. Its module says `source`, or raises."""
        module = module or f"site_{len(self.modules)}_{self.folder.name.replace('-', '_')}"
        self.modules.append(module)
        (self.folder / f"{module}.py").write_text(BOOM if source is None else source)
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        groups: dict[str, str] = {}
        for label, cls in entries.items():
            family, _, entry = label.partition(".")
            groups[family] = groups.get(family, "") + f"{entry} = {module}:{cls}\n"
        text = "".join(f"[tianji.{family}]\n{lines}\n" for family, lines in groups.items())
        (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n{text}")
        return module

    def catalogue(self, **given: Any) -> Catalogue:
        return Catalogue(scan([str(self.folder)]), **given)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    made = Site(folder)
    yield made
    for module in made.modules:
        sys.modules.pop(module, None)


CALLBACK = """
from tianji import Callback, PluginSettings
class Sink(Callback):
    name = "sink"
    async def export(self, records):
        pass
"""


class TestScan:
    def test_reads_metadata_and_imports_nothing(self, site: Site) -> None:
        for number in range(20):
            site.dist(f"tianji-provider-p{number}", {f"providers.p{number}": "P", f"providers.q{number}": "P"})
        before = set(sys.modules)
        found = scan([str(site.folder)])
        assert len(found) == 40
        assert not {name for name in sys.modules if name.startswith("site_")}
        assert {name for name in set(sys.modules) - before if name.startswith("tianji")} == set()
        one = found[0]
        assert (one.family, one.name, one.dist, one.version) == ("providers", "p0", "tianji-provider-p0", "1.2.3")

    def test_knows_five_families_and_no_other(self, site: Site) -> None:
        site.dist("all", {f"{family}.x": "X" for family in (*SINGULAR, "dashboards", "providersx")})
        assert {one.family for one in scan([str(site.folder)])} == set(SINGULAR)

    def test_the_first_on_the_path_wins_for_one_distribution(self, tmp_path: Path) -> None:
        sites = []
        for name, version in (("a", "2.0"), ("b", "1.0")):
            folder = tmp_path / name
            folder.mkdir()
            Site(folder).dist("Tianji_Callback.Sink", {"callbacks.sink": "Sink"}, version=version)
            sites.append(str(folder))
        (one,) = scan(sites)
        assert one.version == "2.0"
        Catalogue(scan(sites))  # no conflict with itself

    def test_odd_lines_are_passed_over(self, site: Site) -> None:
        site.dist("odd", {"callbacks.sink": "Sink"})
        (info,) = site.folder.glob("*.dist-info")
        (info / "entry_points.txt").write_text(
            "[tianji.callbacks]\n# a comment = a:b\n\nno colon = a.b\n"
            "  spaced-name  =  some.module : Inner.Cls [extra]\n"
        )
        (one,) = scan([str(site.folder)])
        assert (one.name, one.value) == ("spaced-name", "some.module:Inner.Cls")


class TestConflicts:
    def test_two_offers_of_one_name_name_both_and_the_line_that_mends_it(self, site: Site) -> None:
        site.dist("sink-one", {"callbacks.sink": "Sink"}, version="1.0", source=CALLBACK)
        site.dist("sink-two", {"callbacks.sink": "Sink"}, version="2.0", source=CALLBACK)
        with pytest.raises(PluginError) as caught:
            site.catalogue()
        message = str(caught.value)
        for part in ('callback "sink"', "sink-one 1.0", "sink-two 2.0", "plugins: {pin: {callbacks.sink: sink-two}}"):
            assert part in message
        pinned = site.catalogue(pin={"callbacks.sink": "Sink_Two"})
        assert [one.dist for one in pinned] == ["sink-two"]
        assert [one.dist for one in pinned.disabled] == ["sink-one"]

    def test_one_name_in_two_families_is_no_conflict(self, site: Site) -> None:
        site.dist("a", {"providers.bedrock": "A"})
        site.dist("b", {"guardrails.bedrock": "B"})
        assert len(list(site.catalogue())) == 2


class TestFilters:
    @pytest.mark.parametrize(
        ("given", "left"),
        [
            ({}, {"providers.a", "callbacks.a", "callbacks.b"}),
            ({"only": ["callbacks.*"]}, {"callbacks.a", "callbacks.b"}),
            ({"disable": ["*.a"]}, {"callbacks.b"}),
            ({"only": ["callbacks.*"], "disable": ["callbacks.b"]}, {"callbacks.a"}),
            ({"only": ["nothing"]}, set()),
        ],
    )
    def test_choose_before_anything_is_imported(self, site: Site, given: dict[str, Any], left: set[str]) -> None:
        for label in ("providers.a", "callbacks.a", "callbacks.b"):
            site.dist(label.replace(".", "-"), {label: "X"})
        catalogue = site.catalogue(**given)
        assert {f"{one.family}.{one.name}" for one in catalogue} == left
        assert len(catalogue.disabled) == 3 - len(left)

    def test_what_is_switched_off_says_so(self, site: Site) -> None:
        site.dist("tianji-callback-sink", {"callbacks.sink": "Sink"})
        says = r"callback \"sink\" \(tianji-callback-sink\) is installed but switched off"
        with pytest.raises(PluginError, match=says):
            site.catalogue(disable=["callbacks.sink"]).load("callbacks", "sink")

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("Sink.Dist>=1.2", None), ("sink-dist", None), ("sink_dist ~= 1.2, <2", None),
            ("sink-dist>=2", "sink-dist is 1.2.3, >=2 is wanted. pip install -U 'sink-dist>=2'"),
            ("other>=1", "other is not installed. Install it with: pip install 'other>=1'"),
        ],
    )  # fmt: skip
    def test_required_distributions(self, site: Site, line: str, problem: str | None) -> None:
        site.dist("sink-dist", {"callbacks.sink": "Sink"})
        if problem is None:
            site.catalogue(require=[line])
            return
        with pytest.raises(PluginError) as caught:
            site.catalogue(require=[line])
        assert problem in str(caught.value)


class TestLoad:
    def test_imports_one_module_once(self, site: Site) -> None:
        module = site.dist("good", {"callbacks.sink": "Sink"}, source=CALLBACK)
        site.dist("bad", {"callbacks.boom": "X"})
        catalogue = site.catalogue()
        cls = catalogue.load("callbacks", "sink")
        assert cls.__module__ == module
        assert catalogue.load("callbacks", "sink") is cls

    def test_an_alias_is_the_same_class(self, site: Site) -> None:
        site.dist("good", {"callbacks.sink": "Sink", "callbacks.old-sink": "Sink"}, source=CALLBACK)
        catalogue = site.catalogue()
        assert catalogue.load("callbacks", "old-sink") is catalogue.load("callbacks", "sink")
        assert catalogue.names("callbacks") == ["old-sink", "sink"]

    def test_a_module_that_cannot_be_imported_is_named_with_its_mend(self, site: Site) -> None:
        site.dist("boom-dist", {"callbacks.boom": "X"}, version="4.5")
        with pytest.raises(PluginError) as caught:
            site.catalogue().load("callbacks", "boom", path="c.yaml:3: callbacks[0]")
        message = str(caught.value)
        assert message.startswith("c.yaml:3: callbacks[0]: boom-dist 4.5 cannot be imported: RuntimeError: this module")
        assert "pip install --force-reinstall boom-dist" in message

    @pytest.mark.parametrize(
        ("asked", "parts"),
        [
            ("snik", ("Did you mean sink?", "pip install tianji-callback-snik")),
            ("zzz_y", ("is not installed. Install it with: pip install tianji-callback-zzz-y",)),
        ],
    )
    def test_did_you_mean(self, site: Site, asked: str, parts: tuple[str, ...]) -> None:
        site.dist("good", {"callbacks.sink": "Sink"}, source=CALLBACK)
        with pytest.raises(PluginError) as caught:
            site.catalogue().load("callbacks", asked)
        for part in (f'callback "{asked}"', *parts):
            assert part in str(caught.value)


HEAD = (
    "from tianji import *\n"
    "from tianji import Callback, Extension, Guardrail, PluginSettings, Provider, Strategy, hookimpl\n"
)
BROKEN: dict[str, tuple[str, str, str]] = {
    "wrong base": ("callbacks", "class P: name = 'p'", "a callback must subclass tianji.Callback"),
    "base of another family": ("callbacks", "class P(Strategy): name = 'p'", "must subclass tianji.Callback"),
    "a function": ("strategies", "def P(): pass", "a strategy must subclass tianji.Strategy"),
    "no name": ("strategies", "class P(Strategy): pass", "the class has no `name`"),
    "another name": ("strategies", "class P(Strategy): name = 'q'", "its `name` is 'q', which is not one of its entry"),
    "mutable settings": (
        "strategies",
        "import msgspec\nclass P(Strategy):\n    name = 'p'\n    class Settings(msgspec.Struct): pass",
        "Settings must be `class Settings(PluginSettings, frozen=True)`",
    ),
    "sync hook": (
        "extensions",
        "class P(Extension):\n    name = 'p'\n    @hookimpl\n    def pre_call(self, call): pass",
        "`pre_call` must be `async def`",
    ),
    "wrapper": (
        "extensions",
        "class P(Extension):\n    name = 'p'\n    @hookimpl(wrapper=True)\n    def configure(self, app): yield",
        "`configure` must be a plain hook",
    ),
    "tryfirst": (
        "extensions",
        "class P(Extension):\n    name = 'p'\n    @hookimpl(tryfirst=True)\n    async def pre_call(self, call): pass",
        "order is the class attribute `order`",
    ),
    "sealed": (
        "callbacks",
        "class P(Callback):\n    name = 'p'\n    async def log(self, records): pass",
        "`log` is sealed; write the method that Callback documents instead",
    ),
    "sealed guardrail": (
        "guardrails",
        "class P(Guardrail):\n    name = 'p'\n    @hookimpl\n    async def pre_call(self, call): pass",
        "`pre_call` is sealed",
    ),
}


class TestPromises:
    @pytest.mark.parametrize("case", BROKEN)
    def test_a_broken_one_is_told_with_distribution_and_version(self, site: Site, case: str) -> None:
        family, source, problem = BROKEN[case]
        module = site.dist("tianji-p", {f"{family}.p": "P"}, version="0.9", source=HEAD + source)
        with pytest.raises(PluginError) as caught:
            site.catalogue().load(family, "p")
        assert str(caught.value).startswith(f"tianji-p 0.9 ({module}:P)")
        assert problem in str(caught.value)

    @pytest.mark.parametrize(
        ("requires", "fits"),
        [
            ("tianji-core>=0.1,<1", True), ("tianji-core (>=0.1)", True), ("tianji-core[http]>=0.1", True),
            ("tianji-core>=9", False), ("tianji-core<0.1", False), ("tianji-core-extras>=9", True), ("", True),
        ],
    )  # fmt: skip
    def test_the_kernels_version(self, site: Site, requires: str, fits: bool) -> None:
        site.dist("tianji-p", {"callbacks.sink": "Sink"}, source=CALLBACK, requires=requires)
        if fits:
            site.catalogue().load("callbacks", "sink")
            return
        with pytest.raises(PluginError, match=r"needs tianji-core.*Mend it with: pip install -U tianji-p"):
            site.catalogue().load("callbacks", "sink")


class TestFiles:
    def test_classes_of_a_file_join_the_catalogue(self, tmp_path: Path) -> None:
        file = tmp_path / "my_sink.py"
        file.write_text(CALLBACK + "class Base(Callback):\n    pass\nclass Two(Sink):\n    name = 'two'\n")
        catalogue = Catalogue([])
        added = catalogue.add_file(str(file))
        assert [one.name for one in added] == ["sink", "two"]
        assert catalogue.load("callbacks", "two").name == "two"
        assert added[0].version == "local"
        sys.modules.pop("tianji_local_my_sink")

    @pytest.mark.parametrize(
        ("source", "problem"),
        [
            (None, "no such file (given with --plugin)"),
            ("x = 1", "defines no plugin: subclass one of tianji's bases"),
            ("import nothing_of_that_name", "cannot be imported: ModuleNotFoundError"),
            ("def f(:", "cannot be imported: SyntaxError"),
            (HEAD + BROKEN["sync hook"][1], "must be `async def`"),
        ],
    )
    def test_what_is_wrong_with_a_file(self, tmp_path: Path, source: str | None, problem: str) -> None:
        file = tmp_path / "mine.py"
        if source is not None:
            file.write_text(source)
        with pytest.raises(PluginError) as caught:
            Catalogue([]).add_file(str(file))
        assert problem in str(caught.value)
        sys.modules.pop("tianji_local_mine", None)


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "spec", "fits"),
        [
            ("1.0", ">=1", True), ("1", ">=1.0.0", True), ("0.9.9", ">=1", False), ("1.2.3", "~=1.2", True),
            ("2.0", "~=1.2", False), ("1.1", "~=1.2", False), ("1.2.4", "~=1.2.3", True), ("1.3", "~=1.2.3", False),
            ("1.0", "==1.0.0", True), ("1.0", "!=1.0", False), ("1.5", ">1,<2", True), ("2", ">1,<2", False),
            ("1.0+local", "==1.0", True), ("1.0", "", True), ("10.0", ">9", True), ("1.0", "<=1", True),
        ],
    )  # fmt: skip
    def test_clauses(self, version: str, spec: str, fits: bool) -> None:
        assert satisfies(version, spec) is fits

    @given(st.tuples(*[st.integers(0, 20)] * 3), st.tuples(*[st.integers(0, 20)] * 3))
    def test_order_is_that_of_the_numbers(self, left: tuple[int, ...], right: tuple[int, ...]) -> None:
        have, want = ".".join(map(str, left)), ".".join(map(str, right))
        assert satisfies(have, f">={want}") == (left >= right)
        assert satisfies(have, f"<{want}") == (left < right)
        assert satisfies(have, f"=={want}") == (left == right)

    @pytest.mark.parametrize("name", ["Tianji_Core", "tianji.core", "TIANJI--core"])
    def test_names_have_one_form(self, name: str) -> None:
        assert normal(name) == "tianji-core"


def test_found_shows_where_it_is_from() -> None:
    assert repr(Found("callbacks", "sink", "m:C", "dist")) == "<callbacks.sink from dist>"
