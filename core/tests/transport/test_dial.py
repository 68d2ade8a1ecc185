"""Names and addresses: cached for a while, asked for once, and tried in a race."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from tianji.errors import Unavailable
from tianji.model import Wire
from tianji.testing.upstream import Upstream
from tianji.transport import Clocks, Transport, dial
from tianji.transport.dial import Address, Names, alternate

CLOCKS = Clocks()
Run = Callable[[Coroutine[Any, Any, Any]], Any]
A, B = (socket.AF_INET, ("127.0.0.1", 1)), (socket.AF_INET, ("127.0.0.2", 1))
SIX, SEVEN = (socket.AF_INET6, ("::1", 1, 0, 0)), (socket.AF_INET6, ("::2", 1, 0, 0))


@pytest.mark.parametrize(
    ("given", "order"),
    [([A], [A]), ([SIX, SEVEN, A, B], [SIX, A, SEVEN, B]), ([A, B, SIX], [A, SIX, B]), ([A, A, B], [A, B]), ([], [])],
)
def test_families_alternate(given: list[Address], order: list[Address]) -> None:
    assert alternate(given) == order


class Book:
    """A name service that counts what it is asked."""

    def __init__(self, *addresses: Address) -> None:
        self.addresses: Sequence[Address] = addresses
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked += 1
        await asyncio.sleep(0.01)
        return self.addresses


async def test_an_answer_is_kept_for_less_than_thirty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(dial, "monotonic", lambda: clock[0])
    book = Book(A)
    names = Names(book)
    assert await names.addresses("h", 1) == [A]
    clock[0] += 15
    assert await names.addresses("h", 1) == [A]
    assert book.asked == 1
    book.addresses = [B]
    clock[0] += 15
    assert await names.addresses("h", 1) == [B]


async def test_simultaneous_questions_share_a_lookup_and_may_be_given_up() -> None:
    book = Book(A)
    names = Names(book)
    asking = [asyncio.create_task(names.addresses("h", 1)) for _ in range(10)]
    await asyncio.sleep(0)
    asking[0].cancel()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [[A]] * 9
    assert book.asked == 1


async def test_a_failed_lookup_is_not_kept() -> None:
    book = Book()
    names = Names(book)
    for count in (1, 2):
        with pytest.raises(OSError, match="no address"):
            await names.addresses("h", 1)
        assert book.asked == count
    names.close()


async def test_the_cache_is_bounded() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        return [A]

    names = Names(resolve)
    for number in range(dial.MAX_NAMES + 10):
        await names.addresses(f"h{number}", 1)
    assert len(names._known) <= dial.MAX_NAMES


def test_an_address_that_fails_is_followed_by_the_next(run: Run) -> None:
    async def main() -> None:
        async with Upstream() as up:
            up.reply(body=b"x")
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                book = Book((socket.AF_INET, unused.getsockname()), (socket.AF_INET, ("127.0.0.1", up.port)))
                transport = Transport(resolve=book)
                response = await transport.send(Wire(url=f"http://two.test:{up.port}/"), clocks=CLOCKS)
                assert await response.read() == b"x"
                assert up.requests[0].headers["host"] == f"two.test:{up.port}"
                await transport.aclose()

    run(main())


def test_an_address_that_is_silent_is_overtaken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address is a listener whose queue is full. The second is asked while the first still hangs."""

    async def main() -> None:
        monkeypatch.setattr(dial, "STAGGER", 0.05)
        with socket.socket() as hole:
            hole.bind(("127.0.0.1", 0))
            hole.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(hole.getsockname())
            async with Upstream() as up:
                up.reply(body=b"x")
                book = Book((socket.AF_INET, hole.getsockname()), (socket.AF_INET, ("127.0.0.1", up.port)))
                transport = Transport(resolve=book)
                response = await transport.send(Wire(url=f"http://two.test:{up.port}/"), clocks=Clocks(connect=2.0))
                assert await response.read() == b"x"
                await transport.aclose()
            for filler in fillers:
                filler.close()

    run(main())


def test_when_all_addresses_fail_the_name_is_asked_again(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            book = Book(*[(socket.AF_INET, unused.getsockname())] * 2, (socket.AF_INET6, ("::1", 1, 0, 0)))
            transport = Transport(resolve=book)
            for asked in (1, 2):
                with pytest.raises(Unavailable) as caught:
                    await transport.send(Wire(url="http://gone.test/"), clocks=CLOCKS)
                assert caught.value.code == "connection_error"
                assert book.asked == asked
            await transport.aclose()

    run(main())


async def test_localhost_is_resolved_by_the_system(up: Upstream, transport: Transport) -> None:
    up.reply(body=b"x")
    response = await transport.send(Wire(url=f"http://localhost:{up.port}/"), clocks=CLOCKS)
    assert await response.read() == b"x"
