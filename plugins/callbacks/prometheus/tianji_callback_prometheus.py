"""Prometheus: counters and histograms of finished calls, and the health of deployments, served at `/metrics`.

Health is read when a scrape asks for it, and costs nothing otherwise. Names are those of TianjiLLM
(`tianji_request_total_latency`, `tianji_tokens_total`, …), after LiteLLM's. How many label values there can be is
bounded, whatever clients ask for.

Docs: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from secrets import compare_digest
from typing import Any

import msgspec

from tianji import (
    Attempt,
    Callback,
    ConfigError,
    Forbidden,
    GatewayHealth,
    Ingress,
    PluginSettings,
    Record,
    Secret,
    hookimpl,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
OTHER = "other"
UNKNOWN = "unknown"
_TOKENS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}
_STATES = {"healthy": 0, "probing": 1, "doubted": 1, "ejected": 2}
"""LiteLLM's `deployment_state`: 0 healthy, 1 a partial outage, 2 a complete one."""


class Metrics(msgspec.Struct, frozen=True):
    """Every metric that there is."""

    requests: Any
    total_latency: Any
    api_latency: Any
    first_token: Any
    overhead: Any
    tokens: Any
    spend: Any
    unpriced: Any
    attempts: Any
    fallbacks: Any
    cache_hits: Any
    overflow: Any


class Prometheus(Callback):
    name = "prometheus"

    class Settings(PluginSettings, frozen=True):
        path: str = "/metrics"
        """Where the metrics are served."""
        require_auth: bool = True
        """Only administrators may read them. Off: everybody who can reach the gateway may."""
        token: Secret | None = None
        """A bearer token for the scraper alone, so that it need not hold the master key."""
        max_series: int = 1000
        """Distinct pairs of model and provider; what comes after them is counted under `other`."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        if not self.settings.path.startswith("/"):
            raise ConfigError("path must begin with /", path=f"callback {instance}")
        if self.settings.max_series < 1:
            raise ConfigError("max_series must be at least 1", path=f"callback {instance}")
        from prometheus_client import CollectorRegistry, disable_created_metrics

        # A second series for each first one, which nobody asked for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self.registry = CollectorRegistry()
        self.metrics = _metrics(self.registry)
        self._pairs: set[tuple[str, str]] = set()
        self._groups: set[str] = set()

    @hookimpl
    def configure(self, app: Any) -> None:
        from litestar import Request, Response, get
        from prometheus_client import CONTENT_TYPE_LATEST

        @get(self.settings.path, summary="Metrics in Prometheus' text format", tags=["health"])
        async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
            await self.admit(request)
            health = self.gateway.health()  # here, on the loop, where nothing changes meanwhile
            return Response(await asyncio.to_thread(self.render, health), media_type=CONTENT_TYPE_LATEST)

        app.add_route(metrics)

    async def admit(self, request: Any) -> None:
        """Who may read: the scraper's token, else an administrator. Raises `Unauthorized` or `Forbidden`."""
        if not self.settings.require_auth:
            return
        token, said = self.settings.token, request.headers.get("authorization", "")
        if token and compare_digest(said.encode(), f"Bearer {token.reveal()}".encode()):
            return
        scope = request.scope
        peer = request.client.host if request.client else ""
        ingress = Ingress(scope["method"], scope["path"], dict(scope["headers"]), peer)
        principal = await request.app.state.gateway.pipeline.identify(ingress)
        if not principal.is_admin:
            raise Forbidden("Only an administrator may read the metrics.")

    def render(self, health: GatewayHealth | None = None) -> bytes:
        """All metrics as text: of this process, or of all workers where they share PROMETHEUS_MULTIPROC_DIR.

        `health` is this process's in any case, and then says so with a label `pid`. None: it is left out.
        """
        from prometheus_client import CollectorRegistry, generate_latest

        registry, shared = self.registry, bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
        if shared:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no annotations
        text = generate_latest(registry)
        if health is None:
            return text
        own = CollectorRegistry()
        own.register(_Health(health, {"pid": str(os.getpid())} if shared else {}))
        return text + generate_latest(own)

    async def export(self, records: Sequence[Record]) -> None:
        await asyncio.to_thread(self._count, records)  # some 30 µs a record

    def _count(self, records: Sequence[Record]) -> None:
        for record in records:
            self._one(record)

    def _one(self, record: Record) -> None:
        metrics = self.metrics
        model, provider = self._labels(self._model(record), record.provider)
        metrics.requests.labels(model, provider, record.status).inc()
        if record.status == "success":
            metrics.total_latency.labels(model, provider).observe(record.duration)
            if record.attempts:
                metrics.api_latency.labels(model, provider).observe(record.upstream_duration)
            if not record.stream:
                metrics.overhead.labels(model, provider).observe(record.overhead)
        if record.time_to_first_token is not None:
            metrics.first_token.labels(model, provider).observe(record.time_to_first_token)
        for attempt in record.attempts:
            self._attempt(attempt)
        if record.fallbacks:
            metrics.fallbacks.labels(model).inc(record.fallbacks)
        if record.cache_hit:
            metrics.cache_hits.labels(model).inc()
        elif record.attempts:
            self._consumption(record, model, provider)

    def _attempt(self, attempt: Attempt) -> None:
        model, provider = self._labels(attempt.group, attempt.provider)
        self._groups.add(model)  # as bounded as the labels
        self.metrics.attempts.labels(model, provider, attempt.outcome).inc()

    def _consumption(self, record: Record, model: str, provider: str) -> None:
        """What a provider was asked for and paid. A cached answer takes neither."""
        if record.usage is not None:
            for kind, field in _TOKENS.items():
                if amount := getattr(record.usage, field):
                    self.metrics.tokens.labels(model, provider, kind).inc(amount)
        if record.cost is None or record.cost.nano is None:
            if record.status != "failure":
                self.metrics.unpriced.labels(model, provider).inc()
        else:
            self.metrics.spend.labels(model, provider).inc(record.cost.nano / 1_000_000_000)

    def _model(self, record: Record) -> str:
        """The model group. A name that only the client has ever said becomes no label."""
        if record.group:
            return record.group
        return record.model if record.model in self._groups or record.cache_hit else UNKNOWN

    def _labels(self, model: str, provider: str) -> tuple[str, str]:
        pair = (model, provider)
        if pair not in self._pairs:
            if len(self._pairs) >= self.settings.max_series:
                self.metrics.overflow.inc()
                return OTHER, OTHER
            self._pairs.add(pair)
        return pair


