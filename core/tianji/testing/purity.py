"""Catching impure code in the act: clock, randomness, environment, files and sockets raise while the guard is up."""

from __future__ import annotations

import builtins
import datetime
import io
import logging
import os
import random
import secrets
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, NoReturn
from unittest import mock


class Impure(AssertionError):
    """Raised at the very line that read something it must not. An AssertionError, so that it reads as a finding."""


_FORBIDDEN: tuple[tuple[ModuleType | type, tuple[str, ...], str], ...] = (
    (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"), "the clock"),
    (random, ("random", "randint", "randrange", "choice", "choices", "sample", "shuffle", "uniform", "getrandbits",
              "randbytes"), "a random number"),
    (secrets, ("token_hex", "token_bytes", "token_urlsafe", "choice", "randbelow"), "a random number"),
    (uuid, ("uuid1", "uuid4"), "a random number"),
    (os, ("urandom",), "a random number"),
    (os, ("getenv", "getenvb"), "the environment"),
    (socket, ("create_connection", "getaddrinfo", "gethostbyname"), "the network"),
    (socket.socket, ("connect", "connect_ex", "sendto"), "the network"),
    (builtins, ("open",), "a file"),
    (io, ("open",), "a file"),
)  # fmt: skip


@contextmanager
def no_network(what: str) -> Iterator[None]:
    """While open, connecting to anything or resolving a name raises `Impure`, also on this machine."""
    with ExitStack() as stack:
        for home, names, thing in _FORBIDDEN:
            for name in names if thing == "the network" else ():
                stack.enter_context(mock.patch.object(home, name, _trap(what, thing, name, "there it may do no I/O")))
        yield


@contextmanager
def nothing_impure(*modules: str, what: str = "this") -> Iterator[None]:
    """While open, reading a clock, a random number, the environment, a file or the network raises `Impure`.

    Args:
        modules: Names of the modules under test. What they imported by name (`from time import time`,
            `from os import environ`, `from datetime import datetime`) is replaced in them too.
        what: The subject of the message ("encode").
    """
    with ExitStack() as stack:
        swaps: list[tuple[Any, Any]] = [(os.environ, _Environment(what)), (datetime.datetime, _no_now(what))]
        for home, names, thing in _FORBIDDEN:
            for name in names:
                if (original := getattr(home, name, None)) is not None:
                    trap = _trap(what, thing, name)
                    swaps.append((original, trap))
                    stack.enter_context(mock.patch.object(home, name, trap))
        stack.enter_context(mock.patch.object(os, "environ", swaps[0][1]))
        stack.enter_context(mock.patch.object(datetime, "datetime", swaps[1][1]))
        for module in {sys.modules[name] for name in modules if name in sys.modules}:
            for name, value in list(vars(module).items()):
                for original, trap in swaps:
                    if value is original:
                        stack.enter_context(mock.patch.object(module, name, trap))
        yield


def _trap(
    what: str, thing: str, name: str, rule: str = "it must be a pure function of the call and the deployment"
) -> Callable[..., NoReturn]:
    def trap(*args: Any, **kwargs: Any) -> NoReturn:
        raise Impure(f"{what} reads {thing} ({name}); {rule}")

    return trap


class _Environment(Mapping[str, str]):
    """Stands where `os.environ` was; every question raises."""

    def __init__(self, what: str) -> None:
        self._trap = _trap(what, "the environment", "os.environ")

    def __getitem__(self, key: str) -> str:
        self._trap()

    def __iter__(self) -> Iterator[str]:
        self._trap()

    def __len__(self) -> int:  # noqa: PLE0303 - it never returns
        self._trap()


def _no_now(what: str) -> type:
    trap = staticmethod(_trap(what, "the clock", "datetime.now"))
    return type("datetime", (datetime.datetime,), {"now": trap, "utcnow": trap, "today": trap})


@contextmanager
def captured_logs() -> Iterator[list[str]]:
    """Everything logged meanwhile, at any level, as formatted text with tracebacks."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    root = logging.getLogger()
    handler, level = Collector(), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
