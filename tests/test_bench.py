"""The benchmark counts what it claims to count. No timing is asserted here."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `bench` is a tool of the repository, not installed

from bench import ladder, load, report, upstream, wire
from bench.measure import Start
from bench.runs import ChunkCost, Latency, Row


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = await upstream.serve()
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


def chat(port: int, ask: wire.Directive, *, stream: bool, pieces: int, requests: int = 6) -> load.Job:
    body = wire.chat_body("any", ask, stream=stream).decode()
    return load.Job(port=port, body=body, pieces=pieces, stream=stream, connections=2, requests=requests)


async def test_whole_answers_are_counted(port: int) -> None:
    result = await load.execute(chat(port, wire.Directive(10), stream=False, pieces=10))
    assert (result.failures, result.requests, result.pieces, result.frames) == ({}, 6, 60, 0)
    assert 0 < result.p50_ms <= result.p99_ms


async def test_streamed_chunks_are_counted(port: int) -> None:
    result = await load.execute(chat(port, wire.Directive(7, 1, 200), stream=True, pieces=7))
    assert (result.failures, result.requests, result.pieces) == ({}, 6, 42)
    assert result.frames == 6 * (7 + 3)  # the role, the finish reason and [DONE] besides the content
    assert result.reads > result.requests  # the frames did not come as one piece


async def test_a_wrong_answer_is_a_failure(port: int) -> None:
    job = chat(port, wire.Directive(7), stream=True, pieces=8)
    result = await load.execute(job)
    assert result.requests == 0
    assert sum(result.failures.values()) == 6
    assert all(reason.startswith("7 pieces of 8") for reason in result.failures)
    nowhere = await load.execute(replace(job, path="/elsewhere"))
    assert nowhere.requests == 0
    assert nowhere.failures


async def test_a_refused_connection_ends_the_run(unused_tcp_port: int) -> None:
    result = await load.execute(chat(unused_tcp_port, wire.Directive(), stream=False, pieces=10))
    assert result.requests == 0
    assert any("cannot connect" in reason for reason in result.failures)


async def exchange(port: int, path: str, body: bytes, *, chunked: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    payload = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\n%s\r\nconnection: close\r\n\r\n" % (path.encode(), framing))
    await writer.drain()
    writer.write(payload)
    head = await reader.readuntil(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
    else:
        answer = await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_provider_speaks_three_dialects(port: int, chunked: bool) -> None:
    ask = b'{"prompt":"bench[c4,d0,p0]"'
    whole, streamed = ask + b"}", ask + b',"stream":true}'
    gemini = "/v1beta/models/gemini-2.5-flash:"
    for path, body, end in (
        ("/v1/chat/completions", streamed, b"data: [DONE]"),
        ("/v1/messages", streamed, b'"message_stop"'),
        (f"{gemini}streamGenerateContent?alt=sse", whole, b'"finishReason":"STOP"'),
    ):
        answer = await exchange(port, path, body, chunked=chunked)
        assert answer.count(wire.PIECE.encode()) == 4
        assert end in answer
    for path in ("/v1/chat/completions", "/v1/messages", f"{gemini}generateContent"):
        assert (await exchange(port, path, whole, chunked=chunked)).count(wire.PIECE.encode()) == 4


def test_the_prompt_carries_the_directive() -> None:
    ask = wire.Directive(200, 20, 10_000)
    assert len(ask.prompt()) == 170
    assert wire.directive(wire.chat_body("m", ask, stream=True)) == ask
    assert wire.directive(b"{}") == wire.Directive()


def test_quantiles_lie_within_a_bucket() -> None:
    histogram = load.Histogram()
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds / 1000)
    assert histogram.quantile(0.5) == pytest.approx(500, rel=0.02)
    assert histogram.quantile(0.99) == pytest.approx(990, rel=0.02)


def test_a_missing_plugin_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable = tmp_path / "tianji"
    executable.touch()
    monkeypatch.setenv("TIANJI_BENCH_COMMAND", str(executable))
    none: dict[str, set[str]] = {family: set() for family in ladder.FAMILIES}
    monkeypatch.setattr(ladder, "installed", lambda: {**none, "providers": {"openai"}, "callbacks": {"jsonl"}})
    steps = {step.rung.name: step for step in ladder.steps(1)}
    assert steps["+ limits"].subject is None
    assert "extension limits" in steps["+ limits"].note
    log = steps["+ log"]
    assert log.subject is not None
    assert "without: virtual key, limits, budget, ledger" in log.note
    assert not any(step.governed for step in steps.values())
    line = log.subject.command(4000, 2, tmp_path)
    assert line[1:] == [
        "serve",
        *("--config", str(tmp_path / "config.yaml")),
        *("--host", "127.0.0.1", "--port", "4000", "--workers", "2"),
    ]
    assert "records-0.jsonl" in (tmp_path / "config.yaml").read_text()


def test_verdicts_follow_the_numbers() -> None:
    bare = Row("bare", cpu_us=180.0, rss_mb=81.0, chunks={"openai": ChunkCost(51.0, 1.0)})
    found = report.Report(
        ladder=[bare],
        workers=[Row("bare", cpu_us=180.0), Row("bare", cpu_us=190.0)],
        starts={"bare": Start(1.2, 1.0), "empty Litestar app": Start(1.0, 0.9)},
        latency=Latency(21.0, 24.0, 22.0, 30.0),
    )
    verdicts = [target.verdict for target in report.targets(found)]
    assert verdicts == [
        *("met", "not measured", "not measured", "**missed**", "not measured", "not measured", "not measured"),
        *("met", "**missed**", "met", "met"),
    ]
    assert "| CPU a request, bare | ≤ 200 µs | 180 µs | met |" in report.tables(found)
