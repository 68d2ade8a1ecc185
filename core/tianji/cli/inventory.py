"""Every plugin that is installed, one row each, and what state it is in.

A plugin with several names (`lowest-latency`, `latency-based-routing`) is one row. Nothing is imported to make the
rows, except the plugins that a given configuration uses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tianji import __version__
from tianji.cli.common import in_use
from tianji.config import Config
from tianji.discovery import Catalogue, Found, normal, satisfies
from tianji.errors import PluginError
from tianji.plugin import SINGULAR

LOCAL = "local"
"""The version of what comes from a file instead of a distribution."""


class Row(msgspec.Struct, kw_only=True):
    """One plugin; `tianji plugins --json` prints these fields."""

    family: str
    name: str
    aliases: tuple[str, ...]
    distribution: str
    version: str
    summary: str
    entry_point: str
    requires: str
    """The range of kernel versions that it asks for."""
    state: str = "installed"
    """`installed`, `in use` (by the configuration), `disabled` or `broken`."""
    reason: str = ""
    """Why it is broken or disabled."""

    @property
    def label(self) -> str:
        return f"{self.family}.{self.name}"


def inventory(found: Sequence[Found], *, filters: dict[str, Any], config: Config | None = None) -> list[Row]:
    """The rows of all that was found. With a configuration, what it uses is imported, to see whether it is broken."""
    off = {id(one) for one in found if is_disabled(one, filters)}
    offers: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for one in found:
        if id(one) not in off:
            offers[one.family, one.name].append(one)
    used = in_use(config, found) if config is not None else set()
    rows = []
    for group in _folded(found):
        first = group[0]
        row = Row(
            family=first.family,
            name=first.name,
            aliases=tuple(one.name for one in group[1:]),
            distribution=first.dist,
            version=first.version,
            summary=first.summary,
            entry_point=first.value,
            requires=first.requires,
        )
        on = [one for one in group if id(one) not in off]
        _judge(row, on, offers, any((one.family, one.name) in used for one in on))
        rows.append(row)
    return rows


def _judge(row: Row, on: Sequence[Found], offers: dict[tuple[str, str], list[Found]], used: bool) -> None:
    """Fill in the state. A filter that leaves one of several names on leaves the plugin on."""
    if not on:
        row.state, row.reason = "disabled", "switched off by `plugins:` or TIANJI_PLUGINS_DISABLE"
        return
    rivals = {other.dist for one in on for other in offers[one.family, one.name]} - {row.distribution}
    if rivals:
        row.state, row.reason = "broken", f"the same name is offered by {', '.join(sorted(rivals))}; {pin_line(on[0])}"
    elif row.requires and not satisfies(__version__, row.requires):
        row.state = "broken"
        row.reason = f"needs tianji-core{row.requires}, this is {__version__}: pip install -U {row.distribution}"
    elif used:
        row.reason = fault(on[0])
        row.state = "broken" if row.reason else "in use"


def pin_line(one: Found) -> str:
    """The line of the configuration that decides between two distributions."""
    return f"choose one: plugins: {{pin: {{{one.family}.{one.name}: {one.dist}}}}}"


def fault(one: Found) -> str:
    """Import a plugin and check it: what is wrong with it, or nothing."""
    try:
        Catalogue([one]).load(one.family, one.name)
    except PluginError as error:
        return str(error)
    return ""


def is_disabled(one: Found, filters: dict[str, Any]) -> bool:
    """Whether the `plugins:` section, or the environment, keeps a plugin out."""
    chosen = {key: filters[key] for key in ("only", "disable", "pin") if key in filters}
    return bool(Catalogue([one], **chosen).disabled)


def _folded(found: Iterable[Found]) -> list[list[Found]]:
    """The names of one class of one distribution together, the name that its distribution goes by first."""
    groups: dict[tuple[str, str, str], list[Found]] = {}
    for one in found:
        groups.setdefault((one.family, normal(one.dist), one.value), []).append(one)
    for group in groups.values():
        group.sort(key=lambda one: (not _is_own_name(one), one.name))
    order = list(SINGULAR)
    return sorted(groups.values(), key=lambda group: (order.index(group[0].family), group[0].name, group[0].dist))


def _is_own_name(one: Found) -> bool:
    return normal(one.dist) == f"tianji-{SINGULAR[one.family]}-{normal(one.name)}"
