"""The audit: each rule sees the fault that it is there for, exemptions need a reason, nothing generated is stale."""

import re
import shutil
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

from tools.audit.__main__ import audit, audit_repo, generate
from tools.audit.generated import between
from tools.audit.model import ROOT, Plugin, Repo, requirement
from tools.audit.rules import RULES, catalogue, metapackage, size
from tools.audit.rules.names import camel


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's `plugins` with one faultless plugin of three families."""
    root = tmp_path_factory.mktemp("repo")
    for family, group in (("provider-custom", "providers"), ("guardrail", "guardrails"), ("callback", "callbacks")):
        cookiecutter(
            str(ROOT / "cookiecutter-plugin"),
            no_input=True,
            output_dir=str(root / "plugins" / group),
            extra_context={"family": family, "name": "acme", "in_monorepo": "yes"},
            default_config={"replay_dir": str(root / "replay"), "cookiecutters_dir": str(root / "cut")},
        )
    return root


@pytest.fixture
def repo(baked: Path, tmp_path: Path) -> Path:
    shutil.copytree(baked / "plugins", tmp_path / "plugins")
    return tmp_path


def plugin_of(repo: Path, family: str = "providers") -> Plugin:
    return Plugin(repo / "plugins" / family / "acme", repo)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1))


def rules_of(plugin: Plugin) -> dict[str, list[str]]:
    """The problems' messages by rule."""
    found: dict[str, list[str]] = {}
    for problem in audit(plugin)[0]:
        assert problem.mend, "every problem says what mends it"
        found.setdefault(problem.rule, []).append(problem.message)
    return found


def test_a_faultless_plugin(repo: Path) -> None:
    for family in ("providers", "guardrails", "callbacks"):
        assert rules_of(plugin_of(repo, family)) == {}


MODULE, PROJECT, README = "tianji_provider_acme.py", "pyproject.toml", "README.md"


@pytest.mark.parametrize(
    ("rule", "file", "old", "new", "message"),
    [
        ("names", MODULE, 'name = "acme"', 'name = "acne"', "the class attribute `name` is not 'acme'"),
        ("names", PROJECT, "tianji.providers", "tianji.callbacks", r"entry points in \['callbacks'\]"),
        ("names", PROJECT, "tianji-provider-acme", "acme", "the distribution is 'acme'"),
        ("metadata", PROJECT, 'version = "', 'version = "9', "project.version differs"),
        ("metadata", PROJECT, "The Tianji authors", "Your Name", "project.authors differs"),
        ("metadata", PROJECT, " for Tianji: ", " and Tianji: ", "description"),
        ("metadata", PROJECT, "[build-system]", '[tool.x]\ny = 1\n[build-system]', "tool.x.y differs"),
        ("deps", PROJECT, "tianji-core>=", "tianji-core==", "requires"),
        ("deps", PROJECT, '"tianji-core', '"openai>=1", "tianji-core', "openai is not on the allow-list"),
        ("deps", MODULE, "return completion(", "self.gateway.http\n        return completion(", "requires"),
        ("imports", MODULE, "from typing", "import tianji.model\nfrom typing", "tianji.model is not public"),
        ("imports", MODULE, "from typing", "import httpx\nfrom typing", "httpx is imported at the top"),
        ("imports", MODULE, "from typing", "import requests\nfrom typing", "requests is not declared"),
        ("imports", MODULE, "from typing", "import tianji_provider_openai\nfrom typing", "is another plugin"),
        ("imports", MODULE, "    Wire,", "    Wire,\n    Nothing,", "tianji does not export Nothing"),
        ("size", MODULE, "FINISH", "# more\n" * 400 + "FINISH", r"\d+ lines"),
        ("docs", MODULE, "Docs: https", "See https", "does not say where the wire format is documented"),
        ("docs", README, "## Limits", "## Restrictions", "no section Limits"),
        ("docs", README, "default_limit", "limit", "the setting `default_limit` is not explained"),
        ("docs", README, "pip install", "pip get", "does not say how to install it"),
        ("settings", MODULE, '"""Tokens to', '# """Tokens to', "Settings.default_limit is not documented"),
        ("settings", MODULE, "frozen=True", "kw_only=True", "Settings is not frozen"),
        ("settings", MODULE, "default_limit: int = 1024", 'admin_token: str = ""', "looks like a credential"),
        ("sealed", MODULE, "def encode", "async def call", "`call` is sealed in HTTPProvider"),
        ("tests", "test_acme.py", "ProviderSuite)", "object)", "the family's suite is not run"),
        ("tests", "wire/chat-stream.json", '"stream": true', '"stream": false', "no golden .* chat, streamed"),
        ("tests", "wire/chat.json", '"call"', '"coll"', "not a golden exchange"),
    ],
)  # fmt: skip
def test_a_fault_is_seen(repo: Path, rule: str, file: str, old: str, new: str, message: str) -> None:
    plugin = plugin_of(repo)
    edit(plugin.root / file, old, new)
    found = rules_of(plugin)
    assert any(re.search(message, one) for one in found.get(rule, ())), found


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("if TYPE_CHECKING:\n    import httpx", True),
        ("def late() -> None:\n    import httpx", True),
        ("class Early:\n    import httpx", False),
        ("try:\n    import httpx\nexcept ImportError:\n    pass", False),
        ("import msgspec", True),
    ],
)
def test_heavy_imports_may_come_late(repo: Path, text: str, fine: bool) -> None:
    plugin = plugin_of(repo)
    edit(plugin.root / MODULE, "\nFINISH", f"\n{text}\n\nFINISH")
    assert ("imports" not in rules_of(plugin)) is fine


