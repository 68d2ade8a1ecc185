"""`HTTPProvider`: a provider as pure functions between OpenAI chat and a vendor's own wire format.

The author writes `encode` (request out), `decode` (answer in), `decoder` (stream in) and, where the vendor's errors
need it, `failure`. None of them may do I/O, read a clock, the environment or a random number: the kernel owns sockets,
deadlines, framing, cancellation and retries, and the conformance suite checks that they are pure. Only `authorize` may
await (OAuth tokens, request signing).
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Any, ClassVar, final

from tianji.dialects.chat_stream import sentence
from tianji.dialects.usage import from_openai
from tianji.errors import Failure, ProtocolError, classify
from tianji.model import Call, Deployment, Event, Headers, Op, Reply, Usage, Wire
from tianji.plugin.provider import Provider

_USERINFO = re.compile(r"://\S*@")

Decoder = Generator[list[dict[str, Any]], Event, None]
"""Sent upstream events one at a time; yields the chat chunks that each one means (often none)."""

END = Event("end", None)
"""The last event that a decoder is sent: the upstream ended cleanly. Most decoders have nothing left to say."""


class HTTPProvider(Provider):
    """A provider that is reached over HTTP."""

    native: ClassVar[frozenset[str]] = frozenset()
    """Dialects that the vendor itself speaks; answers in them are forwarded as they came, and `decode` is not asked."""
    base_url: ClassVar[str] = ""
    """Where the API lives; a deployment's `api_base` overrides it."""
    api_base_env: ClassVar[tuple[str, ...]] = ()
    """Variables that override `base_url`."""
    auth: ClassVar[str] = "bearer"
    """`bearer`, `header:<name>`, or `none`. Keys never go into a URL."""
    framing: ClassVar[str] = "sse"
    """How streams are framed: `sse`, `json-lines`, `aws-eventstream`."""
    headers: ClassVar[Mapping[str, str]] = {}
    """Sent with every request."""
    drain: ClassVar[bool] = False
    """The vendor bills the whole answer even when nobody reads it, so a stream whose client left is read to its end
    (bounded in number, time and bytes) for its usage, instead of being cut."""

    # -- what an author writes -----------------------------------------------------------------------------------------

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        """The call as the vendor's request. `call.dialect` is one of `native`, or `openai-chat`.

        Name request fields that cannot be carried with `call.drop(...)`.
        """
        raise NotImplementedError

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        """A whole answer (decoded JSON) as an OpenAI answer to the call's op; `usage` built with `usage.to_openai`."""
        raise NotImplementedError

    def decoder(self, call: Call) -> Decoder:
        """A fresh generator for one stream.

        It is primed with `next`, then sent every event; the last one is `END`. Raise a Failure for an error event.
        """
        raise NotImplementedError

    def failure(self, status: int, data: Any) -> Failure:
        """The typed failure for an error answer. `data` is decoded JSON, or the text where it was none.

        The default reads the error shapes that most vendors use. The kernel adds provider, model and `retry_after`.
        """
        message, code, kind = error_fields(data)
        failure = classify(status, message or f"The provider answered with status {status}.", code=code, type=kind)
        if isinstance(data, dict):
            inner = data.get("error")
            param = inner.get("param") if isinstance(inner, dict) else data.get("param")
            failure.param = param if isinstance(param, str) else None
        return failure

    async def authorize(self, wire: Wire, deployment: Deployment) -> Wire:
        """Last touch before sending, for what needs a clock or the network: signatures, access tokens."""
        return wire

    # -- what it finds ready -------------------------------------------------------------------------------------------

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self._headers: dict[str, tuple[Any, Any, Any, Headers]] = {}
        self.authorizes = type(self).authorize is not HTTPProvider.authorize
        """Whether `authorize` does anything; the kernel skips it otherwise."""

    @final
    async def call(self, call: Call, deployment: Deployment) -> Reply:
        return await self.gateway.exchange(self, call, deployment)

    def rewrites(self, call: Call) -> bool:
        """Whether an answer in a native dialect still has to be decoded, rather than forwarded as it came."""
        return False

    def base(self, deployment: Deployment) -> str:
        """The deployment's base URL, without a trailing slash."""
        return (deployment.api_base or self.base_url).rstrip("/")

    def request_headers(self, deployment: Deployment) -> Headers:
        """Content type, credentials and fixed headers of a deployment; built once, shared, never to be changed."""
        key, settings, extra = deployment.api_key, deployment.settings, deployment.extra_headers
        known = self._headers.get(deployment.id)
        if known is not None and known[0] is key and known[1] is settings and known[2] is extra:
            return known[3]
        # The first call, or the first after a reload that left the id as it was and changed the key.
        ready = Headers({"content-type": "application/json", **self.headers})
        if key:
            ready.update(self.credential(key.reveal()))
        ready.update(self.own_headers(deployment))
        ready.update(extra)
        self._headers[deployment.id] = (key, settings, extra, ready)
        return ready

    def own_headers(self, deployment: Deployment) -> dict[str, str]:
        """Headers that follow from the deployment's settings."""
        return {}

    def credential(self, key: str) -> dict[str, str]:
        """The header that carries the key."""
        if self.auth == "none" or not key:
            return {}
        if self.auth == "bearer":
            return {"authorization": f"Bearer {key}"}
        return {self.auth.removeprefix("header:"): key}


def error_fields(data: Any) -> tuple[str, str | None, str | None]:
    """Message, code and type from the error shapes in use: OpenAI's, Google's list, FastAPI's detail, bare strings."""
    if isinstance(data, list) and data:
        data = data[0]
    if isinstance(data, str):
        return plain(data), None, None
    if not isinstance(data, dict):
        return "", None, None
    error = data.get("error", data)
    if isinstance(error, str):
        return error[:4000], _text(data.get("code")), _text(data.get("type"))
    if not isinstance(error, dict):
        error = data
    message = error.get("message") or error.get("detail") or error.get("msg") or data.get("message") or ""
    return sentence(message)[:4000], _text(error.get("code")), _text(error.get("type"))


def plain(text: str) -> str:
    """An error's body that is no JSON, where it is a short remark; else nothing, and the status has to do.

    A proxy's HTML page says nothing to a client, and a traceback says too much.
    """
    text = text.strip()
    said = text.startswith(("<", "Traceback")) or _USERINFO.search(text)
    return "" if said else text[:1000]


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, (dict, list)) else str(value)


def must_be_object(data: Any) -> dict[str, Any]:
    """The decoded answer, or a `ProtocolError`: for the first line of a `decode`."""
    if not isinstance(data, dict):
        raise ProtocolError(f"The provider answered with {type(data).__name__}, not with an object.")
    return data


def usage_of(data: dict[str, Any]) -> Usage | None:
    """The usage of an OpenAI-shaped answer."""
    return from_openai(data.get("usage"))


__all__ = ["END", "Decoder", "HTTPProvider", "Op", "classify", "error_fields", "must_be_object", "usage_of"]
