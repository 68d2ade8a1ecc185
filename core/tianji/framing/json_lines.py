"""One JSON value a line (https://jsonlines.org/), and the elements of a JSON array as they arrive.

The array is what Gemini answers to `streamGenerateContent` without `alt=sse`: one array of chunks, pretty-printed
(https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent). The first byte that is not white
space tells the two apart, so a stream of lines cannot begin with an array; no provider's does.
"""

from __future__ import annotations

import re
from typing import Final

from tianji.framing.frame import LIMIT, Frame, Incremental, is_json

_SPACE: Final = b" \t\r\n"
_QUOTE, _OPEN, _CLOSE = ord('"'), b"{[", b"}]"
_SEPARATORS = re.compile(rb"[ \t\r\n,]*+")
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_IN_ELEMENT = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Up to the next bracket outside strings, or to a string that has not ended."""


class JSONLinesDecoder(Incremental):
    """Decoder of `application/x-ndjson` and of JSON arrays. Blank lines are skipped; the values are not validated.

    At the end of the stream a last line without a line end is delivered if it is valid JSON, and an array must have
    been closed. Elements of the array must be objects or arrays.
    """

    framing = "json-lines"

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit)
        self._begun = False
        self._array: _Array | None = None
        self._pending = bytearray()  # the unfinished line, or the unfinished element

    def _take(self, data: bytes, frames: list[Frame]) -> None:
        if not self._begun:
            data = data.lstrip(_SPACE)
            if not data:
                return
            self._begun = True
            if data[0] == ord("["):
                self._array = _Array()
                data = data[1:]
        if self._array is not None:
            self._take_elements(self._array, data, frames)
        else:
            self._take_lines(data, frames)
        if len(self._pending) > self._limit:
            raise self._too_large()

    def _take_lines(self, data: bytes, frames: list[Frame]) -> None:
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._pending:
            lines[0] = bytes(self._pending) + lines[0]
            self._pending.clear()
        for line in lines:
            if len(line) > self._limit:
                raise self._too_large()
            line = line.strip(_SPACE)
            if line:
                frames.append(Frame("message", line))
        self._pending += last

    def _take_elements(self, array: _Array, data: bytes, frames: list[Frame]) -> None:
        buffer = self._pending
        buffer += data
        start = 0
        while (end := array.element_end(buffer)) is not None:
            start = array.start
            if end - start > self._limit:
                raise self._too_large()
            frames.append(Frame("message", bytes(buffer[start:end])))
        if array.surprised:
            raise self._bad("the array holds something other than objects, or does not end with its bracket")
        del buffer[: array.start]
        array.at -= array.start
        array.start = 0

    def _finish(self, frames: list[Frame]) -> None:
        if self._array is not None:
            if not self._array.closed:
                raise self._bad("the stream ends in the middle of an array")
            return
        line = bytes(self._pending.strip(_SPACE))
        if not line:
            return
        if not is_json(line):
            raise self._bad("the stream ends in the middle of a line")
        frames.append(Frame("message", line))


class _Array:
    """Finds where elements begin and end. Positions are into the caller's buffer; no byte is looked at thrice."""

    __slots__ = ("at", "closed", "depth", "in_string", "start", "surprised")

    def __init__(self) -> None:
        self.at = 0
        """What lies before has been scanned."""
        self.start = 0
        """Of the current element, or of the last one found."""
        self.depth = 0
        self.in_string = False
        self.closed = False
        self.surprised = False

    def element_end(self, buffer: bytearray) -> int | None:
        """The end of the next element, which then lies at `start`. None: not in the buffer yet.

        None with `surprised`: what follows is no element.
        """
        while self.at < len(buffer):
            if self.in_string:
                self.at = _end(_IN_STRING, buffer, self.at)
                if self.at == len(buffer) or buffer[self.at] != _QUOTE:
                    return None  # at a backslash: what it escapes is not there yet
                self.in_string = False
                self.at += 1
            elif self.depth:
                if self._bracket(buffer):
                    return self.at
            elif not self._begin(buffer):
                return None
        return None

    def _begin(self, buffer: bytearray) -> bool:
        """Between elements: on to the first byte of the next. False when there is none."""
        self.at = self.start = _end(_SEPARATORS, buffer, self.at)
        if self.at == len(buffer):
            return False
        byte = buffer[self.at]
        if self.closed or (byte not in _OPEN and byte != ord("]")):
            self.surprised = True
            return False
        self.at += 1
        if byte in _OPEN:
            self.depth = 1
        else:
            self.closed = True
            self.start = self.at
        return True

    def _bracket(self, buffer: bytearray) -> bool:
        """In an element: past the next bracket or into a string. True when the element ended."""
        self.at = _end(_IN_ELEMENT, buffer, self.at)
        if self.at == len(buffer):
            return False
        byte = buffer[self.at]
        self.at += 1
        if byte == _QUOTE:
            self.in_string = True
        elif byte in _OPEN:
            self.depth += 1
        else:
            self.depth -= 1
        return self.depth == 0


def _end(pattern: re.Pattern[bytes], buffer: bytearray, at: int) -> int:
    match = pattern.match(buffer, at)
    return at if match is None else match.end()
