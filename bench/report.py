"""What a benchmark found, as data, as Markdown for the terminal, and as the documentation's page on performance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import Start
from bench.runs import Latency, Row

MEASURED = "measured"
BUSY = 0.7
"""A load average above which a run is not trusted without a remark."""
DIALECTS = {"openai": "forwarded", "anthropic": "from Anthropic", "gemini": "from Gemini"}


@dataclass(slots=True)
class Report:
    """One run of the benchmark. What was not asked for, or is not in this build, is empty or None."""

    meta: dict[str, Any] = field(default_factory=dict)
    floor: list[Row] = field(default_factory=list)
    ladder: list[Row] = field(default_factory=list)
    governed: str | None = None
    """The rung on which everything that the governed target names is switched on."""
    peers: list[Row] = field(default_factory=list)
    workers: list[Row] = field(default_factory=list)
    """One row for each number of workers: 1, 2."""
    starts: dict[str, Start] = field(default_factory=dict)
    latency: Latency | None = None
    problems: list[str] = field(default_factory=list)
    """Why a section is missing."""

    def to_json(self) -> str:
        """The whole report, and the verdicts on the targets."""
        return json.dumps({**asdict(self), "targets": [asdict(target) for target in targets(self)]}, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and what became of it."""

    name: str
    limit: float
    value: float | None
    unit: str
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """`met`, `missed` or `not measured`."""
        if self.value is None:
            return "not measured"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "met" if met else "**missed**"


def targets(report: Report) -> list[Target]:
    """Every target of the architecture, with the value of this run where there is one."""
    rungs = {row.name: row for row in report.ladder if row.status == MEASURED}
    bare = rungs.get("bare", Row("bare"))
    governed = rungs.get(report.governed or "", Row("governed"))
    chunks = {name: cost.cpu_us for name, cost in bare.chunks.items()}
    routing = rungs.get("routing", Row("routing"))
    routed = {name: cost.cpu_us for name, cost in routing.chunks.items()}
    memory = [row.rss_mb for row in rungs.values() if row.rss_mb is not None]
    return [
        Target("CPU a request, bare", 200, bare.cpu_us, "µs"),
        Target("CPU a request, governed", 300, governed.cpu_us, "µs"),
        Target("CPU a request, all that routing can do", 300, routing.cpu_us, "µs"),
        Target("CPU a streamed chunk, forwarded", 50, chunks.get("openai"), "µs"),
        Target("CPU a streamed chunk, translated from Anthropic", 90, chunks.get("anthropic"), "µs"),
        Target("CPU a streamed chunk, translated from Gemini", 90, chunks.get("gemini"), "µs"),
        Target("CPU a streamed chunk, forwarded, all that routing can do", 50, routed.get("openai"), "µs"),
        Target("start to first answer, against an empty Litestar application", 1.4, start_ratio(report), "×"),
        Target("resident memory of a worker, the largest rung", 80, max(memory, default=None), "MB"),
        Target("two workers against one, by CPU", 1.8, scaling(report), "×", at_least=True),
        Target("added p99, 64 connections, 20 ms provider", 10, added_p99(report), "ms"),
    ]


def start_ratio(report: Report) -> float | None:
    """The gateway's start over the empty application's, by wall clock."""
    gateway, empty = report.starts.get("bare"), report.starts.get("empty Litestar app")
    return gateway.wall / empty.wall if gateway and empty else None


def scaling(report: Report) -> float | None:
    """How many times the requests that two workers answer with two CPU seconds against one worker with one."""
    if len(report.workers) != 2:
        return None
    one, two = (row.cpu_us for row in report.workers)
    return 2 * one / two if one and two else None


def added_p99(report: Report) -> float | None:
    """Milliseconds at the 99th percentile that the gateway adds to the provider's own."""
    latency = report.latency
    return latency.through_p99 - latency.direct_p99 if latency else None


def number(value: float | None, digits: int = 0) -> str:
    """A number for a table; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: numbers to the right; the first column, and a last one of prose, to the left."""
    align = ["---", *["--:"] * (len(head) - 2), "---" if head[-1] in {"what it is", "verdict"} else "--:"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, align, *rows))


