"""Webhook: finished calls, in batches, as JSON to an HTTP address of the operator's own.

What is sent is `document(record)`: a schema of Tianji's own that stays as it is. The settings and the variables of the
environment are those of LiteLLM's `generic_api` callback.

Docs: https://docs.litellm.ai/docs/observability/generic_api
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from tianji import Callback, ConfigError, PluginSettings, Record, Secret, Wire, document, encode_json

Outcome = Literal["llm_api_success", "llm_api_failure"]

AT_ONCE = 8
"""Requests under way at a time where each record is a request of its own."""


class GenericAPI(Callback):
    name = "generic-api"

    class Settings(PluginSettings, frozen=True):
        url: str | None = None
        """Where the records go. Else `GENERIC_LOGGER_ENDPOINT` of the environment."""
        endpoint: str | None = None
        """The same, under LiteLLM's name."""
        base_url: str | None = None
        """The same, under TianjiLLM's name."""
        headers: dict[str, Secret] = {}
        """Headers of each request; the values are kept like secrets. Else `GENERIC_LOGGER_HEADERS` of the environment,
        as `name=value,name=value`."""
        api_key: Secret | None = None
        """Sent as `Authorization: Bearer …`, unless `headers` has one."""
        log_format: Literal["json_array", "ndjson", "single"] = "json_array"
        """One array a batch, one line a record, or one request a record."""
        event_types: tuple[Outcome, ...] = ("llm_api_success", "llm_api_failure")
        """Which calls are sent: those that succeeded, those that did not, or both."""
        content: bool = False
        """Send what was asked and answered, too."""
        timeout: float = 10.0
        """Seconds for one request."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        own = self.settings
        self.url = own.url or own.endpoint or own.base_url or os.environ.get("GENERIC_LOGGER_ENDPOINT", "")
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(
                "url is missing, or is no http(s) address",
                path=f"callback {instance}",
                mend="Set `url`, or GENERIC_LOGGER_ENDPOINT in the environment",
            )
        if own.timeout <= 0:
            raise ConfigError("timeout must be more than 0 seconds", path=f"callback {instance}")
        self.wants_content = own.content
        named = own.headers or _headers_of(os.environ.get("GENERIC_LOGGER_HEADERS", ""))
        self._headers = {name.lower(): value.reveal() for name, value in named.items()}
        if own.api_key:
            self._headers.setdefault("authorization", f"Bearer {own.api_key.reveal()}")
        kind = "application/x-ndjson" if own.log_format == "ndjson" else "application/json"
        self._headers.setdefault("content-type", kind)

    async def export(self, records: Sequence[Record]) -> None:
        bodies = await asyncio.to_thread(self._encode, records)
        if len(bodies) < 2:
            for body in bodies:
                await self._post(body)
            return
        slots = asyncio.Semaphore(AT_ONCE)

        async def post(body: bytes) -> None:
            async with slots:
                await self._post(body)

        outcomes = await asyncio.gather(*(post(body) for body in bodies), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _encode(self, records: Sequence[Record]) -> list[bytes]:
        """The requests' bodies."""
        wanted = {kind == "llm_api_success" for kind in self.settings.event_types}
        lines = [
            encode_json(document(record, content=self.settings.content))
            for record in records
            if (record.status == "success") in wanted
        ]
        if not lines or self.settings.log_format == "single":
            return lines
        if self.settings.log_format == "ndjson":
            return [b"\n".join(lines) + b"\n"]
        return [b"[" + b",".join(lines) + b"]"]

    async def _post(self, body: bytes) -> None:
        wire = Wire(url=self.url, headers=self._headers, body=body)
        status, _, _ = await self.gateway.fetch(wire, timeout=self.settings.timeout)
        if not 200 <= status < 300:
            raise RuntimeError(f"the receiver answered {status}")


def _headers_of(text: str) -> dict[str, Secret]:
    """`name=value,name=value`, as LiteLLM reads it."""
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    return {name.strip(): Secret(value.strip()) for name, _, value in pairs}
