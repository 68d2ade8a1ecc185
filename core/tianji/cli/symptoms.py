"""What `tianji doctor` looks at: each function is one look and yields what it saw.

The levels: `ok`; `info`, worth knowing; `warning`, loose: it works until it does not; `error`, broken.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import importlib_metadata
import msgspec

from tianji import __version__
from tianji.cli.check import Examination
from tianji.cli.common import counted, mode_of
from tianji.cli.inventory import Row, fault
from tianji.config import Config
from tianji.discovery import Found, satisfies
from tianji.secrets import Unresolved

Level = Literal["ok", "info", "warning", "error"]
FEW_FILES, MANY_FILES = 1024, 8192
"""Below the first, a gateway runs out of connections in ordinary use; below the second, under load."""

KEYS = {
    "ANTHROPIC_API_KEY": "anthropic",
    "AZURE_API_KEY": "azure",
    "AZURE_OPENAI_API_KEY": "azure",
    "CEREBRAS_API_KEY": "cerebras",
    "CO_API_KEY": "cohere",
    "COHERE_API_KEY": "cohere",
    "DASHSCOPE_API_KEY": "dashscope",
    "DEEPINFRA_API_KEY": "deepinfra",
    "DEEPSEEK_API_KEY": "deepseek",
    "FIREWORKS_AI_API_KEY": "fireworks_ai",
    "FIREWORKS_API_KEY": "fireworks_ai",
    "GEMINI_API_KEY": "gemini",
    "GOOGLE_API_KEY": "gemini",
    "GROQ_API_KEY": "groq",
    "HUGGINGFACE_API_KEY": "huggingface",
    "JINA_AI_API_KEY": "jina_ai",
    "MISTRAL_API_KEY": "mistral",
    "MOONSHOT_API_KEY": "moonshot",
    "NVIDIA_NIM_API_KEY": "nvidia_nim",
    "OPENAI_API_KEY": "openai",
    "OPENROUTER_API_KEY": "openrouter",
    "PERPLEXITYAI_API_KEY": "perplexity",
    "REPLICATE_API_KEY": "replicate",
    "SAMBANOVA_API_KEY": "sambanova",
    "TOGETHERAI_API_KEY": "together_ai",
    "TOGETHER_API_KEY": "together_ai",
    "VOYAGE_API_KEY": "voyage",
    "XAI_API_KEY": "xai",
}
"""Well-known key variables and the provider that reads them: of one that is not installed, nobody else can tell."""


class Symptom(msgspec.Struct, frozen=True):
    """One thing seen; `tianji doctor --json` prints these fields."""

    check: str
    level: Level
    message: str
    mend: str = ""


# -- this machine ------------------------------------------------------------------------------------------------------


def python() -> Iterator[Symptom]:
    """The interpreter, and the event loop."""
    here = f"Python {platform.python_version()} at {sys.executable}"
    yield Symptom("python", "ok", here)
    if importlib.util.find_spec("uvloop") is None:
        level: Level = "info" if sys.platform == "win32" else "warning"
        yield Symptom("event loop", level, "uvloop is not installed; asyncio's loop is slower", "pip install uvloop")
    else:
        yield Symptom("event loop", "ok", "uvloop")


def kernel() -> Iterator[Symptom]:
    """The kernel's distribution, and the libraries that it asks for."""
    try:
        dist = importlib_metadata.distribution("tianji-core")
    except importlib_metadata.PackageNotFoundError:
        yield Symptom("kernel", "warning", "tianji runs from a folder that is not installed", "pip install tianji-core")
        return
    if dist.version != __version__:
        message = f"tianji-core {dist.version} is installed, and the code that runs is {__version__}"
        yield Symptom("kernel", "error", message, "pip install --force-reinstall tianji-core")
    else:
        yield Symptom("kernel", "ok", f"tianji-core {__version__}")
    good = []
    for line in dist.requires or ():
        match = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)", line)
        if match is None or "extra ==" in line or ("sys_platform" in line and sys.platform == "win32"):
            continue
        name, spec = match[1], match[2].strip()
        try:
            version = importlib_metadata.version(name)
        except importlib_metadata.PackageNotFoundError:
            yield Symptom("libraries", "error", f"{name} is not installed", f"pip install '{name}{spec}'")
            continue
        if not satisfies(version, spec):
            message = f"{name} is {version}, and {spec} is wanted"
            yield Symptom("libraries", "error", message, f"pip install '{name}{spec}'")
        else:
            good.append(f"{name} {version}")
    if good:
        yield Symptom("libraries", "ok", ", ".join(good))


