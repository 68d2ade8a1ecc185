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
SLICE = 16 * 1024


class Inflater:
    """Push compressed bytes with `feed`, pull at most `limit` bytes with `take`."""

    __slots__ = ("_at", "_bare", "_began", "_data", "_z", "starved")

    def __init__(self, coding: str) -> None:
        self._bare: bool | None = None if coding == "deflate" else False
        """Whether there is no container; None until the first bytes tell."""
        self._z = zlib.decompressobj(GZIP)
        self._data = b""
        self._at = 0
        self._began = False
        self.starved = True
        """Nothing can be taken before more is fed."""

    def feed(self, data: bytes) -> None:
        self._data = self._data[self._at :] + data if self._data else data
        self._at = 0
        self.starved = False
        self._began = True

    def take(self, limit: int) -> bytes:
        """The next bytes of the content; b"" when starved.

        Raises:
            zlib.error: The data is not what the coding promised.
        """
        if self._bare is None and not self._look():
            return b""
        if self._z.eof and not self._next_member():
            return b""
        # A slice, because zlib copies what it leaves: many small members in one large read would cost its square.
        piece = self._data[self._at : self._at + SLICE]
        out = self._z.decompress(piece, limit)
        self._at += len(piece) - len(self._z.unused_data if self._z.eof else self._z.unconsumed_tail)
        if self._at == len(self._data):
            self._data, self._at = b"", 0
        # A full piece may have left more inside zlib, which comes out without further input.
        self.starved = not self._data and len(out) < limit
        return out

    def _look(self) -> bool:
        """Tell zlib's two-byte header (method 8, and a multiple of 31) from bare data."""
        if len(self._data) < 2:
            self.starved = True
            return False
        first, second = self._data[:2]
        self._bare = first & 0x0F != 8 or (first << 8 | second) % 31 != 0
        self._z = zlib.decompressobj(BARE if self._bare else ZLIB)
        return True

    def _next_member(self) -> bool:
        """Step into the next gzip member. Padding behind the last one is dropped, as gzip itself does."""
        if self._data[self._at : self._at + 1] != b"\x1f":
            self._data, self._at = b"", 0
            self.starved = True
            return False
        self._z = zlib.decompressobj(GZIP)
        return True

    @property
    def whole(self) -> bool:
        """Everything that began has ended. Nothing at all is whole too: an empty body has nothing to compress."""
        return self._z.eof or not self._began
