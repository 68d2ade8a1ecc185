"""Dependencies: the kernel, and nothing without a reason.

Every plugin requires `tianji-core` from this minor version up to the next major one. Plugins speak HTTP through the
kernel: no vendor SDKs. What else may be required stands in this rule's table, with the reason, and in
`requirements.in`, so that it is locked. A plugin that uses `gateway.http` requires `tianji-core[http]`, which brings
httpx.

Outside of this repository only the requirement on the kernel is looked at.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from tools.audit.model import ROOT, Plugin, Problem, Repo

ALLOWED = {
    "botocore": "AWS request signing (SigV4) and the credential chain; boto3 itself is not needed",
    "google-auth": "service-account and workload-identity tokens of Google Cloud",
    "azure-identity": "Entra ID tokens, managed identities included",
    "cryptography": "verifying signatures of identity providers",
    "opentelemetry-sdk": "the OpenTelemetry data model, which is the product there",
    "opentelemetry-exporter-otlp-proto-http": "OTLP over HTTP",
    "prometheus-client": "the text exposition format",
    "redis": "the Redis and Valkey protocol",
    "psycopg": "the PostgreSQL protocol",
    "tiktoken": "OpenAI's tokenizers",
}
"""Distributions that a plugin may require beside the kernel, and why. One is added together with a plugin's need."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def validate(plugin: Plugin) -> Iterable[Problem]:
    path = plugin.root / "pyproject.toml"
    wanted = Repo().requirement
    core = [line for line in plugin.project.get("dependencies", ()) if name_of(line) == "tianji-core"]
    extra = "[http]" if _uses_http(plugin) else ""
    if not plugin.ours:
        if not core or "<" not in core[0]:
            yield Problem("no bounded requirement on the kernel", f"tianji-core{extra}{wanted}", path)
        return
    if core != [f"tianji-core{extra}{wanted}"]:
        yield Problem(f"requires {core or 'no tianji-core'}", f'"tianji-core{extra}{wanted}"', path)
    for line in plugin.project.get("dependencies", ()):
        name = name_of(line)
        if name == "tianji-core":
            continue
        if name not in ALLOWED:
            yield Problem(
                f"{name} is not on the allow-list", "speak HTTP through the kernel, or argue in deps.py", path
            )
        elif not re.search(rf"^{re.escape(name)}==", (ROOT / "requirements.lock").read_text(), re.MULTILINE):
            yield Problem(f"{name} is not locked", "add it to requirements.in, then: make lock", path)


def name_of(requirement: str) -> str:
    """The distribution that a requirement names, in its normal form."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def _uses_http(plugin: Plugin) -> bool:
    """Whether the code reads `gateway.http`."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "http" and ast.unparse(node.value).endswith("gateway")
        for path in plugin.files
        for node in ast.walk(plugin.tree(path))
    )
