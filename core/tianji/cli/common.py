"""What several commands need: the configuration, the catalogue, and where to print."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tianji.config import Config, ConfigWarning, ProviderHint, load, zero
from tianji.config.known_keys import stand_in
from tianji.discovery import Catalogue, Found, scan
from tianji.errors import ConfigError, PluginError, TianjiError
from tianji.plugin import Extension

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from tianji.gateway import Gateway

DEFAULT_FILES = ("proxy_config.yaml", "config.yaml")
"""What configuration files are usually called. They are not read unless named; `check` and `doctor` mention them."""
STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan", "ok": "green"}
_PIPE_WIDTH = 1000
"""Columns where nobody looks (a pipe, a file): wide enough that one row stays one line for grep."""


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--plugin`, for every command that looks at a configuration."""
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="proxy_config.yaml (default: none, or $CONFIG_FILE_PATH)"
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="take the plugins of a Python file, too"
    )


def json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print data for programs instead of tables")


# -- configuration, catalogue, gateway ---------------------------------------------------------------------------------


def config_path(given: str | None) -> str | None:
    """The configuration file: as given, else `$CONFIG_FILE_PATH`; None for none."""
    return given or os.environ.get("CONFIG_FILE_PATH") or None


def from_environment(name: str, default: int) -> int:
    """A whole number that a variable gives. `ConfigError` where it holds something else."""
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise ConfigError(f"{text!r} is not a whole number", path=f"${name}", mend="Unset it, or give one")
    return int(text) if text else default


def load_config(path: str | None, catalogue: Catalogue | None = None) -> Config:
    """The file's configuration, or the one of an empty directory."""
    if path is not None:
        return load(path)
    return zero(os.environ, hints(catalogue or Catalogue(scan(), **filters(None))))


def hints(catalogue: Catalogue) -> list[ProviderHint]:
    """The providers whose key variable is set. Only those are imported: names are tried from the metadata first."""
    found = []
    for name in catalogue.names("providers"):
        upper = name.upper().replace("-", "_")
        # A provider's variables nearly always begin with its name; the few others are imported to be asked.
        if not any(key.startswith(upper.split("_")[0]) for key in os.environ) and name not in _OTHER_NAMES:
            continue
        try:
            cls = catalogue.load("providers", name)
        except PluginError:
            continue
        if cls.name == name:
            found.append(ProviderHint(name, tuple(cls.api_key_env)))
    return found


_OTHER_NAMES = frozenset({"gemini", "bedrock"})


def filters(config: Config | None) -> dict[str, Any]:
    """The arguments of `Catalogue` that choose among the installed plugins: `plugins:`, and the environment."""
    switched_off = tuple(filter(None, os.environ.get("TIANJI_PLUGINS_DISABLE", "").split(",")))
    if config is None:
        return {"disable": switched_off}
    plugins = config.plugins
    return {
        "only": plugins.only or (),
        "disable": (*plugins.disable, *switched_off),
        "require": plugins.require,
        "pin": plugins.pin,
    }


def make_catalogue(config: Config | None, files: Iterable[str] = ()) -> Catalogue:
    """The installed plugins, as the configuration's `plugins:` section filters them, and those of `--plugin` files."""
    catalogue = Catalogue(scan(), **filters(config))
    for file in files:
        catalogue.add_file(file)
    return catalogue


