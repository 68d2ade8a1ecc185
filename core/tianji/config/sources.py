"""The files that make up a configuration: the file itself, its includes and the `.env` beside it."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from tianji.config.convert import to_seq, wrong
from tianji.config.document import Document, Map, Mark, Seq
from tianji.config.schema import ConfigWarning
from tianji.errors import ConfigError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(.*)")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read_text(path: Path, mark: Mark | None = None) -> str:
    """A file's text. `mark` is where it is named, for the error."""
    where = str(mark) if mark is not None else str(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError("the file is not UTF-8 text", path=str(path)) from None
    except FileNotFoundError:
        mend = "Run `tianji serve` without a file to start without a configuration" if mark is None else ""
        raise ConfigError(f"there is no file {str(path)!r}", path=where, mend=mend) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable file name"
        raise ConfigError(f"cannot read {str(path)!r}: {reason}", path=where) from None


def load_dotenv(folder: Path, environ: MutableMapping[str, str]) -> list[ConfigWarning]:
    """Set the variables of `folder/.env` that are not set yet. The returned warnings are lines that are not understood.

    `NAME=value`, optionally after `export`; `#` begins a comment; values may stand in single quotes (taken as they
    are) or double quotes (with `\\n`, `\\"` and the like). Nothing is expanded.
    """
    path = folder / ".env"
    if not path.is_file():
        return []
    warnings = []
    for number, raw in enumerate(read_text(path).splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or "\0" in line:
            warnings.append(ConfigWarning("ignored", f"{path}:{number}", "not a line of the form NAME=value"))
        else:
            environ.setdefault(match[1], _unquote(match[2]))
    return warnings


def _unquote(text: str) -> str:
    quote = text[:1]
    if quote and quote in "'\"":
        end = text.find(quote, 1)
        while quote == '"' and end > 0 and text[end - 1] == "\\":
            end = text.find(quote, end + 1)
        if end > 0:
            inner = text[1:end]
            return inner if quote == "'" else _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), inner)
    return re.split(r"\s+#", text, maxsplit=1)[0].rstrip() if not text.startswith("#") else ""


def include(document: Document, folder: Path, chain: tuple[Path, ...] = ()) -> None:
    """Merge the files that `include:` names into the document, in order; they may include others.

    Relative names count from the including file. Lists grow, mappings merge, and of two different plain values the
    included one wins (as in LiteLLM), with a warning.
    """
    root = document.root
    names = root.pop("include", None)
    if names is None:
        return
    mark = root.at("include")
    for name, place in to_seq(names, mark).pairs():
        if not isinstance(name, str):
            raise wrong("the name of a YAML file", name, place)
        path = folder / name
        if path in chain:
            raise place.error(f"{name!r} includes itself")
        if len(chain) > 16:
            raise place.error("includes nested more than 16 deep")
        other = Document(str(path)).read_yaml(read_text(path, place))
        include(other, path.parent, (*chain, path))
        document.warnings += other.warnings
        document.renamed = document.renamed or other.renamed
        _merge(root, other.root, document.warnings)


def _merge(into: Map, other: Map, warnings: list[ConfigWarning]) -> None:
    for key, value in other.items():
        mark, mine = other.at(key), into.get(key)
        if isinstance(mine, Map) and isinstance(value, Map):
            _merge(mine, value, warnings)
        elif isinstance(mine, Seq) and isinstance(value, Seq):
            for item, place in value.pairs():
                mine.add(item, place)
        else:
            if mine is not None and mine != value:
                message = f"ignored, because the included {mark.position} sets it as well"
                warnings.append(ConfigWarning("superseded", str(into.at(key)), message, "Remove one of them"))
            into.put(key, value, mark)
