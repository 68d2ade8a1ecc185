"""The public API: what `tianji` exports is written down, and a change of it shows in `docs/reference/api.txt`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tianji
from tools.docs import api

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.txt"


def test_signatures_are_those_that_are_written_down() -> None:
    """A line that changed or went is a break for plugins. If it is meant: `make generate`, and a changelog fragment."""
    assert PAGE.read_text() == api.page()


@pytest.mark.parametrize("name", tianji.__all__)
def test_every_name_is_there_and_written_down(name: str) -> None:
    assert getattr(tianji, name) is not None
    assert name in dir(tianji)
    assert re.search(rf"^(?:class |def |async def )?{name}\b|# exported as {name}$", PAGE.read_text(), re.MULTILINE)


def test_type_checkers_see_the_same_names() -> None:
    """The imports under `if TYPE_CHECKING:` are the table `_EXPORTS`."""
    module = ast.parse(Path(tianji.__file__).read_text())
    (block,) = (node for node in module.body if isinstance(node, ast.If))
    seen = {one.asname for node in block.body if isinstance(node, ast.ImportFrom) for one in node.names}
    seen |= {ast.unparse(node.targets[0]) for node in block.body if isinstance(node, ast.Assign)}
    assert {name for name in seen if name and not name.startswith("_")} == set(tianji.__all__)


def test_a_name_that_is_not_exported() -> None:
    with pytest.raises(AttributeError, match="module 'tianji' has no attribute 'Nothing'"):
        tianji.Nothing  # noqa: B018 - looking it up is the test


def test_importing_costs_a_dictionary() -> None:
    """`import tianji` brings no module of the kernel, and nothing heavy."""
    code = "import sys, tianji; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stdout.split())
    assert not modules & {"litestar", "uvicorn", "httpx", "msgspec", "pluggy", "httptools"}
    assert {name for name in modules if name.startswith("tianji.")} == set()
