"""`OpenAICompatible`: a provider that speaks OpenAI's own wire format, in a handful of class attributes.

https://platform.openai.com/docs/api-reference. Answers and streams are forwarded as they came, undecoded, unless a
subclass overrides `decode` or `decoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tianji.dialects.chat_stream import failure_of
from tianji.errors import BadRequest
from tianji.model import Call, Deployment, Op, Wire
from tianji.providers.http import Decoder, HTTPProvider, must_be_object


class OpenAICompatible(HTTPProvider):
    """Subclass it with a name, a base URL and a key variable; add an attribute for each quirk.

    Attributes say what is different: `drop` (fields the vendor refuses), `rename` (fields it calls otherwise),
    `paths`, `auth`, `headers`, `ops`. Override `encode`, `decode` or `decoder` only where no attribute can say it.
    """

    native: ClassVar[frozenset[str]] = frozenset({"openai-chat", "openai-completions", "openai-embeddings"})
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT})
    paths: ClassVar[Mapping[Op, str]] = {
        Op.CHAT: "/chat/completions",
        Op.COMPLETIONS: "/completions",
        Op.EMBEDDINGS: "/embeddings",
    }
    drop: ClassVar[frozenset[str]] = frozenset()
    """Request fields that the vendor answers 400 to. Left out, and named in `x-tianji-dropped`."""
    rename: ClassVar[Mapping[str, str]] = {}
    """Request fields under another name there: `{"max_completion_tokens": "max_tokens"}`."""
    foreign: ClassVar[frozenset[str]] = frozenset({"thinking_blocks", "reasoning_content", "cache_control"})
    """Message fields to leave out of a call that was translated from another dialect."""
    stream_usage: ClassVar[bool] = True
    """Understands `stream_options.include_usage`, so that streams can be priced."""

    _decodes: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._decodes = cls.decode is not OpenAICompatible.decode or cls.decoder is not OpenAICompatible.decoder
        cls.native = frozenset(name for name in cls.native if _OP_OF.get(name) in cls.ops or name not in _OP_OF)

    def rewrites(self, call: Call) -> bool:
        return self._decodes and call.op == Op.CHAT

    def url(self, call: Call, deployment: Deployment) -> str:
        """The endpoint of a call's op."""
        path = self.paths.get(call.op)
        if path is None:
            raise BadRequest(f"Provider '{self.name}' does not offer {call.op}.", param="model")
        return self.base(deployment) + path

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        return Wire(self.url(call, deployment), self.request_headers(deployment), self.request_body(call, deployment))

    def request_body(self, call: Call, deployment: Deployment) -> dict[str, Any]:
        """The call's body with the upstream model, the deployment's defaults and this class's quirks applied."""
        body = {**deployment.defaults, **call.body} if deployment.defaults else dict(call.body)
        body["model"] = deployment.model
        if call.stream and self.stream_usage and call.op != Op.EMBEDDINGS:
            options = body.get("stream_options")
            body["stream_options"] = {**options, "include_usage": True} if options else _INCLUDE_USAGE
        for fields in (self.drop, deployment.drop):
            if fields and not fields.isdisjoint(body):
                for field in fields & body.keys():
                    del body[field]
                    call.drop(field)
        for old, new in self.rename.items():
            if old in body:
                value = body.pop(old)
                body.setdefault(new, value)
        if call.origin != call.dialect and call.op == Op.CHAT:
            body["messages"] = [self.plain_message(message) for message in body["messages"]]
        if deployment.extra_body:
            body.update(deployment.extra_body)
        return body

    def plain_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message that another dialect was translated to, without what OpenAI's dialect does not know.

        Thinking and cache markers ride along in a translation for the providers that understand them; strict ones
        answer 400 to them.
        """
        plain = {key: value for key, value in message.items() if key not in self.foreign}
        content = plain.get("content")
        if type(content) is list:
            plain["content"] = [
                {key: value for key, value in part.items() if key != "cache_control"} if type(part) is dict else part
                for part in content
            ]
        return plain

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        body = must_be_object(data)
        if (error := body.get("error")) and not body.get("choices"):
            raise failure_of(error, provider=self.name)
        return body

    def decoder(self, call: Call) -> Decoder:
        chunks: list[dict[str, Any]] = []
        while True:
            event = yield chunks
            data = event.data
            if type(data) is not dict:
                chunks = []
                continue
            if error := data.get("error"):
                raise failure_of(error, provider=self.name)
            chunks = [data]


_OP_OF = {"openai-chat": Op.CHAT, "openai-completions": Op.COMPLETIONS, "openai-embeddings": Op.EMBEDDINGS}
_INCLUDE_USAGE = {"include_usage": True}
