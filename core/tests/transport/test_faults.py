"""An upstream that breaks: at which point, with which failure, and what it leaves behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tianji.errors import ProtocolError, Unavailable, UpstreamFailure
from tianji.model import Wire
from tianji.testing.upstream import Close, HalfClose, Reset, Send, Sleep, Step, Upstream, message
from tianji.transport import Clocks, Response, Transport

CLOCKS = Clocks()
Run = Callable[[Coroutine[Any, Any, Any]], Any]
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def read_all(transport: Transport, up: Upstream) -> bytes:
    url = f"{up.url}/v1/path?key=secret-query"
    wire = Wire(url=url, headers={"authorization": "secret-header"}, body=b"secret-body")
    async with await transport.send(wire, clocks=CLOCKS) as response:
        return await response.read(timeout=5)


def expect(run: Run, steps: list[Step], kind: type[UpstreamFailure], code: str, text: str) -> None:
    """The failure, its words, and that afterwards nothing is left and the next request works."""

    async def main() -> None:
        async with Upstream() as up:
            transport = Transport()
            up.script(None, steps, times=1)
            up.reply(body=b"next")
            with pytest.raises(UpstreamFailure) as caught:
                await read_all(transport, up)
            failure = caught.value
            assert type(failure) is kind
            assert failure.code == code
            assert text in failure.message
            assert f"127.0.0.1:{up.port}" in failure.message
            assert "secret" not in repr(failure.body())
            assert transport.stats()[up.url] == {"active": 0, "idle": 0, "pending": 0}
            assert await read_all(transport, up) == b"next"
            assert len(up.requests) == 2, "a request that was sent must not be repeated"
            await transport.aclose()

    run(main())


@pytest.mark.parametrize(
    "steps",
    [
        [Reset()],
        [Close()],
        [HalfClose(), Sleep(0.1)],
        [Send(b"HTTP/1.1 200 OK\r\nconte"), Sleep(0.02), Reset()],
        [Send(message(200, {"content-length": "10"}, b"abc")), Sleep(0.02), Reset()],
        [Send(CHUNKED + b"3\r\nabc\r\n"), Sleep(0.02), Reset()],
        [Send(message(200, {}, None) + b"until eof"), Sleep(0.02), Reset()],
    ],
    ids=["reset", "close", "half-close", "in-head", "in-body", "in-chunks", "in-unframed-body"],
)
def test_a_lost_connection(run: Run, steps: list[Step]) -> None:
    expect(run, steps, Unavailable, "connection_error", "closed the connection")


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nconte",
        message(200, {"content-length": "10"}, b"abc"),
        CHUNKED,
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\n",
        CHUNKED + b"9\r\nabc",
    ],
    ids=["head", "length", "no-chunk", "no-last-chunk", "no-last-line", "in-chunk"],
)
def test_a_message_cut_short(run: Run, sent: bytes) -> None:
    expect(run, [Send(sent), Close()], ProtocolError, "upstream_protocol_error", "cut its response short")


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\r\n\r\n",
        b"ICE/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\nabc",
        CHUNKED + b"zz\r\nabc\r\n",
        CHUNKED + b"-1\r\nabc\r\n",
        CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_http(run: Run, sent: bytes) -> None:
    expect(run, [Send(sent), Sleep(0.3)], ProtocolError, "upstream_protocol_error", "sent a malformed response")


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", "answered in HTTP/2.0"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx", "transfer coding"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer coding"),
        (CHUNKED.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), "transfer coding"),
        (b"HTTP/1.1 200 OK\r\na: " + b"x" * 70_000, "oversized headers"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: 0123456789\r\n" * 5000 + b"content-length: 0\r\n\r\n", "oversized headers"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3000, "oversized headers"),
        (CHUNKED + b"0\r\n" + b"t: 0123456789\r\n" * 20000, "too much framing"),
        (CHUNKED + b"1;" + b"x" * 400_000, "too much framing"),
    ],
    ids=["http-2", "gzip", "gzip-chunked", "twice", "value", "many", "interim", "trailers", "extension"],
)  # fmt: skip
def test_what_is_http_and_refused(run: Run, sent: bytes, text: str) -> None:
    expect(run, [Send(sent), Sleep(0.3)], ProtocolError, "upstream_protocol_error", text)


async def test_a_large_head_within_the_limit_is_accepted(up: Upstream, transport: Transport) -> None:
    up.reply(body=b"x" * 200_000, headers={"a": "y" * 60_000})
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    assert len(response.headers["a"]) == 60_000
    assert len(await response.read()) == 200_000


async def test_what_arrived_before_a_break_is_read_before_the_failure(up: Upstream, transport: Transport) -> None:
    up.script(None, [Send(CHUNKED + b"3\r\nabc\r\n"), Close()])
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    await up.wait_requests(1)
    await asyncio.sleep(0.05)
    assert await response.chunk(1) == b"abc"
    for _ in range(2):
        with pytest.raises(ProtocolError, match="cut its response short"):
            await response.chunk(1)


async def test_bytes_behind_a_complete_answer_spoil_the_connection(up: Upstream, transport: Transport) -> None:
    extra = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale"
    up.script("/together", [Send(message(200, {}, b"one") + extra)])
    up.script("/later", [Send(message(200, {}, b"one")), Sleep(0.02), Send(extra)])
    up.reply(body=b"two")
    for path in ("/together", "/later"):
        response = await transport.send(Wire(url=up.url + path), clocks=CLOCKS)
        assert await response.read() == b"one"
        await asyncio.sleep(0.05)
        assert transport.stats()[up.url]["idle"] == 0
        response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
        assert await response.read() == b"two"
        transport.close_idle()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_refused_connection(run: Run) -> None:
    async def main() -> None:
        transport = Transport()
        origin = f"http://127.0.0.1:{free_port()}"
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ cannot be reached") as caught:
                await transport.send(Wire(url=f"{origin}/x?secret"), clocks=CLOCKS)
            assert caught.value.code == "connection_error"
            assert isinstance(caught.value.__cause__, OSError)
            assert "secret" not in caught.value.message
        assert transport.stats()[origin] == {"active": 0, "idle": 0, "pending": 0}
        await transport.aclose()

    run(main())


async def test_a_name_that_does_not_resolve() -> None:
    async def resolve(host: str, port: int) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    transport = Transport(resolve=resolve)
    with pytest.raises(Unavailable, match=r"nowhere\.test does not resolve") as caught:
        await transport.send(Wire(url="http://nowhere.test/"), clocks=CLOCKS)
    assert caught.value.code == "dns_error"
    await transport.aclose()


def test_tls(run: Run) -> None:
    async def main() -> None:
        async with Upstream(tls=True) as up:
            transport = Transport(ssl_context=up.client_ssl(), resolve=_loopback)
            up.reply(body=b"x" * 500_000, path="/big")
            up.stream([b"a", b"b"], delay=0.02, path="/sse")
            for _ in range(3):
                response = await transport.send(Wire(url=f"{up.url}/big"), clocks=CLOCKS)
                assert await response.read() == b"x" * 500_000
            response = await transport.send(Wire(url=f"{up.url}/sse"), clocks=CLOCKS)
            assert await response.chunk(1) == b"a"
            response.close()
            await up.wait_disconnects(1, timeout=1)
            named = await transport.send(Wire(url=f"https://upstream.test:{up.port}/big"), clocks=CLOCKS)
            assert len(await named.read()) == 500_000
            assert up.connections == 2
            await transport.aclose()

    run(main())


async def _loopback(host: str, port: int) -> list[tuple[int, Any]]:
    return [(socket.AF_INET, ("127.0.0.1", port))]


@pytest.mark.parametrize("trusting", [True, False], ids=["wrong-host", "unknown-issuer"])
def test_a_certificate_that_does_not_fit_is_refused(run: Run, trusting: bool) -> None:
    async def main() -> None:
        async with Upstream(tls=True) as up:
            up.reply()
            host = "other.test" if trusting else "upstream.test"
            transport = Transport(ssl_context=up.client_ssl() if trusting else None, resolve=_loopback)
            with pytest.raises(Unavailable, match=f"{host}:{up.port}: the TLS handshake failed") as caught:
                await transport.send(Wire(url=f"https://{host}:{up.port}/"), clocks=CLOCKS)
            assert caught.value.code == "tls_error"
            assert up.requests == []
            assert transport.stats()[f"https://{host}:{up.port}"]["active"] == 0
            await transport.aclose()

    run(main())


def test_tls_to_a_server_that_speaks_plain_http(run: Run) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            transport = Transport()
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Unavailable, match="the TLS handshake failed") as caught:
                await transport.send(Wire(url=f"https://127.0.0.1:{port}/"), clocks=CLOCKS)
            assert caught.value.code == "tls_error"
            await transport.aclose()

    run(main())


async def test_a_response_shows_no_content(up: Upstream, transport: Transport) -> None:
    up.reply(body=b"secret")
    response: Response = await transport.send(Wire(url=f"{up.url}/?secret"), clocks=CLOCKS)
    assert repr(response) == f"<Response 200 of 127.0.0.1:{up.port}>"
