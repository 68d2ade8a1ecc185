"""What the tests of the client share: an upstream, a transport that is empty at the end, and a choice of event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from tianji.testing.upstream import Upstream
from tianji.transport import Transport


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    """Every test that uses it also asserts that no connection stayed active and nobody waits."""
    transport = Transport()
    yield transport
    assert all(s["active"] == 0 and s["pending"] == 0 for s in transport.stats().values()), transport.stats()
    await transport.aclose()


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a fresh loop of each kind. Whatever the loop complains of fails the test, except for TLS
    handshakes that the upstream's side of the loop did not see to their end: those are what some tests are about."""

    def runner(coroutine: Coroutine[Any, Any, Any]) -> Any:
        complaints: list[dict[str, Any]] = []

        async def watched() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            return await coroutine

        with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as loop:
            result = loop.run(watched())
        assert [c for c in complaints if "incoming connection" not in c["message"]] == []
        return result

    return runner