def test_layout(repo: Path) -> None:
    plugin = plugin_of(repo)
    (plugin.root / "helper.py").touch()
    (plugin.root / "wire" / "notes.txt").touch()
    (plugin.root / "__pycache__").mkdir()
    (plugin.root / README).unlink()
    assert sorted(rules_of(plugin)["layout"]) == [
        "helper.py does not belong here", "no README.md", "not a golden exchange",
    ]  # fmt: skip


def test_a_package_imports_late_what_it_imports_late(repo: Path) -> None:
    plugin = plugin_of(repo)
    package = plugin.root / "tianji_provider_acme"
    package.mkdir()
    (plugin.root / MODULE).rename(package / "__init__.py")
    (package / "late.py").write_text('"""Late."""\nimport httpx\n')
    (package / "early.py").write_text('"""Early."""\nimport yaml\n')
    edit(
        package / "__init__.py",
        "\nFINISH",
        "\nfrom . import early\n\n\ndef serve() -> None:\n    from . import late\n\n\nFINISH",
    )
    found = rules_of(Plugin(plugin.root, repo))
    assert found["imports"] == ["yaml is imported at the top"]
    assert found["layout"] == ["tianji_provider_acme does not belong here"]


def test_a_compatible_provider_is_short(repo: Path) -> None:
    plugin = plugin_of(repo)
    edit(plugin.root / MODULE, "(HTTPProvider)", "(OpenAICompatible)")
    assert any("for an OpenAICompatible" in one for one in rules_of(plugin)["size"])


def exempt(plugin: Plugin, line: str) -> Plugin:
    with (plugin.root / PROJECT).open("a") as file:
        file.write(f"\n[tool.tianji.exempt]\n{line}\n")
    return Plugin(plugin.root, plugin.root.parents[2])


def test_exemptions_are_listed(repo: Path) -> None:
    plugin = exempt(plugin_of(repo), 'layout = "two halves"')
    (plugin.root / "helper.py").touch()
    assert audit(plugin) == ([], [("providers/acme", "layout", "two halves")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('size = "it was long once"', "size is excused, and needs no excuse"),
        ('layout = " "', "layout is excused without a reason"),
        ('style = "because"', "there is no rule style"),
    ],
)
def test_exemptions_are_checked(repo: Path, line: str, message: str) -> None:
    plugin = plugin_of(repo)
    (plugin.root / "helper.py").touch()
    found = rules_of(exempt(plugin, line))
    assert message in [one for messages in found.values() for one in messages]


