"""The upstream end of a streamed answer: read, frame, watch or translate, and cut off when nobody is left.

There is no task and no queue in between: each `__anext__` takes what has arrived since the last one, so a slow reader
fills the transport's bounded buffer and then the provider's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator
from time import monotonic, time
from typing import Any

from tianji import dialects, framing
from tianji.dialects.base import Monitor
from tianji.dialects.chat_stream import ChatStreamer
from tianji.errors import Failure, ProtocolError, classify
from tianji.model import Call, Chunk, Deployment, Event, Secret, decode_json
from tianji.providers.http import END, HTTPProvider
from tianji.secrets import holds_secret
from tianji.transport import Response

logger = logging.getLogger("tianji.streams")

GRACE = 0.2
"""Seconds for an upstream to end its message after it said that it is done."""
_USERINFO = re.compile(r"://[^\s/@]+@")


class UpstreamStream:
    """What both kinds of stream have in common. `meter` knows usage, model and how much was delivered so far."""

    __slots__ = (
        "_closed_soon", "_failed", "_first", "_idle", "_opened", "_started", "deployment", "ended", "meter", "named",
        "provider", "response",
    )  # fmt: skip

    meter: Monitor | ChatStreamer

    def __init__(
        self, provider: HTTPProvider, deployment: Deployment, response: Response, idle: float, *, named: bool
    ) -> None:
        self.provider = provider
        self.deployment = deployment
        self.response = response
        self.named = named
        self.ended = False
        self._idle = idle
        self._failed: Failure | None = None
        """Raised once the client has what came before it."""
        self._first: Chunk | None = None
        self._opened = False
        self._started = False
        self._closed_soon = False
        """All was said; the upstream gets a moment to end its message, so that the connection can be used again."""

    async def open(self, seconds: float) -> None:
        """Wait for the first event; an error in it is raised here, before anything was sent to the client.

        Heartbeats and other comments before it do not count, and do not extend the time.
        """
        until = monotonic() + seconds
        while not self.ended and (self._first is None or not self.meter.delivered):
            chunk = await self._next(max(0.001, until - monotonic()))
            if chunk is not None:
                self._first = chunk if self._first is None else Chunk(self._first.raw + chunk.raw, named=self.named)
        self._opened = True

    def __aiter__(self) -> UpstreamStream:
        return self

    async def __anext__(self) -> Chunk:
        chunk, self._first = self._first, None
        while chunk is None:
            if self._failed is not None:
                redact(self._failed, self.deployment)
                raise self._failed
            if self.ended:
                raise StopAsyncIteration
            if self._closed_soon:
                await self._finish()
            else:
                chunk = await self._next(self._idle)
        return chunk

    async def _finish(self) -> None:
        """Wait shortly for the end of the message; the answer itself is complete, so nothing here is a failure."""
        until = monotonic() + GRACE
        try:
            while not self.response.complete and (left := until - monotonic()) > 0:
                await self.response.chunk(left)
        except Failure:
            pass
        self.close()

    async def _next(self, seconds: float) -> Chunk | None:
        """What the next read is worth to the client, if anything."""
        try:
            data = await self.response.chunk(seconds)
            if not data:
                self.ended = True
                self.response.close()
                return self._close()
            if not self._started:
                self._started = True
                if self.framing == "sse" and data.lstrip()[:1] in (b"{", b"["):
                    await self._not_sse(data)
            return self._feed(data)
        except Failure as failure:
            redact(failure, self.deployment)
            raise
        except UNREADABLE as error:
            broken = unreadable(self.provider.name, error)
            redact(broken, self.deployment)
            raise broken from error

    @property
    def framing(self) -> str:
        return "sse"

    async def _not_sse(self, data: bytes) -> None:
        """JSON where events were asked for: raises, unless it can be read as a stream after all."""
        raise await self._whole_instead(data)

    def _feed(self, data: bytes) -> Chunk | None:
        """What newly arrived bytes are worth to the client."""
        raise NotImplementedError

    def _close(self) -> Chunk | None:
        """The upstream ended: the closing events, or a `ProtocolError` for an answer that was cut short."""
        raise NotImplementedError

    async def _whole_instead(self, start: bytes) -> Failure:
        """A stream was asked for and one JSON object came: nearly always an error with status 200."""
        parts = [start]
        while more := await self.response.chunk(self._idle):
            parts.append(more)
            if sum(map(len, parts)) > 1024 * 1024:
                break
        self.close()
        try:
            data = decode_json(b"".join(parts))
        except (RecursionError, ValueError):
            return ProtocolError("The provider answered a streamed request with something that is not a stream.")
        if isinstance(data, list) and data:
            data = data[0]
        if isinstance(data, dict) and (error := data.get("error")):
            code = error.get("code") if isinstance(error, dict) else None
            return refusal(self.provider, code if isinstance(code, int) and 400 <= code < 600 else 500, data)
        return ProtocolError("The provider answered a streamed request with a whole answer.")

    async def drain(self) -> None:
        """Read to the end for the usage alone."""
        while not self.ended and self._failed is None:
            if self._closed_soon:
                await self._finish()
            else:
                await self._next(self._idle)

    def close(self) -> None:
        """Cut the upstream off. Safe to call at any time, any number of times."""
        self.ended = True
        self.response.close()

    async def aclose(self) -> None:
        self.close()


class Forwarded(UpstreamStream):
    """A stream in the client's own dialect: whole frames pass as they came, a monitor looks for what matters."""

    __slots__ = ("_frames",)

    def __init__(
        self, provider: HTTPProvider, deployment: Deployment, call: Call, response: Response, idle: float
    ) -> None:
        dialect = dialects.get(call.dialect)
        super().__init__(provider, deployment, response, idle, named=dialect.named)
        self.meter = dialect.monitor(call)
        self._frames = framing.Splitter()

    def _feed(self, data: bytes) -> Chunk | None:
        whole = self._frames.feed(data)
        if not whole:
            return None
        meter: Any = self.meter
        raw = meter.feed(whole)
        if getattr(meter, "done", False):
            raw += self._done(raw)
        if not raw:
            return None
        chunk = Chunk(raw, named=self.named)
        chunk.piece = getattr(meter, "piece", None)
        return chunk

    def _done(self, before: bytes) -> bytes:
        """The upstream said that it is done, whatever its connection does: the closing events."""
        meter: Any = self.meter
        try:
            closing: bytes = meter.end()
        except Failure as failure:
            self.close()
            if not before or not self._opened:
                raise
            self._failed = failure  # what came before it is good, and goes out first
            return b""
        self._closed_soon = True
        return closing

    def _close(self) -> Chunk | None:
        meter: Any = self.meter
        tail = self._frames.tail
        raw = (meter.feed(tail + b"\n\n") if tail.strip() else b"") + meter.end()
        return Chunk(raw, named=self.named) if raw else None


