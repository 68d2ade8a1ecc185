"""Content codings of responses: gzip and deflate, inflated a bounded piece at a time.

Wire format: https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1, https://www.rfc-editor.org/rfc/rfc1952 (gzip),
https://www.rfc-editor.org/rfc/rfc1950 (zlib). Some servers send bare deflate data (RFC 1951) as `deflate`; both
are understood. 200 kB of gzip can hold 200 MB, which is why nothing here inflates more than it was asked for.
"""

from __future__ import annotations

import zlib

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
GZIP, ZLIB, BARE = 31, 15, -15
"""`wbits` of the three containers."""


class Inflater:
    """Push compressed bytes with `feed`, pull at most `limit` bytes with `take`."""

    __slots__ = ("_began", "_data", "_wbits", "_z", "starved")

    def __init__(self, coding: str) -> None:
        self._wbits = ZLIB if coding == "deflate" else GZIP
        self._z = zlib.decompressobj(self._wbits)
        self._data = b""
        self._began = False
        self.starved = True
        """Nothing can be taken before more is fed."""

    def feed(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        self.starved = False

    def take(self, limit: int) -> bytes:
        """The next bytes of the content; b"" when starved.

        Raises:
            zlib.error: The data is not what the coding promised.
        """
        if self._z.eof and not self._next_member():
            return b""
        data = self._data
        try:
            out = self._z.decompress(data, limit)
        except zlib.error:
            if self._wbits != ZLIB or self._began:
                raise
            self._wbits = BARE
            self._z = zlib.decompressobj(BARE)
            out = self._z.decompress(data, limit)
        self._began = True
        self._data = self._z.unused_data if self._z.eof else self._z.unconsumed_tail
        # A full piece may have left more inside zlib, which comes out without further input.
        self.starved = not self._data and len(out) < limit
        return out

    def _next_member(self) -> bool:
        """Step into the next gzip member. Padding behind the last one is dropped, as gzip itself does."""
        if self._wbits != GZIP or self._data[:1] != b"\x1f":
            self._data = b""
            self.starved = True
            return False
        self._z = zlib.decompressobj(GZIP)
        return True

    @property
    def whole(self) -> bool:
        """No content has begun that has not ended."""
        return self._z.eof or not self._began
