"""The conformance suite, and what arrives at a collector."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tianji_callback_otel import Otel

from tianji import ConfigError, Cost, Record, Usage
from tianji.testing import (
    CallbackSuite,
    Upstream,
    assert_imports_light,
    captured_logs,
    make_attempt,
    make_plugin,
    make_record,
)


class TestOtel(CallbackSuite):
    plugin = Otel

    @pytest.fixture(autouse=True)
    async def _collector(self) -> AsyncIterator[None]:
        """A collector of its own for each test: the exporter does not go through the fake gateway."""
        async with Upstream() as up:
            up.reply()
            self.settings = {  # type: ignore[misc]  # the address is not known before
                "endpoint": up.url, "headers": {"Authorization": "auth-canary-3d"}, "timeout": 2.0,
            }  # fmt: skip
            yield


def make(**settings: Any) -> Otel:
    return make_plugin(Otel, settings)


class Span:
    """A span as it arrived."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire
        self.name = wire.name
        self.attributes = attributes(wire.attributes)


def attributes(pairs: Any) -> dict[str, Any]:
    out = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        out[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return out


async def arrived(*records: Record, **settings: Any) -> tuple[Upstream, dict[str, Any], list[Span]]:
    """What a collector gets for one batch: its requests, the resource's attributes, the spans."""
    async with Upstream() as up:
        up.reply()
        callback = make(endpoint=up.url, **settings)
        await callback.export(records)
        await callback.shutdown()
    resources: dict[str, Any] = {}
    spans: list[Span] = []
    for request in up.requests:
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            resources |= attributes(resource.resource.attributes)
            spans += [Span(span) for scope in resource.scope_spans for span in scope.spans]
    return up, resources, spans


async def test_a_call_and_its_attempt() -> None:
    record = make_record(
        usage=Usage(10, 5, cache_read_tokens=3, reasoning_tokens=2),
        cost=Cost(1_500_000_000),
        stream=True,
        time_to_first_token=0.1,
        api_base="https://api.example.com:8443/v1",
        provider="mistral",
        attempts=(make_attempt(provider="mistral"),),
    )
    up, _, (call, attempt) = await arrived(record, headers={"Authorization": "Bearer sent"})
    (request,) = up.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/traces", "Bearer sent")
    assert request.headers["content-type"] == "application/x-protobuf"
    assert call.name == "chat test-model"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "test-model",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "upstream-model",
        "gen_ai.response.time_to_first_chunk": 0.1,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "server.address": "api.example.com",
        "server.port": 8443,
        "tianji.cost.usd": 1.5,
        "tianji.key_id": "key-1",
        "tianji.tags": ["test"],
        "tianji.status": "success",
    }
    assert call.attributes.items() >= {k: v for k, v in expected.items() if k != "tianji.tags"}.items()
    assert call.attributes["tianji.tags"] == ["test"]
    assert "error.type" not in call.attributes
    assert call.wire.status.code == 0
    assert call.wire.kind == 3, "client"
    assert call.wire.start_time_unix_nano == 1_750_000_000 * 10**9
    assert call.wire.end_time_unix_nano - call.wire.start_time_unix_nano == pytest.approx(300_000_000, abs=1000)
    assert attempt.wire.trace_id == call.wire.trace_id
    assert attempt.wire.parent_span_id == call.wire.span_id
    assert not call.wire.parent_span_id
    assert attempt.name == "chat upstream-model"
    assert attempt.attributes["tianji.deployment_id"] == "deployment-1"
    assert not any(name.startswith("gen_ai.usage") for name in attempt.attributes), "counted once"


async def test_attempts_lie_end_to_end() -> None:
    failed = make_attempt(duration=0.1, outcome="Throttled", status=429, message="slow down")
    record = make_record(attempts=(failed, make_attempt(number=2, duration=0.15)), duration=0.3)
    _, _, (call, last, first) = await arrived(record)
    assert last.wire.end_time_unix_nano == call.wire.end_time_unix_nano
    assert first.wire.end_time_unix_nano == last.wire.start_time_unix_nano
    assert first.wire.start_time_unix_nano >= call.wire.start_time_unix_nano
    assert (first.attributes["error.type"], first.wire.status.code, first.wire.status.message) == (
        "Throttled", 2, "slow down",
    )  # fmt: skip
    assert last.wire.status.code == 0
    too_long = make_record(attempts=(make_attempt(duration=9.0),))
    _, _, (call, only) = await arrived(too_long)
    assert only.wire.start_time_unix_nano == call.wire.start_time_unix_nano


