"""Which plugins are installed, and the way from a name in the configuration to a checked class.

Scanning reads metadata and imports nothing; a class is imported when the configuration (or, for extensions, mere
installation) asks for it. Entry-point groups: `tianji.providers`, `tianji.guardrails`, `tianji.callbacks`,
`tianji.strategies`, `tianji.extensions` (https://packaging.python.org/en/latest/specifications/entry-points/).
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import importlib_metadata

from tianji import __version__, hookspecs
from tianji.errors import PluginError
from tianji.plugin import FAMILIES, SINGULAR, Filter, Plugin, PluginSettings, Routing, Selector, Strategy

_ENTRY = re.compile(r"^\s*([^=#;\s][^=]*?)\s*=\s*([\w.]+)\s*:\s*([\w.]+)")


class Found:
    """One plugin that is installed, not yet imported."""

    __slots__ = ("_dist", "_loaded", "dist", "family", "name", "value")

    def __init__(self, family: str, name: str, value: str, dist: str, metadata: Any = None) -> None:
        self.family = family
        self.name = name
        self.value = value
        """`module:Class`, as the entry point says."""
        self.dist = dist
        self._dist = metadata
        self._loaded: type[Plugin] | None = None

    @property
    def version(self) -> str:
        return self._dist.version if self._dist is not None else "local"

    @property
    def summary(self) -> str:
        return str(self._dist.metadata["Summary"] or "") if self._dist is not None else ""

    @property
    def requires(self) -> str:
        """The distribution's own requirement on the kernel (`>=0.1,<1`); empty where it states none."""
        for line in (self._dist.requires or ()) if self._dist is not None else ():
            match = re.match(r"tianji-core\s*(?:\[[^]]*\])?\s*\(?([^;)]*)", line)
            if match:
                return match[1].strip()
        return ""

    def __repr__(self) -> str:
        return f"<{self.family}.{self.name} from {self.dist}>"


def scan(path: Sequence[str] | None = None) -> tuple[Found, ...]:
    """Every plugin on `path` (default `sys.path`), sorted by family and name. Imports nothing."""
    found: dict[tuple[str, str, str], Found] = {}
    distributions = importlib_metadata.distributions(path=list(path)) if path else importlib_metadata.distributions()
    for dist in distributions:
        text = dist.read_text("entry_points.txt") or ""
        if "[tianji." not in text:
            continue
        family, name = "", dist.name  # read once: it parses the distribution's metadata
        for line in text.splitlines():
            if line.startswith("["):
                family = line.strip("[] \t").removeprefix("tianji.") if line.startswith("[tianji.") else ""
            elif family in FAMILIES and (match := _ENTRY.match(line)):
                # The first on the path wins for one and the same distribution, as it does for `import`.
                found.setdefault(
                    (family, match[1], normal(name)),
                    Found(family, match[1], f"{match[2]}:{match[3]}", name, dist),
                )
    return tuple(sorted(found.values(), key=lambda one: (one.family, one.name, one.dist)))


