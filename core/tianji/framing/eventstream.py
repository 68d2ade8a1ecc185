"""The AWS event stream, `application/vnd.amazon.eventstream`: binary messages with typed headers and two checksums.

https://smithy.io/2.0/aws/amazon-eventstream.html and, with a drawing of the header types,
https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html

    total length (4) | headers length (4) | CRC-32 of these eight bytes (4) | headers | payload |
    CRC-32 of all before (4)
    header: name length (1) | name | type (1) | value

All integers are big-endian.
"""

from __future__ import annotations

import base64
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping

from tianji.framing.frame import LIMIT, Frame, Incremental

_PRELUDE = struct.Struct(">III")
_LENGTH = struct.Struct(">H")
_CRC = struct.Struct(">I")
_OVERHEAD = _PRELUDE.size + _CRC.size

_BYTES, _STRING = 6, 7
_FIXED: dict[int, tuple[int, Callable[[bytes], str]]] = {
    0: (0, lambda _: "true"),
    1: (0, lambda _: "false"),
    2: (1, lambda value: str(int.from_bytes(value, "big", signed=True))),
    3: (2, lambda value: str(int.from_bytes(value, "big", signed=True))),
    4: (4, lambda value: str(int.from_bytes(value, "big", signed=True))),
    5: (8, lambda value: str(int.from_bytes(value, "big", signed=True))),
    8: (8, lambda value: str(int.from_bytes(value, "big", signed=True))),
    9: (16, lambda value: str(uuid.UUID(bytes=value))),
}
"""Type → (length of the value, value as text)."""


class EventStreamDecoder(Incremental):
    """Decoder of AWS event streams. The limit counts whole messages.

    A frame's `headers` are text whatever their type: booleans as `true` and `false`, integers in decimal, timestamps
    in milliseconds since 1970, bytes in base64, UUIDs in their usual spelling. Exceptions and errors that the service
    sends are ordinary frames; `headers[":message-type"]` tells them from events.
    """

    framing = "aws-eventstream"

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit)
        self._pending = bytearray()
        self._need = _PRELUDE.size  # bytes without which there is no progress; of a checked prelude or of a message

    def _take(self, data: bytes, frames: list[Frame]) -> None:
        if self._pending:
            self._pending += data
            if len(self._pending) < self._need:
                return
            data = bytes(self._pending)
            self._pending.clear()
        at = 0
        while len(data) - at >= self._need:
            if self._need == _PRELUDE.size:
                self._need = self._total(data, at)
                continue
            frames.append(self._message(data[at : at + self._need]))
            at += self._need
            self._need = _PRELUDE.size
        if at < len(data):
            self._pending += data[at:]

    def _finish(self, frames: list[Frame]) -> None:
        if self._pending:
            raise self._bad("the stream ends in the middle of a message")

    def _total(self, data: bytes, at: int) -> int:
        """The message's length. The prelude's own checksum is looked at first: a broken length may ask for anything."""
        total, headers, crc = _PRELUDE.unpack_from(data, at)
        if zlib.crc32(data[at : at + 8]) != crc:
            raise self._bad("the checksum of a prelude does not match")
        if total < _OVERHEAD + headers:
            raise self._bad("the lengths of a message contradict each other")
        if total > self._limit:
            raise self._too_large()
        return int(total)

    def _message(self, message: bytes) -> Frame:
        body = message[: -_CRC.size]
        if zlib.crc32(body) != _CRC.unpack_from(message, len(body))[0]:
            raise self._bad("the checksum of a message does not match")
        start = _PRELUDE.size + _PRELUDE.unpack_from(message)[1]
        headers = self._headers(body[_PRELUDE.size : start])
        return Frame(_name(headers), body[start:], headers)

    def _headers(self, data: bytes) -> dict[str, str]:
        headers: dict[str, str] = {}
        at = 0
        try:
            while at < len(data):
                colon = at + 1 + data[at]
                name = data[at + 1 : colon].decode()
                kind = data[colon]
                at = colon + 1
                if kind in (_STRING, _BYTES):
                    length = _LENGTH.unpack_from(data, at)[0]
                    at += _LENGTH.size
                elif kind in _FIXED:
                    length = _FIXED[kind][0]
                else:
                    raise self._bad(f"a header has the unknown type {kind}")
                value = data[at : at + length]
                at += length
                if not name or len(value) != length:
                    raise self._bad("a header is malformed")
                if kind == _STRING:
                    headers[name] = value.decode()
                elif kind == _BYTES:
                    headers[name] = base64.b64encode(value).decode()
                else:
                    headers[name] = _FIXED[kind][1](value)
        except (IndexError, struct.error, UnicodeDecodeError):
            raise self._bad("a header is malformed") from None
        return headers


def _name(headers: Mapping[str, str]) -> str:
    kind = headers.get(":message-type")
    if kind == "exception":
        return headers.get(":exception-type", kind)
    if kind == "error":
        return headers.get(":error-code", kind)
    return headers.get(":event-type", "message")


def encode(headers: dict[str, str], payload: bytes) -> bytes:
    """One message with string headers, as a service sends it; for fakes and tests.

    A name of 0 or over 255 bytes, or a value over 65,535, is a ValueError.
    """
    block = bytearray()
    for name, value in headers.items():
        raw_name, raw_value = name.encode(), value.encode()
        if not 0 < len(raw_name) <= 0xFF or len(raw_value) > 0xFFFF:
            raise ValueError(f"header {name!r} does not fit the format")
        block += bytes((len(raw_name),)) + raw_name + bytes((_STRING,)) + _LENGTH.pack(len(raw_value)) + raw_value
    lengths = struct.pack(">II", _OVERHEAD + len(block) + len(payload), len(block))
    body = lengths + _CRC.pack(zlib.crc32(lengths)) + block + payload
    return body + _CRC.pack(zlib.crc32(body))
