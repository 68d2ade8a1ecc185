"""What clients see of the way to their sockets: our own, on uvicorn's connection, and ASGI's, say the same."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from support import ANSWER, DONE, STREAM, Pair, events, served
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tianji.hookspecs import hookimpl
from tianji.model import Call
from tianji.plugin import Extension
from tianji.server.app import create_app
from tianji.testing import Upstream

CHAT = "/v1/chat/completions"
OWN = {"x-request-id", "x-tianji-call-id", "x-tianji-key-spend", "date", "server", "connection", "transfer-encoding"}
"""Headers that differ from call to call, or are the server's."""


class Wire:
    """A client connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self.reader = reader
        self.writer = writer
        self.key = key

    def request(
        self, path: str = CHAT, *, method: str = "POST", version: str = "1.1", headers: str = "", **body: Any
    ) -> bytes:
        data = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "x"}], **body}).encode()
        length = f"content-length: {len(data)}\r\n" if method == "POST" else ""
        head = f"{method} {path} HTTP/{version}\r\nhost: x\r\nauthorization: Bearer {self.key}\r\n{length}{headers}\r\n"
        return head.encode() + (data if method == "POST" else b"")

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.strip().split("\r\n")
        pairs = [line.partition(": ") for line in lines]
        names = [name for name, _, _ in pairs]
        assert len(set(names)) == len(names), "a header was sent twice"
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        body = b""
        if headers.get("transfer-encoding") != "chunked":
            return status, headers, await self.reader.read()
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return status, headers, body


@asynccontextmanager
async def wire(pair: Pair) -> AsyncIterator[Wire]:
    url = httpx.URL(pair.gw.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        async with asyncio.timeout(10):
            yield Wire(reader, writer, pair.gw.key)
    finally:
        writer.close()


REQUESTS: dict[str, dict[str, Any]] = {
    "whole": {"model": "fast", "messages": []},
    "stream": {"model": "fast", "messages": [], "stream": True},
    "refused": {"model": "fast", "messages": "x"},
    "unknown": {"model": "nope", "messages": []},
    "upstream's error": {"model": "fast", "messages": [], "user": "429"},
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_links_say_the_same(pair: Pair, name: str) -> None:
    if name == "stream":
        pair.up.stream(STREAM)
    elif name == "upstream's error":
        pair.up.reply(status=400, json={"error": {"message": "no"}}, headers={"x-ratelimit-limit": "1"})
    over_asgi = httpx.ASGITransport(create_app(pair.gw.gateway))
    headers = {"authorization": f"Bearer {pair.gw.key}"}
    async with httpx.AsyncClient(transport=over_asgi, base_url=pair.gw.url, headers=headers) as asgi:
        one = await pair.gw.client.post(CHAT, json=REQUESTS[name])
        two = await asgi.post(CHAT, json=REQUESTS[name])
    assert (one.status_code, one.content) == (two.status_code, two.content)
    left, right = ({k: v for k, v in r.headers.items() if k not in OWN and "duration" not in k} for r in (one, two))
    assert left == right


async def test_what_is_left_to_do_after_an_answer_is_not_cut_short() -> None:
    """ASGI servers report a disconnect after every complete response; it must not cancel undo and settlement."""
    ended: list[str] = []

    class Slow(Extension):
        name = "slow"

        @hookimpl
        async def pre_call(self, call: Call) -> None:
            async def undo() -> None:
                await asyncio.sleep(0.05)
                ended.append(call.id)

            call.defer(undo)

    async with Upstream() as up, served(up, plugins_under_test=[Slow]) as gw:
        headers = {"authorization": f"Bearer {gw.key}"}
        over_asgi = httpx.ASGITransport(create_app(gw.gateway))
        async with httpx.AsyncClient(transport=over_asgi, base_url=gw.url, headers=headers) as client:
            up.reply(json=ANSWER)
            whole = await client.post(CHAT, json=REQUESTS["whole"])
            up.stream(STREAM)
            stream = await client.post(CHAT, json=REQUESTS["stream"])
        assert ended == [whole.headers["x-request-id"], stream.headers["x-request-id"]]
        ledger: Any = gw.gateway.pipeline.ledger
        assert ledger.open == 0
        assert [entry.status for entry in ledger.entries if entry.kind == "settle"] == ["success", "success"]


class TestOldClients:
    """HTTP/1.0 knows no chunks, and closes unless told otherwise."""

    async def test_a_whole_answer(self, pair: Pair) -> None:
        async with wire(pair) as client:
            client.writer.write(client.request(version="1.0"))
            status, headers, body = await client.response()
            assert (status, json.loads(body)["model"]) == (200, "fast")
            assert headers["connection"] == "close"
            assert await client.reader.read() == b""

    async def test_a_stream(self, pair: Pair) -> None:
        pair.up.stream(STREAM)
        async with wire(pair) as client:
            client.writer.write(client.request(version="1.0", stream=True))
            status, headers, body = await client.response()
            assert status == 200
            assert "transfer-encoding" not in headers
            assert "content-length" not in headers
            assert headers["connection"] == "close"
            assert body.endswith(DONE)
            said = [event["choices"][0]["delta"].get("content") or "" for event in events(body.decode())]
            assert "".join(said) == "One two three"


class TestConnections:
    async def test_fifty_requests_one_after_the_other_on_one_connection(self, pair: Pair) -> None:
        async with wire(pair) as client:
            for number in range(50):
                stream = number % 5 == 4
                if stream:
                    pair.up.stream(STREAM, times=1)
                client.writer.write(client.request(user=str(number), stream=stream))
                status, headers, body = await client.response()
                assert status == 200
                assert headers.get("connection", "keep-alive") == "keep-alive"
                assert body.endswith(DONE) if stream else json.loads(body)["model"] == "fast"
                assert pair.up.requests[-1].json()["user"] == str(number)
        assert pair.up.connections <= 2

    async def test_requests_that_are_sent_at_once_are_answered_in_order(self, pair: Pair) -> None:
        pair.up.answer(_say_the_user)
        async with wire(pair) as client:
            client.writer.write(b"".join(client.request(user=f"u{number}") for number in range(8)))
            said = [json.loads((await client.response())[2])["id"] for _ in range(8)]
            assert said == [f"u{number}" for number in range(8)]

    async def test_a_failure_does_not_end_the_connection(self, pair: Pair) -> None:
        async with wire(pair) as client:
            for request, status in (
                (client.request(messages="x"), 400), (client.request("/v1/nothing"), 404), (client.request(), 200),
                (client.request(model="nope"), 404), (client.request(method="GET"), 405), (client.request(), 200),
            ):  # fmt: skip
                client.writer.write(request)
                assert (await client.response())[0] == status

    async def test_close_when_it_is_asked_for(self, pair: Pair) -> None:
        async with wire(pair) as client:
            client.writer.write(client.request(headers="connection: close\r\n"))
            assert (await client.response())[1]["connection"] == "close"
            assert await client.reader.read() == b""

    async def test_head_has_no_body(self, pair: Pair) -> None:
        async with wire(pair) as client:
            client.writer.write(client.request(method="HEAD"))
            status, headers = await client.head()
            assert status == 405
            assert int(headers["content-length"]) > 0
            client.writer.write(client.request())
            assert (await client.response())[0] == 200  # and not the rest of a body

    async def test_a_body_in_pieces(self, pair: Pair) -> None:
        async with wire(pair) as client:
            request = client.request(user="x" * 5000)
            for at in range(0, len(request), 700):
                client.writer.write(request[at : at + 700])
                await asyncio.sleep(0)
            assert (await client.response())[0] == 200
            assert len(pair.up.requests[-1].json()["user"]) == 5000

    async def test_expect_continue(self, pair: Pair) -> None:
        async with wire(pair) as client:
            head, _, body = client.request(headers="expect: 100-continue\r\n").partition(b"\r\n\r\n")
            client.writer.write(head + b"\r\n\r\n")
            assert (await client.head())[0] == 100
            client.writer.write(body)
            assert (await client.response())[0] == 200


async def test_an_early_answer_can_be_read_by_a_client_that_is_still_sending() -> None:
    """Closing takes two steps: a reset at once would take the answer away."""
    async with Upstream() as up, served(up, general_settings={"max_request_size_mb": 0.01}) as gw:
        async with wire(Pair(gw, up)) as client:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gw.key}\r\n"
            head += "content-length: 200000\r\n\r\n"
            client.writer.write(head.encode())
            for _ in range(40):
                client.writer.write(b" " * 4096)
                await client.writer.drain()
                await asyncio.sleep(0)
            status, headers, body = await client.response()
            assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
            assert headers["connection"] == "close"
            assert await client.reader.read() == b""


async def test_a_client_that_never_stops_sending_is_cut_off() -> None:
    async with Upstream() as up, served(up, general_settings={"max_request_size_mb": 0.01}) as gw:
        async with wire(Pair(gw, up)) as client:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gw.key}\r\n"
            head += "content-length: 999999999\r\n\r\n"
            client.writer.write(head.encode())
            sent = 0
            with pytest.raises(ConnectionError):  # noqa: PT012 - which of the writes meets the closed end is not ours to say
                while sent < 64 * 1024 * 1024:
                    client.writer.write(b" " * 65536)
                    sent += 65536
                    await client.writer.drain()
                    await asyncio.sleep(0.001)
            assert sent < 32 * 1024 * 1024


def test_uvicorn_still_has_what_the_link_relies_on() -> None:
    source = inspect.getsource(RequestResponseCycle)
    for name in (
        "flow", "disconnected", "response_started", "response_complete", "waiting_for_100_continue", "more_body",
        "keep_alive", "default_headers", "chunked_encoding", "expected_content_length", "message_event", "transport",
        "on_response", "scope",
    ):  # fmt: skip
        assert f"self.{name} = " in source or f"self.{name}: " in source, name


def _say_the_user(request: Any) -> Any:
    from tianji.testing.upstream import Send, Sleep, message

    user = request.json()["user"]
    body = json.dumps({**ANSWER, "id": user}).encode()
    answer = message(200, {"content-type": "application/json"}, body)
    return [Sleep(0.02 if user in ("u0", "u3") else 0.0), Send(answer)]