class Translated(UpstreamStream):
    """A stream in a provider's own format: framed, decoded to chat chunks, and said in the client's dialect."""

    __slots__ = ("_decoder", "_done", "_frames", "_framing", "_out")

    meter: ChatStreamer

    def __init__(
        self,
        provider: HTTPProvider,
        deployment: Deployment,
        call: Call,
        said: Call,
        response: Response,
        framing_name: str,
        idle: float,
    ) -> None:
        dialect = dialects.get(call.dialect)
        super().__init__(provider, deployment, response, idle, named=dialect.named)
        self.meter = ChatStreamer(said, id=f"chatcmpl-{call.id}", created=int(time()))
        self._framing = framing_name
        self._frames = framing.decoder(framing_name)
        self._done = dialect.done
        self._decoder = provider.decoder(said)
        next(self._decoder)
        self._out: Generator[list[dict[str, Any]], dict[str, Any] | None, None] | None = None
        if said is not call:
            self._out = dialect.stream_from_chat(call)
            next(self._out)

    @property
    def framing(self) -> str:
        return self._framing

    async def _not_sse(self, data: bytes) -> None:
        if data.lstrip()[:1] == b"[":
            self._frames = framing.decoder(
                "json-lines"
            )  # an array of events, as Google's APIs answer without `alt=sse`
        else:
            await super()._not_sse(data)

    def _feed(self, data: bytes) -> Chunk | None:
        events: list[dict[str, Any]] = []
        try:
            for frame in self._frames.feed(data):
                self._send(Event(frame.name, _payload(frame.data)), events)
        except Failure as failure:
            if not events or not self._opened:
                raise
            self._failed = failure
        return Chunk(events=events, named=self.named) if events else None

    def _close(self) -> Chunk | None:
        events: list[dict[str, Any]] = []
        for frame in self._frames.end():
            self._send(Event(frame.name, _payload(frame.data)), events)
        self._send(END, events)
        if not self.meter.finished:
            raise ProtocolError("The provider ended the stream before the answer was complete.")
        closing = self.meter.closing()
        out = self._out
        self._forget()
        if out is None:
            events += closing
            return Chunk(Chunk(events=events).raw + self._done)
        for chunk in closing:
            events += out.send(chunk)
        events += out.send(None)
        raw = Chunk(events=events, named=self.named).raw + self._done
        return Chunk(raw, named=self.named) if raw else None

    def close(self) -> None:
        super().close()
        self._forget()

    def _forget(self) -> None:
        """Let go of the translators: they know the call, and it this stream; only the collector could free them."""
        self._out = None
        try:
            self._decoder.close()
        except RuntimeError:
            logger.exception("the decoder of %s does not end", self.provider.name)

    def _send(self, event: Event, events: list[dict[str, Any]]) -> None:
        """One upstream event through the provider's decoder, and on into the client's dialect."""
        try:
            chunks = self._decoder.send(event)
        except StopIteration:
            return
        for chunk in chunks:
            pushed = self.meter.push(chunk)
            if pushed is None:
                continue
            if self._out is None:
                events.append(pushed)
            else:
                events += self._out.send(pushed)