def files() -> Iterator[Symptom]:
    """How many files and sockets the process may have open."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = "no limit on open files" if soft == resource.RLIM_INFINITY else f"{soft} open files"
    mend = (
        f"ulimit -n {MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)} (LimitNOFILE= in systemd)"
    )
    if soft == resource.RLIM_INFINITY or soft >= MANY_FILES:
        yield Symptom("file limit", "ok", said)
    elif soft < FEW_FILES:
        yield Symptom("file limit", "warning", f"{said} at most: each call takes two sockets", mend)
    else:
        yield Symptom("file limit", "info", f"{said} at most: each call takes two sockets", mend)


# -- plugins -----------------------------------------------------------------------------------------------------------


def plugins(rows: Sequence[Row], found: Sequence[Found]) -> Iterator[Symptom]:
    """Plugins that are broken, by their metadata or when they are imported."""
    good = 0
    for row in rows:
        if row.state == "disabled":
            continue
        reason = row.reason
        if not reason:
            one = next(
                one for one in found if (one.family, one.name, one.dist) == (row.family, row.name, row.distribution)
            )
            reason = fault(one)
        if reason:
            yield Symptom("plugins", "error", f"{row.label}: {reason}")
        else:
            good += 1
    off = sum(row.state == "disabled" for row in rows)
    if not rows:
        yield Symptom("plugins", "error", "no plugins are installed: there is no provider to ask", "pip install tianji")
    elif good:
        more = f", {off} switched off" if off else ""
        yield Symptom("plugins", "ok", f"{counted(good, 'plugin')} can be imported{more}")


def keys(rows: Sequence[Row], environ: Mapping[str, str]) -> Iterator[Symptom]:
    """Keys in the environment whose provider is not installed."""
    have = {name for row in rows if row.family == "providers" for name in (row.name, *row.aliases)}
    for variable, provider in KEYS.items():
        if environ.get(variable) and not have & {provider, provider.replace("_", "-")}:
            message = f"{variable} is set and the provider {provider} is not installed"
            yield Symptom("keys", "info", message, f"pip install tianji-provider-{provider.replace('_', '-')}")


# -- configuration -----------------------------------------------------------------------------------------------------


def configuration(seen: Examination, path: str | None) -> Iterator[Symptom]:
    """What `tianji check` finds, without its remarks, and the master key."""
    name = path or "none; `tianji serve` would make one of the environment"
    for finding in seen.findings:
        if finding.level != "info":
            where = f"{finding.path}: " if finding.path else ""
            yield Symptom("configuration", finding.level, f"{where}{finding.message}", finding.mend)
    if seen.config is None:
        return
    if not seen.counts["error"] and not seen.counts["warning"]:
        yield Symptom("configuration", "ok", name)
    key = seen.config.general_settings.master_key
    if seen.config.generated_master_key:
        message = "made up at each start: clients lose their access at a restart"
        yield Symptom("master key", "info", message, "Set TIANJI_MASTER_KEY, or general_settings.master_key")
    elif isinstance(key, Unresolved):
        yield Symptom("master key", "info", "kept by a secret manager; not looked at")
    elif key and not any("general_settings.master_key" in finding.path for finding in seen.findings):
        yield Symptom("master key", "ok", f"set, {len(key.reveal())} characters")


def ledger(seen: Examination) -> Iterator[Symptom]:
    """Where spend is kept."""
    if seen.gateway is None:
        return
    from tianji.ledger import MemoryLedger
    from tianji.services import Ledger

    if isinstance(seen.gateway.need(Ledger), MemoryLedger):
        yield Symptom("ledger", "info", "spend is kept in memory: it is lost at a restart")


def address(host: str, port: int) -> Iterator[Symptom]:
    """Whether the gateway can listen where it is told to, and who can reach it there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        mend = "Is a gateway running already? Else choose another: tianji serve --port"
        yield Symptom("address", "warning", f"cannot listen on {host}:{port}: {reason}", mend)
    else:
        yield Symptom("address", "ok", f"{host}:{port} is free")
    if not _is_loopback(host):
        message = f"{host} is open to the network, and the gateway speaks HTTP without TLS"
        yield Symptom("address", "info", message, "Put a proxy that speaks TLS in front, or listen on 127.0.0.1")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


# A key of a secret with a value that is written out: neither a reference nor a variable.
_LITERAL = re.compile(
    r"""(?:^|[{,])\s*(?:-\s*)?["']?[\w-]*(?:api_key|apikey|master_key|secret|secret_key|secret_access_key|password|token|salt_key)
        ["']?\s*:\s*["']?(?!os\.environ/|\$|[\w-]+://|null\b|true\b|false\b|["'#])(?=\S{6})""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_URL = re.compile(r"://[^\s/:@$]*:[^\s/@$]+@")


def permissions(path: str | None) -> Iterator[Symptom]:
    """A configuration with secrets in it that everybody on this machine can read."""
    if path is None:
        return
    mode = mode_of(path)
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return
    if mode is None or not (_LITERAL.search(text) or _URL.search(text)):
        return
    if mode & 0o004:
        message = f"{path} has secrets in it, and everybody on this machine can read it (mode {mode:03o})"
        yield Symptom(
            "permissions", "warning", message, f"chmod 600 {path}; or keep them in variables: os.environ/NAME"
        )
    else:
        yield Symptom("permissions", "ok", f"{path} has secrets in it; its mode is {mode:03o}")


def data(config: Config | None) -> Iterator[Symptom]:
    """Whether the folder of an SQLite database can be written to."""
    url = config.general_settings.database_url if config is not None else None
    if not url or isinstance(url, Unresolved):
        return
    parts = urlsplit(url.reveal())
    if not parts.scheme.startswith("sqlite"):
        return
    file = Path(parts.path.removeprefix("/") or "tianji.db")
    folder = file.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        message = f"the database's folder {folder} is not there, or cannot be written to"
        yield Symptom("data", "error", message, f"mkdir -p {folder}, as the user that runs the gateway")
    elif file.exists() and not os.access(file, os.W_OK):
        yield Symptom("data", "error", f"the database {file} cannot be written to", f"chown it: ls -l {file}")
    else:
        yield Symptom("data", "ok", f"{folder} can be written to")


def worst(symptoms: Iterable[Symptom]) -> Level:
    """The worst level of all."""
    order: tuple[Level, ...] = ("ok", "info", "warning", "error")
    return max((symptom.level for symptom in symptoms), key=order.index, default="ok")
