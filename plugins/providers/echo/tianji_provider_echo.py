"""Echo: answers with what it was asked. No key and no network: for the first request, for demonstrations and for tests.

It answers in OpenAI's chat format, calls tools, follows schemas and fails, all on demand.

Docs: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
from collections.abc import Iterator
from hashlib import shake_256
from time import time
from typing import Any, ClassVar, NamedTuple

from tianji import (
    DONE,
    BadRequest,
    Call,
    Chunk,
    ContentPolicy,
    ContextWindow,
    Deployment,
    Failure,
    Op,
    PluginSettings,
    ProtocolError,
    Provider,
    Reply,
    Timeout,
    UpstreamFailure,
    Usage,
    chunk,
    completion,
    encode_json,
    from_status,
    usage_to_openai,
)

DIMENSIONS, MOST_DIMENSIONS = 8, 4096  # of an embedding: where the request names no number, and at most
SLOW = 1.0  # seconds that `echo/slow` waits before it answers
PACE = 0.1  # seconds between two words of `echo/slow-stream`
BREAKS_AFTER = 2  # chunks of `echo/fail-stream`

_PIECE = re.compile(r"\s*\S+|\s+")  # a word with the space before it; the pieces of a text add up to it
_CALL = re.compile(r"\bcall\s+([\w.-]+)")
_CANNED = re.compile(r"(?:litellm|tianji)\.(\w+)")  # a canned exception, as LiteLLM's configurations name it

FAILURES: dict[str, type[UpstreamFailure]] = {
    "timeout": Timeout,
    "context-window": ContextWindow,
    "content-policy": ContentPolicy,
}
"""What `echo/fail-<name>` ends in, beside `fail-<status>` and `fail-stream`."""
EXCEPTIONS: dict[str, int | str] = {
    "AuthenticationError": 401, "BadRequestError": 400, "ContentPolicyViolationError": "content-policy",
    "ContextWindowExceededError": "context-window", "NotFoundError": 404, "PermissionDeniedError": 403,
    "RateLimitError": 429, "ServiceUnavailableError": 503, "Timeout": "timeout",
}  # fmt: skip
"""LiteLLM's exception names, as a status or a name of `FAILURES`; any other exception is a 500."""


class Echo(Provider):
    name = "echo"
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS})
    native: ClassVar[frozenset[str]] = frozenset({"openai-chat", "openai-embeddings"})
    needs_key = False
    models = ("echo", "slow", "slow-stream", "fail-429", "fail-500", "fail-timeout", "fail-stream")
    drain: ClassVar[bool] = False
    prefill: ClassVar[bool] = True

    class Settings(PluginSettings, frozen=True):
        delay: float = 0
        """Seconds to wait before the answer."""
        mock_response: Any = None
        """A canned answer: text, a whole completion, or an exception such as `litellm.RateLimitError`."""

    async def call(self, call: Call, deployment: Deployment) -> Reply:
        settings: Echo.Settings = deployment.settings
        if delay := settings.delay or (SLOW if deployment.model == "slow" else 0):
            await asyncio.sleep(delay)
        failure = _failure(deployment.model, settings.mock_response)
        if failure is not None:
            failure.provider = self.name
            raise failure
        if call.op == Op.EMBEDDINGS:
            return _embeddings(call, deployment)
        answer = _answer(call.body, settings.mock_response)
        if call.stream:
            return _streamed(call, deployment, answer)
        if deployment.model == "fail-stream":
            raise ProtocolError("The echo broke off, as it was asked to.")
        said: dict[str, Any] = {"message": answer.message(call), "finish_reason": answer.finish, "usage": answer.usage}
        made = completion(id=f"chatcmpl-{call.id}", model=call.model, created=int(time()), **said)
        return Reply(made, usage=answer.usage, model=deployment.model)


def _failure(model: str, mock: Any) -> Failure | None:
    """What the model's name or a canned exception asks for."""
    wanted: int | str = model.removeprefix("fail-")
    if isinstance(mock, str) and (match := _CANNED.fullmatch(mock)):
        wanted = EXCEPTIONS.get(match[1], 500)
    elif wanted in (model, "stream"):
        return None
    message = f"The echo fails with {wanted}, as it was asked to."
    if (named := FAILURES.get(str(wanted))) is not None:
        return named(message)
    if str(wanted).isdigit() and 400 <= int(wanted) < 600:
        return from_status(int(wanted), message)
    known = ", ".join(f"fail-{name}" for name in (*FAILURES, "stream", "<status>"))
    return BadRequest(f"The echo knows no failure '{wanted}'; it knows {known}.", param="model")


class Answer(NamedTuple):
    """What will be said: a text, or one tool call."""

    text: str
    tool: tuple[str, str] | None
    """Name and arguments."""
    finish: str
    usage: Usage

    def message(self, call: Call) -> dict[str, Any]:
        if self.tool is None:
            return {"content": self.text}
        name, arguments = self.tool
        function = {"name": name, "arguments": arguments}
        return {"content": None, "tool_calls": [{"id": f"call_{call.id}", "type": "function", "function": function}]}


