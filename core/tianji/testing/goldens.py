"""Golden exchanges: `wire/<name>.json`, a provider's behaviour as data that can be reviewed without Python.

    {"source": "docs:<url>" | "recorded:<date>",   where the exchange is from: transcribed, or seen on the wire
     "note": "...",                                what it shows (optional)
     "call":       {"op": "chat", "dialect": "openai-chat", "body": {...}},
     "deployment": {"model": "...", "settings": {...}, ...},     fields of `Deployment` (optional)
     "request":    {"method": "POST", "url": "...", "headers": {a subset}, "body": {...}},
     "upstream":   {"status": 200, "body": {...} | "text": "..." | "frames": ["data: ...\\n\\n"] | "events_b64": [...]},
     "reply":      {"body": {...}} | {"chunks": [...]} | {"failure": {"class": "Throttled", "status": 429, ...}}
                   | {"text": "...", "tool_calls": [...], "finish_reason": "stop", "usage": {...}},
     "dropped":    ["field"]}                      what `call.drop` must have named (optional; exact)

`request.body`, `reply.body` and `reply.chunks` are compared whole. The last form of `reply` is the summary of a long
answer: texts joined, the arguments of tool calls decoded, and of these four only what the file states is compared.
`authorize` is not run. `{"request": null}` skips the way out, for an exchange that is about the answer alone.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Literal

import msgspec

from tianji import dialects
from tianji.dialects.usage import from_openai
from tianji.errors import Failure, ProtocolError
from tianji.framing import decoder as frames_of
from tianji.model import Call, Deployment, Event, decode_json, encode_json, sse_payloads
from tianji.plugin import PluginSettings, convert_settings
from tianji.providers.http import END, HTTPProvider
from tianji.testing.builders import make_call, make_deployment


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A misspelt key would silently compare nothing, so unknown keys are errors."""


class CallPart(_Strict, frozen=True):
    body: dict[str, Any]
    op: str = "chat"
    dialect: str = "openai-chat"
    options: dict[str, Any] = {}


class RequestPart(_Strict, frozen=True):
    url: str
    method: str = "POST"
    headers: dict[str, str] = {}
    body: Any = None


class UpstreamPart(_Strict, frozen=True):
    status: int = 200
    headers: dict[str, str] = {}
    body: Any = msgspec.UNSET
    text: str | None = None
    frames: list[str] | None = None
    events_b64: list[str] | None = None

    def pieces(self) -> list[bytes]:
        """The answer's bytes; of a stream, frame by frame."""
        if self.frames is not None:
            return [frame.encode() for frame in self.frames]
        if self.events_b64 is not None:
            return [base64.b64decode(event, validate=True) for event in self.events_b64]
        if self.text is not None:
            return [self.text.encode()]
        return [b"" if self.body is msgspec.UNSET else encode_json(self.body)]


class FailurePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"kind": "class"}):
    kind: str
    status: int
    code: str | None = None
    message: str = ""
    """A part of the message."""


class ReplyPart(_Strict, frozen=True):
    body: Any = msgspec.UNSET
    chunks: list[dict[str, Any]] | None = None
    failure: FailurePart | None = None
    text: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None


class Golden(_Strict, frozen=True, kw_only=True):
    """One exchange, both directions."""

    name: str
    source: str
    call: CallPart
    request: RequestPart | None
    upstream: UpstreamPart
    reply: ReplyPart
    note: str = ""
    deployment: dict[str, Any] = {}
    dropped: list[str] | None = None

    @property
    def streams(self) -> bool:
        """The call asks for a stream, and the upstream answers with one."""
        return self.call.body.get("stream") is True and self.upstream.status < 400

    def make_call(self) -> Call:
        """A fresh call; its body is a copy that may be changed."""
        return make_call(
            decode_json(encode_json(self.call.body)),
            op=self.call.op,
            dialect=self.call.dialect,
            options=self.call.options,
        )

    def make_deployment(self, plugin: type[Any], given: dict[str, Any] | None = None) -> Deployment:
        """The deployment that the file describes, for this provider; `settings` become the provider's struct.

        `given` takes the place of the file's fields.
        """
        fields = dict(self.deployment if given is None else given)
        schema: type[PluginSettings] = plugin.Settings
        fields["settings"] = convert_settings(schema, fields.get("settings", {}), path=f"{self.name}.json: deployment")
        for name in ("drop", "allowed_orgs", "allowed_teams", "allowed_keys"):
            if name in fields:
                fields[name] = frozenset(fields[name])
        fields.setdefault("model", str(self.call.body.get("model", "upstream-model")))
        return make_deployment(provider=plugin.name, **fields)


