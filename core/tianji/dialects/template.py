"""What two frames of a stream have in common, so that the next one need not be read.

Nearly every frame of a chat stream is the one before with another piece of text. Once a frame was examined and found
to be a plain delta, a frame that differs from it in nothing but that text (and in OpenAI's `obfuscation`, which is
random padding) is a plain delta too, and what has to be changed in it is known. The comparison is exact: the varying
parts must end at their first quote, so they cannot leave their JSON string, and hold no line end, so they cannot leave
their frame.
"""

from __future__ import annotations

_TEXT = b'"content":"'
_PADDING = b'"obfuscation":"'


class Template:
    """The constant parts of an examined frame, and what is sent in their place."""

    __slots__ = ("_after", "_before", "_end", "_said_after", "_said_before", "piece")

    def __init__(self, before: bytes, after: bytes, end: bytes, said_before: bytes, said_after: bytes) -> None:
        self.piece = b""
        """The text of the last frame that was of this form."""
        self._before = before
        self._after = after
        self._end = end
        self._said_before = said_before
        self._said_after = said_after

    def said(self, raw: bytes) -> bytes | None:
        """The bytes to send for a frame of this form; None for any other, which must be examined."""
        if not raw.startswith(self._before) or not raw.endswith(self._end):
            return None
        start = len(self._before)
        at = raw.find(b'"', start)
        if not raw.startswith(self._after, at):
            return None
        text, rest = raw[start:at], raw[at + len(self._after) :]
        if b"\n" in text or b"\r" in text or text.endswith(b"\\"):
            return None
        if rest and not (self._end and rest[: -len(self._end)].isalnum()):
            return None
        self.piece = text
        return b"%b%b%b%b" % (self._said_before, text, self._said_after, rest)


def learn(raw: bytes, said: bytes) -> Template | None:
    """The template of a frame that was examined, and of what was sent for it. None: it has no such form."""
    at = raw.find(_TEXT) + len(_TEXT)
    end = raw.find(b'"', at)
    text = raw[at:end]
    if at < len(_TEXT) or end < 0 or text.endswith(b"\\") or raw.find(b"\n\n") != len(raw) - 2 or b"\r" in raw:
        return None
    padded = raw.find(_PADDING, end)
    if padded >= 0:
        after = raw[end : padded + len(_PADDING)]
        close = raw.find(b'"', padded + len(_PADDING))
        last = raw[close:]
    else:
        after, last = raw[end:], b""
    rest = raw[end + len(after) :]
    start = said.find(_TEXT) + len(_TEXT)
    said_before, said_after = said[:start], said[start + len(text) : len(said) - len(rest)]
    if said != said_before + text + said_after + rest:
        return None
    return Template(raw[:at], after, last, said_before, said_after)
