"""The command: `python -m bench` runs everything and prints the tables; `--help` lists the rest."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import ladder, peers, report
from bench.measure import ROOT, BenchError, steal_and_total
from bench.runs import FULL, QUICK, Plan, Row, Subject, measure_latency, measure_row, measure_starts, measure_workers

PAGE = ROOT / "docs" / "explanation" / "performance.md"
RESULTS = ROOT / "bench" / "results" / "latest.json"
EMPTY, FLOOR = "empty Litestar app", "the floor"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for. Status 0 even where a target is missed; 1 where the gateway itself gave no numbers."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What the gateway costs, beside its peers.")
    parser.add_argument("--quick", action="store_true", help="one short run of each, no peers: under a minute, rough")
    parser.add_argument(
        "--only",
        metavar="ROW",
        help="rows whose name contains this (bare, log, floor, litellm, …), or a section: start, workers, latency",
    )
    parser.add_argument("--json", metavar="PATH", type=Path, default=RESULTS, help="where the data goes")
    parser.add_argument("--write-docs", action="store_true", help="regenerate docs/explanation/performance.md")
    options = parser.parse_args(argv)
    if options.write_docs and (options.quick or options.only):
        parser.error("--write-docs needs a whole run: without --quick and --only")
    found = Benchmark(QUICK if options.quick else FULL, options.only or "", with_peers=not options.quick).run()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(found.to_json())
    if options.write_docs:
        report.write_page(found, PAGE)
    print(report.markdown(found))
    return 0 if any(row.status == report.MEASURED for row in found.ladder) or options.only else 1


class Benchmark:
    """One run: which rows and sections, for how long."""

    def __init__(self, plan: Plan, only: str, *, with_peers: bool) -> None:
        self._plan = plan
        self._only = only.lower()
        self._with_peers = with_peers
        self._report = report.Report()

    def run(self) -> report.Report:
        """Measure everything asked for."""
        load, ticks, began = os.getloadavg()[0], steal_and_total(), time.monotonic()
        with upstream() as port:
            self._floor(port)
            self._ladder(port)
            self._sections(port)
            if self._with_peers:
                self._peers(port)
        stolen, total = (after - before for before, after in zip(ticks, steal_and_total(), strict=True))
        self._report.meta = {
            "date": datetime.now(UTC).date().isoformat(),
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release().split('-')[0]}, {platform.python_implementation()} "
            f"{platform.python_version()}",
            "versions": versions(),
            "plugins": sum(len(names) for names in ladder.installed().values()),
            "load_before": round(load, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "steal_percent": round(100 * stolen / max(total, 1), 1),
            "runs": self._plan.runs,
            "quick": self._plan is QUICK,
            "seconds": round(time.monotonic() - began),
        }
        return self._report

    def _wanted(self, name: str) -> bool:
        return self._only in name.lower()

    def _row(self, subject: Subject, note: str, chunks: Sequence[str] = ()) -> Row:
        """Measure a row; a failure becomes the row's status."""
        progress(subject.name)
        try:
            return measure_row(subject, self._plan, note=note, chunks=chunks)
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            return Row(subject.name, status=f"failed: {tidy(error)}")

    def _floor(self, port: int) -> None:
        for subject, note, chunks in (
            (floor(EMPTY, "empty", port), "answers from a constant; no provider", ()),
            (floor(FLOOR, "forward", port), "decode, forward, encode; nothing else", ("openai",)),
        ):
            if self._wanted(subject.name):
                self._report.floor.append(self._row(subject, note, chunks))

    def _ladder(self, port: int) -> None:
        for step in ladder.steps(port):
            if step.governed:
                self._report.governed = step.rung.name
            if not self._wanted(step.rung.name):
                continue
            if step.subject is None:
                self._report.ladder.append(Row(step.rung.name, step.note, "not in this build"))
                continue
            full = step.rung.name == "bare" or step.rung.alone
            chunks = ladder.dialects() if full else ("openai",) if step.governed else ()
            self._report.ladder.append(self._row(step.subject, step.note, chunks))

    def _sections(self, port: int) -> None:
        bare = ladder.steps(port)[0].subject
        if bare is None:
            self._report.problems.append("start, workers and latency: the gateway is not in this build")
            return
        if any(row.name == "bare" and row.status != report.MEASURED for row in self._report.ladder):
            self._report.problems.append("start, workers and latency: the gateway gave no answer")
            return

        def starts() -> None:
            self._report.starts = measure_starts([bare, floor(EMPTY, "empty", port)], self._plan)

        def workers() -> None:
            self._report.workers = measure_workers(bare, self._plan)

        def latency() -> None:
            self._report.latency = measure_latency(bare, port, self._plan)

        sections: dict[str, Callable[[], None]] = {"start": starts, "workers": workers, "latency": latency}
        for name, section in sections.items():
            if not self._wanted(name):
                continue
            progress(name)
            try:
                section()
            except (BenchError, OSError, subprocess.SubprocessError) as error:
                self._report.problems.append(f"{name}: {tidy(error)}")

    def _peers(self, port: int) -> None:
        for peer in peers.peers(port):
            name = peer.subject.name if peer.subject else peer.name
            if not self._wanted(name):
                continue
            if peer.subject is None:
                self._report.peers.append(Row(peer.name, status=peer.note))
            else:
                self._report.peers.append(self._row(peer.subject, peer.note, list(peer.subject.models)))


def floor(name: str, app: str, upstream_port: int) -> Subject:
    """One of the two applications of `bench.floor` under uvicorn, with the gateway's own event loop and parser."""

    def command(port: int, workers: int, scratch: Path) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
        how = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        return [sys.executable, "-m", "uvicorn", f"bench.floor:{app}", *where, *how]

    return Subject(name, command, env={"BENCH_UPSTREAM_PORT": str(upstream_port)})


@contextmanager
def upstream() -> Iterator[int]:
    """The provider's process; its port."""
    process = subprocess.Popen([sys.executable, "-m", "bench.upstream"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.strip():
            raise BenchError("the benchmark's provider did not start")
        yield int(line)
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


def progress(what: str) -> None:
    """One line on standard error, so that the tables alone are on standard output."""
    print(f"measuring {what} …", file=sys.stderr, flush=True)


def tidy(error: Exception) -> str:
    """An error for a table cell: one line, no paths of this machine, no cell separators."""
    text = " ".join(str(error).split()).replace(f"{ROOT}/", "").replace("|", "/")
    return text[:240]


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Installed versions of what the numbers depend on."""
    found = {}
    for name in ("tianji-core", "litestar", "uvicorn", "uvloop", "httptools", "msgspec"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
