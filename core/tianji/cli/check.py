"""`tianji check`: what is wrong with a configuration, before `tianji serve` meets it.

Three looks: loading it, linting it with the names of the installed plugins, and assembling the gateway from it, which
imports the plugins in use and fills their settings. No socket is opened and no `startup` hook runs.

With `--json`: `{"file", "ok", "strict", "counts": {error, warning, info}, "findings": [{level, path, message, mend}]}`;
`file` is null without one, `path` names file, line and key. Status 1: there are errors, or warnings with `--strict`.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tianji.cli import COMMANDS
from tianji.cli.common import (
    STYLES,
    assemble,
    colored,
    config_arguments,
    config_path,
    counted,
    heading,
    in_use,
    json_argument,
    load_config,
    make_catalogue,
    print_json,
    read_by_plugins,
    say,
    show,
    split_mend,
    unread,
    usual_file,
)
from tianji.config import Config, DeploymentSpec, Finding, lint
from tianji.config.known_keys import stand_in
from tianji.config.lint import BUILT_IN
from tianji.discovery import Catalogue, Found, scan
from tianji.errors import ConfigError, TianjiError
from tianji.plugin import FAMILIES, SINGULAR

if TYPE_CHECKING:
    from tianji.gateway import Gateway

NO_FILE = "(no configuration file)"
"""How paths name the configuration that `serve` makes up."""
LEVELS: tuple[Literal["error", "warning", "info"], ...] = ("error", "warning", "info")
_TRIES = 100
"""Faults that assembling can tell one after the other."""


class Examination(msgspec.Struct):
    """What a configuration turned out to be. `config` and `gateway` are None where it did not come to that."""

    findings: list[Finding]
    config: Config | None = None
    gateway: Any = None

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(finding.level for finding in self.findings)
        return {level: found[level] for level in LEVELS}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "check",
        help=COMMANDS["check"],
        description="Say what is wrong with a configuration, and how to mend it: unknown keys, unset variables, "
        "missing plugins, settings that a plugin refuses, fallbacks that lead nowhere, names given twice.",
    )
    config_arguments(parser)
    parser.add_argument("--strict", action="store_true", help="status 1 for warnings, too")
    json_argument(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    path = config_path(arguments.config)
    seen = examine(path, arguments.plugin)
    counts = seen.counts
    ok = not counts["error"] and not (arguments.strict and counts["warning"])
    if arguments.json:
        findings = [msgspec.to_builtins(finding) for finding in seen.findings]
        print_json({"file": path, "ok": ok, "strict": arguments.strict, "counts": counts, "findings": findings})
        return 0 if ok else 1
    if path is None:
        say("No configuration file: this is what `tianji serve` makes of the environment.")
        if name := usual_file():
            say(f"{name} is here and is not read; to check it: tianji check -c {name}")
        say()
    print_findings(seen.findings, path or NO_FILE)
    say(_verdict(seen, ok))
    return 0 if ok else 1


def _verdict(seen: Examination, ok: bool) -> str:
    counts = seen.counts
    said = [counted(counts[level], word) for level, word in _WORDS.items() if counts[level]]
    text = f"{', '.join(said) or 'Nothing to mend'}."
    if seen.config is not None and ok:
        plugins = len(seen.gateway.sealed.registry.plugins) if seen.gateway is not None else 0
        deployments = counted(len(seen.config.deployments), "deployment")
        text += f" {deployments} in {counted(len(seen.config.groups), 'model group')}, {counted(plugins, 'plugin')}."
    return text


_WORDS = {"error": "error", "warning": "warning", "info": "remark"}


def print_findings(findings: list[Finding], file: str) -> None:
    """The findings by level: where, what, and the mend below. The file is named once, at the top."""
    from rich.table import Table
    from rich.text import Text

    if findings and file != NO_FILE:
        heading(file)
        say()
    for level in LEVELS:
        some = [finding for finding in findings if finding.level == level]
        if not some:
            continue
        heading(f"{_WORDS[level]}s")
        grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for finding in some:
            text = Text()
            line, where = place(finding, file)
            if where or line:
                text.append(where or f"line {line}", style="bold")
                text.append(f"  line {line}\n" if where and line else "\n", style="dim")
            text.append(finding.message)
            if finding.mend:
                text.append(f"\n→ {finding.mend}", style=STYLES["ok"])
            grid.add_row(colored("  •", level), text)
        show(grid)
        say()


def place(finding: Finding, file: str) -> tuple[int, str]:
    """Line and key of a finding, where it is in `file`; else 0 and the whole path."""
    match = re.fullmatch(rf"{re.escape(file)}:(?:(\d+):?)? *(.*)", finding.path) if file else None
    return (int(match[1] or 0), match[2]) if match else (0, finding.path)


# -- the three looks ---------------------------------------------------------------------------------------------------


def examine(path: str | None, files: Sequence[str] = ()) -> Examination:
    """Load, lint and assemble. Raises `ConfigError` only where there is no such file."""
    try:
        config = load_config(path)
    except TianjiError as error:
        if path is not None and not Path(path).exists():
            raise
        return Examination([finding_of(error)])
    found = scan()
    seen = Examination([], config)
    catalogue: Catalogue | None = None
    try:
        catalogue = make_catalogue(config, files)
    except TianjiError as error:
        seen.findings.append(finding_of(error, "plugins"))
    names = _names(found, catalogue)
    read: set[str] = set()
    if catalogue is not None:
        absent = {(family, name) for family, name in in_use(config, found) if name not in names[family]} - _BUILT_IN
        more, seen.gateway = _assembled(_without(config, absent), catalogue)
        seen.findings += more
        read = read_by_plugins(config, catalogue, seen.gateway)
    warnings = unread(config, read)
    seen.findings += lint(msgspec.structs.replace(config, warnings=warnings), installed=names)
    file = config.source
    seen.findings = sorted(
        dict.fromkeys(seen.findings), key=lambda finding: (LEVELS.index(finding.level), place(finding, file)[0])
    )
    return seen


_BUILT_IN = {(family, name) for family, single in SINGULAR.items() for name in BUILT_IN.get(single, ())}
"""What `lint` does not miss: assembling tells whether it is there."""


def finding_of(error: TianjiError, path: str = "") -> Finding:
    """An error as a finding."""
    if isinstance(error, ConfigError):
        return Finding("error", error.path or path, error.message, error.mend)
    message, mend = split_mend(str(error))
    if path and message.startswith(f"{path}: "):
        message = message[len(path) + 2 :]
    return Finding("error", path, message, mend)


def _names(found: Sequence[Found], catalogue: Catalogue | None) -> dict[str, set[str]]:
    """Installed names by family. A disabled plugin is installed, too: that it is off is told by assembling."""
    names: dict[str, set[str]] = {family: set() for family in FAMILIES}
    for one in (*found, *(catalogue.__iter__() if catalogue is not None else ())):
        names[one.family].add(one.name)
    return names


def _assembled(config: Config, catalogue: Catalogue) -> tuple[list[Finding], Gateway | None]:
    """What only assembling tells. An entry at fault is left out and the rest tried again, so that every fault shows."""
    findings: dict[tuple[str, str], Finding] = {}
    for _ in range(_TRIES):
        try:
            gateway = assemble(config, catalogue)
        except TianjiError as error:
            path, smaller = _at_fault(error, config)
            finding = finding_of(error, path)
            findings.setdefault((finding.message, finding.mend), finding)
            if smaller is None:
                break
            config = smaller
        else:
            return [*findings.values(), *_left_out(config, gateway)], gateway
    return list(findings.values()), None


def _at_fault(error: TianjiError, config: Config) -> tuple[str, Config | None]:
    """Where the configuration is to blame, and the configuration without that entry; None where there is no telling."""
    text = error.path if isinstance(error, ConfigError) else str(error)
    for field in ("deployments", "guardrails", "callbacks"):
        specs = getattr(config, field)
        for spec in specs:
            where = spec.where or spec.path
            if where and text.startswith(where):
                rest = tuple(one for one in specs if one is not spec)
                return where, msgspec.structs.replace(config, **{field: rest})
    strategy = "router_settings.routing_strategy"
    if text.startswith(strategy) and config.router.routing_strategy != "simple-shuffle":
        return strategy, _without(config, {("strategies", config.router.routing_strategy)})
    return "", None


def _without(config: Config, absent: set[tuple[str, str]]) -> Config:
    """The configuration as if it did not name these plugins."""
    if not absent:
        return config
    router = config.router
    if ("strategies", router.routing_strategy) in absent:
        router = msgspec.structs.replace(router, routing_strategy="simple-shuffle", routing_strategy_args={})
    return msgspec.structs.replace(
        config,
        deployments=tuple(one for one in config.deployments if not absent & _served_by(one)),
        guardrails=tuple(one for one in config.guardrails if ("guardrails", one.plugin) not in absent),
        callbacks=tuple(one for one in config.callbacks if ("callbacks", one.plugin) not in absent),
        router_settings=router,
    )


def _served_by(spec: DeploymentSpec) -> set[tuple[str, str]]:
    """What a deployment may stand or fall with: its provider, or the selector that it stands for."""
    return {("providers", spec.provider), ("strategies", stand_in(spec, (), ()) or spec.provider)}


def _left_out(config: Config, gateway: Gateway) -> Iterator[Finding]:
    """Callbacks that `serve` goes on without."""
    for spec in config.callbacks:
        if reason := gateway.sealed.broken.get(spec.name):
            where = spec.where or spec.path
            message, mend = split_mend(reason.removeprefix(f"{where}: "))
            yield Finding("warning", where, f"left out, and the rest goes on: {message}", mend)