async def test_failures_and_what_is_not_known() -> None:
    error = {"class": "Timeout", "status": 408, "message": "too slow"}
    lost = make_record(status="failure", http_status=408, error=error, usage=None, cost=None, provider="", attempts=())
    gone = make_record(id="2", status="cancelled", error={"class": "ClientGone", "message": "left"}, cost=Cost(None))
    _, _, (failure, cancelled, _) = await arrived(lost, gone)
    assert (failure.attributes["error.type"], failure.wire.status.code) == ("Timeout", 2)
    assert failure.wire.status.message == "too slow"
    assert "gen_ai.provider.name" not in failure.attributes
    assert not any("usage" in name or "cost" in name for name in failure.attributes)
    assert (cancelled.attributes["error.type"], cancelled.wire.status.code) == ("ClientGone", 0)
    assert "tianji.cost.usd" not in cancelled.attributes, "an unknown price is not zero"


async def test_a_batch_that_is_sent_again_has_the_same_ids() -> None:
    _, _, first = await arrived(make_record(), make_record(id="call-2"))
    _, _, again = await arrived(make_record(), make_record(id="call-2"))
    ids = [(span.wire.trace_id, span.wire.span_id) for span in first]
    assert ids == [(span.wire.trace_id, span.wire.span_id) for span in again]
    assert len(set(ids)) == 4


async def test_the_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    assert (await arrived(make_record()))[1]["service.name"] == "tianji"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-environment")
    assert (await arrived(make_record()))[1]["service.name"] == "from-environment"
    given = await arrived(make_record(), service_name="given", resource_attributes={"deployment.environment": "test"})
    assert given[1].items() >= {"service.name": "given", "deployment.environment": "test"}.items()


async def test_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Upstream() as up:
        up.reply()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{up.url}/otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=blue")
        callback = make()
        await callback.export([make_record()])
        await callback.shutdown()
        assert up.requests[0].path == "/otlp/v1/traces"
        assert up.requests[0].headers["x-team"] == "blue"


@pytest.mark.parametrize(
    ("given", "path"),
    [("", "/v1/traces"), ("/", "/v1/traces"), ("/custom", "/custom"), ("/api/v1/traces", "/api/v1/traces")],
)
async def test_the_path_is_added_where_there_is_none(given: str, path: str) -> None:
    async with Upstream() as up:
        up.reply()
        callback = make(base_url=up.url + given)
        await callback.export([make_record()])
        await callback.shutdown()
        assert up.requests[0].path == path


@pytest.mark.parametrize("status", [400, 401, 503])
async def test_a_collector_that_refuses_is_an_exception(status: int) -> None:
    async with Upstream() as up:
        up.reply(status=status)
        callback = make(endpoint=up.url, timeout=0.3, headers={"Authorization": "auth-canary-3d"})
        with captured_logs() as lines, pytest.raises(RuntimeError, match="could not deliver") as caught:
            await callback.export([make_record()])
        await callback.shutdown()
        assert "auth-canary-3d" not in "".join([*lines, str(caught.value)])
        assert len(up.requests) == 1


async def test_no_collector_is_an_exception() -> None:
    async with Upstream() as up:
        url = up.url
    callback = make(endpoint=url, timeout=0.3)
    with captured_logs(), pytest.raises(RuntimeError):
        await callback.export([make_record()])
    await callback.shutdown()


@pytest.mark.parametrize("settings", [{"endpoint": "collector:4318"}, {"timeout": 0}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="callback otel"):
        make(**settings)


def test_the_import_is_light() -> None:
    assert_imports_light("tianji_callback_otel", without=("opentelemetry", "requests", "google"))
