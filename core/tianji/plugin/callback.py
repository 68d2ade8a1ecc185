"""Callbacks: where finished calls go. The author writes `export`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from tianji.hookspecs import hookimpl
from tianji.model import Record
from tianji.plugin.base import Plugin


class Callback(Plugin):
    """Sends records somewhere.

    The kernel queues, batches, retries, and opens a circuit around each callback; `export` does its one thing once and
    raises when it did not work. It runs off the request path and never slows a call.
    """

    family: ClassVar[str] = "callbacks"
    wants_content: bool = False
    """Records shall carry the request and the response. Off: the kernel does not keep them."""

    async def export(self, records: Sequence[Record]) -> None:
        """Deliver one batch (1 to 512 records), in the order in which the calls ended."""
        raise NotImplementedError

    @final
    @hookimpl
    async def log(self, records: Sequence[Record]) -> None:
        await self.export(records)
