"""The conformance suite, the numbers, the health of deployments, and the route."""

import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import pytest
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from msgspec.structs import replace
from tianji_callback_prometheus import Prometheus

from tianji import Call, ConfigError, Cost, DeploymentHealth, Failure, GatewayHealth, Selector, Unauthorized, Usage
from tianji.testing import (
    CallbackSuite,
    FakeAssembly,
    FakeGateway,
    Upstream,
    assert_imports_light,
    make_attempt,
    make_deployment,
    make_plugin,
    make_principal,
    make_record,
)
from tianji.testing.gateway import RunningGateway, gateway


def make(**settings: Any) -> Prometheus:
    return make_plugin(Prometheus, settings)


def values(callback: Prometheus, health: GatewayHealth | None = None) -> dict[str, float]:
    """Every sample of the text: name with labels, and value."""
    return samples(callback.render(health).decode())


def samples(text: str) -> dict[str, float]:
    lines = text.splitlines()
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


# -- the health of deployments -----------------------------------------------------------------------------------------


def told(**fields: Any) -> DeploymentHealth:
    fields.setdefault("deployment", make_deployment(id="d", group="g", provider="p"))
    return DeploymentHealth(**fields)


ONE = '{model="g",model_id="d",provider="p"}'


@pytest.mark.parametrize(("state", "value"), [("healthy", 0), ("probing", 1), ("doubted", 1), ("ejected", 2)])
def test_states_have_litellms_numbers(state: Any, value: int) -> None:
    health = GatewayHealth((told(state=state, cooling_for=2.5, cooldowns=3),), retries_left=19.5, retries_denied=4)
    said = values(make(), health)
    assert said[f"tianji_deployment_state{ONE}"] == value
    assert said[f"tianji_deployment_cooldown_seconds{ONE}"] == 2.5
    assert said[f"tianji_deployment_cooled_down_total{ONE}"] == 3
    assert said["tianji_retry_budget_tokens"] == 19.5
    assert said["tianji_retries_denied_total"] == 4


def test_what_is_not_known_has_no_series() -> None:
    health = GatewayHealth((told(), told(deployment=make_deployment(id="e"), in_flight=0)), 20.0, 0)
    said = values(make(), health)
    assert [name for name in said if name.startswith("tianji_deployment_in_flight")] == [
        'tianji_deployment_in_flight{model="test-model",model_id="e",provider="test"}'
    ]
    assert not any("last_check" in name for name in said)
    assert sum(name.startswith("tianji_deployment_state") for name in said) == 2


async def test_names_of_the_configuration_cannot_break_the_text() -> None:
    odd = make_deployment(id='a"b\\c', group="two\nlines", provider="p")
    text = make().render(GatewayHealth((told(deployment=odd),), 20.0, 0)).decode()
    assert 'tianji_deployment_state{model="two\\nlines",model_id="a\\"b\\\\c",provider="p"} 0.0' in text.splitlines()


async def test_health_is_read_at_a_scrape_and_stays_the_administrators() -> None:
    fake = FakeGateway()
    callback = Prometheus(Prometheus.Settings(), instance="p", gateway=fake)
    await callback.export([make_record()])
    for seconds in (3.0, 0.0):
        fake.known = GatewayHealth((told(state="doubted", cooling_for=seconds),), retries_left=1.0, retries_denied=0)
        said = samples((await get(callback, "/metrics", "admin"))[2].decode())
        assert said[f"tianji_deployment_cooldown_seconds{ONE}"] == seconds
        assert said[f'tianji_requests_total{{{BOTH},status="success"}}'] == 1
    fake.known = GatewayHealth((), retries_left=1.0, retries_denied=0)
    assert b"tianji_deployment_state{" not in (await get(callback, "/metrics", "admin"))[2], "it went away"
    assert b"tianji_deployment" not in (await get(callback, "/metrics", "user"))[2]


