"""What every suite has: making the plugin, and the checks that hold for all five families."""

from __future__ import annotations

import asyncio
import inspect
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from tianji import hookspecs
from tianji.errors import PluginError
from tianji.model import Secret
from tianji.plugin import FAMILIES, Plugin, PluginSettings, convert_settings, settings_fields
from tianji.registry import Registry
from tianji.testing.fakes import FakeGateway
from tianji.testing.purity import captured_logs

HOOKS = tuple(name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "tianji_spec"))


class Suite:
    """Base of the five suites; subclass one of those.

    A subclass sets class attributes and adds tests of its own. It must not replace the suite's: what does not apply to
    a plugin is marked, with the reason on record,

        @pytest.mark.xfail(strict=True, reason="upstream answers 400 for both")
        def test_failures_have_the_right_class(self): super().test_failures_have_the_right_class()
    """

    tianji_suite: ClassVar[bool] = True
    """Tells the pytest plugin to keep this class's tests off the network."""
    family: ClassVar[str] = ""

    plugin: type[Any]
    settings: ClassVar[Mapping[str, Any]] = {}
    """The plugin's settings, as an operator would write them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__module__.startswith("tianji.testing.") and "test_no_test_is_overridden" in vars(cls):
            raise TypeError(f"{cls.__name__} overrides the test that keeps the suite's tests from being overridden")

    # -- for subclasses and their tests --------------------------------------------------------------------------------

    def make_gateway(self) -> FakeGateway:
        """A fresh gateway. Override it to script a vendor's answers or to provide services."""
        return FakeGateway()

    def make_settings(self) -> Any:
        """The plugin's `Settings`, filled from `settings`."""
        return convert_settings(self.plugin.Settings, self.settings, path=f"{type(self).__name__}.settings")

    def make_plugin(self, gateway: FakeGateway | None = None) -> Any:
        """A fresh instance, as the kernel makes one for an entry of the configuration."""
        return self.plugin(self.make_settings(), instance=self.plugin.name, gateway=gateway or self.make_gateway())

    def secret_values(self) -> list[str]:
        """The secrets among `settings`: what must never be seen."""
        return [value.reveal() for value in _secrets_of(self.make_settings()) if value]

    # -- the checks ----------------------------------------------------------------------------------------------------

    def test_no_test_is_overridden(self) -> None:
        """A test of the suite was replaced in the subclass, so it proves nothing any more.

        Rename your own test. If the suite's really does not apply, override it with
        `@pytest.mark.xfail(strict=True, reason="...")` and call `super()`.
        """
        for name, own in _own_tests(type(self)):
            marks = [mark for mark in getattr(own, "pytestmark", ()) if mark.name == "xfail"]
            allowed = any(mark.kwargs.get("strict") is True and mark.kwargs.get("reason") for mark in marks)
            assert allowed, (
                f"{type(self).__name__}.{name} overrides the suite's test without xfail(strict=True, reason=…)"
            )

    def test_class_is_well_formed(self) -> None:
        """The class cannot be loaded by the kernel, or says too little about itself.

        Look at its base class, the attributes `name` and `order`, and the docstring of its module.
        """
        plugin, base = self.plugin, FAMILIES[self.family]
        assert isinstance(plugin, type), f"`plugin` is the class, not {plugin!r}"
        assert issubclass(plugin, base), f"{plugin.__name__} does not subclass {base.__name__}"
        assert plugin.family == self.family
        assert plugin.name == plugin.name.strip() != "", "the class attribute `name` is empty"
        assert type(plugin.order) is int
        assert 0 < plugin.order < 1000, "`order` is a place in the bands of tianji.hookspecs"
        assert docs_of(plugin).strip(), "neither the class nor its module has a docstring"

    def test_hooks_are_sealed_and_known(self) -> None:
        """A sealed hook is overridden, a hook is misspelt, or one is not `async def`.

        pluggy silently ignores an override without the marker. Write the family's own method (`check`, `export`,
        `rank`, `encode`); compare other hooks with `tianji.hookspecs`, argument by argument.
        """
        for cls in self.plugin.__mro__:
            for name in vars(cls):
                sealed = [base for base in cls.__mro__[1:] if getattr(vars(base).get(name), "__final__", False)]
                assert not sealed, f"{cls.__name__}.{name} overrides a sealed method of {sealed[0].__name__}"
        for name in HOOKS:
            method = getattr(self.plugin, name, None)
            if method is None or not hasattr(method, "tianji_impl"):
                continue
            options = method.tianji_impl
            wraps = options["wrapper"] or options["hookwrapper"]
            assert not wraps, f"{name}: there are no hook wrappers"
            wanted = name != "configure"
            assert inspect.iscoroutinefunction(method) is wanted, f"{name} must {'' if wanted else 'not '}be async"
        registry = Registry()
        try:
            registry.add(self.make_plugin())
            registry.seal()
        except PluginError as error:
            raise AssertionError(str(error)) from error

    def test_settings_are_frozen_and_documented(self) -> None:
        """`Settings` is not a frozen struct, or a field has no documentation or an unprotected secret.

        Write `class Settings(PluginSettings, frozen=True)`, a string literal below every field, and `Secret` as the
        type of credentials.
        """
        schema = self.plugin.Settings
        assert issubclass(schema, PluginSettings)
        assert schema.__struct_config__.frozen, "write `class Settings(PluginSettings, frozen=True)`"
        for field in settings_fields(schema):
            assert field.doc, f"Settings.{field.name} has no string literal below it that documents it"
            exposed = field.name.endswith(("api_key", "secret", "password", "_token")) and not field.secret
            assert not exposed, f"Settings.{field.name} looks like a credential and is not typed Secret"

    def test_entry_point_has_the_plugins_name(self) -> None:
        """What operators write in the configuration would not find this class.

        One entry point of the group `tianji.<family>` must have the class's `name` and point to the class; see
        `[project.entry-points]` in `pyproject.toml`.
        """
        target = f"{self.plugin.__module__}:{self.plugin.__qualname__}"
        group = f"tianji.{self.family}"
        declared = _declared_beside(self.plugin, group)
        if declared is None:
            declared = {entry.name: entry.value for entry in entry_points(group=group) if entry.value == target}
            if not declared:
                pytest.skip("not a distribution: no entry point, and no pyproject.toml beside the module")
        assert declared.get(self.plugin.name) == target, f"no entry point `{self.plugin.name} = {target}` in {declared}"

    def test_secrets_are_not_seen(self) -> None:
        """A secret of the settings shows in a repr or is logged while the plugin is made.

        Keep secrets as `Secret` and call `reveal()` only where the bytes for the wire are made.
        """
        with captured_logs() as lines:
            plugin = self.make_plugin()
        seen = f"{plugin!r} {plugin} {plugin.settings!r} {' '.join(lines)}"
        for secret in self.secret_values():
            assert secret not in seen