def test_a_folder_without_metadata(tmp_path: Path) -> None:
    (tmp_path / "plugins" / "providers" / "none").mkdir(parents=True)
    assert [one.rule for one in audit(Plugin(tmp_path / "plugins" / "providers" / "none", tmp_path))[0]] == ["layout"]


# -- what concerns the repository --------------------------------------------------------------------------------------


def test_generate_then_nothing_is_stale(repo: Path) -> None:
    for name in ("pyproject.toml", "README.md"):
        text = (ROOT / name).read_text() if (ROOT / name).is_file() else ""
        (repo / name).write_text(text)
    if "generated: plugins" not in (repo / "README.md").read_text():
        (repo / "README.md").write_text("before\n<!-- generated: plugins -->\nold\n<!-- end of plugins -->\nafter\n")
    here = Repo(repo)
    before = {one.path for one in audit_repo(here)}
    assert {repo / "pyproject.toml", repo / "README.md", repo / catalogue.PAGE} <= before
    generate(here)
    assert audit_repo(Repo(repo)) == []
    assert '"tianji-guardrail-acme' in (repo / "pyproject.toml").read_text()
    assert "[acme](plugins/callbacks/acme/README.md)" in (repo / "README.md").read_text()
    assert "| `tianji-provider-acme` | Chat over its own wire format. |" in (repo / catalogue.PAGE).read_text()


def test_a_plugin_may_stay_out_of_the_standard_set(repo: Path) -> None:
    with (repo / "plugins" / "callbacks" / "acme" / PROJECT).open("a") as file:
        file.write("\n[tool.tianji]\nstandard = false\n")
    text = "# generated: dependencies\n# end of dependencies\n# generated: extras\n# end of extras\n"
    text += "# generated: sources\n# end of sources\n"
    (repo / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    made = metapackage.metapackage(Repo(repo), text)
    dependencies, _, extras = made.partition("# generated: extras")
    assert "tianji-callback-acme" not in dependencies
    assert 'callback-acme = ["tianji-callback-acme>=1.2,<2"]' in extras


def test_the_kernel_has_a_limit_too(repo: Path) -> None:
    (repo / "core" / "tianji").mkdir(parents=True)
    long, short = repo / "core" / "tianji" / "long.py", repo / "core" / "tianji" / "short.py"
    long.write_text("pass\n" * (size.MOST + 1))
    short.write_text("pass\n" * size.MOST)
    (repo / "pyproject.toml").write_text('[tool.tianji.exempt.size]\n"core/tianji/short.py" = "?"\n')
    assert {one.path for one in size.validate_repo(Repo(repo))} == {long, short}
    (repo / "pyproject.toml").write_text('[tool.tianji.exempt.size]\n"core/tianji/long.py" = "one table"\n')
    assert list(size.validate_repo(Repo(repo))) == []


def test_markers() -> None:
    assert (
        between("a\n# generated: x\nold\n# end of x\nb\n", "x", "new \\1")
        == "a\n# generated: x\nnew \\1\n# end of x\nb\n"
    )
    with pytest.raises(ValueError, match="no markers"):
        between("a", "x", "new")


def test_derivations() -> None:
    assert camel("least-busy") == "LeastBusy"
    assert requirement("1.4.2") == ">=1.4,<2"
    assert all(rule.__doc__.startswith(f"{name.capitalize()}: ") or name == "deps" for name, rule in RULES.items())


def test_rules_are_small() -> None:
    for path in (ROOT / "tools" / "audit" / "rules").glob("*.py"):
        assert size.count(path) <= 100, path


def test_the_repository_keeps_its_rules() -> None:
    """`make audit` finds nothing, and `make generate` would change nothing."""
    repo = Repo()
    problems = [problem for plugin in repo.plugins for problem in audit(plugin)[0]] + audit_repo(repo)
    assert [f"{one.rule}: {one.place}: {one.message} ({one.mend})" for one in problems] == []