UNREADABLE = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)
"""What reading an answer raises that is not what it should be."""


def unreadable(provider: str, error: Exception) -> ProtocolError:
    """The failure for an answer that a decoder fell over: the vendor's fault or the plugin's, never a 500."""
    logger.warning("%s could not read an answer", provider, exc_info=error)
    return ProtocolError(f"The provider's answer could not be read ({type(error).__name__}).", provider=provider)


def redact(failure: Failure, deployment: Deployment) -> None:
    """Take out of a failure what the provider repeated of our credentials."""
    secrets = list(_secrets(deployment))
    message = _strike(failure.message, secrets)
    if message != failure.message:
        failure.message = message
        failure.args = (message,)
    for name in ("code", "type", "param"):
        if type(value := getattr(failure, name)) is str and (struck := _strike(value, secrets)) != value:
            setattr(failure, name, struck)
    failure.extra = _strike(failure.extra, secrets)
    failure.headers = _strike(failure.headers, secrets)


def _secrets(deployment: Deployment) -> Iterator[str]:
    """The credentials that a deployment sends."""
    if deployment.api_key:
        yield deployment.api_key.reveal()
    for name, value in deployment.extra_headers.items():
        if holds_secret(name):
            yield value.rpartition(" ")[2]  # without `Bearer`
    for field in getattr(deployment.settings, "__struct_fields__", ()):
        if isinstance(value := getattr(deployment.settings, field), Secret):
            yield value.reveal()


def _strike(value: Any, secrets: list[str]) -> Any:
    """A value with `***` in place of secrets, of any 12 or more first characters of one, and of `user:password@`."""
    if type(value) is dict:
        return {key: _strike(one, secrets) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strike(one, secrets) for one in value]
    if type(value) is not str:
        return value
    for secret in secrets:
        if len(secret) < 12:
            if len(secret) > 3:  # a short one only as a word of its own: it may be part of any other
                value = re.sub(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", "***", value)
            continue
        at = value.find(secret[:12])
        while at >= 0:
            end = at + 12
            while end < len(value) and value[end] == secret[end - at : end - at + 1]:
                end += 1
            value = value[:at] + "***" + value[end:]
            at = value.find(secret[:12], at + 3)
    return _USERINFO.sub("://***@", value)


def refusal(provider: HTTPProvider, status: int, data: Any) -> Failure:
    """The provider's own failure for an error answer; a plain one by its status where the plugin falls over it."""
    try:
        return provider.failure(status, data)
    except UNREADABLE as error:
        logger.warning("%s could not read an error answer", provider.name, exc_info=error)
        return classify(status, f"The provider answered with status {status}.")


def _payload(data: bytes) -> Any:
    """A frame's data as JSON where it is JSON, else as text (`[DONE]`)."""
    try:
        return decode_json(data)
    except ValueError:
        return data.decode("utf-8", "replace")
