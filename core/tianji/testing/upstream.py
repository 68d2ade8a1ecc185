"""A real loopback HTTP/1.1 server that does what a test tells it to, misbehaving included.

    async with Upstream() as up:
        up.reply(json={"ok": True})                                   # every path, every time
        up.reply(status=503, path="/v1/chat", times=2)                # twice, then the line above
        up.stream([b"data: 1\\n\\n", b"data: 2\\n\\n"], path="/sse")      # one chunk a frame
        up.script("/broken", [Send(b"HTTP/1.1 200 OK\\r\\n"), Reset()]) # byte by byte
        ...
        assert up.requests[0].json()["model"] == "m"
        await up.wait_disconnects(1)

It runs in the test's own event loop, on a random port of 127.0.0.1, and is gone when the block ends. Wire format:
https://www.rfc-editor.org/rfc/rfc9112. What it sends is not checked, so that it can be wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json as jsonlib
import socket
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from tianji.testing.certificate import certificate


@dataclass(frozen=True)
class Send:
    """Write bytes, and wait until the operating system has taken them. `each` cuts them into pieces of that size,
    with a turn of the event loop in between, so that the client sees them one by one."""

    data: bytes
    each: int | None = None


@dataclass(frozen=True)
class Sleep:
    """Do nothing for so many seconds. Ends early when the client leaves."""

    seconds: float


@dataclass(frozen=True)
class Stall:
    """Say nothing more until the client goes away. `WaitClosed` is the same."""


WaitClosed = Stall


@dataclass(frozen=True)
class Reset:
    """Close with a TCP RST."""


@dataclass(frozen=True)
class Close:
    """Close the connection cleanly (FIN), also in the middle of a message."""


@dataclass(frozen=True)
class HalfClose:
    """End our direction and keep reading the client's."""


Step = Send | Sleep | Stall | Reset | Close | HalfClose


@dataclass(frozen=True)
class Request:
    """One request as it arrived. Header names are in lower case; `path` has no query."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Which connection it came on, counted from 1."""

    def json(self) -> Any:
        return jsonlib.loads(self.body)


Answer = Callable[[Request], Sequence[Step]]


@dataclass
class _Rule:
    answer: Answer
    left: int | None
    early: bool = False


