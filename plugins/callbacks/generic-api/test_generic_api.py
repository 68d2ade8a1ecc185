"""The conformance suite, the schema, and real sockets."""

from typing import Any

import pytest
from tianji_callback_generic_api import GenericAPI

from tianji import ConfigError, Cost, Usage, decode_json, document, encode_json
from tianji.testing import CallbackSuite, FakeGateway, Upstream, make_attempt, make_plugin, make_record

URL = "https://logs.example.invalid/in"


def make(gateway: Any, **settings: Any) -> GenericAPI:
    return make_plugin(GenericAPI, {"url": URL, **settings}, instance="hook", gateway=gateway)


class TestGenericAPI(CallbackSuite):
    plugin = GenericAPI
    settings = {"url": URL, "api_key": "key-canary-4e", "headers": {"X-Tenant": "tenant-canary-1d"}}


class TestLines(CallbackSuite):
    plugin = GenericAPI
    settings = {"endpoint": URL, "headers": {"Authorization": "auth-canary-8b"}, "log_format": "ndjson"}


class TestSingle(CallbackSuite):
    plugin = GenericAPI
    settings = {"base_url": URL, "log_format": "single"}


def test_the_schema() -> None:
    record = make_record(
        usage=Usage(10, 5, reasoning_tokens=2),
        cost=Cost(1500, 1000, 500, "v1"),
        attempts=(make_attempt(usage=None, outcome="Throttled", status=429), make_attempt(number=2)),
        time_to_first_token=0.1,
        request={"model": "m"},
        response=b'{"id": "1"}',
    )
    said = decode_json(encode_json(document(record)))
    assert "request" not in said
    assert "response" not in said
    assert said["schema"] == "tianji.call.v1"
    assert said["ended"] == pytest.approx(record.started + 0.3)
    assert said["usage"]["total_tokens"] == 15
    assert said["usage"]["cache_read_tokens"] == 0, "zeros are said"
    assert said["cost"] == {
        "nano": 1500, "input_nano": 1000, "output_nano": 500, "price_version": "v1", "usd": 0.0000015,
    }  # fmt: skip
    assert [attempt["outcome"] for attempt in said["attempts"]] == ["Throttled", "ok"]
    assert said["attempts"][0]["usage"] is None
    assert said["tags"] == ["test"]
    assert said["metadata"] == {"trace": "1"}
    plain = set(said) - {"schema", "ended", "cache_hit"}
    assert plain == set(record.__struct_fields__) - {"request", "response"}


def test_what_is_not_known_is_null() -> None:
    said = document(make_record(usage=None, cost=None))
    assert (said["usage"], said["cost"]) == (None, None)
    unknown = document(make_record(cost=Cost(None)))["cost"]
    assert (unknown["nano"], unknown["usd"]) == (None, None), "an unknown price is not zero"


def test_content() -> None:
    record = make_record(request={"messages": []}, response=b'{"choices": []}')
    assert document(record, content=True)["response"] == {"choices": []}
    stream = make_record(response=b"data: {}\n\n\xff")
    assert document(stream, content=True)["response"] == "data: {}\n\n�"
    assert document(make_record(), content=True)["response"] is None
    assert make(FakeGateway(), content=True).wants_content is True
    assert make(FakeGateway()).wants_content is False


@pytest.mark.parametrize("events", [("llm_api_success",), ("llm_api_failure",)])
async def test_event_types(events: tuple[str, ...]) -> None:
    gateway = FakeGateway()
    gateway.answer()
    good, bad = make_record(id="good"), make_record(id="bad", status="cancelled")
    await make(gateway, event_types=events).export([good, bad])
    (sent,) = gateway.requests
    assert [one["id"] for one in sent.json()] == (["good"] if "success" in events[0] else ["bad"])
    await make(gateway, event_types=events).export([bad if "success" in events[0] else good])
    assert len(gateway.requests) == 1, "nothing to send"


def test_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENERIC_LOGGER_ENDPOINT", URL)
    monkeypatch.setenv("GENERIC_LOGGER_HEADERS", "Authorization=Bearer a=b, x-team = t ,,broken")
    callback = make(FakeGateway(), url=None)
    assert callback.url == URL
    assert callback._headers == {
        "authorization": "Bearer a=b", "x-team": "t", "content-type": "application/json",
    }  # fmt: skip


@pytest.mark.parametrize("settings", [{"url": None}, {"url": "logs"}, {"timeout": 0}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="callback hook"):
        make(FakeGateway(), **settings)


@pytest.mark.parametrize("form", ["json_array", "ndjson", "single"])
async def test_over_real_sockets(form: str) -> None:
    records = [make_record(id=f"call-{n}") for n in range(20)]
    async with Upstream() as up:
        up.reply(status=204)
        gateway = FakeGateway()
        await make(gateway, url=f"{up.url}/in", api_key="sent", log_format=form).export(records)
        await gateway.aclose()
        assert {request.headers["authorization"] for request in up.requests} == {"Bearer sent"}
        kinds = {request.headers["content-type"] for request in up.requests}
        assert kinds == {"application/x-ndjson" if form == "ndjson" else "application/json"}
        if form == "json_array":
            arrived = up.requests[0].json()
        elif form == "ndjson":
            assert up.requests[0].body.endswith(b"\n")
            arrived = [decode_json(line) for line in up.requests[0].body.splitlines()]
        else:
            arrived = [request.json() for request in up.requests]
        assert sorted(one["id"] for one in arrived) == sorted(record.id for record in records)
        assert len(up.requests) == (20 if form == "single" else 1)


async def test_one_refused_record_of_many_is_an_exception() -> None:
    async with Upstream() as up:
        up.reply(status=500, times=1)
        up.reply()
        gateway = FakeGateway()
        with pytest.raises(RuntimeError, match="500"):
            await make(gateway, url=up.url, log_format="single").export([make_record(), make_record(), make_record()])
        await gateway.aclose()
        assert len(up.requests) == 3, "the others were delivered"