class _Health:
    """What one scrape says of the deployments and of the retry budget: a collector for a registry of its own.

    `labels` are added to each series.
    """

    def __init__(self, health: GatewayHealth, labels: Mapping[str, str]) -> None:
        self.health = health
        self.labels = labels

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        names = tuple(self.labels)
        left = GaugeMetricFamily("tianji_retry_budget_tokens", "Retries that all calls may still make.", labels=names)
        left.add_metric(tuple(self.labels.values()), self.health.retries_left)
        denied = CounterMetricFamily(
            "tianji_retries_denied_total", "Retries that the budget did not allow.", labels=names
        )
        denied.add_metric(tuple(self.labels.values()), self.health.retries_denied)
        yield from (left, denied)
        yield from self._deployments((*names, "model", "provider", "model_id"))

    def _deployments(self, names: Sequence[str]) -> Sequence[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        def gauge(name: str, text: str) -> Any:
            return GaugeMetricFamily(f"tianji_deployment_{name}", text, labels=names)

        state = gauge("state", "0 healthy; 1 partial outage: doubted, or being probed; 2 complete outage: ejected.")
        cooldown = gauge("cooldown_seconds", "Seconds until a deployment that was put aside is tried again.")
        cooled = CounterMetricFamily("tianji_deployment_cooled_down_total", "Times put aside.", labels=names)
        in_flight = gauge("in_flight", "Attempts under way, where max_parallel_requests has them counted.")
        checked = gauge("last_check_timestamp_seconds", "When the last background check ended.")
        check_ok = gauge("last_check_ok", "Whether the last background check was answered.")
        for known in self.health.deployments:
            one = known.deployment
            values = (*self.labels.values(), one.group, one.provider, one.id)
            state.add_metric(values, _STATES[known.state])
            cooldown.add_metric(values, known.cooling_for)
            cooled.add_metric(values, known.cooldowns)
            if known.in_flight is not None:
                in_flight.add_metric(values, known.in_flight)
            if known.check is not None:
                checked.add_metric(values, known.check.at)
                check_ok.add_metric(values, known.check.ok)
        return state, cooldown, cooled, in_flight, checked, check_ok


def _metrics(registry: Any) -> Metrics:
    from prometheus_client import Counter, Histogram

    both = ("model", "provider")

    def counter(name: str, text: str, labels: Sequence[str] = both) -> Any:
        return Counter(f"tianji_{name}", text, labels, registry=registry)

    def histogram(name: str, text: str, buckets: Sequence[float] = SECONDS) -> Any:
        return Histogram(f"tianji_{name}", text, both, registry=registry, buckets=buckets)

    return Metrics(
        requests=counter("requests_total", "Finished calls.", (*both, "status")),
        total_latency=histogram("request_total_latency", "Seconds from a request to the end of its answer; successes."),
        api_latency=histogram("llm_api_latency", "Seconds of it spent waiting for providers."),
        first_token=histogram("time_to_first_token", "Seconds from asking a provider to the first event of a stream."),
        overhead=histogram(
            "overhead_seconds", "Seconds that the gateway added; answers that were no stream.", OVERHEAD
        ),
        tokens=counter("tokens_total", "Tokens of providers, by class.", (*both, "type")),
        spend=counter("spend_total", "Cost of calls in US dollars."),
        unpriced=counter(
            "unpriced_requests_total", "Answered calls whose price is not known: they are not in the spend."
        ),
        attempts=counter("attempts_total", "Attempts, by outcome: ok, or the failure.", (*both, "outcome")),
        fallbacks=counter("fallbacks_total", "Times that another model group was tried.", ("model",)),
        cache_hits=counter("cache_hits_total", "Calls that were answered from a cache.", ("model",)),
        overflow=counter("series_overflow_total", "Label pairs that were counted under `other`.", ()),
    )
