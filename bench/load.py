"""The load generator: a closed loop of keep-alive connections that checks every answer, in its own process.

`python -m bench.load` reads one job as JSON from standard input and prints the result as JSON. Each connection sends
its next request when the last byte of the answer before it has come, so the offered load adapts to what the gateway
can do and nothing queues in here. An answer counts only if its status is 200 and it holds exactly the expected number
of content pieces (and, streamed, the terminator): a gateway that fails fast must not look fast.

HTTP/1.1 message framing: https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from dataclasses import asdict, dataclass, field
from typing import cast

import httptools
import uvloop

from bench.wire import PIECE

_PIECE = PIECE.encode()
_MAX_FAILURES = 50
_GRACE = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """What to send and what to expect.

    Either `seconds` (no new request after that many) or `requests` bounds the run.
    """

    port: int
    body: str
    pieces: int
    """Content pieces that each answer must hold."""
    stream: bool = False
    path: str = "/v1/chat/completions"
    headers: tuple[tuple[str, str], ...] = ()
    connections: int = 64
    seconds: float = 0.0
    requests: int = 0
    spread: float = 0.0
    """Seconds over which the connections' first requests are spread, so that they do not march in step."""

    def request(self) -> bytes:
        """The bytes of one request."""
        body = self.body.encode()
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines.append(f"content-length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class Result:
    """What came back. Latencies are in milliseconds, from the first byte sent to the last byte read."""

    requests: int = 0
    """Good answers."""
    failures: dict[str, int] = field(default_factory=dict)
    """Bad answers by reason, with the first bytes of the first of its kind."""
    seconds: float = 0.0
    """From the first request to the last answer."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    frames: int = 0
    """`data:` lines of server-sent events."""
    pieces: int = 0
    reads: int = 0
    """Reads of a socket; beside `frames` it shows whether frames arrived one by one."""


class Histogram:
    """Latencies in buckets 1 % wide, so that a run of any length takes the same memory."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0

    def add(self, seconds: float) -> None:
        bucket = int(math.log(max(seconds, 1e-6) * 1e6) * 100)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._total += 1

    def quantile(self, share: float) -> float:
        """Milliseconds under which that share of the answers lies; 0 without any."""
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= share * self._total:
                return math.exp((bucket + 0.5) / 100) / 1000
        return 0.0


class Run:
    """The state that the connections of one job share."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = job.request()
        self.result = Result()
        self.latencies = Histogram()
        self.loop = asyncio.get_running_loop()
        self.started = self.loop.time()
        self.ended = self.started
        self.failed = 0
        self._sent = 0
        self._open = job.connections
        self.done: asyncio.Future[None] = self.loop.create_future()

    def more(self) -> bool:
        """Claim one more request; False: the run is over."""
        if self.failed > _MAX_FAILURES:
            return False
        if self.job.seconds:
            return self.loop.time() - self.started < self.job.seconds
        self._sent += 1
        return self._sent <= self.job.requests

    def fail(self, reason: str) -> None:
        self.failed += 1
        failures = self.result.failures
        failures[reason] = failures.get(reason, 0) + 1

    def closed(self) -> None:
        """One connection has nothing left to do."""
        self._open -= 1
        if self._open == 0 and not self.done.done():
            self.done.set_result(None)


class Client(asyncio.Protocol):
    """One connection; httptools calls the `on_*` methods."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._sent_at = 0.0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiting:
            self._run.fail(f"connection lost: {exc or 'closed before the end of the answer'}")
            _connect(self._run)

    def data_received(self, data: bytes) -> None:
        self._run.result.reads += 1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._waiting = False
            self._run.fail(f"not HTTP: {error}")
            self._reconnect()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        run = self._run
        self._waiting = False
        body = b"".join(self._body)
        self._body.clear()
        now = run.loop.time()
        pieces = body.count(_PIECE)
        status = self._parser.get_status_code()
        if status != 200:
            run.fail(f"status {status}: {body[:300]!r}")
        elif pieces != run.job.pieces or (run.job.stream and b"data: [DONE]" not in body[-64:]):
            run.fail(f"{pieces} pieces of {run.job.pieces}: {body[:200]!r} … {body[-200:]!r}")
        else:
            run.result.requests += 1
            run.result.pieces += pieces
            run.result.frames += body.count(b"data:") if run.job.stream else 0
            run.latencies.add(now - self._sent_at)
            run.ended = now
        if self._parser.should_keep_alive():
            self._next()
        else:
            self._reconnect()

    def _next(self) -> None:
        if self._transport is None:
            return
        if not self._run.more():
            self._transport.close()
            self._run.closed()
            return
        self._waiting = True
        self._sent_at = self._run.loop.time()
        self._transport.write(self._run.request)

    def _reconnect(self) -> None:
        if self._transport is not None:
            self._transport.close()
        _connect(self._run)


async def _open(run: Run) -> None:
    try:
        await run.loop.create_connection(lambda: Client(run), "127.0.0.1", run.job.port)
    except OSError as error:
        run.fail(f"cannot connect: {error}")
        run.closed()


def _connect(run: Run) -> None:
    """Open one connection in the background; the run holds the task until it is done."""
    if run.failed > _MAX_FAILURES:
        run.closed()
        return
    task = run.loop.create_task(_open(run))
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)


_TASKS: set[asyncio.Task[None]] = set()


async def execute(job: Job) -> Result:
    """Run one job to its end in the current event loop. Never raises for a bad answer: see `Result.failures`."""
    run = Run(job)
    for number in range(job.connections):
        run.loop.call_later(job.spread * number / job.connections, _connect, run)
    try:
        await asyncio.wait_for(run.done, job.seconds + _GRACE)
    except TimeoutError:
        run.fail("no end: answers were still missing a minute after the last request")
    run.result.seconds = run.ended - run.started
    run.result.p50_ms = run.latencies.quantile(0.50)
    run.result.p99_ms = run.latencies.quantile(0.99)
    return run.result


def _main() -> None:
    fields = json.load(sys.stdin)
    fields["headers"] = tuple((name, value) for name, value in fields["headers"])
    print(json.dumps(asdict(uvloop.run(execute(Job(**fields))))))


if __name__ == "__main__":
    _main()
