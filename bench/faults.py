"""What clients see when providers fail: a matrix of faults, each met by a gateway with one deployment and with three.

Every cell is one request over sockets to a fresh gateway. The fault sits in the deployment that is tried first; where
there are three, the other two are well. `python -m bench.faults --write-docs` regenerates
`docs/explanation/faults.md` from a run; `tests/routing/test_faults.py` holds each cell to `expected`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from tianji.testing import Upstream
from tianji.testing.gateway import RunningGateway, gateway
from tianji.testing.upstream import Close, Reset, Send, Sleep, Stall, Step, chunked, message

PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "faults.md"
TIMEOUT = 0.3
"""Seconds: `timeout`, `stream_timeout` and `stream_idle_timeout` of the configuration."""
WORDS = ("All", " is", " well", ".")

_SSE = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}


def _answer() -> bytes:
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "".join(WORDS)}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
    }  # fmt: skip
    return message(200, {"content-type": "application/json"}, json.dumps(body).encode())


def _event(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _frames() -> list[bytes]:
    return [*(_event({"content": word}) for word in WORDS), _event({}, "stop"), b"data: [DONE]\n\n"]


def _stream(*, frames: int = 6, pause: float = 0.0) -> list[Step]:
    """The head of a stream and so many of its frames; the end of the body where they are all."""
    steps: list[Step] = [Send(message(200, _SSE, None))]
    for frame in _frames()[:frames]:
        steps += [Sleep(pause), Send(chunked(frame))] if pause else [Send(chunked(frame))]
    return [*steps, Send(chunked(b""))] if frames >= 6 else steps


def _error(status: int, **headers: str) -> list[Step]:
    body = json.dumps({"error": {"message": "scripted", "type": "server_error", "code": None}}).encode()
    return [Send(message(status, {"content-type": "application/json", **headers}, body))]


def _part(whole: bytes, rest: Step) -> list[Step]:
    return [Send(whole[: len(whole) - 40]), rest]


def _drip(stream: bool) -> list[Step]:
    """A piece every 50 ms, always within the idle clock and in all within the total one."""
    if stream:
        return _stream(pause=0.05)
    whole = _answer()
    third = len(whole) // 3
    pieces = (whole[:third], whole[third : 2 * third], whole[2 * third :])
    return [step for piece in pieces for step in (Sleep(0.05), Send(piece))]


Script = Callable[[bool], Sequence[Step]]
"""From whether a stream was asked for to what the provider does."""


@dataclass(frozen=True)
class Fault:
    """One row of the matrix."""

    name: str
    what: str
    script: Script | None = None
    times: int | None = None
    """Requests that meet it; None: all."""
    base: str = ""
    """Where the deployment leads instead of the scripted provider."""
    tls: bool = False


FAULTS = (
    Fault("reset", "the connection is reset", lambda stream: (Reset(),)),
    Fault("stall before headers", "the request is taken and nothing comes", lambda stream: (Stall(),)),
    Fault(
        "stall mid-answer",
        "half of the answer, then nothing",
        lambda stream: [*_stream(frames=2), Stall()] if stream else _part(_answer(), Stall()),
    ),
    Fault("429 storm", "429 with `retry-after: 1` for everybody", lambda stream: _error(429, **{"retry-after": "1"})),
    Fault("500 burst", "500 twice, then an answer", lambda stream: _error(500), times=2),
    Fault("slow drip", "the answer in pieces, 50 ms apart", _drip),
    Fault(
        "malformed",
        "200 with bytes that are not JSON",
        lambda stream: (
            [Send(message(200, _SSE, None)), Send(chunked(b"data: {oops\n\n")), Send(chunked(b""))]
            if stream
            else [Send(message(200, {"content-type": "application/json"}, b'{"oops'))]
        ),
    ),
    Fault(
        "truncated",
        "the connection is closed in the middle of the answer",
        lambda stream: [*_stream(frames=2), Close()] if stream else _part(_answer(), Close()),
    ),
    Fault("DNS failure", "the host has no address", base="http://no-such-host.invalid"),
    Fault("TLS failure", "a certificate that nobody trusts", tls=True),
)


@dataclass(frozen=True)
class Outcome:
    """What one request came to."""

    seen: str
    """`answer`, `answer in parts and an error event`, or the status and code of an error."""
    attempts: int
    """Requests that providers received or that failed on the way to them."""
    seconds: float
    text: str = ""


@asynccontextmanager
async def _setting(fault: Fault, deployments: int, stream: bool) -> AsyncIterator[RunningGateway]:
    """A gateway with the fault in the first of its deployments."""
    async with AsyncExitStack() as stack:
        bad = await stack.enter_async_context(Upstream(tls=fault.tls))
        good = await stack.enter_async_context(Upstream())
        for upstream in (bad, good):
            upstream.answer(lambda request: _stream() if _streams(request.body) else [Send(_answer())])
        if fault.script is not None:
            script = fault.script
            bad.answer(lambda request: script(_streams(request.body)), times=fault.times or 1000)
        bases = [fault.base or bad.url, good.url, good.url][:deployments]
        entries = [
            {
                "model_name": "chat",
                "tianji_params": {"model": "openai/m", "api_base": f"{base}/v1", "api_key": "sk-x", "order": order},
                "model_info": {"id": f"d{order}"},
            }
            for order, base in enumerate(bases)
        ]
        clocks = {"timeout": TIMEOUT, "stream_timeout": TIMEOUT, "stream_idle_timeout": TIMEOUT}
        config = {"model_list": entries, "router_settings": clocks}
        yield await stack.enter_async_context(gateway(config))


def _streams(body: bytes) -> bool:
    return b'"stream":true' in body.replace(b" ", b"")


async def meet(fault: Fault, *, stream: bool, deployments: int) -> Outcome:
    """One request against one fault."""
    async with _setting(fault, deployments, stream) as running:
        body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
        began = monotonic()
        async with running.client.stream("POST", "/v1/chat/completions", json=body) as response:
            raw = await response.aread()
        seconds = monotonic() - began
        records = running.gateway.pipeline.ledger.entries  # type: ignore[attr-defined]
        attempts = len([one for one in records if one.kind == "reserve"])
        seen, text = _seen(response.status_code, raw)
        return Outcome(seen, attempts, seconds, text)


def _seen(status: int, raw: bytes) -> tuple[str, str]:
    """What a client makes of an answer, and the text it got. Raises for one that is neither an answer nor an error."""
    if status != 200:
        error = json.loads(raw)["error"]
        return f"{status} `{error['code'] or error['type']}`", ""
    if not raw.startswith(b"data:"):
        return "answer", json.loads(raw)["choices"][0]["message"]["content"]
    payloads = [frame.removeprefix(b"data: ") for frame in raw.split(b"\n\n") if frame.startswith(b"data: ")]
    events = [json.loads(payload) for payload in payloads if payload != b"[DONE]"]
    text = "".join(one["delta"].get("content", "") for event in events for one in event.get("choices", ()))
    errors = [event["error"] for event in events if "error" in event]
    if bool(errors) == (payloads[-1] == b"[DONE]"):
        raise AssertionError(f"a stream ends with an error or with [DONE], not so: {raw[-300:]!r}")
    if errors:
        return f"part of the answer, then an error event `{errors[0]['code'] or errors[0]['type']}`", text
    return "answer", text


async def matrix() -> list[tuple[Fault, bool, int, Outcome]]:
    """Every cell, one after the other."""
    cells = []
    for fault in FAULTS:
        for stream in (False, True):
            for deployments in (1, 3):
                outcome = await meet(fault, stream=stream, deployments=deployments)
                cells.append((fault, stream, deployments, outcome))
    return cells


def page(cells: Sequence[tuple[Fault, bool, int, Outcome]]) -> str:
    """The page of the documentation."""
    rows = [
        f"| {fault.name}: {fault.what} | {'yes' if stream else 'no'} | {deployments} | {outcome.seen} "
        f"| {outcome.attempts} | {outcome.seconds:.2f} |"
        for fault, stream, deployments, outcome in cells
    ]
    return HEAD.format(timeout=TIMEOUT) + "\n".join(rows) + "\n"


HEAD = """<!-- Generated by `python -m bench.faults --write-docs`. -->

# What clients see when providers fail

Each line is one request to a gateway that was just started, over sockets, with the fault in the deployment that is
tried first; where there are three deployments, the other two are well. No fallbacks, no retries configured: three
attempts is what a call makes by itself. `timeout`, `stream_timeout` and `stream_idle_timeout` are {timeout:g} s, so a
stall costs that much. `tests/routing/test_faults.py` holds every line to its outcome.

A stream that broke after its first content is not begun again by itself: the client has a part of it. With
`router_settings.stream_commit_delay` the first moments are held back, so that more faults stay invisible, and with
`continue_streams` another deployment goes on where the first one stopped.

| fault | stream | deployments | the client sees | attempts | seconds |
|---|---|--:|---|--:|--:|
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write-docs", action="store_true", help=f"regenerate docs/explanation/{PAGE.name}")
    arguments = parser.parse_args()
    text = page(asyncio.run(matrix()))
    print(text)
    if arguments.write_docs:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