class BadGolden(ValueError):
    """A golden file that cannot be used; the message names the file and the place in it."""


def parse_golden(name: str, data: Any) -> Golden:
    """A golden from its decoded JSON. Whatever would make it compare nothing is a `BadGolden`."""
    if not isinstance(data, dict):
        raise BadGolden(f"{name}: must hold one JSON object")
    try:
        golden = msgspec.convert({**data, "name": name}, Golden)
        golden.upstream.pieces()
    except ValueError as error:
        raise BadGolden(f"{name}: {error}") from None
    if not golden.source.startswith(("docs:http", "recorded:")):
        raise BadGolden(f"{name}: `source` says where the exchange is from: 'docs:<url>' or 'recorded:<date>'")
    if golden.reply == ReplyPart():
        raise BadGolden(f"{name}: `reply` states nothing that could be compared")
    return golden


def load_goldens(folder: Path) -> list[Golden]:
    """All goldens of a `wire` folder, by name. A folder without any is a `BadGolden`."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise BadGolden(f"{folder} holds no golden files (*.json)")
    goldens = []
    for path in paths:
        try:
            data = decode_json(path.read_bytes())
        except ValueError as error:
            raise BadGolden(f"{path}: {error}") from None
        goldens.append(parse_golden(path.stem, data))
    return goldens


# -- the kernel's part of an exchange, without the I/O -----------------------------------------------------------------


def decode_body(body: bytes) -> Any:
    """A whole answer as providers are given it: decoded JSON, or the text where it is none."""
    try:
        return decode_json(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def whole_answer(body: bytes) -> dict[str, Any]:
    """A whole answer as the kernel hands it to `decode`: always an object; anything else ends before the provider."""
    data = decode_body(body)
    if isinstance(data, list) and len(data) == 1:
        data = data[0]  # Google's APIs wrap some answers so
    if not isinstance(data, dict):
        raise ProtocolError(f"The provider answered with {type(data).__name__}, not with an object.")
    return data


def events_of(framing: str, pieces: list[bytes]) -> list[Event]:
    """A stream's bytes, read in these pieces, as the events that a decoder is sent (without the closing `END`)."""
    frames = frames_of(framing)
    found = [frame for piece in pieces for frame in frames.feed(piece)] + frames.end()
    return [Event(frame.name, decode_body(frame.data)) for frame in found]


def run_decoder(provider: HTTPProvider, call: Call, events: list[Event]) -> list[dict[str, Any]]:
    """Prime a fresh decoder, send it the events and `END`, and return all chunks. It may return at `END` only."""
    decoder = provider.decoder(call)
    first = next(decoder)
    assert first == [], f"primed with next(), a decoder yields [], not {first!r}: nothing has been read yet"
    chunks: list[dict[str, Any]] = []
    for event in [*events, END]:
        try:
            made = decoder.send(event)
        except StopIteration:
            assert event is END, f"the decoder returned at event {event.name!r}; it must go on until END"
            break
        assert isinstance(made, list), f"a decoder yields lists of chunks, not {type(made).__name__}"
        # What was yielded is taken at once; a decoder that reuses its list must not change what was already sent.
        chunks.extend(decode_json(encode_json(made)))
    decoder.close()
    return chunks


def read_stream(
    provider: HTTPProvider, call: Call, data: bytes | list[bytes], *, framing: str | None = None
) -> list[dict[str, Any]]:
    """A stream's bytes as the chat chunks they mean, by framing and decoder."""
    pieces = [data] if isinstance(data, bytes) else data
    return run_decoder(provider, call, events_of(framing or provider.framing, pieces))


def is_forwarded(provider: HTTPProvider, call: Call) -> bool:
    """Whether the answer reaches the client in the upstream's own dialect, undecoded. OpenAI's dialects are decoded
    here all the same, which shows what `decode` and `decoder` do when an answer must be translated."""
    return call.dialect in provider.native and not call.dialect.startswith("openai-") and not provider.rewrites(call)


