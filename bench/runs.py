"""What is measured of one server: CPU a request, CPU a streamed chunk, start, memory, workers and added latency.

Every number comes from a run in which every answer was right (`bench.load`); a run with one wrong answer raises.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.load import Job
from bench.measure import Sample, Server, Start, ask, free_port, middle_start, run_load
from bench.wire import Directive, chat_body

MASTER_KEY = "sk-bench-master-key-0000"
LONG, SHORT = 200, 10
PACE_US = 10_000
DELAY_MS = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a benchmark takes."""

    runs: int = 3
    """Repetitions of which the median counts."""
    seconds: float = 1.5
    """Length of one non-streaming run."""
    starts: int = 5
    latency_seconds: float = 2.0
    warmup: int = 1500
    long: int = LONG


FULL = Plan()
QUICK = Plan(runs=1, seconds=0.5, starts=1, latency_seconds=1.0, warmup=300, long=60)


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that serves OpenAI chat on a port."""

    name: str
    command: Callable[[int, int, Path], Sequence[str]]
    """The command line for a port, a number of workers and a scratch directory."""
    env: Mapping[str, str] = field(default_factory=dict)
    port_env: str = ""
    """The environment variable that carries the port, for a server that has no option for it."""
    models: Mapping[str, str] = field(default_factory=lambda: {"openai": "bench-openai"})
    """The model that a client names to reach each provider dialect."""
    token: str = MASTER_KEY
    prepare: Callable[[int, str], str] | None = None
    """After the start: given port and token, make the key that the load uses."""
    connections: int = 64
    stream_connections: int = 64
    """Few for a slow server: one that cannot keep pace would be handed several frames in one read and look cheap."""
    warmup: int = 0
    """Requests before the first measured one; 0: the plan's."""
    start_timeout: float = 60.0


@dataclass(slots=True)
class ChunkCost:
    """What one more streamed chunk costs."""

    cpu_us: float
    frames_per_read: float
    """Near 1: the chunks really arrived one by one."""


@dataclass(slots=True)
class Row:
    """One line of the report; what was not measured is None."""

    name: str
    note: str = ""
    status: str = "measured"
    """`measured`, `not in this build`, or `failed: …` / `not measured: …` with the reason."""
    cpu_us: float | None = None
    spread_us: tuple[float, float] | None = None
    """Lowest and highest of the runs."""
    rps: float | None = None
    rss_mb: float | None = None
    pss_mb: float | None = None
    chunks: dict[str, ChunkCost] = field(default_factory=dict)
    start_s: float | None = None
    start_cpu_s: float | None = None
    busiest_share: float | None = None
    """The part of the CPU that the busiest process took; 0.5 for two workers that share the work evenly."""


class Live:
    """A running server with the jobs that fit it."""

    def __init__(self, subject: Subject, server: Server, token: str) -> None:
        self.subject = subject
        self.server = server
        self._headers = (("authorization", f"Bearer {token}"),)

    def job(self, dialect: str, ask_for: Directive, *, stream: bool = False, connections: int, **bounds: float) -> Job:
        """A job for this server."""
        body = chat_body(self.subject.models[dialect], ask_for, stream=stream)
        return Job(
            port=self.server.port,
            body=body.decode(),
            pieces=ask_for.chunks if stream else min(ask_for.chunks, 10),
            stream=stream,
            headers=self._headers,
            connections=connections,
            seconds=bounds.get("seconds", 0.0),
            requests=int(bounds.get("requests", 0)),
            spread=bounds.get("spread", 0.0),
        )

    def warm_up(self, plan: Plan) -> None:
        """Fill pools and caches, uncounted."""
        connections = self.subject.connections
        self.server.run(
            self.job("openai", Directive(), connections=connections, requests=self.subject.warmup or plan.warmup)
        )

    def requests(self, plan: Plan) -> Sample:
        """Non-streaming chat as fast as it goes."""
        return self.server.run(
            self.job("openai", Directive(), connections=self.subject.connections, seconds=plan.seconds)
        )

    def chunk(self, dialect: str, plan: Plan) -> ChunkCost:
        """CPU of one more chunk: the difference between long and short streams, over the difference in chunks."""
        connections = self.subject.stream_connections
        costs, ratios = [], []
        for _ in range(plan.runs):
            short, long = (
                self.server.run(
                    self.job(
                        dialect,
                        Directive(chunks, 0, PACE_US),
                        stream=True,
                        connections=connections,
                        requests=connections * rounds,
                        spread=0.1,
                    )
                )
                for chunks, rounds in ((SHORT, 5), (plan.long, 1))
            )
            costs.append((long.cpu_us - short.cpu_us) / (plan.long - SHORT))
            ratios.append(long.result.frames / long.result.reads)
        return ChunkCost(median(costs), median(ratios))


