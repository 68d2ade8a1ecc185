"""`serve`: one process, or a parent that forks workers after everything is loaded.

Forking after assembly makes workers cheap (their memory is shared) and alike (one configuration, one listening
socket). SIGHUP and a change of the configuration file reload; SIGTERM drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvicorn

from tianji.config.schema import Config
from tianji.errors import TianjiError
from tianji.gateway import Gateway
from tianji.server.app import create_app
from tianji.server.protocol import TianjiProtocol, sweep

logger = logging.getLogger("tianji.server")

WATCH = 1.0
"""Seconds between looks at the configuration file."""


class Server(uvicorn.Server):
    """uvicorn's server with the connection sweep beside it and, where `load` can read the file again, reload.

    `since` is when the configuration was read, in nanoseconds since the epoch: a file that changed after it is read
    again. `parent` is the process to end with, for a worker.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        gateway: Gateway,
        load: Callable[[], Config] | None = None,
        path: str | None = None,
        since: int = 0,
        parent: int | None = None,
    ) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._load = load
        self._path = Path(path) if path else None
        self._since = since
        self._parent = parent
        self._reloading = asyncio.Lock()
        self._side: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._beside(sweep(self.server_state.connections), "connection clocks")
        if self._path is not None:
            self._beside(self._watch(self._path), "configuration file")
        if self._parent is not None:
            self._beside(self._end_with(self._parent), "parent")
        if self._load is None:
            return
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, lambda: self._beside(self.reload(), "reload"))

    def _beside(self, job: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(job, name=name)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._side:
            task.cancel()
        await super().shutdown(sockets)

    async def reload(self) -> None:
        """Read the configuration again. A bad one is logged and changes nothing."""
        async with self._reloading:
            try:
                if self._load is not None:
                    await self._gateway.reload(await asyncio.to_thread(self._load))
            except TianjiError as error:
                logger.error("the configuration was not reloaded: %s", error)
            except Exception:
                logger.exception("the configuration was not reloaded")
            else:
                logger.info("configuration reloaded: %s", self._gateway.config)

    async def _watch(self, path: Path) -> None:
        seen = _stamp(path)
        if seen is not None and seen[0] > self._since > 0:
            await self.reload()
        while True:
            await asyncio.sleep(WATCH)
            now = _stamp(path)
            if now != seen and now is not None:
                seen = now
                await self.reload()

    async def _end_with(self, parent: int) -> None:
        """Stop when the parent is gone: an orphan would hold the port, and nobody could stop it."""
        while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(WATCH)
        self.should_exit = True


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content or with the file in its place; first the time of the change."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ctime_ns, stat.st_size, stat.st_ino


def serve(
    gateway: Gateway, *, host: str, port: int, workers: int, load: Callable[[], Config], path: str | None,
    grace: float = 30.0, ready: Callable[[str], Any] | None = None, since: int = 0,
) -> int:  # fmt: skip
    """Serve until SIGTERM or SIGINT. `ready` is told the address once the socket is bound. Returns an exit status.

    `since` is when the configuration was read, in nanoseconds since the epoch.
    """
    listener = bind(host, port)
    address = listener.getsockname()
    if ready is not None:
        ready(f"http://{address[0] if ':' not in address[0] else '[' + address[0] + ']'}:{address[1]}")
    if workers <= 1:
        return _worker(gateway, listener, load, path, grace, since)
    return _supervise(gateway, listener, workers, load, path, grace, since)


def server_config(gateway: Gateway, grace: float) -> uvicorn.Config:
    """How uvicorn is to serve a gateway. Forwarded headers are not believed, and requests are not logged one by one."""
    return uvicorn.Config(
        create_app(gateway),
        http=TianjiProtocol,
        ws="none",
        loop="auto",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(grace),
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; `OSError` names what is wrong with the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def _worker(
    gateway: Gateway, listener: socket.socket, load: Callable[[], Config], path: str | None, grace: float, since: int,
    parent: int | None = None,
) -> int:  # fmt: skip
    server = Server(server_config(gateway, grace), gateway, load, path, since, parent)
    server.run(sockets=[listener])
    return 0 if server.started else 3


def _renewed(gateway: Gateway, load: Callable[[], Config], since: int) -> tuple[Gateway, int]:
    """A gateway for a worker that replaces another, and when its configuration was read.

    The parent's is as old as the start, for reloads happen in workers; it is used where there is nothing better.
    """
    now = time.time_ns()
    try:
        return Gateway(load(), gateway.catalogue, shared=gateway.shared), now
    except TianjiError as error:
        logger.error("the new worker begins with the configuration of the start: %s", error)
        return gateway, since


def _supervise(
    gateway: Gateway, listener: socket.socket, workers: int, load: Callable[[], Config], path: str | None, grace: float,
    since: int,
) -> int:  # fmt: skip
    """Fork workers, pass signals on, replace a worker that dies, but not for ever where they die at once."""
    children: dict[int, float] = {}
    stopping = gave_up = False
    parent = os.getpid()

    def spawn(*, again: bool = False) -> None:
        pid = os.fork()
        if pid == 0:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server that reloads is there
            status = 1
            try:
                own, read = _renewed(gateway, load, since) if again else (gateway, since)
                status = _worker(own, listener, load, path, grace, read, parent)
            except KeyboardInterrupt:
                status = 0
            finally:
                if gateway.shared is not None and os.getppid() != parent:  # nobody else is left to clear up
                    shutil.rmtree(gateway.shared, ignore_errors=True)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        children[pid] = time.monotonic()

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        tell(signal.SIGTERM)

    def tell(number: int) -> None:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, lambda number, frame: tell(signal.SIGHUP))
    for _ in range(workers):
        spawn()
    early = 0
    while children:
        try:
            pid, status = os.waitpid(-1, 0)
        except InterruptedError:
            continue
        except ChildProcessError:
            break
        born = children.pop(pid, None)
        if born is None or stopping:
            continue
        early = early + 1 if time.monotonic() - born < 5.0 else 0
        logger.error("worker %d ended with status %d", pid, os.waitstatus_to_exitcode(status))
        if early >= workers * 2:
            logger.error("workers end as soon as they start; giving up")
            tell(signal.SIGTERM)
            stopping = gave_up = True
            continue
        spawn(again=True)
    return 0 if stopping and not gave_up else 3
