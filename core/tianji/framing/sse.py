"""Server-sent events, on bytes.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

Text is never split: only CR, LF and CRLF end a line, while the line iterators of `str` and of HTTP clients also split
at U+2028 and NEL, which occur inside JSON strings.
"""

from __future__ import annotations

from tianji.errors import ProtocolError
from tianji.framing.frame import LIMIT, Frame, Incremental, is_json

_BOM = b"\xef\xbb\xbf"
_KEPT = (b"data", b"event")  # a superset of the lines that matter; `_event` decides
_HARMLESS = (b":", b"id:", b"retry:")
_DONE = b"[DONE]"


def _event(lines: list[bytes]) -> Frame | None:
    """The event that these lines make. None: no data line, so nothing to dispatch. Blank lines are ignored."""
    name = b""
    data: list[bytes] = []
    for line in lines:
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    if not data:
        return None
    return Frame(
        name.decode("utf-8", "replace") if name else "message",
        data[0] if len(data) == 1 else b"\n".join(data),
    )


class SSEDecoder(Incremental):
    """Decoder of `text/event-stream`. `id` and `retry` are ignored: an LLM's answer cannot be resumed.

    The limit counts an event's `data` and `event` lines and the unfinished line of whatever kind.

    Two departures from WHATWG, both at the end of the stream, both because providers do it and the alternative loses
    the last event, which carries the finish reason and the usage:

    - An event whose lines are complete but which no blank line ends is delivered.
    - An unfinished last `data` line (no line end at all) is delivered if the event's data is then one JSON value or
      `[DONE]`. Any other unfinished line of an event is a torn frame, as is an event name without data.
    """

    framing = "sse"

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(limit)
        self._start: bytes | None = b""  # what may become a BOM; None once the stream has begun
        self._after_cr = False  # the last read ended in CR: an LF that follows belongs to it
        self._partial = bytearray()  # the line that has not ended
        self._kept: list[bytes] = []  # the complete lines of the event that has not ended
        self._size = 0  # of `_kept`

    def _take(self, data: bytes, frames: list[Frame]) -> None:
        if data[:6] == b"data: " and self._start is None and not (self._after_cr or self._partial or self._kept):
            # Nearly every read of a stream: one event of one line, whole.
            line = data[6:-4] if data.endswith(b"\r\n\r\n") else data[6:-2] if data.endswith(b"\n\n") else b"\n"
            if b"\n" not in line and b"\r" not in line and len(data) <= self._limit:
                frames.append(Frame("message", line))
                return
        if self._start is not None:
            data = self._skip_bom(self._start + data)
        if self._after_cr and data:
            self._after_cr = False
            if data[0] == 0x0A:
                data = data[1:]
        if b"\r" in data:
            # From here on LF is the only line end. A CR ends its line at once, so no event waits for the next read.
            self._after_cr = data[-1] == 0x0D
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._partial or self._kept:
            end = self._event_end(data)
            self._take_lines(data[:end], frames)
            data = data[end:]
        if len(data) > self._limit:  # `_take_lines` knows which event is over the limit; below, none can be
            self._take_lines(data, frames)
            return
        # The fast path. Nothing is pending, so each piece is the lines of one event, after a blank line at most.
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        for block in blocks:
            if block[:6] == b"data: " and b"\n" not in block:
                frames.append(Frame("message", block[6:]))
            elif (frame := _event(block.split(b"\n"))) is not None:
                frames.append(frame)
        if rest:
            self._take_lines(rest, frames)

    def _skip_bom(self, data: bytes) -> bytes:
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._start = data
            return b""
        self._start = None
        return data.removeprefix(_BOM)

    def _event_end(self, data: bytes) -> int:
        """How much of `data` belongs to the event that is pending, its blank line included."""
        if data[:1] == b"\n" and not self._partial:
            return 1
        at = data.find(b"\n\n")
        return len(data) if at < 0 else at + 2

    def _take_lines(self, data: bytes, frames: list[Frame]) -> None:
        """The general path: line by line, any state before and after."""
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._partial:
            lines[0] = bytes(self._partial) + lines[0]
            self._partial.clear()
        for line in lines:
            if self._size + len(line) > self._limit:
                raise self._too_large()
            if line:
                if line.startswith(_KEPT):
                    self._kept.append(line)
                    self._size += len(line)
            elif self._kept:
                frame = _event(self._kept)
                self._kept = []
                self._size = 0
                if frame is not None:
                    frames.append(frame)
        if last:
            self._partial += last
            if self._size + len(self._partial) > self._limit:
                raise self._too_large()

    def _finish(self, frames: list[Frame]) -> None:
        lines = self._kept
        unfinished = bytes(self._partial) or self._start or b""
        if unfinished.startswith(_HARMLESS):
            unfinished = b""
        if unfinished:
            lines = [*lines, unfinished]
        frame = _event(lines)
        if unfinished and not (
            frame is not None
            and unfinished.partition(b":")[0] == b"data"
            and (frame.data == _DONE or is_json(frame.data))
        ):
            raise self._bad("the stream ends in the middle of a line")
        if frame is not None:
            frames.append(frame)
        elif lines:
            raise self._bad("the stream ends in the middle of an event")


class Splitter:
    """Cuts a passing event stream at frame boundaries and changes no byte.

    Between two returned pieces others may be written (a keep-alive, an error event) without damage to a frame.

    Args:
        limit: Bytes that may be held back. More raises ProtocolError.
    """

    __slots__ = ("_context", "_limit", "_tail")

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._tail = bytearray()
        self._context = b"\n"  # the last two bytes received; a stream begins as if a line had just ended

    @property
    def tail(self) -> bytes:
        """What is held back: received after the last boundary. Whoever forwards to the end sends this last."""
        return bytes(self._tail)

    def feed(self, data: bytes) -> bytes:
        """The longest prefix of all that is held and `data` that ends with a blank line; b"" when there is none.

        A CR at the very end that follows an LF is no boundary yet: in CRLF streams the blank line's LF is still to
        come, and the pair must not be torn. `data` itself is returned, uncopied, when it ends with a blank line and
        nothing was held.
        """
        if data.endswith((b"\n\n", b"\n\r\n")):  # nearly every read; a blank line whatever came before
            cut = len(data)
            self._context = data[-2:]
        else:
            window = self._context + data
            cut = _boundary(window) - len(self._context)
            self._context = window[-2:]
        if cut < 0 or (cut == 0 and not self._tail):
            self._tail += data
            if len(self._tail) > self._limit:
                raise ProtocolError(f"sse: a frame is larger than {self._limit} bytes")
            return b""
        whole = data[:cut]
        if self._tail:
            whole = bytes(self._tail) + whole
            self._tail.clear()
        if cut < len(data):
            self._tail += data[cut:]
        return whole


def _boundary(window: bytes) -> int:
    """Where the last blank line of `window` ends, -1 if there is none. The window begins inside a line or after one."""
    at = window.rfind(b"\n\n")
    end = at + 2 if at >= 0 else -1
    if b"\r" not in window:
        return end
    for blank in (b"\n\r\n", b"\r\r\n", b"\r\r"):
        at = window.rfind(blank)
        if at >= 0:
            end = max(end, at + len(blank))
    at = window.rfind(b"\n\r", 0, -1)
    return max(end, at + 2) if at >= 0 else end
