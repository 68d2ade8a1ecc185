"""OpenTelemetry: one span for each finished call and one below it for each attempt, over OTLP/HTTP.

Names and attributes follow the semantic conventions for generative AI. The spans are made after the fact, from records:
nothing of OpenTelemetry runs while a call does, and no global tracer is touched.

Docs: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tianji import Attempt, Callback, ConfigError, PluginSettings, Record, Secret, hookimpl

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

OPERATIONS = {"completions": "text_completion", "responses": "chat"}
"""Ops whose name in the conventions is another; the rest is called what Tianji calls it."""
PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""The same for providers (`gen_ai.provider.name`)."""
NANO = 1_000_000_000


class Otel(Callback):
    name = "otel"

    class Settings(PluginSettings, frozen=True):
        endpoint: str | None = None
        """Where the collector listens, for example `http://collector:4318`; `/v1/traces` is added to an address without
        a path. Else `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` of the environment."""
        base_url: str | None = None
        """The same, under TianjiLLM's name."""
        headers: dict[str, Secret] = {}
        """Headers of each request, over those of `OTEL_EXPORTER_OTLP_HEADERS`; the values are kept like secrets."""
        service_name: str | None = None
        """`service.name` of the resource. Else `OTEL_SERVICE_NAME`, else `tianji`."""
        resource_attributes: dict[str, str] = {}
        """Further attributes of the resource, over those of `OTEL_RESOURCE_ATTRIBUTES`."""
        timeout: float | None = None
        """Seconds for one batch, the exporter's own tries included. Else `OTEL_EXPORTER_OTLP_TIMEOUT`, else 10."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        own = self.settings
        endpoint = own.endpoint or own.base_url
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https"):
                raise ConfigError("endpoint is no http(s) address", path=f"callback {instance}")
            if parts.path in ("", "/"):
                endpoint = endpoint.rstrip("/") + "/v1/traces"
        if own.timeout is not None and own.timeout <= 0:
            raise ConfigError("timeout must be more than 0 seconds", path=f"callback {instance}")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        headers = {name: value.reveal() for name, value in own.headers.items()}
        self._exporter = OTLPSpanExporter(endpoint=endpoint, headers=headers, timeout=own.timeout)
        self._maker = Spans(own.service_name, own.resource_attributes)

    async def export(self, records: Sequence[Record]) -> None:
        await asyncio.to_thread(self._export, records)

    def _export(self, records: Sequence[Record]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        spans = [span for record in records for span in self._maker.of(record)]
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise RuntimeError("the OTLP exporter could not deliver the spans; its log line has the reason")

    @hookimpl
    async def shutdown(self) -> None:
        await asyncio.to_thread(self._exporter.shutdown)


class Spans:
    """Makes spans of records, for one resource."""

    def __init__(self, service: str | None, attributes: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        named = {SERVICE_NAME: service} if service else {}
        resource = Resource.create({**attributes, **named})
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "tianji"}))
        self._resource = resource
        self._scope = InstrumentationScope("tianji")

    def of(self, record: Record) -> Iterator[ReadableSpan]:
        """The span of the call, then those of its attempts.

        A record says how long an attempt took and not when it began. The last one ends with the call, and the others
        are laid before it, without the pauses between them. Ids are made from the record's, so that a batch that is
        sent again is the same spans again.
        """
        start, end = record.started, record.started + record.duration
        failed = record.status in ("failure", "partial")
        message = str((record.error or {}).get("message", ""))
        call = self._span(
            record, 0, _title(record, record.model), _call_attributes(record), start, end, message if failed else None
        )
        yield call
        for attempt in reversed(record.attempts):
            begun = max(start, end - attempt.duration)
            broken = attempt.message if attempt.outcome != "ok" else None
            title = _title(record, attempt.model)
            yield self._span(record, attempt.number, title, _attempt_attributes(record, attempt), begun, end, broken)
            end = begun

    def _span(
        self, record: Record, number: int, title: str, attributes: Mapping[str, Any], start: float, end: float,
        error: str | None,
    ) -> ReadableSpan:  # fmt: skip
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanKind, Status, StatusCode

        return ReadableSpan(
            title,
            context=_context(record.id, number),
            parent=_context(record.id, 0) if number else None,
            resource=self._resource,
            attributes={name: value for name, value in attributes.items() if value is not None and value != ()},
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error[:1000]),
            start_time=int(start * NANO),
            end_time=int(end * NANO),
            instrumentation_scope=self._scope,
        )


def _context(record_id: str, number: int) -> Any:
    """Number 0 is the call."""
    from opentelemetry.trace import SpanContext, TraceFlags

    trace = int.from_bytes(sha256(record_id.encode()).digest()[:16], "big")
    span = int.from_bytes(sha256(f"{record_id}:{number}".encode()).digest()[:8], "big")
    return SpanContext(trace or 1, span or 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _operation(record: Record) -> str:
    return OPERATIONS.get(record.op, record.op)


def _title(record: Record, model: str) -> str:
    return f"{_operation(record)} {model}".strip()


def _call_attributes(record: Record) -> dict[str, Any]:
    usage, cost = record.usage, record.cost
    return {
        "gen_ai.operation.name": _operation(record),
        "gen_ai.provider.name": PROVIDERS.get(record.provider, record.provider) or None,
        "gen_ai.request.model": record.model,
        "gen_ai.request.stream": record.stream,
        "gen_ai.response.model": record.upstream_model or None,
        "gen_ai.response.time_to_first_chunk": record.time_to_first_token,
        "gen_ai.usage.input_tokens": usage and usage.input_tokens,
        "gen_ai.usage.output_tokens": usage and usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": (usage and usage.cache_read_tokens) or None,
        "gen_ai.usage.cache_creation.input_tokens": (usage and usage.cache_write_tokens) or None,
        "gen_ai.usage.reasoning.output_tokens": (usage and usage.reasoning_tokens) or None,
        **_server(record.api_base),
        "error.type": (record.error or {}).get("class") if record.status != "success" else None,
        "http.response.status_code": record.http_status,
        "tianji.call_id": record.call_id,
        "tianji.status": record.status,
        "tianji.source": record.source,
        "tianji.dialect": record.dialect,
        "tianji.fallbacks": record.fallbacks or None,
        "tianji.overhead": record.overhead,
        "tianji.cost.usd": cost and cost.usd,
        "tianji.key_id": record.key_id,
        "tianji.key_alias": record.key_alias,
        "tianji.user_id": record.user_id,
        "tianji.team_id": record.team_id,
        "tianji.org_id": record.org_id,
        "tianji.end_user": record.end_user,
        "tianji.tags": record.tags,
        "tianji.guardrails": record.guardrails,
    }


def _attempt_attributes(record: Record, attempt: Attempt) -> dict[str, Any]:
    """Tokens are on the call's span alone: whoever adds spans up would count them twice."""
    return {
        "gen_ai.operation.name": _operation(record),
        "gen_ai.provider.name": PROVIDERS.get(attempt.provider, attempt.provider) or None,
        "gen_ai.request.model": attempt.model,
        "gen_ai.response.time_to_first_chunk": attempt.time_to_first_token,
        "error.type": attempt.outcome if attempt.outcome != "ok" else None,
        "http.response.status_code": attempt.status,
        "tianji.attempt": attempt.number,
        "tianji.deployment_id": attempt.deployment_id,
        "tianji.group": attempt.group,
    }


def _server(api_base: str) -> dict[str, Any]:
    parts = urlsplit(api_base)
    try:
        port = parts.port
    except ValueError:
        port = None
    return {"server.address": parts.hostname, "server.port": port if parts.hostname else None}