def docs_of(plugin: type[Plugin]) -> str:
    """The docstrings of a class's module and of the class itself."""
    module = sys.modules.get(plugin.__module__)
    return f"{getattr(module, '__doc__', None) or ''}\n{vars(plugin).get('__doc__') or ''}"


def assert_unseen(secrets: list[str], *texts: object) -> None:
    """Fail when a secret occurs in what was said, shown or logged."""
    said = "\n".join(str(text) for text in texts)
    for secret in secrets:
        assert secret not in said, "a secret of the settings is visible in a message, a repr or a log line"


async def start(plugin: Plugin, gateway: FakeGateway) -> None:
    """Run the plugin's `startup`, where it has one."""
    if hasattr(hook := getattr(plugin, "startup", None), "tianji_impl"):
        await _call(hook, gateway=gateway)


async def stop(plugin: Plugin, gateway: FakeGateway) -> None:
    """Run the plugin's `shutdown`, where it has one, and close the gateway."""
    if hasattr(hook := getattr(plugin, "shutdown", None), "tianji_impl"):
        await _call(hook, gateway=gateway)
    await gateway.aclose()


def arguments_for(hook: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Of the hook's arguments those that this implementation takes."""
    return {name: value for name, value in offered.items() if name in inspect.signature(hook).parameters}


async def _call(hook: Any, **offered: Any) -> Any:
    async with asyncio.timeout(10):
        return await hook(**arguments_for(hook, offered))


call_hook = _call


def _own_tests(cls: type[Any]) -> list[tuple[str, Any]]:
    """The tests of a suite that a class outside the kit defines again."""
    kit = [base for base in cls.__mro__ if base.__module__.startswith("tianji.testing.")]
    theirs = [base for base in cls.__mro__ if base not in kit and base is not object]
    names = {name for base in kit for name in vars(base) if name.startswith("test_")}
    return [(name, vars(base)[name]) for base in theirs for name in sorted(names & vars(base).keys())]


def _secrets_of(value: Any) -> list[Secret]:
    if isinstance(value, Secret):
        return [value]
    if isinstance(value, msgspec.Struct):
        return [found for name in value.__struct_fields__ for found in _secrets_of(getattr(value, name))]
    if isinstance(value, Mapping):
        return [found for inner in value.values() for found in _secrets_of(inner)]
    if isinstance(value, (list, tuple)):
        return [found for inner in value for found in _secrets_of(inner)]
    return []


def _declared_beside(plugin: type[Any], group: str) -> dict[str, str] | None:
    """The entry points of the `pyproject.toml` that a plugin's module (or package) lies beside; None without one."""
    module = sys.modules.get(plugin.__module__)
    path = Path(getattr(module, "__file__", None) or "/nowhere")
    depth = plugin.__module__.count(".") + (path.name == "__init__.py")
    for folder in path.parents[: depth + 2]:
        project = folder / "pyproject.toml"
        if project.is_file():
            data = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
            points: dict[str, dict[str, str]] = data.get("entry-points", {})
            return dict(points[group]) if group in points else None
    return None
