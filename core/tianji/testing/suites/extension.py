"""`ExtensionSuite`: what every extension must do, whatever its hooks are about.

    class TestLimits(ExtensionSuite):
        plugin = Limits
        settings = {"window": 60}

An extension that needs services, a database or a peer provides them in `make_gateway`.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from tianji.errors import Failure, Forbidden, Unauthorized
from tianji.model import Ingress, Reply
from tianji.plugin import Extension, PluginSettings
from tianji.testing.builders import make_call, make_record
from tianji.testing.fakes import FakeAssembly, FakeGateway
from tianji.testing.purity import captured_logs, no_network
from tianji.testing.suites.base import Suite, arguments_for, assert_unseen, call_hook


class ExtensionSuite(Suite):
    """Subclass it with `plugin` and `settings`. Tests of a hook switch on when the extension implements it."""

    family = "extensions"
    plugin: type[Extension]

    def hook(self, extension: Any, name: str) -> Any:
        """An implemented hook, or a skipped test."""
        hook = getattr(extension, name, None)
        if not hasattr(hook, "tianji_impl"):
            pytest.skip(f"it does not implement {name}")
        return hook

    def assemble(self, extension: Any, gateway: FakeGateway) -> FakeAssembly:
        """Run `configure`, where there is one, and hand the provided services to the gateway, as the kernel does."""
        app = FakeAssembly(gateway.config)
        hook: Any = getattr(extension, "configure", None)
        if hasattr(hook, "tianji_impl"):
            with no_network("configure"):
                assert hook(**arguments_for(hook, {"app": app})) is None, "configure returns nothing"
        for service, implementation in app.provided.items():
            gateway.provide(service, implementation)
        return app

    async def open(self) -> tuple[Any, FakeGateway]:
        """A fresh extension, assembled and started, and its gateway. `close` is the other half."""
        gateway = self.make_gateway()
        extension = self.make_plugin(gateway)
        self.assemble(extension, gateway)
        await _run(extension, "startup", gateway)
        return extension, gateway

    async def close(self, extension: Any, gateway: FakeGateway) -> None:
        await _run(extension, "shutdown", gateway)
        await gateway.aclose()

    # -- assembly ------------------------------------------------------------------------------------------------------

    def test_configure(self) -> None:
        """`configure` fails, adds something that the kernel cannot use, or does I/O.

        Open connections in `startup`: `configure` also runs for `tianji check` and `tianji plugins`. A provided service
        has every method of its Protocol in `tianji.services`.
        """
        extension = self.make_plugin()
        app = self.assemble(extension, self.make_gateway())
        for service, implementation in app.provided.items():
            assert isinstance(implementation, service), f"{implementation!r} lacks methods of {service.__name__}"
        assert all(callable(command) for command in app.commands)
        for name, schema in app.sections.items():
            assert name.isidentifier(), f"{name!r} cannot be a section of the configuration"
            assert issubclass(schema, PluginSettings)

    def test_instances_are_independent(self) -> None:
        """Two instances share state through the class or the module; a reload assembles anew while calls still run.

        Make everything that changes in `__init__`.
        """
        first, second = self.make_plugin(), self.make_plugin()
        for name, value in vars(first).items():
            if isinstance(value, (dict, list, set)) and name not in ("settings", "gateway"):
                assert value is not getattr(second, name), f"self.{name} is one object for all instances"

    # -- life ----------------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_starts_and_stops_twice(self) -> None:
        """`startup` or `shutdown` fails, or something that was started goes on after `shutdown`.

        Start loops with `gateway.spawn` or `gateway.every`, which end with the gateway; close everything else that
        `startup` opened. Tests and reloads start an extension more than once in one process.
        """
        threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
        extension, gateway = await self.open()
        await self.close(extension, gateway)
        await _run(extension, "startup", gateway)
        await self.close(extension, gateway)
        await self.close(*await self.open())
        await asyncio.sleep(0)
        left = [task.get_name() for task in asyncio.all_tasks() - tasks]
        left += [thread.name for thread in set(threading.enumerate()) - threads if not _pooled(thread)]
        assert not left, f"still running after shutdown: {left}"

    @pytest.mark.asyncio
    async def test_stops_without_having_started(self) -> None:
        """`shutdown` fails when `startup` did not run, or stopped half-way: the error hides the first one."""
        extension, gateway = self.make_plugin(), self.make_gateway()
        self.assemble(extension, gateway)
        await self.close(extension, gateway)

    @pytest.mark.asyncio
    async def test_jobs_run(self) -> None:
        """A background job fails on its first turn, or shows a secret of the settings in the log."""
        extension, gateway = await self.open()
        with captured_logs() as lines:
            for job in gateway.jobs:
                assert job.seconds is not None
                assert job.seconds > 0, f"{job.name} would run without a pause"
                async with asyncio.timeout(5):
                    await job.run()
        assert_unseen(self.secret_values(), *lines)
        await self.close(extension, gateway)

    # -- the hooks of a call -------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "credential", [None, "", "Bearer", "Bearer not-a-key-of-anyone", "Basic eDp5", "Bearer a.b.c"]
    )
    async def test_identify_never_guesses(self, credential: str | None) -> None:
        """A request without a credential, or with one of nobody, got an identity.

        None means "not my kind of credential"; `Unauthorized` or `Forbidden` means "mine, and bad". No exception, and
        no missing database, becomes a principal.
        """
        extension, gateway = await self.open()
        hook = self.hook(extension, "identify")
        headers = {} if credential is None else {b"authorization": credential.encode()}
        ingress = Ingress("POST", "/v1/chat/completions", headers, "127.0.0.1")
        try:
            assert await call_hook(hook, ingress=ingress) is None
        except (Unauthorized, Forbidden):
            pass
        finally:
            await self.close(extension, gateway)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("streams", [False, True])
    async def test_an_ordinary_call_passes(self, streams: bool) -> None:
        """`pre_call` or `post_call` fails on an ordinary chat, with something else than a Failure.

        `pre_call` returns None or a Reply; `post_call` None or the reply to go on with; both may raise a Failure.
        """
        extension, gateway = await self.open()
        call = make_call({"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": streams})
        reply: Any = Reply({"id": "1", "object": "chat.completion", "model": "m", "choices": []})
        try:
            for name, offered in (("pre_call", {"call": call}), ("post_call", {"call": call, "reply": reply})):
                hook = getattr(extension, name, None)
                if hasattr(hook, "tianji_impl"):
                    answer = await call_hook(hook, **offered)
                    assert answer is None or isinstance(answer, Reply), f"{name} returned {answer!r}"
        except Failure as failure:
            assert_unseen(self.secret_values(), failure.body())
        finally:
            for undo in call.take_undo():
                await undo()
            for check in call.watched or ():
                if inspect.iscoroutine(check):
                    check.close()
            await self.close(extension, gateway)

    @pytest.mark.asyncio
    async def test_log_takes_every_record(self) -> None:
        """`log` fails on a finished call: all records of the batch would be retried and dropped in the end."""
        extension, gateway = await self.open()
        hook = self.hook(extension, "log")
        failed = make_record(
            status="failure", http_status=503, usage=None, cost=None, attempts=(), error={"class": "X"}
        )
        await call_hook(hook, records=(make_record(), failed))
        await self.close(extension, gateway)


async def _run(extension: Any, name: str, gateway: FakeGateway) -> None:
    hook = getattr(extension, name, None)
    if hasattr(hook, "tianji_impl"):
        await call_hook(hook, gateway=gateway)


def _pooled(thread: threading.Thread) -> bool:
    """The loop's own thread pool, which goes with the loop."""
    return thread.name.startswith("asyncio_")
