"""From a host name to a connected socket: cached name lookups, and a race over the addresses.

The race is https://www.rfc-editor.org/rfc/rfc8305 (happy eyeballs): address families alternate, and the next address
starts when the one before failed or was silent for 250 ms. It is written here because uvloop's `create_connection`
has none.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

Address = tuple[int, Any]
"""Address family and socket address, as `socket.connect` takes it."""

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

TTL = 20.0
"""Seconds that a lookup is good for. Providers move addresses; a move must be noticed within 30 s."""
MAX_NAMES = 1024
STAGGER = 0.25


async def system_resolve(host: str, port: int) -> list[Address]:
    """The operating system's answer, asked for in the loop's thread pool."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in infos]


class Names:
    """Addresses by (host, port). Simultaneous questions for one name share one lookup."""

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or system_resolve
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Addresses to try, families alternating; never empty.

        Raises:
            OSError: The name does not resolve.
        """
        key = (host, port)
        known = self._known.get(key)
        if known is not None and known[0] > monotonic():
            return known[1]
        lookup = self._asking.get(key)
        if lookup is None:
            lookup = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(key))
            lookup.add_done_callback(_retrieve)
        # Shielded, because whoever gives up must not take the answer from the others.
        return await asyncio.shield(lookup)

    async def _ask(self, key: tuple[str, int]) -> list[Address]:
        try:
            addresses = alternate(await self._resolve(*key))
            if not addresses:
                raise OSError("the name has no address")
            if len(self._known) >= MAX_NAMES:
                self._known.clear()
            self._known[key] = (monotonic() + TTL, addresses)
            return addresses
        finally:
            del self._asking[key]

    def forget(self, host: str, port: int) -> None:
        """Look the name up again next time: none of its addresses answered."""
        self._known.pop((host, port), None)

    def close(self) -> None:
        for lookup in list(self._asking.values()):
            lookup.cancel()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Look at a result that everybody may have stopped waiting for, so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()


def alternate(addresses: Sequence[Address]) -> list[Address]:
    """Families in turn, the preferred one first, otherwise in the given order and without repeats."""
    families: dict[int, deque[Address]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address[0], deque()).append(address)
    ordered: list[Address] = []
    while families:
        for family in list(families):
            ordered.append(families[family].popleft())
            if not families[family]:
                del families[family]
    return ordered


async def connect_one(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await loop.sock_connect(sock, where)
    except BaseException:
        # Later, because the loop takes its own hands off the descriptor in a callback that is still queued.
        loop.call_soon(sock.close)
        raise
    return sock


async def connect_any(addresses: Sequence[Address]) -> socket.socket:
    """The first socket that connects.

    Raises:
        OSError: The last failure, when every address failed.
    """
    if len(addresses) == 1:
        return await connect_one(addresses[0])
    waiting = deque(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    winner: socket.socket | None = None
    failure: BaseException | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(connect_one(waiting.popleft())))
            done, _ = await asyncio.wait(
                running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                failure = task.exception()
                if failure is not None:
                    running.discard(task)
                elif winner is None:
                    winner = task.result()
            if winner is not None:
                return winner
        raise failure or OSError("no address to connect to")
    finally:
        for task in running:
            task.add_done_callback(lambda lost: _close_loser(lost, winner))
            task.cancel()


def _close_loser(task: asyncio.Task[socket.socket], winner: socket.socket | None) -> None:
    if not task.cancelled() and task.exception() is None and task.result() is not winner:
        task.result().close()
