"""`serve`: one process, or a parent that forks workers after everything is loaded.

Forking after assembly makes workers cheap (their memory is shared) and alike (one configuration, one listening
socket). SIGHUP and a change of the configuration file reload; SIGTERM drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
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
    """uvicorn's server with the connection sweep beside it and, where `load` can read the file again, reload."""

    def __init__(
        self,
        config: uvicorn.Config,
        gateway: Gateway,
        load: Callable[[], Config] | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._load = load
        self._path = Path(path) if path else None
        self._reloading = asyncio.Lock()
        self._side: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        self._side.append(loop.create_task(sweep(self.server_state.connections), name="connection clocks"))
        if self._path is not None:
            self._side.append(loop.create_task(self._watch(self._path), name="configuration file"))
        if self._load is None:
            return
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.add_signal_handler(signal.SIGHUP, lambda: self._side.append(loop.create_task(self.reload())))

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
        while True:
            await asyncio.sleep(WATCH)
            now = _stamp(path)
            if now != seen and now is not None:
                seen = now
                await self.reload()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def serve(
    gateway: Gateway, *, host: str, port: int, workers: int, load: Callable[[], Config], path: str | None,
    grace: float = 30.0, ready: Callable[[str], Any] | None = None,
) -> int:  # fmt: skip
    """Serve until SIGTERM or SIGINT. `ready` is told the address once the socket is bound. Returns an exit status."""
    listener = bind(host, port)
    address = listener.getsockname()
    if ready is not None:
        ready(f"http://{address[0] if ':' not in address[0] else '[' + address[0] + ']'}:{address[1]}")
    if workers <= 1:
        return _worker(gateway, listener, load, path, grace)
    return _supervise(gateway, listener, workers, load, path, grace)


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
    gateway: Gateway, listener: socket.socket, load: Callable[[], Config], path: str | None, grace: float
) -> int:
    server = Server(server_config(gateway, grace), gateway, load, path)
    server.run(sockets=[listener])
    return 0 if server.started else 3


def _supervise(
    gateway: Gateway, listener: socket.socket, workers: int, load: Callable[[], Config], path: str | None, grace: float
) -> int:
    """Fork workers, pass signals on, replace a worker that dies, but not for ever where they die at once."""
    children: dict[int, float] = {}
    stopping = False

    def spawn() -> None:
        pid = os.fork()
        if pid == 0:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            status = 1
            try:
                status = _worker(gateway, listener, load, path, grace)
            except KeyboardInterrupt:
                status = 0
            finally:
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
            stopping = True
            continue
        spawn()
    return 0 if stopping and early == 0 else 3
