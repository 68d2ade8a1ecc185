"""`Transport`: send a request, get a response. The design of this package is in its `__init__`."""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic

import msgspec

from tianji.model import Wire
from tianji.transport.dial import Names, Resolve
from tianji.transport.failures import closed
from tianji.transport.pool import Pool
from tianji.transport.request import Target, Targets, encode_request
from tianji.transport.response import Response
from tianji.transport.ticker import Ticker


class Clocks(msgspec.Struct, frozen=True):
    """How long one exchange may take, in seconds. Clocks fire within 100 ms after their time.

    The idle clock, between two chunks of a body, is an argument of `Response.chunk`. The clock for the first token is
    the reader's: only it knows which bytes are one.
    """

    connect: float = 5.0
    """For the name, the connection and the TLS handshake; and as much again for a free connection, where all are
    in use."""
    headers: float = 600.0
    """From `send` to the last byte of the response's head."""
    total: float = 600.0
    """From `send` to the last byte of the body. It also runs while nobody reads."""


class Transport:
    """An HTTP/1.1 client over pooled connections, for one event loop.

    Args:
        max_connections: Per origin (scheme, host and port).
        max_pending: Per origin: requests that may wait for a connection. The next one is refused with `Overloaded`.
        keepalive: Seconds that an unused connection is kept.
        ssl_context: For https. By default the system's trust store, host names checked.
        max_header_bytes: For a response's head, the interim (1xx) ones before it included.
        resolve: Looks names up, in place of the operating system: `(host, port) -> [(family, address), …]`.
    """

    def __init__(
        self,
        *,
        max_connections: int = 512,
        max_pending: int = 1024,
        keepalive: float = 60.0,
        ssl_context: ssl.SSLContext | None = None,
        max_header_bytes: int = 64 * 1024,
        resolve: Resolve | None = None,
    ) -> None:
        self._max_connections = max_connections
        self._max_pending = max_pending
        self._keepalive = keepalive
        self._ssl_context = ssl_context
        self._max_header_bytes = max_header_bytes
        self._targets = Targets()
        self._names = Names(resolve)
        self._pools: dict[str, Pool] = {}
        self._ticker: Ticker | None = None
        self._closed = False

    async def send(self, wire: Wire, *, clocks: Clocks) -> Response:
        """One request on one connection; returns when the head of the response is there.

        A small answer that arrives in one piece is then complete, and `Response.read` does not wait. There are no
        retries: a connection that is known to be dead is passed over, and one that breaks after bytes were sent is
        a failure, because nobody can know what the upstream did with them.

        Raises:
            BadRequest: The URL, a header or the method cannot be put on the wire.
            Overloaded: All connections to the origin are in use, and the queue is full or moved too slowly.
            Timeout: `connect_timeout`, `headers_timeout` or `total_timeout`.
            Unavailable: `dns_error`, `connection_error` or `tls_error`.
            ProtocolError: What came back is not HTTP/1.1.
        """
        target = self._targets[wire.url]
        payload = encode_request(wire, target)
        pool = self._pools.get(target.key)
        if pool is None:
            pool = self._pool(target)
        now = monotonic()
        headers_at = now + clocks.headers
        total_at = now + clocks.total
        conn = pool.take()
        if conn is None:
            conn = await pool.acquire(connect=clocks.connect, headers_at=headers_at, total_at=total_at)
            if self._closed:
                conn.drop()
                pool.free()
                raise closed()
        response = Response(target.label)
        waiter = conn.begin(response, payload, bodiless=wire.method == "HEAD", headers_at=headers_at, total_at=total_at)
        try:
            await waiter
        except BaseException:
            response.close()
            raise
        if not response.status:
            raise response._error or closed()
        return response

    def _pool(self, target: Target) -> Pool:
        if self._closed:
            raise closed()
        ticker = self._ticker
        if ticker is None:
            ticker = self._ticker = Ticker(asyncio.get_running_loop())
            ticker.pools = self._pools
        pool = self._pools[target.key] = Pool(
            target,
            loop=asyncio.get_running_loop(),
            ticker=ticker,
            names=self._names,
            tls=self._tls,
            limit=self._max_connections,
            max_pending=self._max_pending,
            keepalive=self._keepalive,
            max_header_bytes=self._max_header_bytes,
        )
        return pool

    def _tls(self) -> ssl.SSLContext:
        """The given context, or the system's. Made on first use, because loading the trust store takes 20 ms."""
        context = self._ssl_context
        if context is None:
            context = self._ssl_context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
        return context

    def stats(self) -> dict[str, dict[str, int]]:
        """Per origin (`https://host:port`): connections `active` and `idle`, requests `pending`."""
        return {key: pool.stats() for key, pool in self._pools.items()}

    def close_idle(self) -> None:
        """Close every connection that nobody uses."""
        for pool in self._pools.values():
            pool.close_idle()

    async def aclose(self) -> None:
        """Close everything. Requests under way fail with `Unavailable`; later ones too."""
        self._closed = True
        self._names.close()
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            pool.close()
        if self._ticker is not None:
            for conn in list(self._ticker.busy):
                conn.fail(closed())
            self._ticker.stop()
        await asyncio.sleep(0)  # sockets are closed by callbacks that are queued now
