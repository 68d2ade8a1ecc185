"""Requests as bytes: where a URL leads, and the head that goes in front of the body.

Wire format: https://www.rfc-editor.org/rfc/rfc9112#section-3 (request line), https://www.rfc-editor.org/rfc/rfc3986
(URLs). Whatever could end a line early is refused here, before a connection is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from tianji.errors import BadRequest
from tianji.model import Headers, Wire, encode_json

MAX_TARGETS = 1024
"""Parsed URLs that are kept. Where every request has a URL of its own, the cache is emptied rather than grown."""

PORTS = {"http": 80, "https": 443}
BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})
"""Methods that say nothing about a body when they have none; the others send `content-length: 0`."""

FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te"})
"""Headers that belong to the connection. They follow from the URL and the body; a caller's are left out."""

_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_unprintable = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_not_a_url = re.compile(r"[^\x21-\x7e]").search
_host = re.compile(r"[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\]").fullmatch


@cache
def user_agent() -> str:
    """`tianji/<version>` of the installed distribution."""
    try:
        return f"tianji/{version('tianji-core')}"
    except PackageNotFoundError:
        return "tianji/0"


class Target:
    """A parsed URL. `key` names the origin; `label` is `host:port`, the only part of a URL that a message may show."""

    __slots__ = ("host", "key", "label", "path", "port", "post", "suffix", "tls")

    def __init__(self, *, scheme: str, host: str, port: int, path: str) -> None:
        self.host = host
        self.port = port
        self.tls = scheme == "https"
        name = f"[{host}]" if ":" in host else host
        self.label = f"{name}:{port}"
        self.key = f"{scheme}://{self.label}"
        self.path = path
        authority = name if port == PORTS[scheme] else self.label
        self.suffix = f" {path} HTTP/1.1\r\nhost: {authority}\r\n".encode("ascii")
        self.post = b"POST" + self.suffix


def parse_url(url: str) -> Target:
    """Where a URL leads. Credentials, blanks and control characters in it are refused; the message never quotes it."""
    if _not_a_url(url) or "\\" in url:
        raise BadRequest("The upstream URL contains a character that must be percent-encoded", code="invalid_url")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        raise BadRequest("The upstream URL is malformed", code="invalid_url") from None
    if parts.scheme not in PORTS:
        raise BadRequest("The upstream URL must begin with http:// or https://", code="invalid_url")
    authority = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.removesuffix(":")
    if "@" in parts.netloc or not host or not _host(authority):
        raise BadRequest("The upstream URL needs a plain host, without credentials", code="invalid_url")
    path = parts.path or "/"
    if parts.query:
        path = f"{path}?{parts.query}"
    return Target(scheme=parts.scheme, host=host, port=PORTS[parts.scheme] if port is None else port, path=path)


class Targets:
    """Parsed URLs, kept because a deployment asks for the same one every time."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, Target] = {}

    def __getitem__(self, url: str) -> Target:
        target = self._known.get(url)
        if target is None:
            target = parse_url(url)
            if len(self._known) >= MAX_TARGETS:
                self._known.clear()
            self._known[url] = target
        return target


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Header lines, names in lower case, with our `user-agent` and `accept-encoding` where none is given."""
    lines: dict[str, bytes] = {}
    for name, value in headers.items():
        if not _token(name):
            raise BadRequest("A request header has a name that is not a token", code="invalid_header")
        key = name.lower()
        if key in FRAMING:
            continue
        if _unprintable(value):
            raise BadRequest(f"The request header {key!r} contains a control character", code="invalid_header")
        try:
            raw = value.strip(" \t").encode("latin-1")  # bytes that arrived as latin-1 leave as the same bytes
        except UnicodeEncodeError:
            raw = value.strip(" \t").encode("utf-8")
        lines[key] = b"%b: %b\r\n" % (key.encode("ascii"), raw)
    if "user-agent" not in lines:
        lines["user-agent"] = f"user-agent: {user_agent()}\r\n".encode("ascii")
    # Inflating costs more CPU than the bytes it saves between data centres, so compression is for those who ask.
    lines.setdefault("accept-encoding", b"accept-encoding: identity\r\n")
    return b"".join(lines.values())


def header_block(headers: Mapping[str, str]) -> bytes:
    """`encode_headers`, remembered in `Headers.block` where the mapping is one."""
    if type(headers) is not Headers:
        return encode_headers(headers)
    block = headers.block
    if block is None:
        block = headers.block = encode_headers(headers)
    return block


def encode_request(wire: Wire, target: Target) -> bytes:
    """Head and body in one piece, so that a small request is one packet."""
    block = header_block(wire.headers)
    method = wire.method
    if method == "POST":
        start = target.post
    elif _token(method):
        start = method.encode("ascii") + target.suffix
    else:
        raise BadRequest("The request method is not a token", code="invalid_method")
    body = wire.body
    if body is None:
        if method in BODILESS:
            return b"%b%b\r\n" % (start, block)
        return b"%b%bcontent-length: 0\r\n\r\n" % (start, block)
    if isinstance(body, dict):
        body = encode_json(body)
        if b"\r\ncontent-type: " not in block and not block.startswith(b"content-type: "):
            return b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
                start, block, len(body), body,
            )  # fmt: skip
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (start, block, len(body), body)
