"""AWS Signature Version 4, in the `Authorization` header.

Docs: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import msgspec

from tianji import Secret, Wire, encode_json

_ALGORITHM = "AWS4-HMAC-SHA256"
_PORTS = {"http": 80, "https": 443}


class Credentials(msgspec.Struct, frozen=True):
    """An AWS identity. `expires` is in seconds since 1970; None: it does not say when."""

    access_key: str
    secret_key: Secret
    token: Secret | None = None
    expires: float | None = None


def sign(wire: Wire, credentials: Credentials, *, region: str, service: str, at: float) -> Wire:
    """The request with its body as bytes and signed; an `Authorization` that it had is replaced.

    Signed are the host, the content type and `x-amz-…`: whatever else a proxy on the way may touch stays out of it.

    Args:
        at: Seconds since 1970. AWS refuses a signature that is more than five minutes off.
    """
    body = wire.body if isinstance(wire.body, bytes) else b"" if wire.body is None else encode_json(wire.body)
    url = urlsplit(wire.url)
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {name.lower(): value for name, value in wire.headers.items() if name.lower() != "authorization"}
    headers["x-amz-date"] = stamp
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token.reveal()
    signed = {"host": _host(wire.url)}
    signed |= {name: value for name, value in headers.items() if name == "content-type" or name.startswith("x-amz-")}
    names = ";".join(sorted(signed))
    request = "\n".join(
        (
            wire.method,
            _path(url.path),
            _query(url.query),
            *(f"{name}:{' '.join(signed[name].split())}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + credentials.secret_key.reveal().encode()
    for part in (*scope.split("/"), to_sign):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"{credentials.access_key}/{scope}"
    headers["authorization"] = f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={key.hex()}"
    return Wire(wire.url, headers, body, wire.method, wire.framing)


def _host(url: str) -> str:
    """The `Host` that the transport sends: without the scheme's own port."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name
    return name if parts.port in (None, _PORTS.get(parts.scheme)) else f"{name}:{parts.port}"


def _path(path: str) -> str:
    """The canonical path. It is encoded once more than it is on the wire, as every service but S3 wants it."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    return quote("/" + "/".join(kept) + ("/" if kept and path.endswith("/") else ""), safe="/~")


def _query(query: str) -> str:
    """The canonical query: sorted by name, then by value, which is not the order of the joined pairs."""
    pairs = sorted(part.partition("=")[::2] for part in query.split("&") if part)
    return "&".join(f"{name}={value}" for name, value in pairs)
