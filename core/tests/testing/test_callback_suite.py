"""The callback suite passes for sound callbacks and fails for each fault that it is there to find."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from tianji import Callback, PluginSettings, Secret
from tianji.hookspecs import hookimpl
from tianji.model import Record, encode_json
from tianji.testing import CallbackSuite

Run = Callable[[type[Any]], dict[str, str]]


def said(record: Record, *, content: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"id": record.id, "cost": None if record.cost is None else record.cost.nano}
    if content:
        line |= {"request": record.request, "response": (record.response or b"").decode()}
    return line


class Hook(Callback):
    """Posts batches to an address."""

    name = "hook"

    class Settings(PluginSettings, frozen=True):
        url: str = "https://hooks.example.invalid/in"
        """Where to."""
        token: Secret = Secret("canary-of-the-hook")
        """Sent as a bearer token."""

    settings: Settings

    async def export(self, records: Sequence[Record]) -> None:
        await self.post([said(record, content=self.wants_content) for record in records])

    async def post(self, lines: Any, url: str | None = None) -> None:
        headers = {"authorization": f"Bearer {self.settings.token.reveal()}"}
        reply = await self.gateway.http.post(url or self.settings.url, content=encode_json(lines), headers=headers)
        reply.raise_for_status()


class Counter(Callback):
    """Counts in memory and sends nothing."""

    name = "counter"

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.seen = 0

    async def export(self, records: Sequence[Record]) -> None:
        self.seen += len(records)


class TestHook(CallbackSuite):
    plugin = Hook


class TestCounter(CallbackSuite):
    plugin = Counter


def changed(base: type[Callback] = Hook, **methods: Any) -> type[CallbackSuite]:
    cls = type("Changed", (base,), {"__doc__": "Broken.", "__module__": __name__, **methods})
    return type("Suite", (CallbackSuite,), {"plugin": cls, "__module__": __name__})


def test_sound_callbacks_pass(failed: Run, verdicts: Callable[[type[Any]], dict[str, str]]) -> None:
    assert failed(changed()) == {}
    assert failed(changed(wants_content=True)) == {}
    assert failed(changed(Counter)) == {}
    assert verdicts(changed(Counter))["test_a_failed_peer_is_an_exception"].startswith("skipped")
    assert verdicts(changed())["test_a_failed_peer_is_an_exception"] == "passed"


def test_swallowed_failures_are_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        with contextlib.suppress(Exception):
            await Hook.export(self, records)

    assert set(failed(changed(export=export))) == {"test_a_failed_peer_is_an_exception"}


def test_an_unread_status_is_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        await self.gateway.http.post(self.settings.url, content=encode_json([record.id for record in records]))

    assert set(failed(changed(export=export))) == {"test_a_failed_peer_is_an_exception"}


def test_own_retries_are_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        try:
            await Hook.export(self, records)
        except Exception:
            await Hook.export(self, records)

    assert "retried by itself" in failed(changed(export=export))["test_a_failed_peer_is_an_exception"]


def test_kept_records_are_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        self.history = [*getattr(self, "history", ()), *records]

    assert set(failed(changed(export=export))) == {"test_records_are_not_changed_or_kept"}


def test_changed_records_are_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        for record in records:
            record.metadata["exported"] = True
        await Hook.export(self, records)

    assert set(failed(changed(export=export))) == {"test_records_are_not_changed_or_kept"}


def test_leaked_content_is_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        await self.post([said(record, content=True) for record in records])

    assert set(failed(changed(export=export))) == {"test_content_only_where_wanted"}


def test_content_that_is_wanted_and_dropped_is_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        await self.post([said(record, content=False) for record in records])

    assert set(failed(changed(export=export, wants_content=True))) == {"test_content_only_where_wanted"}


def test_fragile_export_is_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        await self.post([record.usage.input_tokens * record.cost.nano for record in records])  # type: ignore[operator, union-attr]

    assert set(failed(changed(export=export))) == {"test_every_kind_of_record"}


def test_a_secret_in_the_url_is_found(failed: Run) -> None:
    async def export(self: Any, records: Sequence[Record]) -> None:
        url = f"{self.settings.url}?token={self.settings.token.reveal()}"
        await self.post([said(record, content=False) for record in records], url)

    found = failed(changed(export=export))
    assert {"test_credentials_stay_out_of_urls", "test_a_failed_peer_is_an_exception"} <= found.keys()


def test_a_logged_secret_is_found(failed: Run) -> None:
    def __init__(self: Any, settings: Any, **kwargs: Any) -> None:
        Hook.__init__(self, settings, **kwargs)
        logging.getLogger("hook").debug("using %s", settings.token.reveal())

    assert "test_secrets_are_not_seen" in failed(changed(__init__=__init__))


def test_misspelt_and_synchronous_hooks_are_found(failed: Run) -> None:
    @hookimpl
    async def start_up(self: Any, gateway: Any) -> None: ...

    @hookimpl
    def startup(self: Any, gateway: Any) -> None: ...

    @hookimpl
    async def shutdown(self: Any, the_gateway: Any) -> None: ...

    for methods in ({"start_up": start_up}, {"startup": startup}, {"shutdown": shutdown}):
        assert "test_hooks_are_sealed_and_known" in failed(changed(Counter, **methods)), methods
