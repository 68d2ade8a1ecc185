"""Credentials that a machine or a container is given: the container endpoint (ECS, EKS) and the instance's (EC2).

Docs: https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html and
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html (version 2 only)
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tianji import BadCredentials, Failure, Secret, Unavailable, Wire, decode_json

from .sigv4 import Credentials
from .sts import Fetch

_ECS = "http://169.254.170.2"
_EC2 = "http://169.254.169.254"
_SECONDS = 2.0
_TRUSTED = frozenset({"localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
"""Hosts that may be asked for credentials without TLS."""


async def from_container(fetch: Fetch, environ: Mapping[str, str]) -> Credentials | None:
    """What the container's endpoint gives; None where there is no such endpoint."""
    relative, url = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), None
    if relative:
        url = f"{_ECS}/{relative.lstrip('/')}"
    elif full := environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        url = full
        parts = urlsplit(full)
        if parts.scheme != "https" and parts.hostname not in _TRUSTED:
            raise BadCredentials("AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor an address of this machine.")
    if url is None:
        return None
    headers = {"accept": "application/json"}
    if path := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        headers["authorization"] = read_token(path)
    elif token := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        headers["authorization"] = token
    status, _, raw = await fetch(Wire(url, headers, None, "GET"), _SECONDS)
    if status != 200:
        raise Unavailable(f"The container's credentials endpoint answered {status}.", code="container_credentials")
    return _read(raw, "The container's credentials endpoint")


async def from_instance(fetch: Fetch, environ: Mapping[str, str]) -> Credentials | None:
    """What the instance's role gives; None on a machine that is no instance, or that has no role."""
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    base = (environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _EC2).rstrip("/")
    roles = f"{base}/latest/meta-data/iam/security-credentials/"
    try:
        ttl = {"x-aws-ec2-metadata-token-ttl-seconds": "300"}
        status, _, raw = await fetch(Wire(f"{base}/latest/api/token", ttl, None, "PUT"), _SECONDS)
        if status != 200:
            return None
        headers = {"x-aws-ec2-metadata-token": raw.decode("latin-1").strip()}
        status, _, raw = await fetch(Wire(roles, headers, None, "GET"), _SECONDS)
        role = raw.decode("latin-1").strip().partition("\n")[0]
        if status != 200 or not role:
            return None
        status, _, raw = await fetch(Wire(roles + quote(role, safe=""), headers, None, "GET"), _SECONDS)
    except (Failure, OSError):
        return None  # nobody lives at that address: this is no EC2 instance
    if status != 200:
        raise Unavailable(f"The instance's metadata answered {status} for its role.", code="instance_credentials")
    return _read(raw, "The instance's metadata")


def _read(raw: bytes, who: str) -> Credentials:
    try:
        data: Any = decode_json(raw)
        expires = data.get("Expiration")
        return Credentials(
            data["AccessKeyId"],
            Secret(data["SecretAccessKey"]),
            Secret(data["Token"]) if data.get("Token") else None,
            None if expires is None else datetime.fromisoformat(expires).timestamp(),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Unavailable(f"{who} answered without credentials.", code="bad_credentials_answer") from None


def read_token(path: str) -> str:
    """The content of a token file, or a `BadCredentials` that names the file."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        raise BadCredentials(f"The token file {path} cannot be read.") from None
