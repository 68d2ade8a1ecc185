"""A throwaway TLS certificate for `127.0.0.1` and `upstream.test`, made by the `openssl` command when first needed."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

NAMES = "subjectAltName=DNS:upstream.test,IP:127.0.0.1"
REQUEST = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=upstream.test"


@cache
def certificate() -> tuple[Path, Path]:
    """Certificate and key as PEM files, valid for two days, removed when the process ends.

    Raises:
        FileNotFoundError: There is no `openssl` command on this machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="tianji-upstream-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [*REQUEST.split(), "-addext", NAMES, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
