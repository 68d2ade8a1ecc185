"""The conformance suite, the numbers, and the route."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from tianji_callback_prometheus import Prometheus

from tianji import ConfigError, Cost, Failure, Unauthorized, Usage
from tianji.testing import (
    CallbackSuite,
    FakeAssembly,
    Upstream,
    assert_imports_light,
    make_attempt,
    make_plugin,
    make_principal,
    make_record,
)
from tianji.testing.gateway import gateway


def make(**settings: Any) -> Prometheus:
    return make_plugin(Prometheus, settings)


def values(callback: Prometheus) -> dict[str, float]:
    """Every sample of the text: name with labels, and value."""
    lines = callback.render().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


class TestPrometheus(CallbackSuite):
    plugin = Prometheus
    settings = {"token": "token-canary-5a"}


BOTH = 'model="test-model",provider="test"'


async def test_a_success() -> None:
    callback = make()
    await callback.export([make_record(usage=Usage(10, 5, cache_read_tokens=4)), make_record()])
    said = values(callback)
    assert said[f'tianji_requests_total{{{BOTH},status="success"}}'] == 2
    assert said[f"tianji_request_total_latency_count{{{BOTH}}}"] == 2
    assert said[f"tianji_request_total_latency_sum{{{BOTH}}}"] == pytest.approx(0.6)
    assert said[f'tianji_request_total_latency_bucket{{le="0.25",{BOTH}}}'] == 0
    assert said[f'tianji_request_total_latency_bucket{{le="0.5",{BOTH}}}'] == 2
    assert said[f"tianji_llm_api_latency_sum{{{BOTH}}}"] == pytest.approx(0.5)
    assert said[f"tianji_overhead_seconds_sum{{{BOTH}}}"] == pytest.approx(0.1)
    assert said[f'tianji_tokens_total{{{BOTH},type="input"}}'] == 20
    assert said[f'tianji_tokens_total{{{BOTH},type="output"}}'] == 10
    assert said[f'tianji_tokens_total{{{BOTH},type="cache_read"}}'] == 4
    assert said[f"tianji_spend_total{{{BOTH}}}"] == pytest.approx(3000e-9)
    assert said['tianji_attempts_total{model="test-model",outcome="ok",provider="test"}'] == 2
    assert not any("_created" in name for name in said)
    assert not any(name.startswith("tianji_time_to_first_token_count") for name in said)


async def test_streams_failures_fallbacks_and_unknown_prices() -> None:
    callback = make()
    failed = make_attempt(outcome="Throttled", group="other-group", provider="elsewhere")
    await callback.export(
        [
            make_record(stream=True, time_to_first_token=0.2, attempts=(failed, make_attempt()), fallbacks=1),
            make_record(status="failure", attempts=(failed,), cost=None, usage=None, provider="elsewhere"),
            make_record(status="cancelled", cost=Cost(None)),
        ]
    )
    said = values(callback)
    assert said[f"tianji_time_to_first_token_sum{{{BOTH}}}"] == pytest.approx(0.2)
    assert said['tianji_attempts_total{model="other-group",outcome="Throttled",provider="elsewhere"}'] == 2
    assert said['tianji_fallbacks_total{model="test-model"}'] == 1
    assert said[f'tianji_requests_total{{{BOTH},status="cancelled"}}'] == 1
    assert said[f"tianji_unpriced_requests_total{{{BOTH}}}"] == 1, "unknown is not zero, and a failure costs nothing"
    assert said[f"tianji_request_total_latency_count{{{BOTH}}}"] == 1
    assert f"tianji_overhead_seconds_count{{{BOTH}}}" not in said


async def test_a_cached_answer_takes_no_tokens() -> None:
    callback = make()
    await callback.export([make_record(source="cache", attempts=(), group="", provider="", cost=Cost(0))])
    said = values(callback)
    assert said['tianji_cache_hits_total{model="test-model"}'] == 1
    assert not any(name.startswith(("tianji_tokens", "tianji_spend", "tianji_unpriced")) for name in said)


async def test_names_that_clients_make_up_become_no_labels() -> None:
    callback = make()
    lost: dict[str, Any] = {"status": "failure", "attempts": (), "group": "", "provider": "", "cost": None}
    await callback.export([make_record(model=f"invented-{n}", **lost) for n in range(50)])
    await callback.export([make_record(), make_record(model="test-model", **lost)])
    text = callback.render().decode()
    assert "invented" not in text
    said = values(callback)
    assert said['tianji_requests_total{model="unknown",provider="",status="failure"}'] == 50
    assert said['tianji_requests_total{model="test-model",provider="",status="failure"}'] == 1, "a group that served"


async def test_series_are_bounded_and_the_rest_is_counted() -> None:
    callback = make(max_series=3)
    records = [make_record(group=f"g{n}", attempts=(make_attempt(group=f"g{n}"),)) for n in range(10)]
    await callback.export(records)
    said = values(callback)
    assert said['tianji_requests_total{model="other",provider="other",status="success"}'] == 7
    assert said["tianji_series_overflow_total"] == 14, "the call's own, and its attempt's"
    total = sum(value for name, value in said.items() if name.startswith("tianji_requests_total"))
    assert total == 10
    assert said['tianji_spend_total{model="other",provider="other"}'] == pytest.approx(7 * 1500e-9)


@pytest.mark.parametrize("settings", [{"path": "metrics"}, {"max_series": 0}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="callback prometheus"):
        make(**settings)


def test_the_import_is_light() -> None:
    assert_imports_light("tianji_callback_prometheus", without=("prometheus_client", "litestar"))


# -- the route ---------------------------------------------------------------------------------------------------------


async def identify(ingress: Any) -> Any:
    key = ingress.header("authorization")
    if key == "Bearer admin":
        return make_principal(role="proxy_admin")
    if key == "Bearer user":
        return make_principal()
    raise Unauthorized("no")


def refuse(request: Request[Any, Any, State], failure: Failure) -> Response[dict[str, Any]]:
    return Response(failure.body(), status_code=failure.status)


async def get(callback: Prometheus, path: str, key: str | None) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request to an application that has the callback's route, and the kernel's way to find out who asks."""
    assembly = FakeAssembly()
    callback.configure(assembly)
    gateway = SimpleNamespace(pipeline=SimpleNamespace(identify=identify))
    app = Litestar(
        assembly.routes, state=State({"gateway": gateway}), exception_handlers={Failure: refuse}, openapi_config=None
    )
    sent: list[dict[str, Any]] = []
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)  # type: ignore[arg-type]  # ASGI's types, by hand
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


