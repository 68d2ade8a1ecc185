"""Processes and what they cost, from the operating system's own accounting.

CPU is user and system time of every process of the server's session, from `/proc/<pid>/stat`, including children that
have been waited for; the kernel keeps it exactly and shows it in ticks of 10 ms, so a run should burn a second or so.
Memory is `Rss` and `Pss` from `/proc/<pid>/smaps_rollup`.

https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
https://www.kernel.org/doc/html/latest/filesystems/proc.html
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO

from bench.load import Job, Result

ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLE = 0.4
"""Seconds after a run in which work put off (records, ledger) is still counted."""


class BenchError(Exception):
    """A measurement that cannot be trusted or made; the message is shown in the table."""


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from `exec` to the first answer with status 200, and the CPU burnt until then."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Memory:
    """MB (10⁶ bytes): the largest process by resident size, and the proportional size of all of them."""

    rss: float
    pss: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of load against one server."""

    result: Result
    cpu: float
    """CPU seconds of all its processes."""
    busiest: float
    """CPU seconds of the process that worked most."""

    @property
    def cpu_us(self) -> float:
        """CPU µs a request."""
        return self.cpu / self.result.requests * 1e6


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server under test, in a session of its own so that its workers can be found, counted and stopped."""

    def __init__(self, argv: Sequence[str], *, port: int, env: Mapping[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.port = port
        self._argv = list(argv)
        self._env = {"PATH": os.environ.get("PATH", ""), "HOME": str(log.parent), "LANG": "C.UTF-8", **env}
        self._log = log
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._out: IO[bytes] | None = None

    def start(self, request: bytes, *, timeout: float = 90.0) -> Start:
        """Start it and ask until the first 200; `BenchError` with the end of its log where none comes in time."""
        self._out = self._log.open("ab")
        began = time.monotonic()
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._out,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,
        )
        last = "no connection"
        while time.monotonic() - began < timeout:
            if self._process.poll() is not None:
                raise BenchError(f"ended with status {self._process.returncode} at start: {self.log_tail()}")
            last = ask(self.port, request)
            if last.startswith("HTTP/1.1 200"):
                return Start(time.monotonic() - began, self.cpu())
            time.sleep(0.005)
        raise BenchError(f"no answer 200 within {timeout:.0f} s (last: {last[:200]}): {self.log_tail()}")

    def log_tail(self) -> str:
        """The last line that it wrote."""
        text = self._log.read_text(errors="replace").strip() if self._log.exists() else ""
        return text.splitlines()[-1][:300] if text else "it wrote nothing"

    def pids(self) -> list[int]:
        """All live processes of its session."""
        if self._process is None:
            return []
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and _stat(int(entry))[3:4] == [str(self._process.pid)]:
                found.append(int(entry))
        return found

    def cpu_by_process(self) -> dict[int, float]:
        """CPU seconds by process id, waited-for children with their parent."""
        times = {}
        for pid in self.pids():
            fields = _stat(pid)
            if len(fields) > 14:
                times[pid] = sum(int(field) for field in fields[11:15]) / _TICKS
        return times

    def cpu(self) -> float:
        """CPU seconds of all its processes."""
        return sum(self.cpu_by_process().values())

    def memory(self) -> Memory:
        """What it holds now."""
        rss, pss = [0.0], 0.0
        for pid in self.pids():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:  # it ended meanwhile
                continue
            sizes = {line.split()[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.endswith(" kB")}
            rss.append(sizes.get("Rss:", 0.0))
            pss += sizes.get("Pss:", 0.0)
        return Memory(max(rss), pss)

    def stop(self) -> None:
        """Ask it to end; after ten seconds end its session."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                pass
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self._process is not None:
            self._process.wait(10)
        if self._out is not None:
            self._out.close()

    def run(self, job: Job) -> Sample:
        """Put one job on it. `BenchError` where a single answer was wrong."""
        before = self.cpu_by_process()
        result = run_load(job)
        time.sleep(_SETTLE)
        used = {pid: seconds - before.get(pid, 0.0) for pid, seconds in self.cpu_by_process().items()}
        if not used:
            raise BenchError(f"it died under load: {self.log_tail()}")
        return Sample(result, sum(used.values()), max(used.values()))


def _stat(pid: int) -> list[str]:
    """`/proc/<pid>/stat` after the command's name: [0] is the state, [3] the session; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def ask(port: int, request: bytes) -> str:
    """Send one request on a fresh connection; the answer as text, or why there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request)
            answer = b""
            while data := connection.recv(65536):
                answer += data
                head, found, body = answer.partition(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0].strip()
                if found and (len(body) >= int(length) if length.isdigit() else body.endswith(b"0\r\n\r\n")):
                    break
            return answer.decode(errors="replace")
    except OSError as error:
        return f"no connection: {error}"


def run_load(job: Job) -> Result:
    """Run a job in a process of its own. `BenchError` where an answer was wrong or none was right."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=job.seconds + 180,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"the load generator failed: {done.stderr.strip()[-300:]}")
    result = Result(**json.loads(done.stdout))
    if result.failures or not result.requests:
        reason, count = next(iter(result.failures.items()), ("no answer at all", 0))
        raise BenchError(f"{sum(result.failures.values())} wrong answers, such as ({count} ×) {reason}")
    return result


def middle_start(starts: Sequence[Start]) -> Start:
    """Medians of several starts."""
    return Start(median(start.wall for start in starts), median(start.cpu for start in starts))


def steal_and_total() -> tuple[int, int]:
    """Ticks that the hypervisor took away from this machine, and all ticks, since boot."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)