def _answer(body: dict[str, Any], mock: Any) -> Answer:
    messages = [one for one in body.get("messages") or () if isinstance(one, dict)]
    asked = sum(_words(_text(one.get("content"))) for one in messages)
    heard = next((one for one in reversed(messages) if one.get("role") in ("user", "tool", "function")), {})
    text, finish = _text(heard.get("content")), "stop"
    if mock is not None:
        text = _canned(mock)
    elif (tool := _tool(body, text, heard.get("role") == "user")) is not None:
        return Answer("", tool, "tool_calls", Usage(asked, _words(tool[1]) + 1))
    elif (structured := _structured(body.get("response_format"), text)) is not None:
        text = structured
    text = text.removeprefix(_begun(messages))
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if type(limit) is int and 0 < limit < _words(text):
        text, finish = "".join(_PIECE.findall(text)[:limit]), "length"
    return Answer(text, None, finish, Usage(asked, _words(text)))


def _begun(messages: list[dict[str, Any]]) -> str:
    """The beginning of the answer that a last message of the assistant's is, where it is marked as one."""
    last = messages[-1] if messages else {}
    return _text(last.get("content")) if last.get("role") == "assistant" and last.get("prefix") is True else ""


def _tool(body: dict[str, Any], text: str, from_user: bool) -> tuple[str, str] | None:
    """The tool to call: the one that `tool_choice` names, that the user's text names, or the first if one must be."""
    functions = [one.get("function") for one in body.get("tools") or () if isinstance(one, dict)]
    names = [str(one["name"]) for one in functions if isinstance(one, dict) and one.get("name")]
    choice = body.get("tool_choice")
    if not names or choice == "none" or not from_user:
        return None  # after a tool's result an echo of "call it" would go on for ever
    wanted = next((match[1] for match in _CALL.finditer(text) if match[1] in names), None)
    if isinstance(choice, dict) and isinstance(function := choice.get("function"), dict):
        wanted = str(function.get("name"))
    elif choice == "required":
        wanted = wanted or names[0]
    return (wanted, _arguments(text)) if wanted in names else None


def _arguments(text: str) -> str:
    """The first JSON object in the text, else an empty one."""
    at = text.find("{")
    while at >= 0:
        try:
            value, _ = json.JSONDecoder().raw_decode(text, at)
            return encode_json(value).decode()
        except ValueError:
            at = text.find("{", at + 1)
    return "{}"


def _structured(wanted: Any, text: str) -> str | None:
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return encode_json({"echo": text}).decode()
    given = wanted.get("json_schema") if wanted.get("type") == "json_schema" else None
    if not isinstance(given, dict):
        return None
    schema = given.get("schema")
    try:
        return encode_json(Instance(schema).of(schema)).decode()
    except (AttributeError, LookupError, TypeError) as error:
        raise BadRequest(f"The schema cannot be understood: {error}.", param="response_format") from None


class Instance:
    """A smallest value that a JSON schema allows: required members only, the first of any choice.

    `pattern`, `format` and `not` are not looked at. What is too deep or too large ends in nulls, as a schema that
    requires itself would have no end.
    """

    def __init__(self, root: Any, *, parts: int = 1000, depth: int = 32) -> None:
        self.root, self.parts, self.depth = root, parts, depth

    def of(self, schema: Any, depth: int = 0) -> Any:
        self.parts -= 1
        if not isinstance(schema, dict) or depth > self.depth or self.parts < 0:
            return None
        deeper = depth + 1
        if "$ref" in schema:
            return self.of(self._resolve(schema["$ref"]), deeper)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            return self.of(choices[0], deeper)
        if parts := schema.get("allOf"):
            made = [self.of(part, deeper) for part in (*parts, {**schema, "allOf": None})]
            return {key: value for one in made if isinstance(one, dict) for key, value in one.items()} or made[0]
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind == "object":
            members = schema.get("properties", {})
            return {name: self.of(members.get(name), deeper) for name in schema.get("required", ())}
        if kind == "array":
            count = min(schema.get("minItems", 0), self.parts, 100)
            return [self.of(schema.get("items"), deeper) for _ in range(count)]
        if kind == "string":
            return "x" * min(schema.get("minLength", 0), 1000)
        if kind in ("integer", "number"):
            least = max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
            return min(least, schema.get("maximum", least))
        return False if kind == "boolean" else None

    def _resolve(self, reference: str) -> Any:
        found = self.root
        for step in reference.removeprefix("#").split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        return found


