"""A YAML file, or a plain tree, as mappings and lists that know where each value was written.

YAML 1.1 (https://yaml.org/spec/1.1/), as PyYAML reads it, and narrower where that has surprised operators: a key
written twice is an error, keys are text (`on:` is not `True`), and dates and `12:30` stay text. LiteLLM's key names
become Tianji's here (`litellm_params` is `tianji_params`), so that nothing else needs to know of two spellings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import msgspec
import yaml

from tianji.config.schema import ConfigWarning
from tianji.errors import ConfigError
from tianji.model import Secret

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_DEPTH = 64
MAX_VALUES = 250_000
"""Enough for ten thousand deployments; stops YAML aliases that multiply."""
MAX_INTEGER = 10**30

_YAML = "tag:yaml.org,2002:"
_INFIX = {"default_litellm_params": "default_tianji_params", "use_litellm_proxy": "use_tianji_proxy"}


def words(text: str) -> frozenset[str]:
    """A set of names, written as one text."""
    return frozenset(text.split())


NAMED = words(
    "model_group_alias model_alias_map fallbacks context_window_fallbacks content_policy_fallbacks default_fallbacks "
    "model_group_retry_policy provider_budget_config cost_discount_config cost_margin_config model_group_settings "
    "tag_budget_config priority_reservation routing_groups pin"
)
"""Sections whose keys are names that the operator chose: they are neither renamed nor taken for secrets."""
_VERBATIM = NAMED | words(
    "environment_variables extra_body extra_headers headers static_headers default_headers metadata env mcp_servers "
    "callback_settings guardrail_info credential_info"
)
"""Sections whose keys belong to somebody else and are not renamed."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Mark(msgspec.Struct, frozen=True):
    """Where a value was written. As text: `proxy_config.yaml:12: model_list[0].litellm_params.model`."""

    file: str
    line: int | None
    path: str
    reference: str | None = None
    """The reference that the value came from."""

    @property
    def position(self) -> str:
        if self.line is None:
            return self.file
        return f"{self.file}:{self.line}"

    def key(self, name: str, line: int | None = None) -> Mark:
        shown = name if _IDENTIFIER.fullmatch(name) else f"[{name[:60]!r}]"
        dot = "." if self.path and not shown.startswith("[") else ""
        return Mark(self.file, line or self.line, f"{self.path}{dot}{shown}")

    def item(self, index: int, line: int | None = None) -> Mark:
        return Mark(self.file, line or self.line, f"{self.path}[{index}]")

    def error(self, message: str, mend: str = "") -> ConfigError:
        return ConfigError(message, path=str(self), mend=mend)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.position, self.path) if part)


class Map(dict[str, Any]):
    """A mapping and the mark of each of its keys."""

    __slots__ = ("mark", "marks")

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        self.marks: dict[str, Mark] = {}

    def put(self, key: str, value: Any, mark: Mark) -> None:
        self[key] = value
        self.marks[key] = mark

    def at(self, key: str) -> Mark:
        """The key's mark; for a key that is not there, its place under the mapping."""
        return self.marks.get(key) or self.mark.key(key)


class Seq(list[Any]):
    """A list and the mark of each of its items."""

    __slots__ = ("mark", "marks")

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        self.marks: list[Mark] = []

    def add(self, value: Any, mark: Mark) -> None:
        self.append(value)
        self.marks.append(mark)

    def pairs(self) -> Iterator[tuple[Any, Mark]]:
        return zip(self, self.marks, strict=True)


def plain(value: Any) -> Any:
    """The same data as ordinary dicts and lists."""
    if isinstance(value, Map):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Seq):
        return [plain(item) for item in value]
    return value


class Document:
    """What was read: `root`, and what was noticed on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.warnings: list[ConfigWarning] = []
        self.renamed = False
        """Whether LiteLLM's key names were used."""
        self._values = 0
        self._open: set[int] = set()
        self.root = Map(Mark(file, None, ""))

    def read_yaml(self, text: str) -> Document:
        """Fill `root` from YAML. An empty text is an empty configuration."""
        node = _compose(text, self.file)
        top = Mark(self.file, None if node is None else _line(node), "")
        value = None if node is None else self._build(node, top, _yaml_children, 0, False)
        return self._set_root(value, top)

    def read_tree(self, tree: object) -> Document:
        """Fill `root` from dicts, lists and scalars."""
        top = Mark(self.file, None, "")
        return self._set_root(self._build(tree, top, _tree_children, 0, False), top)

    def _set_root(self, value: Any, top: Mark) -> Document:
        if value is None:
            value = Map(top)
        if not isinstance(value, Map):
            raise top.error("expected a mapping such as `model_list: …` at the top of the configuration")
        self.root = value
        return self

    def _build(self, node: Any, mark: Mark, children: _Children, depth: int, verbatim: bool) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise mark.error(f"more than {MAX_VALUES:,} values", "Do aliases (`*name`) multiply one another?")
        if depth > MAX_DEPTH:
            raise mark.error(f"nested more than {MAX_DEPTH} levels deep")
        kind, content = children(node, mark)
        if kind == "scalar":
            if isinstance(content, int) and abs(content) >= MAX_INTEGER:
                raise mark.error("a whole number of more than 30 digits")
            return content
        if id(node) in self._open:
            raise mark.error("this value contains itself")
        self._open.add(id(node))
        built: Map | Seq
        if kind == "list":
            built = Seq(mark)
            for index, (line, child) in enumerate(content):
                place = mark.item(index, line)
                built.add(self._build(child, place, children, depth + 1, verbatim), place)
        else:
            built = Map(mark)
            for key, line, child in content:
                self._add(built, key, mark.key(key, line), child, children, depth, verbatim)
        self._open.discard(id(node))
        return built

    def _add(
        self, built: Map, written: str, place: Mark, child: Any, children: _Children, depth: int, verbatim: bool
    ) -> None:
        key = written if verbatim else canonical(written)
        value = self._build(child, place, children, depth + 1, verbatim or key in _VERBATIM)
        renamed = key != written
        self.renamed = self.renamed or renamed
        if key not in built:
            built.put(key, value, place)
            return
        loser = place if renamed else built.marks[key]
        if not renamed:
            built.put(key, value, place)
        self.warnings.append(
            ConfigWarning("superseded", str(loser), f"ignored, because `{key}` is given as well", "Remove one of them")
        )


