"""What the three framings share: the frame, the decoder's contract, the limit, and when a fault is raised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import msgspec

from tianji.errors import ProtocolError

LIMIT = 16 * 1024 * 1024
"""Bytes that one frame may have, in every framing, unless a decoder is told otherwise."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message of a stream, cut out of the bytes and not yet interpreted.

    `data` is exactly what the upstream sent, not known to be UTF-8 or JSON.
    """

    name: str
    """SSE: the event's name, `message` when it has none. AWS: the `:event-type`, or for exceptions and errors their
    type or code. JSON lines: always `message`."""
    data: bytes
    headers: Mapping[str, str] | None = None
    """AWS only: all headers as text, `:message-type` among them. Without cycles by construction, hence `gc=False`."""


class Decoder(Protocol):
    """Bytes in, frames out; does no I/O. How the bytes are cut into reads never changes the frames.

    A fault raises `tianji.errors.ProtocolError`, whose message names the framing and quotes none of the content.
    Frames that were complete before the fault are not lost to it: where one read holds both, `feed` returns the
    frames and the next `feed` or `end` raises. After a fault every call raises it again.
    """

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that these bytes complete, in order. `data` may be empty."""

    def end(self) -> list[Frame]:
        """At a clean end of the stream, once: what the framing's rules still deliver. A torn frame is a fault."""


class Incremental(ABC):
    """The part of a decoder that keeps `Decoder`'s promise about faults.

    Args:
        limit: Bytes that a single frame may have. More is a fault, raised as soon as it is certain.
    """

    framing: ClassVar[str]

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._fault: ProtocolError | None = None

    def feed(self, data: bytes) -> list[Frame]:
        if self._fault is not None:
            raise self._fault
        frames: list[Frame] = []
        try:
            self._take(data, frames)
        except ProtocolError as fault:
            self._fault = fault
            if not frames:
                raise
        return frames

    def end(self) -> list[Frame]:
        if self._fault is not None:
            raise self._fault
        frames: list[Frame] = []
        try:
            self._finish(frames)
        except ProtocolError as fault:
            self._fault = fault
            raise
        return frames

    @abstractmethod
    def _take(self, data: bytes, frames: list[Frame]) -> None:
        """Append to `frames` what `data` completes. What was appended before a fault is still delivered."""

    @abstractmethod
    def _finish(self, frames: list[Frame]) -> None:
        """Append to `frames` what an end of the stream completes."""

    def _bad(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self.framing}: {what}")

    def _too_large(self) -> ProtocolError:
        return self._bad(f"a frame is larger than {self._limit} bytes")


def is_json(data: bytes | bytearray) -> bool:
    """Whether `data` is one whole JSON value: the test of a last frame that nothing terminates."""
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