def message(status: int = 200, headers: Mapping[str, str] | None = None, body: bytes | None = b"") -> bytes:
    """The bytes of a response. With a `body` of None there is no `content-length` and nothing after the head."""
    lines = dict(headers or {})
    if body is not None:
        lines.setdefault("content-length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode("latin-1") + (body or b"")


def chunked(data: bytes) -> bytes:
    """One chunk of a chunked body; of b"", the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream:
    """See the module. With `tls`, a certificate for `127.0.0.1` and `upstream.test` is made with the `openssl`
    command; `client_ssl()` trusts it.

    Attributes:
        requests: What arrived, in order.
        closed: Connections that the client ended.
        sent: Bytes that `Send` handed to the operating system.
        connections: Connections that were ever opened.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.requests: list[Request] = []
        self.closed = 0
        self.sent = 0
        self.connections = 0
        self.tls = tls
        self.port = 0
        self._rules: dict[str | None, list[_Rule]] = {}
        self._peers: set[_Peer] = set()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    # -- what it answers

    def reply(
        self,
        *,
        status: int = 200,
        json: Any = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        path: str | None = None,
        times: int | None = None,
    ) -> None:
        """Answer with a whole message. `path` None means every path that has no rule of its own.

        Rules with `times` are used up in the order they were given; then the latest one without applies.
        """
        fields = dict(headers or {})
        if json is not None:
            body = jsonlib.dumps(json).encode()
            fields.setdefault("content-type", "application/json")
        steps = (Send(message(status, fields, body)),)
        self.answer(lambda _: steps, path=path, times=times)

    def stream(
        self,
        frames: Sequence[bytes],
        *,
        delay: float = 0.0,
        path: str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
    ) -> None:
        """Answer with a chunked body, one chunk a frame and `delay` seconds before each but the first."""
        fields = {"content-type": "text/event-stream", **(headers or {}), "transfer-encoding": "chunked"}
        steps: list[Step] = [Send(message(status, fields, None))]
        for number, frame in enumerate(frames):
            if delay and number:
                steps.append(Sleep(delay))
            steps.append(Send(chunked(frame)))
        steps.append(Send(chunked(b"")))
        self.answer(lambda _: steps, path=path, times=times)

    def script(self, path: str | None, steps: Sequence[Step], *, times: int | None = None, early: bool = False) -> None:
        """Answer with these steps. `early`: without reading the request's body first (the recorded body is empty)."""
        self.answer(lambda _: steps, path=path, times=times, early=early)

    def answer(self, make: Answer, *, path: str | None = None, times: int | None = None, early: bool = False) -> None:
        """Answer with the steps that `make` returns for the request."""
        self._rules.setdefault(path, []).append(_Rule(make, times, early))

    def _rule(self, path: str) -> _Rule:
        for key in (path, None):
            rules = self._rules.get(key, [])
            usable = [rule for rule in rules if rule.left] or [rule for rule in rules if rule.left is None][-1:]
            if usable:
                return usable[0]
        return _Rule(lambda _: (Send(message(404, body=b"nothing is scripted for this path")),), None)

    # -- its life

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def live(self) -> int:
        """Connections that are open now."""
        return len(self._peers)

    def client_ssl(self) -> ssl.SSLContext:
        """A client's context that trusts this server's certificate and nothing else."""
        return ssl.create_default_context(cafile=str(certificate()[0]))

    async def wait_disconnects(self, count: int, timeout: float = 5.0) -> None:
        """Wait until clients have ended `count` connections; `TimeoutError` when they do not."""
        await self._until(lambda: self.closed >= count, timeout)

    async def wait_requests(self, count: int, timeout: float = 5.0) -> None:
        """Wait until `count` requests have arrived."""
        await self._until(lambda: len(self.requests) >= count, timeout)

    async def _until(self, met: Callable[[], bool], timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while not met():
                self._changed.clear()
                await self._changed.wait()

    def drop_all(self) -> None:
        """Close every open connection from this side, idle ones too."""
        for peer in list(self._peers):
            peer.close()

    async def __aenter__(self) -> Self:
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*await asyncio.to_thread(certificate))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Peer(self), "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        tasks = [peer.task for peer in self._peers if peer.task is not None]
        for peer in list(self._peers):
            peer.finish()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


class _Peer(asyncio.Protocol):
    """One connection: collects bytes, and runs one task that reads requests and plays scripts."""

    def __init__(self, up: Upstream) -> None:
        self.up = up
        self.buffer = bytearray()
        self.gone = self.ours = False
        self.changed = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.up.connections += 1
        self.number = self.up.connections
        self.up._peers.add(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.changed.set()

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if not self.ours:
            self.up.closed += 1
        self.up._peers.discard(self)
        self.up._changed.set()
        self.changed.set()
        self.room.set()

    def close(self) -> None:
        self.ours = True
        self.transport.close()

    def finish(self) -> None:
        self.ours = True
        self.transport.abort()

    async def _serve(self) -> None:
        try:
            while not self.gone and not self.transport.is_closing():
                if not await self._exchange():
                    return
        except ConnectionError:
            return  # the client is gone

    async def _exchange(self) -> bool:
        """One request and its answer. False ends the connection's service."""
        head = await self._take_head()
        method, target, headers = _parse_head(head)
        path, _, query = target.partition("?")
        rule = self.up._rule(path)
        if rule.left is not None:
            rule.left -= 1
        body = b"" if rule.early else await self._take_body(headers)
        request = Request(method, path, query, headers, body, self.number)
        self.up.requests.append(request)
        self.up._changed.set()
        for step in rule.answer(request):
            if not await self._play(step):
                return False
        return not rule.early

    async def _play(self, step: Step) -> bool:
        if isinstance(step, Send):
            size = step.each or max(1, len(step.data))
            for start in range(0, len(step.data), size):
                await self._write(step.data[start : start + size], turn=step.each is not None)
        elif isinstance(step, Sleep):
            await self._wait(step.seconds)
        elif isinstance(step, Stall):
            await self._wait(None)
        elif isinstance(step, HalfClose):
            self.transport.write_eof()
        else:
            if isinstance(step, Reset):
                sock = self.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.finish()
            self.close()
            return False
        return True

    async def _write(self, data: bytes, *, turn: bool) -> None:
        if self.gone:
            raise ConnectionResetError
        self.transport.write(data)
        if not self.room.is_set():
            await self.room.wait()
        if turn:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        self.up.sent += len(data)

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            async with asyncio.timeout(seconds):
                await self._need(lambda: False)

    async def _need(self, enough: Callable[[], bool]) -> None:
        while not enough():
            if self.gone:
                raise ConnectionResetError
            self.changed.clear()
            await self.changed.wait()

    async def _take_head(self) -> bytes:
        await self._need(lambda: b"\r\n\r\n" in self.buffer)
        return self._cut(self.buffer.index(b"\r\n\r\n") + 4)

    async def _take_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._take_chunks()
        length = int(headers.get("content-length", "0"))
        await self._need(lambda: len(self.buffer) >= length)
        return self._cut(length)

    async def _take_chunks(self) -> bytes:
        body = b""
        while True:
            await self._need(lambda: b"\r\n" in self.buffer)
            size = int(self._cut(self.buffer.index(b"\r\n") + 2).split(b";")[0], 16)
            await self._need(lambda wanted=size + 2: len(self.buffer) >= wanted)  # type: ignore[misc]
            body += self._cut(size + 2)[:size]
            if not size:
                return body

    def _cut(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return method, target, headers