def test_a_worker_that_shares_its_numbers_says_whose_health_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    said = values(make(), GatewayHealth((told(cooldowns=1),), retries_left=20.0, retries_denied=0))
    pid = f'pid="{os.getpid()}"'
    assert said[f'tianji_deployment_cooled_down_total{{model="g",model_id="d",{pid},provider="p"}}'] == 1
    assert said[f"tianji_retry_budget_tokens{{{pid}}}"] == 20.0


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


async def scraped(gw: RunningGateway) -> dict[str, float]:
    return samples((await gw.client.get("/metrics")).text)


def of(said: dict[str, float], metric: str) -> dict[str, float]:
    """The values of one metric of deployments, by the deployment's id."""
    start = f"tianji_deployment_{metric}{{"
    found = {name: value for name, value in said.items() if name.startswith(start)}
    return {name.split('model_id="')[1].partition('"')[0]: value for name, value in found.items()}


class AlwaysM(Selector):
    name = "always-m"

    async def choose(self, call: Call) -> str:
        return "m"


def served(sick: Upstream, well: Upstream) -> dict[str, Any]:
    """A group of `a`, `b` and `c`, which are throttled, and `w`, which answers; and a stand-in for it."""
    sick.reply(status=429, json={"error": {"message": "slow"}}, headers={"retry-after": "30"})
    well.reply(json={"id": "1", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop"}]})

    def one(name: str, up: Upstream, order: int, **params: Any) -> dict[str, Any]:
        params = {"model": "openai/gpt", "api_base": up.url, "api_key": "sk-x", "order": order, **params}
        info = {"id": name, "disable_background_health_check": up is sick}
        return {"model_name": "m", "tianji_params": params, "model_info": info}

    pool = [one("a", sick, 1), one("b", sick, 2), one("c", sick, 3), one("w", well, 4, max_parallel_requests=3)]
    return {
        "model_list": [*pool, {"model_name": "stand-in", "tianji_params": {"model": "always-m/x"}}],
        "tianji_settings": {"callbacks": ["prometheus"]},
        "router_settings": {"num_retries": 5},
    }


async def test_the_health_of_a_running_gateways_deployments() -> None:
    """Three are put aside one after the other; a reload takes two of them away; a check finds the one that is well."""
    async with AsyncExitStack() as stack:
        sick, well = [await stack.enter_async_context(Upstream()) for _ in range(2)]
        gw = await stack.enter_async_context(gateway(served(sick, well), plugins=[Prometheus, AlwaysM]))
        said = await scraped(gw)
        assert of(said, "state") == {"a": 0, "b": 0, "c": 0, "w": 0}
        assert set(of(said, "cooled_down_total").values()) == {0}
        assert (said["tianji_retry_budget_tokens"], said["tianji_retries_denied_total"]) == (20.0, 0.0)

        assert (await gw.chat("stand-in")).status_code == 200
        said = await scraped(gw)
        assert of(said, "state") == {"a": 2, "b": 2, "c": 1, "w": 0}, "at most half is ejected"
        assert of(said, "cooled_down_total") == {"a": 1, "b": 1, "c": 1, "w": 0}
        assert all(25 < of(said, "cooldown_seconds")[name] <= 30 for name in "abc")
        assert of(said, "cooldown_seconds")["w"] == 0
        assert of(said, "in_flight") == {"w": 0}, "the others' are not counted"
        assert of(said, "last_check_ok") == {}

        old = gw.gateway.config
        checked = replace(old.general_settings, background_health_checks=True, health_check_interval=1)
        left = (old.deployments[0], old.deployments[3])
        await gw.gateway.reload(replace(old, deployments=left, general_settings=checked))
        assert of(await scraped(gw), "state") == {"a": 2, "w": 0}, "what is gone has no series, what stays its state"
        while not of(said := await scraped(gw), "last_check_ok"):
            await asyncio.sleep(0.02)
        assert of(said, "last_check_ok") == {"w": 1}
        assert of(said, "last_check_timestamp_seconds")["w"] == pytest.approx(time(), abs=5)
        assert of(said, "cooled_down_total") == {"a": 1, "w": 0}