def _canned(mock: Any) -> str:
    """The text of a canned answer, which may be a whole completion."""
    try:
        mock = mock["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        pass
    return mock if isinstance(mock, str) else encode_json(mock).decode()


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [one.get("text") if isinstance(one, dict) else one for one in content]
        return "".join(one for one in parts if isinstance(one, str))
    return content if isinstance(content, str) else ""


def _words(text: str) -> int:
    return len(text.split())  # the echo's tokens


class Meter:
    """What was said so far."""

    __slots__ = ("delivered", "finished", "model", "usage")

    def __init__(self, model: str, asked: int) -> None:
        self.model: str | None = model
        self.usage: Usage | None = Usage(input_tokens=asked)
        self.delivered = 0
        self.finished = False


class Stream:
    """Chunks at a pace. Closing it ends it, also in the middle of a pause."""

    __slots__ = ("_chunks", "_pace", "_started", "ended")

    def __init__(self, chunks: Iterator[Chunk], pace: float) -> None:
        self._chunks = chunks
        self._pace = pace
        self._started = False
        self.ended = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Chunk:
        if self._pace and self._started and not self.ended:
            await asyncio.sleep(self._pace)
        self._started = True
        if self.ended:
            raise StopAsyncIteration
        self.ended = True  # unless there is more: also a failure is an end
        made = next(self._chunks, None)
        if made is None:
            raise StopAsyncIteration
        self.ended = False
        return made

    def close(self) -> None:
        self.ended = True

    async def aclose(self) -> None:
        self.close()

    async def drain(self) -> None:
        async for _ in self:
            pass


def _streamed(call: Call, deployment: Deployment, answer: Answer) -> Reply:
    reply = Reply(media_type="text/event-stream", model=deployment.model)
    reply.meter = meter = Meter(deployment.model, answer.usage.input_tokens)
    chunks = _chunks(call, answer, meter, breaks=deployment.model == "fail-stream")
    reply.stream = reply.upstream = Stream(chunks, PACE if deployment.model == "slow-stream" else 0)
    return reply


def _chunks(call: Call, answer: Answer, meter: Meter, *, breaks: bool) -> Iterator[Chunk]:
    """The stream, closing frame included."""
    identity = {"id": f"chatcmpl-{call.id}", "created": int(time()), "model": call.model}
    for number, made in enumerate(_said(call, answer, meter)):
        if breaks and number == BREAKS_AFTER:
            raise ProtocolError("The echo broke off, as it was asked to.")
        yield Chunk(events=[{**made, **identity}])
    yield Chunk(DONE)


def _said(call: Call, answer: Answer, meter: Meter) -> Iterator[dict[str, Any]]:
    """The answer as chat chunks, word by word. The meter is brought up to date before each."""
    deltas: list[dict[str, Any]] = [{"content": piece} for piece in _PIECE.findall(answer.text)]
    if answer.tool is not None:
        name, arguments = answer.tool
        start = {"index": 0, "id": f"call_{call.id}", "type": "function", "function": {"name": name, "arguments": ""}}
        rest = {"index": 0, "function": {"arguments": arguments}}
        deltas = [{"content": None, "tool_calls": [start]}, {"tool_calls": [rest]}]
    for number, delta in enumerate(deltas or [{"content": ""}]):
        meter.delivered += 1
        meter.usage = Usage(answer.usage.input_tokens, min(meter.delivered, answer.usage.output_tokens))
        yield chunk({"role": "assistant", **delta} if number == 0 else delta)
    meter.finished = True
    meter.usage = answer.usage
    yield chunk({}, answer.finish)
    options = call.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:
        yield {**chunk({}), "choices": [], "usage": usage_to_openai(answer.usage)}


def _embeddings(call: Call, deployment: Deployment) -> Reply:
    given: Any = call.body.get("input")
    several = isinstance(given, list) and not all(type(one) is int for one in given)
    inputs = given if several else [given]
    size = call.body.get("dimensions") or DIMENSIONS
    if type(size) is not int or not 0 < size <= MOST_DIMENSIONS:
        raise BadRequest(f"'dimensions' must be between 1 and {MOST_DIMENSIONS}.", param="dimensions")
    packed = call.body.get("encoding_format") == "base64"
    usage = Usage(input_tokens=sum(_words(one) if isinstance(one, str) else len(one) for one in inputs))
    data = []
    for index, one in enumerate(inputs):
        vector = embedding(one if isinstance(one, str) else encode_json(one).decode(), size)
        shown: Any = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if packed else vector
        data.append({"object": "embedding", "index": index, "embedding": shown})
    body = {"object": "list", "data": data, "model": call.model, "usage": usage_to_openai(usage)}
    return Reply(body, usage=usage, model=deployment.model)


def embedding(text: str, size: int) -> list[float]:
    """A vector of length 1 that depends on the text alone: equal texts are equal, others point anywhere."""
    digest = shake_256(text.encode()).digest(4 * size)
    raw = [number / 2**31 for number in struct.unpack(f"<{size}i", digest)]
    length = sum(number * number for number in raw) ** 0.5 or 1.0
    return [round(number / length, 8) for number in raw]
