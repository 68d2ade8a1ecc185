"""The kernel's HTTP/1.1 client: pooled, bounded, and cheap enough for the hot path.

One `Transport` belongs to one event loop. `send` puts a `Wire` on a connection and comes back with a `Response` as
soon as the headers are there; the body is read with `chunk` or `read`. The transport never retries, follows no
redirect and reads no environment: the attempt loop decides what a failure means.

    request.py      URL and headers to bytes         connection.py  one socket: the protocol and its parser
    dial.py         names, addresses, sockets        response.py    one answer, as its reader sees it
    decode.py       gzip and deflate                 pool.py        the connections of one origin, and who waits for one
    ticker.py       one timer for every clock        client.py      `Transport`
    failures.py     what is raised in several places

Wire format: https://www.rfc-editor.org/rfc/rfc9112 (HTTP/1.1), https://www.rfc-editor.org/rfc/rfc9110 (semantics).
"""

from tianji.transport.client import Clocks, Transport
from tianji.transport.response import Response

__all__ = ["Clocks", "Response", "Transport"]