def assemble(config: Config, catalogue: Catalogue) -> Gateway:
    """The gateway, assembled and not started: no socket is opened, no `startup` runs, nothing is logged.

    Raises `ConfigError` or `PluginError`; what else a plugin raises becomes the latter.
    """
    from tianji.gateway import Gateway

    try:
        with quiet():
            return Gateway(config, catalogue)
    except TianjiError:
        raise
    except Exception as error:
        raise PluginError(f"the gateway cannot be assembled: {type(error).__name__}: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the gateway's log off the terminal: what it would say is in the table, or in the error."""
    logger = logging.getLogger("tianji")
    before = logger.propagate
    handler = logging.NullHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def in_use(config: Config, found: Iterable[Found]) -> set[tuple[str, str]]:
    """Family and name of every plugin that the configuration uses: named ones, and all extensions."""
    used = {("strategies", config.router.routing_strategy)}
    used |= {("guardrails", spec.plugin) for spec in config.guardrails}
    used |= {("callbacks", spec.plugin) for spec in config.callbacks}
    found = tuple(found)
    names = {family: {one.name for one in found if one.family == family} for family in ("strategies", "providers")}
    for spec in config.deployments:
        if (selector := stand_in(spec, names["strategies"], names["providers"])) is not None:
            used.add(("strategies", selector))
        else:
            used.add(("providers", "echo" if spec.mock_response is not None else spec.provider))
    anything = ("providers", "*") in used
    for one in found:
        if one.family == "extensions" or (anything and one.family == "providers"):
            used.add((one.family, one.name))
    return used


def split_mend(message: str) -> tuple[str, str]:
    """What is wrong, and the mend, of an error that says both in one text."""
    match = re.search(r"[.:]?\s*(?:(?:Mend|Install) it with: |(?=Did you mean |pip install |Uninstall one, ))", message)
    if match is None or not match.start():
        return message, ""
    return message[: match.start()], message[match.end() :]


def usual_file() -> str:
    """The configuration file that lies here under a usual name; empty for none."""
    return next((name for name in DEFAULT_FILES if Path(name).is_file()), "")


def mode_of(path: str) -> int | None:
    """A file's permission bits; None where it cannot be looked at."""
    try:
        return Path(path).stat().st_mode & 0o777
    except OSError:
        return None


def checkout(*parts: str) -> Path | None:
    """The root of the repository that holds `parts`: around the working directory, else around this very file."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "core" / "tianji").is_dir() and folder.joinpath(*parts).exists():
                return folder
    return None


def wrong_use(message: str, mend: str = "") -> ConfigError:
    """The error for a command that cannot be used like that: status 2."""
    return ConfigError(message, mend=mend)


# -- output ------------------------------------------------------------------------------------------------------------


def console() -> Console:
    """Rich's console on standard output."""
    from rich.console import Console

    screen = Console(soft_wrap=False, highlight=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = _PIPE_WIDTH
    return screen


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    cut: Sequence[str] = (),
    whole: Sequence[str] = (),
    header: bool = True,
) -> None:
    """Print a table. Cells too long for the line go on below, with two exceptions.

    The column in `cut` takes what the others leave of the line, and ends there. Columns in `whole` hold names that
    people copy: they give way last.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    left = console().width
    for index, column in enumerate(columns):
        if column not in cut:
            lines = (line for row in cells for line in row[index].split())
            left -= 2 + max([len(column) * header, *(line.cell_len for line in lines)])
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_header=header)
    for column in columns:
        if column in cut:
            grid.add_column(column, overflow="ellipsis", no_wrap=True, max_width=max(left, 12))
        else:
            grid.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in cells:
        grid.add_row(*row)
    show(grid)


def show(renderable: RenderableType) -> None:
    """Print something of rich's, without the blanks that fill its lines."""
    screen = console()
    with screen.capture() as captured:
        screen.print(renderable)
    for line in captured.get().splitlines():
        say(line.rstrip())


def heading(text: str) -> None:
    """Print a line that begins a part."""
    from rich.text import Text

    show(Text(text, style="bold"))


def indented(text: str, columns: int = 4) -> Any:
    """A paragraph, set in from the left."""
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text), (0, 0, 0, columns))


def colored(text: str, style: str = "") -> Any:
    """A table cell in the style of a level, or in one of rich's."""
    from rich.text import Text

    return Text(text, style=STYLES.get(style, style))


def print_json(data: Any) -> None:
    """Print data for programs."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def say(text: str = "") -> None:
    """Print one line."""
    sys.stdout.write(text + "\n")


def counted(number: int, word: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


_UNKNOWN = ("unknown-key", "passed-through")
"""Codes of the warnings about keys that the kernel does not know, and that a plugin may."""


def unread(config: Config, read: set[str]) -> tuple[ConfigWarning, ...]:
    """The configuration's warnings, without those about keys that a plugin reads."""
    return tuple(one for one in config.warnings if one.code not in _UNKNOWN or one.path.rpartition(" ")[2] not in read)


def read_by_plugins(config: Config, catalogue: Catalogue, gateway: Gateway | None) -> set[str]:
    """Keys that the linter does not know and that an installed plugin reads: its section, its provider's settings."""
    read: set[str] = set()
    if gateway is not None:
        read |= set(gateway.sealed.assembly.sections)
        for plugin in gateway.sealed.registry.plugins:
            if isinstance(plugin, Extension):
                read.add(plugin.section or plugin.instance.replace("-", "_"))
    for spec in config.deployments:
        try:
            schema = catalogue.load("providers", spec.provider).Settings
        except TianjiError:
            continue  # it is a finding already
        for field in msgspec.structs.fields(schema):
            # A path is spelled as the file spells it.
            read |= {f"{spec.path}.{section}.{field.name}" for section in ("tianji_params", "litellm_params")}
    return read