async def test_the_route_is_the_administrators_and_the_scrapers() -> None:
    callback = make(token="scraper")
    await callback.export([make_record()])
    for key, status in ((None, 401), ("nobody", 401), ("user", 403), ("admin", 200), ("scraper", 200)):
        answer = await get(callback, "/metrics", key)
        assert answer[0] == status, key
        assert (b"tianji_requests_total" in answer[2]) is (status == 200)
    assert answer[1][b"content-type"].startswith(b"text/plain")
    assert b"# TYPE tianji_request_total_latency histogram" in answer[2]


async def test_the_route_can_be_moved_and_opened() -> None:
    callback = make(path="/internal/metrics", require_auth=False)
    assert (await get(callback, "/internal/metrics", None))[0] == 200
    assert (await get(callback, "/metrics", None))[0] == 404
    assert (await get(make(), "/metrics", "scraper"))[0] == 401, "no token was set"


WORKER = """
import asyncio
from tianji_callback_prometheus import Prometheus
from tianji.testing import FakeGateway, make_record
callback = Prometheus(Prometheus.Settings(), instance="p", gateway=FakeGateway())
asyncio.run(callback.export([make_record()] * {count}))
print([line for line in callback.render().decode().splitlines() if line.startswith("tianji_requests_total")])
"""


def test_workers_can_share_their_numbers(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    for count, total in ((2, 2.0), (3, 5.0)):
        code = WORKER.format(count=count)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr
        assert f'{BOTH.replace(chr(34), chr(34))},status="success"}} {total}' in done.stdout


async def test_a_whole_gateway() -> None:
    answer = {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop"}]}
    async with Upstream() as up:
        up.reply(json=answer | {"usage": {"prompt_tokens": 7, "completion_tokens": 2}})
        params = {"model": "openai/gpt", "api_base": up.url, "api_key": "sk-x"}
        config = {
            "model_list": [{"model_name": "m", "tianji_params": params}],
            "tianji_settings": {"callbacks": ["prometheus"]},
        }
        async with gateway(config, plugins=[Prometheus]) as gw:
            assert (await gw.client.get("/metrics", headers={"authorization": "Bearer no"})).status_code == 401
            assert (await gw.chat("m")).status_code == 200
            assert (await gw.chat("made-up")).status_code == 404
            await gw.gateway.pipeline.log.stop()
            text = (await gw.client.get("/metrics")).text
    assert 'tianji_requests_total{model="m",provider="openai",status="success"} 1.0' in text
    assert 'tianji_tokens_total{model="m",provider="openai",type="input"} 7.0' in text
    assert "made-up" not in text