def answer_of(provider: HTTPProvider, golden: Golden, framing: str | None = None) -> dict[str, Any] | list[Any]:
    """What the provider makes of the upstream's answer: a body, or the chunks of a stream. Raises its failures."""
    call = golden.make_call()
    pieces = golden.upstream.pieces()
    if golden.upstream.status >= 400:
        raise provider.failure(golden.upstream.status, decode_body(b"".join(pieces)))
    if is_forwarded(provider, call):
        return _forward(call, pieces) if golden.streams else whole_answer(b"".join(pieces))
    if golden.streams:
        return read_stream(provider, call, pieces, framing=framing)
    return provider.decode(call, whole_answer(b"".join(pieces)))


def _forward(call: Call, pieces: list[bytes]) -> list[Any]:
    monitor = dialects.get(call.dialect).monitor(call)
    raw = b"".join(monitor.feed(piece) for piece in pieces) + monitor.end()
    return [decode_json(data) for data in sse_payloads(raw)]


# -- comparing ---------------------------------------------------------------------------------------------------------


def summarise(answer: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """A chat answer, whole or as chunks, in four members: text, tool_calls, finish_reason, usage."""
    texts: list[str] = []
    tools: dict[int, dict[str, Any]] = {}
    finish, usage = None, None
    for body in answer if isinstance(answer, list) else [answer]:
        usage = body.get("usage") or usage
        for choice in body.get("choices") or ():
            finish = choice.get("finish_reason") or finish
            message = choice.get("message") or choice.get("delta") or {}
            texts.append(message.get("content") or choice.get("text") or "")
            for position, part in enumerate(message.get("tool_calls") or ()):
                _join_tool(tools, part.get("index", position), part)
    calls = [{**tool, "arguments": decode_body(tool["arguments"].encode())} for _, tool in sorted(tools.items())]
    return {"text": "".join(texts), "tool_calls": calls, "finish_reason": finish, "usage": usage}


def _join_tool(tools: dict[int, dict[str, Any]], index: int, part: dict[str, Any]) -> None:
    function = part.get("function") or {}
    tool = tools.setdefault(index, {"id": None, "name": None, "arguments": ""})
    tool["id"] = tool["id"] or part.get("id")
    tool["name"] = tool["name"] or function.get("name")
    tool["arguments"] += function.get("arguments") or ""


def compare_reply(golden: Golden, answer: dict[str, Any] | list[Any]) -> None:
    """Assert that an answer is what the golden says."""
    reply = golden.reply
    if reply.chunks is not None:
        assert answer == reply.chunks, "the stream's chunks differ from reply.chunks"
        return
    if reply.body is not msgspec.UNSET:
        assert answer == reply.body, "the answer differs from reply.body"
        return
    found = summarise(answer)
    names: tuple[Literal["text", "tool_calls", "finish_reason", "usage"], ...]
    names = ("text", "tool_calls", "finish_reason", "usage")
    for name in names:
        expected = getattr(reply, name)
        if expected is not None:
            assert found[name] == expected, f"the answer's {name} differs from reply.{name}"


def compare_failure(expected: FailurePart, failure: Failure) -> None:
    """Assert that a failure has the class, the status and, where stated, the code and a part of the message."""
    assert type(failure).__name__ == expected.kind, f"expected {expected.kind}, got {failure!r}"
    assert failure.status == expected.status
    if expected.code is not None:
        assert failure.code == expected.code
    assert expected.message in failure.message


def states_usage(value: Any) -> bool:
    """Whether an upstream event or body names a number of tokens, in any vendor's spelling."""
    if isinstance(value, list):
        return any(states_usage(item) for item in value)
    if not isinstance(value, dict):
        return False
    for key, inner in value.items():
        spelling = key.lower().replace("_", "")
        if type(inner) is int and inner > 0 and (spelling.endswith(("tokens", "tokencount", "evalcount"))):
            return True
        if states_usage(inner):
            return True
    return False


def usage_found(answer: dict[str, Any] | list[Any]) -> bool:
    """Whether a chat answer carries a usage that the kernel can read and price."""
    bodies = answer if isinstance(answer, list) else [answer]
    return any((usage := from_openai(body.get("usage"))) is not None and usage.total_tokens > 0 for body in bodies)
