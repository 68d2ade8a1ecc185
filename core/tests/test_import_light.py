"""What an import costs: with 150 plugins installed, everyone pays for a heavy one at every start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tianji.testing import assert_imports_light

HEAVY = ("litestar", "uvicorn", "httpx", "httpx2", "pydantic", "rich", "hypothesis")


def in_a_fresh_interpreter(code: str, *, path: str = "") -> dict[str, list[str]]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path, *sys.path)))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("module", ["tianji", "tianji.gateway", "tianji.plugin", "tianji.cli", "tianji.testing"])
def test_neither_litestar_nor_httpx(module: str) -> None:
    assert_imports_light(module, without=HEAVY)


def test_the_public_names_are_loaded_on_first_use_and_are_light() -> None:
    code = f"""
import sys, json
import tianji
before = sorted(name for name in sys.modules if name.startswith("tianji"))
for name in tianji.__all__:
    getattr(tianji, name)
plugins = [name for name in sys.modules if name.startswith("tianji_")]
print(json.dumps({{"before": before, "heavy": sorted({set(HEAVY)!r} & sys.modules.keys()), "plugins": plugins}}))
"""
    found = in_a_fresh_interpreter(code)
    assert found["before"] == ["tianji"]
    assert found["heavy"] == []
    assert found["plugins"] == []


def test_a_name_that_does_not_exist() -> None:
    import tianji

    with pytest.raises(AttributeError, match="no attribute 'Provder'"):
        tianji.Provder  # noqa: B018
    assert "Provider" in dir(tianji)


def test_assembling_imports_the_plugins_that_are_named_and_no_other(tmp_path: Path) -> None:
    for number in range(150):
        family, base, method = (
            ("providers", "OpenAICompatible", ""),
            ("guardrails", "Guardrail", ""),
            ("callbacks", "Callback", ""),
        )[number % 3]
        name = f"many{number}"
        (tmp_path / f"{name}.py").write_text(
            f"from tianji import {base}\nclass P({base}):\n    name = '{name}'\n{method}"
        )
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tianji.{family}]\n{name} = {name}:P\n")
    code = f"""
import sys, json
from tianji.config import from_dict
from tianji.discovery import Catalogue, scan
from tianji.gateway import Gateway
catalogue = Catalogue(scan([{str(tmp_path)!r}]))
assert len(list(catalogue)) == 150
gateway = Gateway(from_dict({{
    "model_list": [{{"model_name": "m", "tianji_params": {{"model": "many3/x", "api_key": "k"}}}}],
    "tianji_settings": {{"callbacks": ["many5"]}},
    "general_settings": {{"master_key": "sk-x"}},
}}), catalogue)
print(json.dumps({{
    "plugins": sorted(name for name in sys.modules if name.startswith("many")),
    "heavy": sorted({set(HEAVY)!r} & sys.modules.keys()),
}}))
"""
    assert in_a_fresh_interpreter(code, path=str(tmp_path)) == {"plugins": ["many3", "many5"], "heavy": []}
