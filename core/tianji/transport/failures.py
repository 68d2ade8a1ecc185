"""The failures of this package that are raised in more than one place. Messages name an origin and nothing else."""

from __future__ import annotations

import ssl

from tianji.errors import Timeout, Unavailable

_WHAT = {
    "connect_timeout": "did not accept a connection in time",
    "headers_timeout": "sent no response headers in time",
    "idle_timeout": "stopped sending in the middle of its response",
    "total_timeout": "did not finish within the total time allowed",
}


def timed_out(label: str, code: str) -> Timeout:
    return Timeout(f"{label} {_WHAT[code]}", code=code)


def closed() -> Unavailable:
    return Unavailable("the HTTP transport is closed", code="connection_error")


def reason(exc: BaseException) -> str:
    """Why, in a word or a sentence that contains no address, path or content."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message or "certificate verify failed"
    if isinstance(exc, OSError):
        return exc.strerror or type(exc).__name__
    return type(exc).__name__
