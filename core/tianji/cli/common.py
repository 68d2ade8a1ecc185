"""What several commands need: the configuration, the catalogue, and where to print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tianji.config import Config, ProviderHint, load, zero
from tianji.discovery import Catalogue, scan
from tianji.errors import PluginError

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_FILES = ("proxy_config.yaml", "config.yaml")


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--plugin`, for every command that looks at a configuration."""
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="proxy_config.yaml (default: none, or $CONFIG_FILE_PATH)"
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py", help="take the plugins of a Python file, too"
    )


def config_path(given: str | None) -> str | None:
    """The configuration file: as given, else `$CONFIG_FILE_PATH`; None for none."""
    return given or os.environ.get("CONFIG_FILE_PATH") or None


def load_config(path: str | None, catalogue: Catalogue | None = None) -> Config:
    """The file's configuration, or the one of an empty directory."""
    if path is not None:
        return load(path)
    return zero(os.environ, hints(catalogue or Catalogue(scan())))


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


def make_catalogue(config: Config | None, files: Iterable[str] = ()) -> Catalogue:
    """The installed plugins, as the configuration's `plugins:` section filters them, and those of `--plugin` files."""
    if config is None:
        catalogue = Catalogue(scan())
    else:
        plugins = config.plugins
        catalogue = Catalogue(
            scan(),
            only=plugins.only or (),
            disable=(*plugins.disable, *filter(None, os.environ.get("TIANJI_PLUGINS_DISABLE", "").split(","))),
            require=plugins.require,
            pin=plugins.pin,
        )
    for file in files:
        catalogue.add_file(file)
    return catalogue


def console() -> Console:
    """Rich's console on standard output."""
    from rich.console import Console

    return Console(soft_wrap=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    console().print(grid)


def print_json(data: Any) -> None:
    """Print data for programs."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def say(text: str = "") -> None:
    """Print one line."""
    sys.stdout.write(text + "\n")


def relative(path: str) -> str:
    """A path as the reader would type it."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return path
