"""Providers that fail under load: what share of clients notices, and how much more the providers are asked.

Two scenes, each against a gateway in a process of its own with three deployments of one group, under an open load: so
many requests begin each second, whatever the answers do.

    flapping   one deployment fails every request, one is up and down by turns of ten seconds, one is well
    coin       every attempt at any of the three fails with a chance of 10 %

`python -m bench.outage` runs both, and each without faults for comparison; `--write-docs` makes
`docs/explanation/outages.md` of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import yaml

from bench.measure import Server, free_port
from bench.runs import MASTER_KEY
from bench.wire import Directive, answer, chat_body
from tianji.errors import Failure
from tianji.model import Headers, Wire
from tianji.transport import Clocks, Transport

PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "outages.md"
RATE = 200.0
"""Requests a second."""
DELAY = 0.02
"""Seconds that a provider takes for an answer."""
TURN = 10.0
"""Seconds for which the flapping one is up, and then down."""
TARGETS = {"flapping": (0.999, 1.15), "coin": (0.995, 1.2)}
"""By scene: the least share of answers, and the most upstream calls for each request."""
MOST_P99 = 2.0
"""The 99th percentile of the flapping scene, in those of the run without faults."""


class Provider(asyncio.Protocol):
    """One deployment's upstream: an answer after `DELAY`, or at once a 500 where `fails` says so."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        self._site.calls += 1
        loop = asyncio.get_running_loop()
        if self._site.fails():
            self._write(self._site.failure)
        else:
            loop.call_later(DELAY, self._write, self._site.answer)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class Site:
    """A provider on a port, and how it behaves: `well`, `dead`, `flapping` or `coin`."""

    def __init__(self, behaviour: str, seed: int) -> None:
        self.behaviour = behaviour
        self.calls = 0
        self.port = 0
        self.answer = answer("openai", 10)
        body = b'{"error":{"message":"scripted failure","type":"server_error"}}'
        self.failure = (
            b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        self._random = random.Random(seed)
        self._began = monotonic()

    def fails(self) -> bool:
        if self.behaviour == "coin":
            return self._random.random() < 0.1
        if self.behaviour == "flapping":
            return int((monotonic() - self._began) / TURN) % 2 == 1
        return self.behaviour == "dead"

    async def serve(self) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(lambda: Provider(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server


@dataclass
class Result:
    """What a run came to."""

    name: str
    requests: int = 0
    answers: int = 0
    upstream: int = 0
    seconds: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def success(self) -> float:
        return self.answers / self.requests

    @property
    def ratio(self) -> float:
        """Upstream calls for each request."""
        return self.upstream / self.requests

    def quantile(self, share: float) -> float:
        """Milliseconds."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000.0


async def scene(name: str, behaviours: tuple[str, str, str], length: float) -> Result:
    """One run of `length` seconds."""
    sites = [Site(behaviour, seed) for seed, behaviour in enumerate(behaviours, 1)]
    servers = [await site.serve() for site in sites]
    entries = [
        {
            "model_name": "chat",
            "tianji_params": {
                "model": "openai/gpt-4o-mini", "api_base": f"http://127.0.0.1:{site.port}/v1", "api_key": "sk-x",
            },
        }
        for site in sites
    ]  # fmt: skip
    config = {"model_list": entries, "general_settings": {"master_key": MASTER_KEY}}
    with tempfile.TemporaryDirectory(prefix="tianji-outage-") as scratch:
        path = Path(scratch) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        port = free_port()
        command = [str(Path(sys.executable).parent / "tianji"), "serve", "--config", str(path), "--port", str(port)]
        server = Server(command, port=port, env={}, log=Path(scratch) / "log")
        try:
            await asyncio.to_thread(server.start, b"GET /health/liveness HTTP/1.1\r\nhost: x\r\n\r\n")
            result = await _load(name, port, length)
        finally:
            await asyncio.to_thread(server.stop)
    for listener in servers:
        listener.close()
    result.upstream = sum(site.calls for site in sites)
    return result


async def _load(name: str, port: int, length: float) -> Result:
    """Begin `RATE` requests a second for so long, and wait for the last of them."""
    result = Result(name)
    transport = Transport(max_connections=2000)
    headers = Headers({"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"})
    wire = Wire(f"http://127.0.0.1:{port}/v1/chat/completions", headers, chat_body("chat", Directive(), stream=False))
    clocks = Clocks(5.0, 60.0, 60.0)

    async def one() -> None:
        began = monotonic()
        try:
            async with await transport.send(wire, clocks=clocks) as response:
                raw = await response.read()
                status = str(response.status)
        except Failure as failure:
            status, raw = type(failure).__name__, b""
        result.requests += 1
        result.statuses[status] = result.statuses.get(status, 0) + 1
        if status == "200" and b'"finish_reason"' in raw:
            result.answers += 1
            result.seconds.append(monotonic() - began)

    running = set()
    start = monotonic()
    for number in range(int(length * RATE)):
        wait = start + number / RATE - monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    await transport.aclose()
    return result


async def run(length: float) -> list[Result]:
    """Both scenes, and the run without faults that they are compared with."""
    print(f"three runs of {length:g} s …", file=sys.stderr)
    return [
        await scene("none", ("well", "well", "well"), length),
        await scene("flapping", ("dead", "flapping", "well"), length),
        await scene("coin", ("coin", "coin", "coin"), length),
    ]


def verdicts(results: list[Result]) -> list[str]:
    """The targets that were missed."""
    by_name = {result.name: result for result in results}
    missed = []
    for name, (success, ratio) in TARGETS.items():
        if by_name[name].success < success:
            missed.append(f"{name}: {by_name[name].success:.4%} answers, at least {success:.1%} wanted")
        if by_name[name].ratio > ratio:
            missed.append(f"{name}: {by_name[name].ratio:.3f} upstream calls a request, at most {ratio:g} wanted")
    if by_name["flapping"].quantile(0.99) > MOST_P99 * by_name["none"].quantile(0.99):
        missed.append("flapping: the 99th percentile is more than twice that of the run without faults")
    return missed


def page(results: list[Result], length: float) -> str:
    """The page of the documentation."""
    rows = [
        f"| {NAMES[one.name]} | {one.requests} | {one.success:.3%} | {one.ratio:.3f} "
        f"| {one.quantile(0.5):.1f} | {one.quantile(0.99):.1f} |"
        for one in results
    ]
    missed = verdicts(results)
    verdict = "All targets are met." if not missed else "Missed: " + "; ".join(missed) + "."
    return HEAD.format(length=length, rate=RATE, rows="\n".join(rows), verdict=verdict)


NAMES = {
    "none": "no faults",
    "flapping": "one dead, one up and down every 10 s, one well",
    "coin": "every attempt fails with a chance of 10 %",
}
HEAD = """<!-- Generated by `python -m bench.outage --write-docs`. -->

# Outages under load

Three deployments of one model group, {rate:g} requests a second for {length:g} seconds, begun whether or not earlier
ones were answered. A provider answers after 20 ms, or fails at once with a 500. The gateway runs as it is installed:
no retries, cooldowns or fallbacks were configured. Percentiles are those of the answers.

| scene | requests | answered | upstream calls a request | p50 ms | p99 ms |
|---|--:|--:|--:|--:|--:|
{rows}

{verdict} They are: flapping ≥ 99.9 % answered with ≤ 1.15 upstream calls a request and a 99th percentile of at most
twice the one without faults; coin ≥ 99.5 % with ≤ 1.2.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.outage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="length of each run (120)")
    parser.add_argument("--write-docs", action="store_true", help=f"regenerate docs/explanation/{PAGE.name}")
    arguments = parser.parse_args()
    results = asyncio.run(run(arguments.seconds))
    text = page(results, arguments.seconds)
    print(text)
    for result in results:
        print(json.dumps({"name": result.name, "statuses": result.statuses}), file=sys.stderr)
    if arguments.write_docs:
        PAGE.write_text(text)
    return 1 if verdicts(results) else 0


if __name__ == "__main__":
    sys.exit(main())