_Children = Callable[[Any, Mark], tuple[str, Any]]


def canonical(key: str) -> str:
    """Tianji's name of a key that may be written in LiteLLM's."""
    if key.startswith("litellm_"):
        return "tianji_" + key.removeprefix("litellm_")
    return _INFIX.get(key, key)


def _compose(text: str, file: str) -> Any:
    loader: Any = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        where = Mark(file, at.line + 1 if at else None, "")
        what = ", ".join(part for part in (error.context, error.problem) if part) or "cannot be read"
        column = f" (column {at.column + 1})" if at else ""
        raise where.error(f"not valid YAML: {what}{column}") from None
    except yaml.YAMLError as error:
        what = getattr(error, "reason", None) or "a character that YAML does not allow"
        raise Mark(file, None, "").error(f"not valid YAML: {what}") from None
    except (RecursionError, UnicodeError):
        raise Mark(file, None, "").error("not valid YAML: nested too deeply, or not Unicode text") from None
    finally:
        if loader is not None:
            loader.dispose()


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def _yaml_children(node: Any, mark: Mark) -> tuple[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return "scalar", _scalar(node, mark)
    expected = "seq" if isinstance(node, yaml.SequenceNode) else "map"
    if node.tag != _YAML + expected:
        _refuse_tag(node.tag, mark)
    if isinstance(node, yaml.SequenceNode):
        return "list", [(_line(item), item) for item in node.value]
    return "map", _entries(node, mark, 0)


def _entries(node: yaml.MappingNode, mark: Mark, depth: int) -> list[tuple[str, int, Any]]:
    """Keys, lines and values of a mapping; `<<` fills in what is not given, and the first source wins."""
    if depth > MAX_DEPTH:
        raise mark.error("`<<` merges nested too deeply")
    lines: dict[str, int] = {}
    entries: list[tuple[str, int, Any]] = []
    merged: list[tuple[str, int, Any]] = []
    for key_node, value in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            raise Mark(mark.file, line, mark.path).error("a key must be text")
        if key_node.tag == _YAML + "merge":
            merged += _merged(value, mark.key("<<", line), depth)
            continue
        key = str(key_node.value)
        if key in lines:
            raise mark.key(key, line).error(
                f"the key is given twice (first in line {lines[key]})", "YAML would silently keep only the last"
            )
        lines[key] = line
        entries.append((key, line, value))
    for entry in merged:
        if entry[0] not in lines:
            lines[entry[0]] = entry[1]
            entries.append(entry)
    return entries


def _merged(value: Any, mark: Mark, depth: int) -> list[tuple[str, int, Any]]:
    sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
    entries: list[tuple[str, int, Any]] = []
    for source in sources:
        if not isinstance(source, yaml.MappingNode):
            raise mark.error("`<<` takes a mapping, or a list of mappings")
        entries += _entries(source, mark, depth + 1)
        if len(entries) > MAX_VALUES:
            raise mark.error("`<<` merges multiply one another")
    return entries


_CONSTRUCT = yaml.constructor.SafeConstructor()


def _scalar(node: yaml.ScalarNode, mark: Mark) -> Any:
    text = str(node.value)
    tag = node.tag.removeprefix(_YAML)
    if tag in {"str", "timestamp", "value", "merge"} or (tag in {"int", "float"} and ":" in text):
        return text
    if tag == "null":
        return None
    try:
        if tag == "bool":
            return _CONSTRUCT.bool_values[text.lower()]
        if tag == "int":
            return _CONSTRUCT.construct_yaml_int(node)
        if tag == "float":
            return _CONSTRUCT.construct_yaml_float(node)
    except (ValueError, KeyError, IndexError):
        raise mark.error(f"not a value of the YAML type `!!{tag}`") from None
    return _refuse_tag(node.tag, mark)


def _refuse_tag(tag: str, mark: Mark) -> NoReturn:
    raise mark.error(f"the YAML tag {tag[:60]!r} is not known", "Only plain mappings, lists and scalars are read")


def _tree_children(node: Any, mark: Mark) -> tuple[str, Any]:
    if node is None or isinstance(node, (str, bool, int, float, Secret)):
        return "scalar", str(node) if isinstance(node, str) else node
    if isinstance(node, Mapping):
        return "map", _tree_entries(node, mark)
    if isinstance(node, (list, tuple)):
        return "list", [(None, item) for item in node]
    raise mark.error(f"a value of the Python type `{type(node).__name__}` has no place in a configuration")


def _tree_entries(node: Mapping[Any, Any], mark: Mark) -> Iterable[tuple[str, None, Any]]:
    entries: dict[str, Any] = {}
    for key, value in node.items():
        if not isinstance(key, (str, int, float)):
            raise mark.error("a key must be text")
        entries[str(key)] = value
    return [(key, None, value) for key, value in entries.items()]
