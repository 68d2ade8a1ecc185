"""Framing: from the bytes of a streamed answer to its frames, without I/O.

`sse` is https://html.spec.whatwg.org/multipage/server-sent-events.html, `json-lines` is https://jsonlines.org/ and
also a JSON array (RFC 8259) read element by element, `aws-eventstream` is
https://smithy.io/2.0/aws/amazon-eventstream.html.
"""

from __future__ import annotations

from tianji.framing.eventstream import EventStreamDecoder
from tianji.framing.frame import LIMIT, Decoder, Frame, Incremental
from tianji.framing.json_lines import JSONLinesDecoder
from tianji.framing.sse import Splitter, SSEDecoder

__all__ = ["LIMIT", "Decoder", "Frame", "Splitter", "decoder"]

_DECODERS: dict[str, type[Incremental]] = {
    kind.framing: kind for kind in (SSEDecoder, JSONLinesDecoder, EventStreamDecoder)
}


def decoder(framing: str) -> Decoder:
    """A fresh decoder for one stream. An unknown name is a `ValueError` that lists the known ones."""
    kind = _DECODERS.get(framing)
    if kind is None:
        raise ValueError(f"unknown framing {framing!r}; known are {', '.join(_DECODERS)}")
    return kind()
