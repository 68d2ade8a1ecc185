"""A made-up site of installed distributions, and the command run inside this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest

from tianji.cli import main
from tianji.plugin import SINGULAR

FAKE_PROVIDER = '''
"""Fake: a provider that nobody runs.

Docs: https://fake.example/docs
"""

from tianji import OpenAICompatible, PluginSettings, Secret


class Plugin(OpenAICompatible):
    name = "fake"
    base_url = "https://fake.example/v1"
    api_key_env = ("FAKE_API_KEY",)

    class Settings(PluginSettings, frozen=True):
        fake_region: str = "moon"
        """Where it runs."""
        fake_token: Secret | None = None
        """A second key."""
        fake_size: int = 3
'''
GUARD = '''
from tianji import Guardrail, PluginSettings, Verdict


class Plugin(Guardrail):
    name = "words"

    class Settings(PluginSettings, frozen=True):
        words: tuple[str, ...]
        """What to refuse."""

    async def check(self, content, call):
        return Verdict.allow()
'''
CALLBACK = """
from tianji import Callback


class Plugin(Callback):
    name = "sink"

    async def export(self, records):
        pass
"""
STRATEGY = """
from tianji import Strategy


class Plugin(Strategy):
    name = "first-come"

    async def rank(self, call, candidates):
        return candidates
"""
EXTENSION = """
from tianji import Extension, PluginSettings, hookimpl


class Plugin(Extension):
    name = "limits"
    order = 200

    class Settings(PluginSettings, frozen=True):
        per_minute: int = 10

    @hookimpl
    async def pre_call(self, call):
        return None
"""


@dataclass
class Site:
    """A folder of distributions that takes the place of everything installed."""

    folder: Path
    modules: list[str] = field(default_factory=list)

    def plugin(
        self, family: str, source: str, *names: str, dist: str = "", version: str = "1.2.3",
        requires: str = "tianji-core>=0.1,<1",
    ) -> str:  # fmt: skip
        """Install one plugin under its names; the name of its module."""
        dist = dist or f"tianji-{SINGULAR[family]}-{names[0].replace('_', '-')}"
        module = f"{dist.replace('-', '_')}_{self.folder.parent.name.replace('-', '_')}"
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\nSummary: The {names[0]} of the tests\n"
            f"Requires-Dist: {requires}\n"
        )
        lines = "".join(f"{name} = {module}:Plugin\n" for name in names)
        (info / "entry_points.txt").write_text(f"[tianji.{family}]\n{lines}")
        self.modules.append(module)
        return module

    def everything(self) -> None:
        """One plugin of each family."""
        self.plugin("providers", FAKE_PROVIDER, "fake", "fake_chat")
        self.plugin("guardrails", GUARD, "words")
        self.plugin("callbacks", CALLBACK, "sink")
        self.plugin("strategies", STRATEGY, "first-come")
        self.plugin("extensions", EXTENSION, "limits")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CONFIG_FILE_PATH", "TIANJI_PLUGINS_DISABLE", "PORT", "NUM_WORKERS", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TIANJI_MASTER_KEY", "LITELLM_MASTER_KEY", "OPENAI_API_KEY", "FAKE_API_KEY", "MISSING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    found = importlib_metadata.distributions
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(importlib_metadata, "distributions", lambda **given: found(path=[str(folder)]))
    made = Site(folder)
    yield made
    for module in made.modules:
        sys.modules.pop(module, None)


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def tianji(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `tianji …` here; status, output, errors."""

    def run(*words: str) -> Result:
        capsys.readouterr()
        try:
            status = main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(status, out, err)

    return run


GOOD = """
model_list:
  - model_name: a
    tianji_params: {model: fake/one, api_key: sk-0123456789, fake_region: mars}
guardrails:
  - guardrail_name: polite
    tianji_params: {guardrail: words, mode: [pre_call, post_call], words: [darn], default_on: true}
tianji_settings: {callbacks: [sink]}
router_settings: {routing_strategy: first-come}
limits: {per_minute: 5}
general_settings: {master_key: sk-a-long-enough-key}
"""


@pytest.fixture
def config() -> Callable[[str], str]:
    """Write a configuration; its name."""

    def write(text: str = GOOD, name: str = "c.yaml") -> str:
        path = Path(name)
        path.write_text(text)
        path.chmod(0o600)
        return name

    return write
