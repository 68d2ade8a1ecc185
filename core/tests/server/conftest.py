"""A gateway in front of one scripted upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from support import ANSWER, Pair, served

from tianji.testing.upstream import Upstream


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(Upstream())
        up.reply(json=ANSWER)
        yield Pair(await stack.enter_async_context(served(up)), up)
