"""`assert_imports_light`: what a module may not pull in when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

HEAVY = ("litestar", "uvicorn", "httpx", "requests", "boto3", "botocore", "openai", "anthropic", "pydantic", "numpy")


def assert_imports_light(module: str, *, without: tuple[str, ...] = HEAVY) -> None:
    """Import `module` in a fresh interpreter and fail when a heavy one came along. Takes a tenth of a second or so."""
    code = f"import sys, {module}; print(*sorted({set(without)!r} & sys.modules.keys()))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, f"`import {module}` fails:\n{done.stderr}"
    found = done.stdout.split()
    assert not found, (
        f"`import {module}` also imports {', '.join(found)}; with 150 plugins installed everyone pays for that at "
        "every start. Import it inside the function that needs it."
    )
