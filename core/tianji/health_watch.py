"""Health between instances: what one worker or machine learns of a deployment, the others know about a second later.

Through the `KV` service, under `health:{deployment id}`: the change is written at once and off the request path, and
every second each instance reads the keys of all its deployments by one request. Times are epoch seconds there, so the
machines' clocks should agree to about a second. A store that fails or hangs costs nothing but the sharing.

What is left to chance: a probe is claimed here first and told to the others then. Until their next reading, so for at
most about a second, each of the others may claim one of its own; there is no more than one for each instance.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from socket import gethostname
from time import time
from typing import TYPE_CHECKING

import msgspec

from tianji.memory import MemoryKV
from tianji.model import Deployment, new_id
from tianji.services import KV

if TYPE_CHECKING:
    from tianji.gateway import Gateway

logger = logging.getLogger("tianji.health")

EVERY = 1.0
"""Seconds between two readings."""
PATIENCE = 2.0
"""Seconds for one request to the store."""
_MARGIN = 60.0
"""Seconds for which a note outlives what it says."""


class Note(msgspec.Struct, frozen=True):
    """What is written of one deployment. Moments are epoch seconds."""

    until: float
    """End of its time aside; 0 where it was brought back."""
    times: int = 0
    reason: str = ""
    by: str = ""
    """The instance that wrote it."""
    at: float = 0.0
    """When that happened."""
    probing: float = 0.0
    """Until when a probe of that instance keeps the others away; 0 where none is under way."""


class Sharing:
    """Writes and reads the notes. One per gateway; `attach` it to each configuration."""

    def __init__(self, gateway: Gateway, *, wall: Callable[[], float] = time) -> None:
        self.gateway = gateway
        self.wall = wall
        self.me = ""
        self._running = False
        self._changed: dict[str, None] = {}
        """Ids of which the others do not know yet, the oldest first; never more than there are deployments."""
        self._writing = False
        self._down = False

    def attach(self) -> None:
        """Share the health of the configuration in use, if it has a store that others see. Needs a running loop.

        What the configuration before knew of deployments that are gone is forgotten.
        """
        health = self.gateway.sealed.health
        health.prune()
        if self._store() is None:
            health.changed = None
            return
        health.changed = self.note
        if not self._running:
            self._running = True
            self.me = f"{gethostname()}/{new_id()}"
            self.gateway.every(EVERY, self.sync, name="share the health of deployments")

    def note(self, deployment_id: str) -> None:
        """A deployment was put aside, claimed for a probe or brought back: tell the others, in the background."""
        self._changed[deployment_id] = None
        if not self._writing:
            self._writing = True
            self.gateway.spawn(self._write(), name="tell the health of deployments")

    async def sync(self) -> None:
        """Tell what could not be told before, and take over what the others know."""
        store = self._store()
        if store is None:
            return
        if self._changed and not self._writing:
            self._writing = True
            await self._write()
        sealed = self.gateway.sealed
        deployments = sealed.router.deployments
        try:
            async with asyncio.timeout(PATIENCE):
                values = await store.many([_key(one.id) for one in deployments])
        except Exception as error:  # noqa: BLE001 - whatever ails a store must not ail the calls
            self._failed(error)
            return
        self._works()
        for deployment, value in zip(deployments, values, strict=False):
            if value is not None:
                self._take(deployment, value)

    def _store(self) -> KV | None:
        """The store, where it is one that other instances see and health is of any use."""
        if self.gateway.sealed.health.disabled:
            return None
        store = self.gateway.need(KV)  # type: ignore[type-abstract]  # anew: a reload may have replaced it
        return None if isinstance(store, MemoryKV) else store

    async def _write(self) -> None:
        try:
            store = self._store()
            while self._changed and store is not None:
                batch = list(self._changed)
                self._changed.clear()
                try:
                    async with asyncio.timeout(PATIENCE):
                        for one in batch:
                            await self._write_one(store, one)
                except Exception as error:  # noqa: BLE001
                    self._changed |= dict.fromkeys(batch)  # the next reading tries again, with what is true then
                    self._failed(error)
                    return
        finally:
            self._writing = False

    async def _write_one(self, store: KV, deployment_id: str) -> None:
        health = self.gateway.sealed.health
        state = health.states.get(deployment_id)
        if state is None:
            return
        now, wall = health.clock(), self.wall()
        note = Note(until=0.0, times=state.times, by=self.me, at=wall + state.changed_at - now)
        ttl = _MARGIN + 10.0 * state.lasted
        if state.aside:
            note = msgspec.structs.replace(
                note, until=wall + state.until - now, reason=state.reason,
                probing=wall + state.lease - now if state.lease > now else 0.0,
            )  # fmt: skip
            ttl = _MARGIN + max(0.0, state.until - now, state.lease - now)
        await store.set(_key(deployment_id), msgspec.json.encode(note), ttl)

    def _take(self, deployment: Deployment, value: bytes) -> None:
        try:
            note = msgspec.json.decode(value, type=Note)
        except (msgspec.DecodeError, TypeError):
            return  # another version's, or not ours: no reason to trust any of it
        if note.by == self.me:
            return
        sealed = self.gateway.sealed
        now = sealed.health.clock()
        ahead = now - self.wall()
        at = min(now, note.at + ahead)
        if not note.until:
            sealed.health.learn_back(deployment, at)
            return
        group = sealed.router.groups.get(deployment.group)
        sealed.health.learn(
            deployment,
            len(group.deployments) if group is not None else 1,
            until=note.until + ahead,
            lease=note.probing + ahead,
            times=note.times,
            reason=note.reason[:200],
            at=at,
        )

    def _failed(self, error: Exception) -> None:
        if not self._down:
            self._down = True
            logger.warning(
                "the store does not answer (%s); the health of deployments is not shared until it does",
                type(error).__name__,
            )

    def _works(self) -> None:
        if self._down:
            self._down = False
            logger.info("the store answers again; the health of deployments is shared")


def _key(deployment_id: str) -> str:
    return f"health:{deployment_id}"


__all__ = ["Note", "Sharing"]
