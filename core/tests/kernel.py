"""What the kernel's own tests share: a gateway without a server, a provider that follows a script, virtual time.

Nothing here opens a socket: calls go straight into the sealed pipeline, and their answers into a `Collector`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, TypeVar
from unittest import mock

from tianji.config import from_dict
from tianji.config.schema import Config
from tianji.discovery import Catalogue
from tianji.errors import Failure
from tianji.gateway import Gateway
from tianji.ledger import MemoryLedger
from tianji.model import Call, Chunk, Deployment, Op, Reply, Usage, new_id
from tianji.plugin import Plugin, PluginSettings, Provider
from tianji.testing import make_call, make_principal
from tianji.testing.gateway import add

T = TypeVar("T")
Script = Callable[[Call, Deployment], Awaitable[Reply]]
PRICES = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
"""Of every deployment below: 1,000 nano-dollars a token in, 2,000 a token out."""


class Scripted(Provider):
    """A provider without I/O. `script` answers; without one it says "ok" for 10 tokens in and 5 out."""

    name = "scripted"
    needs_key = False
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS})
    script: ClassVar[Script | None] = None
    asked: ClassVar[list[str]] = []
    """The upstream model of every attempt, in order."""

    class Settings(PluginSettings, frozen=True):
        pass

    async def call(self, call: Call, deployment: Deployment) -> Reply:
        type(self).asked.append(deployment.model)
        script = type(self).script
        return answer() if script is None else await script(call, deployment)


def scripted(script: Script | None = None) -> type[Scripted]:
    """A provider class of its own, so that tests do not see each other's attempts."""
    return type("Scripted", (Scripted,), {"script": staticmethod(script) if script else None, "asked": []})


def failing(*outcomes: Failure | None) -> type[Scripted]:
    """A provider whose attempts end in these failures, one after the other; None and what comes after: an answer."""
    left = list(outcomes)

    async def script(call: Call, deployment: Deployment) -> Reply:
        failure = left.pop(0) if left else None
        if failure is not None:
            raise failure
        return answer()

    return scripted(script)


def by_model(**outcomes: Callable[[], Failure] | None) -> type[Scripted]:
    """A provider that fails by the upstream model's name, always in the same way."""

    async def script(call: Call, deployment: Deployment) -> Reply:
        make = outcomes.get(deployment.model)
        if make is not None:
            raise make()
        return answer(deployment.model)

    return scripted(script)


def answer(text: str = "ok", usage: Usage | None = None) -> Reply:
    """A whole chat answer of 10 tokens in and 5 out."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply({"id": "1", "model": "m", "choices": [choice]}, usage=usage or Usage(10, 5), model="m")


def text_of(reply: Reply | None) -> str:
    assert reply is not None
    return str(reply.body["choices"][0]["message"]["content"])


class Upstream:
    """The source of a scripted stream, with what the pipeline wants to know of one."""

    def __init__(self, pieces: Iterable[str | Failure | Exception], pause: float = 0.0) -> None:
        self.pieces = list(pieces)
        self.pause = pause
        self.ended = False
        self.drained = False
        self.usage: Usage | None = None
        self.model: str | None = "m"
        self.delivered = 0
        self.finished = False

    def close(self) -> None:
        self.ended = True

    async def drain(self) -> None:
        self.drained = self.ended = self.finished = True
        self.usage = Usage(10, len(self.pieces))

    async def chunks(self) -> AsyncIterator[Chunk]:
        for piece in self.pieces:
            if self.pause:
                await asyncio.sleep(self.pause)
            if isinstance(piece, Exception):
                self.ended = True
                raise piece
            self.delivered += 1
            yield Chunk(events=[{"choices": [{"index": 0, "delta": {"content": piece}}]}])
        self.ended = self.finished = True
        self.usage = Usage(10, len(self.pieces))


def streamed(*pieces: str | Failure | Exception, pause: float = 0.0) -> Reply:
    """A streamed answer: 10 tokens in, one for each piece out."""
    upstream = Upstream(pieces, pause)
    reply = Reply(stream=upstream.chunks(), media_type="text/event-stream")
    reply.meter = reply.upstream = upstream
    return reply


class Collector:
    """A client's end that keeps what it is given. `leave_after` so many chunks the client is gone."""

    def __init__(self, *, leave_after: int | None = None, trace: list[str] | None = None) -> None:
        self.replied: Reply | None = None
        self.failure: Failure | None = None
        self.chunks: list[bytes] = []
        self.trace = trace if trace is not None else []
        self._leave_after = leave_after
        self.gone = False

    async def cut(self, call: Call, failure: Failure) -> None:
        self.failure = failure

    def release(self) -> bool:
        return self.gone

    async def reply(self, call: Call, reply: Reply) -> Failure | None:
        self.replied = reply
        if reply.stream is None:
            self.trace.append("bytes")
            return None
        try:
            async for chunk in reply.stream:
                if len(self.chunks) == self._leave_after:
                    self.gone = True
                    raise asyncio.CancelledError
                self.chunks.append(chunk.raw)
        except Failure as failure:
            return failure
        self.trace.append("bytes")
        return None

    async def refuse(self, call: Call, failure: Failure) -> None:
        assert self.failure is None
        self.failure = failure
        self.trace.append(f"refused {failure.status}")


def deployment(name: str = "group", model: str = "one", **params: Any) -> dict[str, Any]:
    info = params.pop("model_info", {})
    access = params.pop("access_control", {})
    return {
        "model_name": name,
        "tianji_params": {"model": f"scripted/{model}", **PRICES, **params},
        "model_info": {"id": f"{name}-{model}", **info},
        "access_control": access,
    }


def config(*deployments: Mapping[str, Any], **sections: Any) -> Config:
    tree: dict[str, Any] = {"model_list": list(deployments or (deployment(),)), **sections}
    tree["general_settings"] = {"master_key": "sk-master", **tree.get("general_settings", {})}
    return from_dict(tree, environ={})


def assembled(settings: Config, *plugins: type[Plugin]) -> Gateway:
    """A gateway of exactly these plugins and the scripted provider. Not started; nothing is open."""
    catalogue = Catalogue([])
    classes: tuple[type[Plugin], ...] = (Scripted, *plugins)
    for cls in classes:
        add(catalogue, cls)
    return Gateway(settings, catalogue)


def books(gateway: Gateway) -> MemoryLedger:
    ledger = gateway.pipeline.ledger
    assert isinstance(ledger, MemoryLedger)
    return ledger


def asking(model: str = "group", **given: Any) -> Call:
    """A chat call for a group. `options`, `headers`, `principal` and `dialect` are the builder's, the rest is body."""
    builder = {key: given.pop(key) for key in ("options", "headers", "principal", "dialect") if key in given}
    builder.setdefault("principal", make_principal())
    call = make_call({"model": model, "messages": [{"role": "user", "content": "Hello"}], **given}, **builder)
    call.id = call.call_id = new_id()
    return call


async def ask(gateway: Gateway, call: Call | None = None, *, collector: Collector | None = None) -> Collector:
    """Run one call through the pipeline in use; what its client got."""
    collector = collector or Collector()
    call = call or asking()
    call.snapshot = gateway.sealed
    await gateway.pipeline.run(call, collector)
    return collector


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time: when nothing is ready, its clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


_CLOCKS = ("asking", "attempts", "exchange", "log", "model", "pipeline", "retries")


def virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main` with a clock of its own, for the event loop and for every module of the kernel that reads one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        with ExitStack() as stack:
            for name in _CLOCKS:
                stack.enter_context(mock.patch(f"tianji.{name}.monotonic", loop.time))
            return runner.run(main(loop))
