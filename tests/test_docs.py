"""The documentation says what the code does.

Every hook, setting, command and failure is there, links lead somewhere, and the gateway understands the examples.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from tianji.cli import COMMANDS
from tianji.cli.describe import HOOKS
from tianji.config import loads
from tianji.discovery import Catalogue, scan
from tianji.plugin import Extension, settings_fields
from tools.audit.model import ROOT
from tools.docs import cli, errors, headers, hooks, settings
from tools.docs.__main__ import PAGES, main, stale
from tools.docs.keys import KEYS
from tools.docs.source import attributes, class_of, plugins, signature, table

REFERENCE = ROOT / "docs" / "reference"
MARKDOWN = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("core/*.md")),
    *sorted(ROOT.glob("bench/*.md")),
    *sorted(ROOT.glob("plugins/*/*/README.md")),
]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return [code for kind, code in _BLOCK.findall(path.read_text()) if kind == language]


# -- what is generated -------------------------------------------------------------------------------------------------


def test_the_reference_is_what_would_be_generated() -> None:
    assert stale() == [], "run `make generate`"


def test_check_names_what_is_stale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(PAGES, "docs/reference/errors.md", lambda: "something else")
    before = (REFERENCE / "errors.md").read_text()
    assert main(["--check"]) == 1
    assert capsys.readouterr().out == "docs/reference/errors.md is not what is generated: make generate\n"
    assert (REFERENCE / "errors.md").read_text() == before


def test_every_hook_with_its_signature() -> None:
    page = (REFERENCE / "hooks.md").read_text()
    source = (ROOT / "core" / "tianji" / "hookspecs.py").read_text()
    assert len(HOOKS) >= 10
    for name in HOOKS:
        header = signature(hooks.node(name))
        assert f"## {name}\n\n```python\n{header}\n```\n" in page
        assert f"{header}:\n" in source, "the page has the signature as it is written"


def test_every_setting_of_every_plugin() -> None:
    page = (REFERENCE / "settings.md").read_text()
    assert {one.family for one in plugins()} == {"providers", "guardrails", "callbacks", "strategies", "extensions"}
    for one in plugins():
        part = page.partition(f"\n### {one.distribution}\n")[2].partition("\n### ")[0]
        assert all(f"`{name}`" in part for name in (one.name, *one.aliases)), one
        for field in settings_fields(one.cls.Settings):
            assert f"| `{field.name}` |" in part, f"{one.distribution}: {field.name}"
            assert field.doc, f"{one.distribution}: {field.name} has no docstring"


def test_every_installed_plugin_is_there() -> None:
    page = (REFERENCE / "settings.md").read_text()
    for one in scan():
        if one.dist.startswith("tianji-") and (ROOT / "plugins" / one.family).is_dir():
            assert f"\n### {one.dist}\n" in page, one


def test_every_command_and_option() -> None:
    page = (REFERENCE / "cli.md").read_text()
    for name in COMMANDS:
        part = page.partition(f"\n## tianji {name}\n")[2].partition("\n## ")[0]
        for action in cli.commands(name)._actions:
            assert all(f"`{option}" in part for option in action.option_strings), (name, action.option_strings)
            assert action.help, (name, action.dest)


def test_every_failure() -> None:
    page = (REFERENCE / "errors.md").read_text()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")]
        for line in page.splitlines()
        if line.startswith("| `")
    }
    tree = page.partition("```text\n")[2].partition("```")[0]
    for cls in errors.failures():
        row = rows[f"`{cls.__name__}`"]
        assert row[2] == str(cls.status)
        assert row[5] == ("yes" if cls("").should_retry else "no")
        assert re.search(rf"\b{cls.__name__}\b", tree), f"{cls.__name__} is not drawn"
        drawn = re.search(rf"\b{cls.__name__} +(\d\d\d)\b", tree)
        assert drawn is None or int(drawn[1]) == cls.status, f"{cls.__name__} is drawn with another status"


def test_headers_of_the_code_and_of_the_page() -> None:
    headers.check()


# -- keys of the configuration -----------------------------------------------------------------------------------------

READ_FOR_OTHERS = {
    "database_url": "`tianji doctor` looks at it",
    "max_parallel_requests": "that of a deployment has the same name",
    "max_budget": "that of a deployment has the same name",
    "budget_duration": "that of a deployment has the same name",
}
"""Names without effect that some other code reads under the same name."""


@pytest.mark.parametrize("section", settings.STRUCTS)
def test_a_key_has_an_effect_or_is_listed_without(section: str) -> None:
    """Whoever makes a key work tells of it in tools/docs/keys.py; whoever takes that away takes the line out."""
    fields = tuple(attributes(class_of(settings.SCHEMA, settings.STRUCTS[section].__name__)))
    idle = settings.without_effect(section, fields)
    read, named = set(), set()
    for path in [*settings.sources(), *ROOT.glob("plugins/*/*/tianji_*.py"), *ROOT.glob("plugins/*/*/tianji_*/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.add(node.value)  # `getattr(settings, "cache")`
    wrong = [name for name in idle if name in read and name not in READ_FOR_OTHERS]
    assert not wrong, f"`{section}`: code reads {wrong}; tell what they do in tools/docs/keys.py"
    own = {field.name for field in fields} & KEYS[section].keys()
    gone = own - read - named
    assert not gone, f"`{section}`: no code reads {gone}; take them out of tools/docs/keys.py"


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in _LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_no_page_names_a_path_of_a_machine(page: Path) -> None:
    found = re.search(r"(?<![\w.:/])/(?:work|home|root|Users|tmp|mnt)/\S*|[A-Z]:\\", page.read_text())
    assert found is None, found


def test_every_page_can_be_found() -> None:
    """Each page of docs/ is named by the index, or by a page that is."""
    index = (ROOT / "docs" / "index.md").read_text()
    for page in ROOT.glob("docs/*/*.md"):
        if page.parent.name != "rules":
            assert str(page.relative_to(ROOT / "docs")) in index, page


def test_decisions_are_numbered_and_short() -> None:
    pages = sorted(ROOT.glob("docs/decisions/*.md"))
    for number, page in enumerate(pages, start=1):
        text = page.read_text()
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
        assert len(text.splitlines()) <= 60, "an ADR fits on a page"


# -- examples ----------------------------------------------------------------------------------------------------------


def test_the_readme_shows_groq() -> None:
    readme = ROOT / "README.md"
    assert blocks(readme, "python") == [(ROOT / "plugins/providers/groq/tianji_provider_groq.py").read_text()]
    assert len(readme.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_configurations_are_understood(page: Path) -> None:
    """Every YAML block that is a configuration of the gateway loads, and no key of it is unknown to the kernel."""
    for text in blocks(page, "yaml"):
        if "scrape_configs" in text:
            continue
        config = loads(text, environ={})
        sections = {cls.section or name.replace("-", "_") for name, cls in extensions()}
        unknown = [
            one for one in config.warnings if one.code == "unknown-key" and one.path.split(": ")[-1] not in sections
        ]
        assert unknown == []


def extensions() -> list[tuple[str, type[Extension]]]:
    catalogue = Catalogue(scan())
    return [(name, catalogue.load("extensions", name)) for name in catalogue.names("extensions")]


def test_the_callback_of_the_how_to_passes_its_suite(tmp_path: Path) -> None:
    plugin, test = blocks(ROOT / "docs/how-to/write-a-callback.md", "python")
    (tmp_path / "room.py").write_text(plugin)
    (tmp_path / "room_test.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "room_test.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)


def test_a_table_keeps_its_columns() -> None:
    assert table(("a", "b"), [("`x | y`", "two\nlines")]) == "| a | b |\n|---|---|\n| `x \\| y` | two lines |"
