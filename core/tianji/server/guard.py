"""The outermost ASGI application: refuses what must not reach a router.

The `Host` header is checked by grammar and, where configured, by name, before anything is matched; decisions are never
made on a URL rebuilt from it. Inference paths go from here to the data plane, all others to Litestar.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from tianji.errors import BadRequest
from tianji.gateway import Gateway
from tianji.server.data_plane import Lane
from tianji.server.egress import refuse
from tianji.server.link import LINK, ASGILink

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

_HOST = re.compile(rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?\.?|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_KNOWN = 1000


class Guard:
    """Checks each request's host, then passes it on."""

    def __init__(self, app: ASGIApp, gateway: Gateway, lane: Lane) -> None:
        self.app = app
        self._lane = lane
        self.gateway = gateway
        self._good: set[bytes] = set()
        self._checked_for: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            host = self._host(scope["headers"])
            sealed = self.gateway.sealed
            if self._checked_for is not sealed:
                self._good.clear()
                self._checked_for = sealed
            if host not in self._good:
                problem = self._problem(host)
                if problem:
                    await refuse(scope.get(LINK) or ASGILink(send), BadRequest(problem, param="host"))
                    return
                if len(self._good) < _KNOWN:
                    self._good.add(host)
            endpoint = self._lane.find(scope)
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _host(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The one Host header; empty for none, and for two."""
        found = b""
        for name, value in headers:
            if name == b"host":
                if found:
                    return b""
                found = value
        return found

    def _problem(self, host: bytes) -> str:
        if _HOST.fullmatch(host) is None:
            return "The Host header is missing, repeated or malformed."
        allowed = self.gateway.config.general_settings.allowed_hosts
        if allowed:
            name = host.decode("ascii").rsplit(":", 1)[0].lower() if b"]" not in host else host.decode("ascii").lower()
            if not any(
                name == one.lower() or (one.startswith("*.") and name.endswith(one[1:].lower())) for one in allowed
            ):
                return f"This gateway does not serve host '{name}' (general_settings.allowed_hosts)."
        return ""