def _request_rows(report: Report) -> list[list[str]]:
    rows = []
    for row in [*report.floor, *report.ladder, *report.peers]:
        low, high = row.spread_us or (None, None)
        spread = f"{number(low)}–{number(high)}" if row.spread_us else "–"
        note = row.note if row.status == MEASURED else f"{row.status}{': ' + row.note if row.note else ''}"
        rows.append([row.name, number(row.cpu_us), spread, number(row.rps), number(row.rss_mb), note])
    return rows


def _chunk_rows(report: Report) -> list[list[str]]:
    rows = []
    for row in [*report.floor, *report.ladder, *report.peers]:
        if row.chunks:
            costs = [number(row.chunks[name].cpu_us) if name in row.chunks else "–" for name in DIALECTS]
            per_read = max(cost.frames_per_read for cost in row.chunks.values())
            rows.append([row.name, *costs, number(per_read, 2)])
    return rows


def tables(report: Report) -> str:
    """All tables, each under its heading."""
    parts = [
        "## Requests\n",
        table(
            ["", "CPU µs a request", "lowest–highest", "requests/s", "RSS MB", "what it is"],
            _request_rows(report),
        ),
    ]
    if chunk_rows := _chunk_rows(report):
        parts += ["\n## Streaming, CPU µs a chunk\n", table(["", *DIALECTS.values(), "frames a read"], chunk_rows)]
    starts = {
        **report.starts,
        **{row.name: Start(row.start_s, row.start_cpu_s or 0.0) for row in report.peers if row.start_s},
    }
    if starts:
        lines = [[name, number(start.wall, 2), number(start.cpu, 2)] for name, start in starts.items()]
        parts += ["\n## Start to first answer\n", table(["", "seconds", "CPU seconds"], lines)]
    if report.workers:
        lines = [
            [str(count), number(row.cpu_us), number(row.rps), number(row.pss_mb), number(row.busiest_share, 2)]
            for count, row in enumerate(report.workers, 1)
        ]
        head = ["workers", "CPU µs a request", "requests/s", "PSS MB, all", "busiest worker's share"]
        parts += ["\n## Workers\n", table(head, lines)]
    if report.latency:
        found = report.latency
        lines = [
            ["straight to the provider", number(found.direct_p50, 1), number(found.direct_p99, 1)],
            ["through the gateway", number(found.through_p50, 1), number(found.through_p99, 1)],
        ]
        parts += ["\n## Latency with a provider that takes 20 ms\n", table(["", "p50 ms", "p99 ms"], lines)]
    parts += ["\n## Targets\n", _target_table(report)]
    if report.problems:
        parts += ["\n## Not measured\n", *(f"- {problem}" for problem in report.problems)]
    return "\n".join(parts) + "\n"


def _target_table(report: Report) -> str:
    lines = []
    for target in targets(report):
        digits = 2 if target.unit == "×" else 1 if target.unit == "ms" else 0
        sign = "≥" if target.at_least else "≤"
        limit = f"{sign} {target.limit:g} {target.unit}"
        value = f"{number(target.value, digits)} {target.unit}" if target.value is not None else "–"
        lines.append([target.name, limit, value, target.verdict])
    return table(["target", "limit", "measured", "verdict"], lines)


def _machine(meta: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in meta.get("versions", {}).items())
    return (
        f"{meta.get('date', '')} · {meta.get('cpu', '')}, {meta.get('cores', '')} cores · {meta.get('system', '')} · "
        f"{versions} · {meta.get('plugins', 0)} plugins installed · load average {meta.get('load_before', '')} before "
        f"and {meta.get('load_after', '')} after · {meta.get('steal_percent', '')} % of the CPU taken by the "
        f"hypervisor · runs of each: {meta.get('runs', '')}, the median shown{_doubts(meta)}"
    )


def _doubts(meta: dict[str, Any]) -> str:
    """What a reader should know before trusting the numbers."""
    doubts = ""
    if meta.get("quick"):
        doubts += " · a quick run: rough numbers"
    if meta.get("load_before", 0) > BUSY:
        doubts += " · the machine was busy with other work before the run, which makes CPU times longer than they are"
    return doubts


def markdown(report: Report) -> str:
    """What the terminal shows."""
    return f"{_machine(report.meta)}\n\n{tables(report)}"


def write_page(report: Report, path: Path) -> None:
    """Regenerate the documentation's page."""
    template = (Path(__file__).parent / "page.md").read_text()
    page = template.replace("{{machine}}", _machine(report.meta)).replace("{{tables}}", tables(report).rstrip())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
