"""What an attempt makes of upstreams that repeat secrets, never end or never begin, and of input that is odd."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate
from time import time
from typing import Any

import pytest
from support import DONE, STREAM, chunk, deployment, served

from tianji.config import from_dict
from tianji.errors import ConfigError, Failure
from tianji.exchange import retry_after
from tianji.model import Secret
from tianji.streams import redact
from tianji.testing import make_deployment
from tianji.testing.gateway import gateway
from tianji.testing.upstream import Send, Stall, Upstream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
KEY = "sk-upstream-c4n4ry-0123456789"
SECRET = "tok-c4n4ry-9876543210"


def piece(data: bytes) -> Send:
    return Send(b"%x\r\n%b\r\n" % (len(data), data))


def whole(status: int, body: bytes, kind: str = "application/json") -> Send:
    return Send(
        b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind.encode(), len(body), body)
    )


def echoed(headers: dict[str, str]) -> list[Send]:
    repeated = json.dumps(dict(headers))
    return [
        whole(401, json.dumps({"error": {"message": f"Incorrect API key: {headers['authorization']}"}}).encode()),
        whole(401, json.dumps({"error": {"message": f"Bad key {KEY[:15]}...", "code": KEY, "param": KEY}}).encode()),
        whole(422, json.dumps({"detail": [{"msg": "bad", "input": dict(headers)}]}).encode()),
        whole(400, json.dumps({"error": f"your headers: {repeated}"}).encode()),
        whole(400, repeated.encode(), "text/plain"),
        whole(500, b"traceback: postgres://u:c4n4ry@db/x", "text/plain"),
        whole(500, json.dumps({"message": "no postgres://u:c4n4ry@db/x"}).encode()),
        whole(200, json.dumps({"error": {"message": f"key {KEY}", "code": 500}}).encode()),
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("which", range(8))
async def test_no_credential_comes_back(which: int, stream: bool) -> None:
    async with Upstream() as up:
        spec = deployment(up, "own", api_key=KEY, extra_headers={"X-Auth-Token": SECRET})
        async with served(up, spec) as gw:
            up.answer(lambda request: (echoed(request.headers)[which],))
            got = await gw.chat("own", stream=stream, num_retries=0)
    assert got.status_code >= 400
    assert got.json()["error"]["message"]
    for text in (got.text, *got.headers.values()):
        assert "c4n4ry" not in text
        assert KEY[:12] not in text


async def test_nor_in_a_stream() -> None:
    async with Upstream() as up:
        async with served(up, deployment(up, "own", api_key=KEY)) as gw:
            up.stream([chunk({"content": "a"}), b'data: {"error":{"message":"key %b failed"}}\n\n' % KEY.encode()])
            got = await gw.chat("own", stream=True, num_retries=0)
    assert "key *** failed" in got.text
    assert "c4n4ry" not in got.text


@pytest.mark.parametrize(
    ("key", "message", "left"),
    [
        (KEY, f"{KEY} and {KEY[:12]}, {KEY[:20]}x", "*** and ***, ***x"),
        (KEY, KEY[:11], KEY[:11]),
        ("short", "the short one, not shorter", "the *** one, not shorter"),
    ],
)
def test_what_is_taken_out(key: str, message: str, left: str) -> None:
    failure = Failure(message, extra={"more": [{"deep": message}]})
    redact(failure, make_deployment(api_key=Secret(key)))
    assert failure.message == str(failure) == left
    assert failure.extra == {"more": [{"deep": left}]}


async def test_a_plain_remark_is_kept_and_a_traceback_or_a_page_is_not() -> None:
    async with Upstream() as up, served(up) as gw:
        up.reply(status=400, body=b"no such thing", headers={"content-type": "text/plain"}, times=1)
        assert "no such thing" in (await gw.chat("fast")).json()["error"]["message"]
        for body in (b"Traceback (most recent call last): ...", b"<html>no</html>", b"no route to db://u:pw@host"):
            up.reply(status=400, body=body, headers={"content-type": "text/plain"}, times=1)
            said = (await gw.chat("fast")).json()["error"]["message"]
            assert said.endswith("The provider answered with status 400.")


@pytest.mark.parametrize("own", [{"stream_timeout": 0.15}, {"timeout": 0.15}, None])
async def test_one_clock_until_the_first_event(own: dict[str, Any] | None) -> None:
    async with Upstream() as up, served(up, deployment(up, "own", **(own or {}))) as gw:
        up.script(None, [Send(HEAD), Send(b"6\r\n: hi\n\n\r\n"), Stall()])
        body = {} if own else {"stream_timeout": 0.15}
        async with asyncio.timeout(5):
            got = await gw.chat("own", stream=True, num_retries=0, **body)
    assert got.status_code == 408


async def test_done_ends_a_stream_whose_connection_stays_open() -> None:
    async with Upstream() as up, served(up) as gw:
        up.script(None, [Send(HEAD), *map(piece, STREAM), Stall()])
        async with asyncio.timeout(5):
            got = await gw.chat("fast", stream=True)
            assert got.text.endswith(DONE.decode())
            assert got.text.count("[DONE]") == 1
            await up.wait_disconnects(1, timeout=2.0)
        assert gw.gateway.pipeline.ledger.entries[-1].status == "success"


async def test_done_before_the_answer_is_complete_is_an_error() -> None:
    async with Upstream() as up, served(up) as gw:
        up.stream([chunk({"content": "a"}), DONE])
        got = await gw.chat("fast", stream=True, num_retries=0)
        assert '"error"' in got.text or got.status_code == 502


async def test_a_stream_that_ends_properly_gives_its_connection_back() -> None:
    async with Upstream() as up, served(up) as gw:
        up.stream(STREAM)
        for _ in range(3):
            assert (await gw.chat("fast", stream=True)).text.endswith(DONE.decode())
        (stats,) = gw.gateway.transport.stats().values()
        assert stats["idle"] == 1


@pytest.mark.parametrize("provider", ["gemini"])
async def test_input_that_no_encoder_can_read_is_the_callers_fault(provider: str) -> None:
    async with Upstream() as up:
        spec = {"model_name": "own", "tianji_params": {"model": f"{provider}/m", "api_base": up.url, "api_key": KEY}}
        async with gateway({"model_list": [spec]}) as gw:
            got = await gw.client.post(
                "/v1/chat/completions",
                json={"model": "own", "messages": [{"role": "assistant", "content": None, "tool_calls": 1}]},
            )
            assert got.status_code == 400, got.text
            assert not up.requests
            ledger = gw.gateway.pipeline.ledger
            assert ledger.open == 0
            assert not any(entry.nano for entry in ledger.entries if entry.kind != "reserve")


@pytest.mark.parametrize("field", [{"api_key": KEY}, {"api_base": "http://x/v1"}, {"extra_headers": {"X-Team": "a"}}])
async def test_a_credential_for_any_vendor_is_refused(field: dict[str, Any]) -> None:
    config = {"model_list": [{"model_name": "*", "tianji_params": {"model": "*", **field}}]}
    from_dict(config)
    with pytest.raises(ConfigError, match="openai/\\*") as caught:
        async with gateway(config):
            pass
    assert next(iter(field)) in caught.value.path
    assert KEY not in str(caught.value)


def test_a_date_to_retry_after() -> None:
    seconds = retry_after({"retry-after": formatdate(time() + 100, usegmt=True)})
    assert seconds is not None
    assert 60 < seconds <= 101
    far = format_datetime(datetime.now(UTC) + timedelta(days=900), usegmt=True)
    assert retry_after({"retry-after": far}) == 86400.0
    assert retry_after({"retry-after": "1e6"}) == 86400.0
    for text in ("-1", "nan", "inf", "1e999", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert retry_after({"retry-after": text}) is None
