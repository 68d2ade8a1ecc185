"""Keeping a test on this machine and away from real credentials; the pytest plugin wraps tests in it.

The guard works on Python's `socket`. An event loop with sockets of its own (uvloop) is not covered by it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CREDENTIALS = re.compile(
    r"^(?:AWS_|AZURE_|GOOGLE_APPLICATION_CREDENTIALS$|VERTEXAI_|WATSONX_|DATABRICKS_|OPENAI_|ANTHROPIC_"
    r"|TIANJI_MASTER_KEY$|LITELLM_)"
    r"|_(?:API_KEY|API_BASE|API_TOKEN|ACCESS_KEY|ACCESS_KEY_ID|SECRET_KEY|AUTH_TOKEN|BASE_URL)$"
    r"|^(?:https?|all|no)_proxy$|^HF_TOKEN$|^GITHUB_TOKEN$",
    re.IGNORECASE,
)
"""Variables that providers, and HTTP clients, read without being asked to."""


class NetworkBlocked(RuntimeError):
    """A test reached for another machine. Not an OSError: code that handles those must not swallow it."""


@contextmanager
def scrubbed_environment() -> Iterator[None]:
    """Take the variables of `CREDENTIALS` away, and give them back."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if CREDENTIALS.search(name)}
    try:
        yield
    finally:
        os.environ.update(taken)


@contextmanager
def loopback_only() -> Iterator[None]:
    """Let Python's sockets connect, send and resolve on this machine only."""
    names = ("connect", "connect_ex", "sendto")
    originals = {name: getattr(socket.socket, name) for name in names}
    resolve = socket.getaddrinfo

    def guard(name: str) -> Any:
        original = originals[name]

        def guarded(self: socket.socket, *args: Any) -> Any:
            address = args[0] if name != "sendto" else args[-1]
            if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
                raise NetworkBlocked(f"a test tried to reach {address[0]!r}; {_MEND}")
            return original(self, *args)

        return guarded

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name and name.rstrip(".").endswith(".invalid"):
            # RFC 6761: never exists. Tests use it for "cannot be resolved", which needs no name server.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if name and not is_local(name, any_address=True):
            raise NetworkBlocked(f"a test tried to resolve {name!r}; {_MEND}")
        return resolve(host, *args, **kwargs)

    try:
        for name in names:
            setattr(socket.socket, name, guard(name))
        socket.getaddrinfo = getaddrinfo
        yield
    finally:
        socket.getaddrinfo = resolve
        for name in names:
            setattr(socket.socket, name, originals[name])


_MEND = "use tianji.testing.Upstream, or mark the test with @pytest.mark.allow_network"


def is_local(host: Any, *, any_address: bool = False) -> bool:
    """Whether a host is this machine. `any_address`: an address in digits will do, as resolving it asks nobody."""
    if isinstance(host, bytes):
        host = host.decode()
    if not isinstance(host, str) or host in ("", "localhost", "localhost.localdomain", "ip6-localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.endswith(".localhost")
    return any_address or address.is_loopback or address.is_unspecified
