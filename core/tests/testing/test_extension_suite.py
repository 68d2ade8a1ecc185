"""The extension suite passes for a sound extension and fails for each fault that it is there to find."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tianji import Extension, PluginSettings, hookimpl
from tianji.errors import RateLimited, Unauthorized
from tianji.model import Call, Ingress, Principal
from tianji.services import KV
from tianji.testing import ExtensionSuite, FakeGateway, make_principal

Run = Callable[[type[Any]], dict[str, str]]


class Store:
    """A KV that must be opened."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] | None = None

    async def get(self, key: str) -> bytes | None:
        assert self.data is not None
        return self.data.get(key)

    async def many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [await self.get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None: ...

    async def delete(self, *keys: str) -> int:
        return 0


class Sound(Extension):
    """Provides a store, names callers, limits calls, notes records, and sweeps in the background."""

    name = "sound-extension"

    class Settings(PluginSettings, frozen=True):
        limit: int = 100
        """Calls at the same time."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.store = Store()
        self.running: list[str] = []
        self.noted = 0

    @hookimpl
    def configure(self, app: Any) -> None:
        app.provide(KV, self.store)
        app.add_section("sound", self.Settings)

    @hookimpl
    async def startup(self, gateway: Any) -> None:
        self.store.data = {}
        gateway.every(30.0, self.sweep, name="sweep")

    @hookimpl
    async def shutdown(self) -> None:
        self.store.data = None

    async def sweep(self) -> None:
        await self.store.get("x")

    @hookimpl
    async def identify(self, ingress: Ingress) -> Principal | None:
        credential = ingress.header("authorization")
        if credential is None or not credential.startswith("Bearer sound-"):
            return None
        raise Unauthorized("no such key")

    @hookimpl
    async def pre_call(self, call: Call) -> None:
        if len(self.running) >= self.settings.limit:
            raise RateLimited("too many calls")
        self.running.append(call.id)

        async def release() -> None:
            self.running.remove(call.id)

        call.defer(release)

    @hookimpl
    async def log(self, records: Any) -> None:
        self.noted += len(records)


class TestSound(ExtensionSuite):
    plugin = Sound


def changed(**methods: Any) -> type[ExtensionSuite]:
    cls = type("Changed", (Sound,), {"__doc__": "Broken.", "__module__": __name__, **methods})
    return type("Suite", (ExtensionSuite,), {"plugin": cls, "__module__": __name__})


def test_a_sound_extension_passes(failed: Run) -> None:
    assert failed(changed()) == {}


def test_bad_settings_are_found(failed: Run) -> None:
    suite = changed()
    suite.settings = {"limits": 1}
    assert "Object contains unknown field" not in failed(suite)["test_configure"], "the message speaks of settings"
    assert "limits" in failed(suite)["test_configure"]


def test_half_a_service_is_found(failed: Run) -> None:
    @hookimpl
    def configure(self: Any, app: Any) -> None:
        app.provide(KV, object())

    assert "lacks methods of KV" in failed(changed(configure=configure))["test_configure"]


def test_a_service_provided_twice_is_found(failed: Run) -> None:
    @hookimpl
    def configure(self: Any, app: Any) -> None:
        app.provide(KV, self.store)
        app.provide(KV, self.store)

    assert "test_configure" in failed(changed(configure=configure))


def test_io_in_configure_is_found(failed: Run) -> None:
    @hookimpl
    def configure(self: Any, app: Any) -> None:
        import socket

        with socket.socket() as one:
            one.connect_ex(("127.0.0.1", 9))

    assert "test_configure" in failed(changed(configure=configure))


def test_a_missing_service_is_found(failed: Run) -> None:
    from tianji.services import Tokenizer

    @hookimpl
    async def startup(self: Any, gateway: Any) -> None:
        gateway.need(Tokenizer)

    assert "Tokenizer" in failed(changed(startup=startup))["test_starts_and_stops_twice"]


def test_tasks_and_threads_left_over_are_found(failed: Run) -> None:
    stop = threading.Event()

    @hookimpl
    async def task(self: Any, gateway: Any) -> None:
        self.task = asyncio.get_running_loop().create_task(asyncio.sleep(0.2), name="forgotten")

    @hookimpl
    async def thread(self: Any, gateway: Any) -> None:
        threading.Thread(target=stop.wait, args=(5,), name="forgotten", daemon=True).start()

    try:
        for startup in (task, thread):
            assert "forgotten" in failed(changed(startup=startup))["test_starts_and_stops_twice"]
    finally:
        stop.set()


def test_a_fragile_shutdown_is_found(failed: Run) -> None:
    @hookimpl
    async def shutdown(self: Any) -> None:
        self.store.data.clear()
        self.store.data = None

    assert "test_stops_without_having_started" in failed(changed(shutdown=shutdown))


def test_a_failing_job_is_found(failed: Run) -> None:
    async def sweep(self: Any) -> None:
        raise KeyError("x")

    assert set(failed(changed(sweep=sweep))) == {"test_jobs_run"}


def test_a_guessed_identity_is_found(failed: Run) -> None:
    @hookimpl
    async def identify(self: Any, ingress: Ingress) -> Principal | None:
        try:
            raise ConnectionError("the database is down")
        except ConnectionError:
            return make_principal(role="proxy_admin")

    assert "test_identify_never_guesses" in failed(changed(identify=identify))


def test_a_failing_pre_call_is_found(failed: Run) -> None:
    @hookimpl
    async def pre_call(self: Any, call: Call) -> None:
        call.body["metadata"]["team"]

    assert set(failed(changed(pre_call=pre_call))) == {"test_an_ordinary_call_passes"}


def test_shared_state_is_found(failed: Run) -> None:
    shared: list[str] = []

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        Sound.__init__(self, *args, **kwargs)
        self.running = shared

    assert "self.running" in failed(changed(__init__=__init__))["test_instances_are_independent"]


def test_a_fragile_log_is_found(failed: Run) -> None:
    @hookimpl
    async def log(self: Any, records: Any) -> None:
        self.noted += sum(record.usage.total_tokens for record in records)

    assert set(failed(changed(log=log))) == {"test_log_takes_every_record"}


@pytest.mark.parametrize("argument", ["call", "ingresses"])
def test_a_wrong_argument_is_found(failed: Run, argument: str) -> None:
    namespace: dict[str, Any] = {"hookimpl": hookimpl}
    exec(f"@hookimpl\nasync def identify(self, {argument}): ...", namespace)
    found = failed(changed(identify=namespace["identify"]))
    assert argument in found["test_hooks_are_sealed_and_known"]


async def test_services_reach_the_gateway() -> None:
    suite = type("Suite", (ExtensionSuite,), {"plugin": Sound, "__module__": __name__})()
    extension, gateway = await suite.open()
    assert isinstance(gateway, FakeGateway)
    assert gateway.need(KV) is extension.store  # type: ignore[type-abstract]
    assert [job.name for job in gateway.jobs] == ["sweep"]
    await suite.close(extension, gateway)