class Catalogue:
    """The installed plugins after conflicts and filters, and the loader of their classes.

    Args:
        only, disable: Patterns `family.name` (`callbacks.*`); `only` is an allow-list, empty for all.
        require: `distribution>=version` lines that must be installed.
        pin: `family.name` to the distribution that shall offer it.

    Raises:
        PluginError: two distributions offer one name, or a required one is missing or too old.
    """

    def __init__(
        self,
        found: Iterable[Found],
        *,
        only: Iterable[str] = (),
        disable: Iterable[str] = (),
        require: Iterable[str] = (),
        pin: Mapping[str, str] | None = None,
    ) -> None:
        only, disable = tuple(only), tuple(disable)
        self.disabled: list[Found] = []
        self._known: dict[tuple[str, str], Found] = {}
        everything = tuple(found)
        for one in everything:
            label = f"{one.family}.{one.name}"
            if (only and not _matches(label, only)) or _matches(label, disable):
                self.disabled.append(one)
                continue
            pinned = (pin or {}).get(label)
            if pinned is not None and normal(pinned) != normal(one.dist):
                self.disabled.append(one)
                continue
            other = self._known.get((one.family, one.name))
            if other is not None:
                raise PluginError(
                    f'{SINGULAR[one.family]} "{one.name}" is offered by {other.dist} {other.version} and '
                    f"{one.dist} {one.version}. Uninstall one, or choose: plugins: {{pin: {{{label}: {one.dist}}}}}"
                )
            self._known[one.family, one.name] = one
        _check_required(require, everything)

    def __iter__(self) -> Iterator[Found]:
        return iter(self._known.values())

    def names(self, family: str) -> list[str]:
        return sorted(name for kind, name in self._known if kind == family)

    def get(self, family: str, name: str) -> Found | None:
        return self._known.get((family, name))

    def add_file(self, path: str) -> list[Found]:
        """Take the plugin classes of a Python file (`--plugin ./my_guardrail.py`): development and one-offs."""
        file = Path(path).resolve()
        if not file.is_file():
            raise PluginError(f"{path}: no such file (given with --plugin)")
        name = f"tianji_local_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise PluginError(f"{path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise PluginError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
        added = []
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Plugin) and cls.__module__ == name and cls.name:
                one = Found(cls.family, cls.name, f"{name}:{cls.__qualname__}", str(path))
                check(cls, one)
                one._loaded = cls
                self._known[one.family, one.name] = one
                added.append(one)
        if not added:
            raise PluginError(f"{path} defines no plugin: subclass one of tianji's bases and give it a `name`")
        return added

    def load(self, family: str, name: str, *, path: str = "") -> type[Any]:
        """The class of a plugin, imported and checked.

        Raises `PluginError` naming distribution, version, `path` (where the configuration asks) and the mend.
        """
        one = self._known.get((family, name))
        where = f"{path}: " if path else ""
        if one is None:
            raise PluginError(where + self._missing(family, name))
        if one._loaded is None:
            module, _, attribute = one.value.partition(":")
            try:
                cls = getattr(import_module(module), attribute)
            except Exception as error:
                raise PluginError(
                    f"{where}{one.dist} {one.version} cannot be imported: {type(error).__name__}: {error}. "
                    f"Mend it with: pip install --force-reinstall {one.dist}"
                ) from error
            check(cls, one)
            self._check_name(cls, one)
            one._loaded = cls
        return one._loaded

    def _check_name(self, cls: type[Plugin], one: Found) -> None:
        """A class under no entry point of its own name would be taken for an alias of itself, and left out."""
        same = (one.family, one.dist, one.value)
        everything = (*self._known.values(), *self.disabled)
        names = sorted(other.name for other in everything if (other.family, other.dist, other.value) == same)
        if cls.name not in names:
            raise PluginError(
                f"{one.dist} {one.version} ({one.value}): its `name` is {cls.name!r}, which is not one of its entry "
                f"points' names ({', '.join(names)})"
            )

    def _missing(self, family: str, name: str) -> str:
        single = SINGULAR[family]
        for one in self.disabled:
            if (one.family, one.name) == (family, name):
                return f'{single} "{name}" ({one.dist}) is installed but switched off by the `plugins:` section'
        near = get_close_matches(name, self.names(family), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        return (
            f'{single} "{name}" is not installed.{hint} '
            f"Install it with: pip install tianji-{single}-{name.replace('_', '-')}"
        )


def check(cls: Any, one: Found) -> None:
    """The promises that every plugin class keeps; `PluginError` for the first that is broken."""
    base = FAMILIES[one.family]
    label = f"{one.dist} {one.version} ({one.value})"
    if not (isinstance(cls, type) and issubclass(cls, base)):
        wanted = "Strategy" if base is Routing else base.__name__
        raise PluginError(f"{label}: a {SINGULAR[one.family]} must subclass tianji.{wanted}")
    if base is Routing:
        kinds = [kind for kind in (Strategy, Filter, Selector) if issubclass(cls, kind)]
        if len(kinds) != 1:
            raise PluginError(
                f"{label}: a strategy must subclass one of tianji.Strategy, tianji.Filter, tianji.Selector"
            )
        base = kinds[0]
    if not cls.name:
        raise PluginError(f"{label}: the class has no `name`")
    settings = cls.Settings
    frozen = isinstance(settings, type) and issubclass(settings, PluginSettings) and settings.__struct_config__.frozen
    if not frozen:
        raise PluginError(f"{label}: Settings must be `class Settings(PluginSettings, frozen=True)`")
    for name, spec in inspect.getmembers(hookspecs, inspect.isfunction):
        if getattr(spec, "tianji_spec", None) is None:
            continue
        sealed, own = getattr(base, name, None), getattr(cls, name, None)
        if sealed is not None and own is not sealed:
            raise PluginError(f"{label}: `{name}` is sealed; write the method that {base.__name__} documents instead")
        marks = getattr(own, "tianji_impl", None)
        if own is None or marks is None:
            continue
        if inspect.iscoroutinefunction(spec) and not inspect.iscoroutinefunction(own):
            raise PluginError(f"{label}: `{name}` must be `async def`")
        if any(marks.get(option) for option in ("wrapper", "hookwrapper", "tryfirst", "trylast")):
            raise PluginError(f"{label}: `{name}` must be a plain hook; order is the class attribute `order`")
    if one.requires and not satisfies(__version__, one.requires):
        raise PluginError(
            f"{label} needs tianji-core{one.requires}, this is {__version__}. Mend it with: pip install -U {one.dist}"
        )


def _check_required(require: Iterable[str], found: Sequence[Found]) -> None:
    versions = {normal(one.dist): one for one in found}
    for line in require:
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(.*)", line)
        name, spec = (match[1], match[2]) if match else (line, "")
        one = versions.get(normal(name))
        if one is None:
            raise PluginError(
                f"plugins.require: {name} is not installed. Install it with: pip install '{line.strip()}'"
            )
        if spec and not satisfies(one.version, spec):
            raise PluginError(
                f"plugins.require: {name} is {one.version}, {spec} is wanted. pip install -U '{line.strip()}'"
            )


def satisfies(version: str, spec: str) -> bool:
    """Whether a version meets a comma-separated list of `>=`, `>`, `<=`, `<`, `==`, `!=` and `~=` clauses."""
    have = _numbers(version)
    for clause in filter(None, (part.strip() for part in spec.split(","))):
        match = re.match(r"(>=|<=|==|!=|~=|>|<)\s*([\w.]+)", clause)
        if match is None:
            continue
        want = _numbers(match[2])
        size = max(len(have), len(want))
        left, right = have + (0,) * (size - len(have)), want + (0,) * (size - len(want))
        held = {
            ">=": left >= right,
            "<=": left <= right,
            "==": left == right,
            "!=": left != right,
            ">": left > right,
            "<": left < right,
            "~=": left >= right and left[: len(want) - 1] == right[: len(want) - 1],
        }[match[1]]
        if not held:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:4])


def normal(name: str) -> str:
    """A distribution's name in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _matches(label: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(label, pattern) for pattern in patterns)
