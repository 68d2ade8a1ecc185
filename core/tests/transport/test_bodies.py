"""Bodies that are compressed, too large, or faster than their reader."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji.errors import ProtocolError
from tianji.model import Wire
from tianji.testing.upstream import Close, Send, Sleep, Step, Upstream, chunked, message
from tianji.transport import Clocks, Transport
from tianji.transport.decode import Inflater
from tianji.transport.response import MAX_BODY, MAX_CHUNK

CLOCKS = Clocks()
Run = Callable[[Coroutine[Any, Any, Any]], Any]
TEXT = b'{"choices": [1, 2, 3]}' * 500


def bare_deflate(data: bytes) -> bytes:
    z = zlib.compressobj(wbits=-15)
    return z.compress(data) + z.flush()


PACKED = gzip.compress(TEXT, mtime=0)  # without the time of day, which would be part of the tests' ids
HALVES = gzip.compress(TEXT[:100], mtime=0) + gzip.compress(TEXT[100:], mtime=0)
CODED = [
    ("gzip", PACKED),
    ("x-gzip", PACKED),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", bare_deflate(TEXT)),
    ("GZIP", HALVES),
    ("gzip", PACKED + b"\0" * 512),
    ("gzip", gzip.compress(b"", mtime=0) * 2000 + PACKED),
]


@pytest.mark.parametrize(("coding", "data"), CODED, ids=range(len(CODED)))
@pytest.mark.parametrize("each", [None, 13])
async def test_compressed_bodies(
    up: Upstream, transport: Transport, coding: str, data: bytes, each: int | None
) -> None:
    up.script(None, [Send(message(200, {"content-encoding": coding}, data), each=each)])
    response = await transport.send(Wire(url=up.url, headers={"accept-encoding": "gzip"}), clocks=CLOCKS)
    assert await response.read() == TEXT
    assert response.headers == {}
    assert up.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("size", [1, 2, 50, 10_000])
@pytest.mark.parametrize(("coding", "data"), CODED, ids=range(len(CODED)))
def test_every_split_inflates_alike(coding: str, data: bytes, size: int) -> None:
    for limit in (1, 1000, 1 << 20) if size > 1 else (1000,):
        inflater = Inflater(coding.lower())
        out = b""
        for start in range(0, len(data), size):
            inflater.feed(data[start : start + size])
            while not inflater.starved:
                piece = inflater.take(limit)
                assert len(piece) <= limit
                out += piece
        assert out == TEXT
        assert inflater.whole


@given(st.binary(max_size=3000), st.integers(1, 50), st.integers(1, 5000))
def test_gzip_of_anything(data: bytes, size: int, limit: int) -> None:
    coded = gzip.compress(data)
    inflater = Inflater("gzip")
    out = b""
    for start in range(0, len(coded), size):
        inflater.feed(coded[start : start + size])
        while not inflater.starved:
            out += inflater.take(limit)
    assert out == data
    assert inflater.whole


async def test_an_unknown_coding_is_left_alone(up: Upstream, transport: Transport) -> None:
    up.reply(body=b"brotli", headers={"content-encoding": "br"})
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    assert response.headers["content-encoding"] == "br"
    assert await response.read() == b"brotli"


@pytest.mark.parametrize("path", ["/whole", "/chunked"])
async def test_a_compressed_body_cut_short(up: Upstream, transport: Transport, path: str) -> None:
    data = gzip.compress(TEXT)[:-9]
    up.script("/whole", [Send(message(200, {"content-encoding": "gzip"}, data))])
    up.stream([data[:20], data[20:]], headers={"content-encoding": "gzip"}, path="/chunked")
    response = await transport.send(Wire(url=up.url + path), clocks=CLOCKS)
    with pytest.raises(ProtocolError, match="cut its compressed body short"):
        await response.read()


async def test_a_compressed_body_that_is_none(up: Upstream, transport: Transport) -> None:
    up.reply(body=b"plain text", headers={"content-encoding": "gzip"}, path="/whole")
    up.script("/open", [Send(message(200, {"content-encoding": "gzip"}, None) + b"plain text"), Sleep(5)])
    for path in ("/whole", "/open"):
        response = await transport.send(Wire(url=up.url + path), clocks=CLOCKS)
        for _ in range(2):
            with pytest.raises(ProtocolError, match="cannot be decoded"):
                await response.read()


def bomb(megabytes: int) -> bytes:
    z = zlib.compressobj(9, wbits=31)
    return b"".join(z.compress(bytes(1 << 20)) for _ in range(megabytes)) + z.flush()


async def test_a_bomb_is_cut_at_the_limit(up: Upstream, transport: Transport) -> None:
    data = bomb(100)
    assert len(data) < 125_000
    up.reply(body=data, headers={"content-encoding": "gzip"})
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=f"more than {MAX_BODY} bytes"):
        await response.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_BODY + 8 * MAX_CHUNK


async def test_a_bomb_read_in_chunks_comes_in_bounded_pieces(up: Upstream, transport: Transport) -> None:
    up.reply(body=bomb(40), headers={"content-encoding": "gzip"})
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    sizes = []
    while piece := await response.chunk(1):
        sizes.append(len(piece))
    assert sum(sizes) == 40 << 20
    assert max(sizes) <= MAX_CHUNK


@pytest.mark.parametrize("framing", ["length", "chunked", "eof", "small"])
async def test_the_limit_of_read(up: Upstream, transport: Transport, framing: str) -> None:
    body = b"x" * (50 if framing == "small" else 400_000)
    limit = len(body)
    scripts: dict[str, list[Step]] = {
        "length": [Send(message(200, {}, body))],
        "small": [Send(message(200, {}, body))],
        "chunked": [Send(message(200, {"transfer-encoding": "chunked"}, None) + chunked(body) + chunked(b""))],
        "eof": [Send(message(200, {}, None) + body), Close()],
    }
    up.script(None, scripts[framing])
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    assert await response.read(limit) == body
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    with pytest.raises(ProtocolError, match=f"more than {limit - 1} bytes") as caught:
        await response.read(limit - 1)
    assert caught.value.code == "response_too_large"


async def test_an_announced_size_over_the_limit_is_refused_unread(up: Upstream, transport: Transport) -> None:
    up.script(None, [Send(message(200, {"content-length": "999999999999"}, b"x")), Sleep(5)])
    response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
    with pytest.raises(ProtocolError, match="more than"):
        await response.read()
    await up.wait_disconnects(1, timeout=0.5)


@pytest.mark.parametrize("framing", ["chunked", "length", "tls"])
def test_a_slow_reader_slows_the_upstream(run: Run, framing: str) -> None:
    """40 MB are ready; as long as nobody reads, they stay with the upstream, and not in our memory."""

    async def main() -> None:
        frame, count = b"x" * 20_000, 2000
        async with Upstream(tls=framing == "tls") as up:
            transport = Transport(ssl_context=up.client_ssl() if up.tls else None)
            if framing == "length":
                up.script(None, [Send(message(200, {}, None)[:-2] + b"content-length: 40000000\r\n\r\n"),
                                 *[Send(frame)] * count])  # fmt: skip
            else:
                up.stream([frame] * count)
            response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
            sent = -1
            while sent != up.sent:
                sent = up.sent
                await asyncio.sleep(0.05)
            held = sum(map(len, response._parts))
            assert held < 700_000
            assert sent < 20_000_000
            total = largest = 0
            while data := await response.chunk(5):
                total += len(data)
                largest = max(largest, len(data))
            assert total == 40_000_000
            assert largest < 700_000
            assert transport.stats()[up.url] == {"active": 0, "idle": 1, "pending": 0}
            response = await transport.send(Wire(url=up.url), clocks=CLOCKS)
            assert len(await response.read()) == 40_000_000
            assert up.connections == 1
            await transport.aclose()

    run(main())