@contextmanager
def running(subject: Subject, *, workers: int = 1) -> Iterator[tuple[Live, Start]]:
    """Start a subject in a scratch directory; stop it and remove the directory at the end."""
    with tempfile.TemporaryDirectory(prefix="tianji-bench-") as scratch:
        port = free_port()
        env = {**subject.env, subject.port_env: str(port)} if subject.port_env else subject.env
        directory = Path(scratch)
        server = Server(subject.command(port, workers, directory), port=port, env=env, log=directory / "log")
        live = Live(subject, server, subject.token)
        try:
            probe = live.job("openai", Directive(), connections=1, requests=1).request()
            began = server.start(probe, timeout=subject.start_timeout)
            if subject.prepare is not None:
                live = Live(subject, server, subject.prepare(port, subject.token))
            yield live, began
        finally:
            server.stop()


def _fill(row: Row, live: Live, samples: Sequence[Sample]) -> None:
    """Put the medians of the runs, and the memory after them, into a row."""
    costs = [sample.cpu_us for sample in samples]
    row.cpu_us = median(costs)
    row.spread_us = (min(costs), max(costs))
    row.rps = median(sample.result.requests / sample.result.seconds for sample in samples)
    row.busiest_share = median(sample.busiest / sample.cpu for sample in samples)
    memory = live.server.memory()
    row.rss_mb, row.pss_mb = memory.rss, memory.pss


def measure_row(subject: Subject, plan: Plan, *, note: str = "", chunks: Sequence[str] = ()) -> Row:
    """CPU a request, throughput, memory after load, and CPU a chunk for the named dialects."""
    row = Row(subject.name, note)
    with running(subject) as (live, began):
        row.start_s, row.start_cpu_s = began.wall, began.cpu
        live.warm_up(plan)
        samples = [live.requests(plan) for _ in range(plan.runs)]
        for dialect in chunks:
            row.chunks[dialect] = live.chunk(dialect, plan)
        _fill(row, live, samples)
    return row


def measure_workers(subject: Subject, plan: Plan) -> list[Row]:
    """The same load on one worker and on two, taking turns, so that a change on the machine meets both."""
    with running(subject) as (one, _), running(subject, workers=2) as (two, _):
        lives = (one, two)
        samples: tuple[list[Sample], list[Sample]] = ([], [])
        for live in lives:
            live.warm_up(plan)
        for _ in range(plan.runs):
            for live, taken in zip(lives, samples, strict=True):
                taken.append(live.requests(plan))
        rows = [Row(f"{subject.name}, {count} workers") for count in (1, 2)]
        for row, live, taken in zip(rows, lives, samples, strict=True):
            _fill(row, live, taken)
    return rows


def measure_starts(subjects: Sequence[Subject], plan: Plan) -> dict[str, Start]:
    """Seconds to the first answer, the subjects taking turns; one uncounted start each fills the page cache."""
    starts: dict[str, list[Start]] = {subject.name: [] for subject in subjects}
    for turn in range(plan.starts + 1):
        for subject in subjects:
            with running(subject) as (_, began):
                if turn or plan.starts == 1:
                    starts[subject.name].append(began)
    return {name: middle_start(times) for name, times in starts.items()}


@dataclass(slots=True)
class Latency:
    """Milliseconds for an answer that the provider gives after 20 ms, at 64 connections in a closed loop."""

    direct_p50: float
    direct_p99: float
    through_p50: float
    through_p99: float


def measure_latency(subject: Subject, upstream: int, plan: Plan) -> Latency:
    """The same load straight to the provider and through the gateway."""
    with running(subject) as (live, _):
        live.warm_up(plan)
        through = live.job(
            "openai", Directive(10, DELAY_MS, 0), connections=64, seconds=plan.latency_seconds, spread=DELAY_MS / 1000
        )
        direct = Job(
            port=upstream,
            body=through.body,
            pieces=through.pieces,
            connections=64,
            seconds=plan.latency_seconds,
            spread=DELAY_MS / 1000,
        )
        pairs = [(run_load(direct), run_load(through)) for _ in range(plan.runs)]
    straight, around = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return Latency(
        median(result.p50_ms for result in straight),
        median(result.p99_ms for result in straight),
        median(result.p50_ms for result in around),
        median(result.p99_ms for result in around),
    )


def post(port: int, path: str, token: str, body: bytes) -> str:
    """One POST with a bearer token; the whole answer as text."""
    job = Job(port=port, body=body.decode(), pieces=0, path=path, headers=(("authorization", f"Bearer {token}"),))
    return ask(port, job.request())
