"""The plugin template: what it bakes is complete, passes the audit, and works where only the lock is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import uv
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter

from tools.audit.__main__ import audit
from tools.audit.model import ROOT, Plugin

TEMPLATE = ROOT / "cookiecutter-plugin"
FAMILIES = ("provider-openai", "provider-custom", "guardrail", "callback", "strategy", "extension")
STANDALONE = {"LICENSE", "CHANGELOG.md", ".gitignore", ".github/workflows/test.yml", ".github/workflows/publish.yml"}
GOLDENS = {"wire/chat.json", "wire/chat-stream.json", "wire/error-throttled.json"}


def bake(into: Path, family: str, **answers: str) -> Path:
    """One baked plugin; names differ by family, and have a dash or an underscore in them."""
    name = {"provider-openai": "acme-openai", "provider-custom": "acme_custom"}.get(family, f"acme-{family}")
    into.mkdir(parents=True, exist_ok=True)
    made = cookiecutter(
        str(TEMPLATE),
        no_input=True,
        output_dir=str(into),
        extra_context={"family": family, "name": name, "author": "A. N. Author", "github_username": "an", **answers},
        default_config={"replay_dir": str(into.parent / "replay"), "cookiecutters_dir": str(into.parent / "cut")},
    )
    return Path(made)


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_repository_of_its_own(tmp_path: Path, family: str) -> None:
    root = bake(tmp_path / "out", family)
    plugin = Plugin(root)
    assert root.name == plugin.project["name"] == f"tianji-{plugin.singular}-acme-{family.split('-')[-1]}"
    four = {"pyproject.toml", "README.md", f"{plugin.module}.py", f"test_{plugin.name.replace('-', '_')}.py"}
    assert files(root) == four | STANDALONE | (GOLDENS if family == "provider-custom" else set())
    assert audit(plugin) == ([], [])
    for path in root.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "cookiecutter" not in text, path
            assert "{%" not in text, path
    assert "A. N. Author" in (root / "LICENSE").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plugin_of_this_repository(tmp_path: Path, family: str) -> None:
    singular = family.split("-")[0]
    group = {"strategy": "strategies"}.get(singular, f"{singular}s")
    root = bake(tmp_path / "plugins" / group, family, in_monorepo="yes")
    plugin = Plugin(root, tmp_path)
    assert plugin.ours
    assert not files(root) & STANDALONE
    assert audit(plugin) == ([], [])


def test_what_is_baked_is_clean(tmp_path: Path) -> None:
    for family in FAMILIES:
        bake(tmp_path, family)
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--no-cache", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, *config], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    modules = sorted(str(path) for path in tmp_path.glob("*/tianji_*.py"))
    assert len(modules) == len(FAMILIES)
    mypy = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(tmp_path / ".cache")]
    paths = {"MYPYPATH": os.pathsep.join(str(Path(module).parent) for module in modules)}
    done = subprocess.run(
        [*mypy, *modules], cwd=ROOT, env={**os.environ, **paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "answers", [{"name": "Acme"}, {"name": "acme--x"}, {"name": "acme x"}, {"description": 'with "quotes"'}]
)
def test_bad_answers_are_refused(tmp_path: Path, answers: dict[str, str]) -> None:
    with pytest.raises(FailedHookException):
        bake(tmp_path / "out", "guardrail", **answers)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_baked_plugins_work(tmp_path: Path) -> None:
    """With the lock, the kernel and the six plugins in a fresh environment, their tests pass and they are found."""
    roots = [bake(tmp_path / "out", family) for family in FAMILIES]
    environment = tmp_path / "venv"
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = ["pip", "install", "--quiet", "--python", str(python)]
    run(uv.find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(environment))
    run(uv.find_uv_bin(), *install, "--require-hashes", "-r", str(ROOT / "requirements.lock"))
    places = [argument for root in (ROOT / "core", *roots) for argument in ("-e", str(root))]
    run(uv.find_uv_bin(), *install, "--no-deps", "--no-build-isolation", *places)
    for root in roots:
        told = run(str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=root)
        assert " passed" in told, told
    found = json.loads(run(str(python), "-m", "tianji.cli", "plugins", "--json", cwd=tmp_path))
    listed = {one["distribution"] for one in found["plugins"]}
    assert listed == {root.name for root in roots}


def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a command that must succeed; what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "VIRTUAL_ENV", "COV_"))}
    done = subprocess.run(list(command), cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout
