"""Ollama: local models through the native API, which has what its OpenAI-like one lacks (`num_ctx`, `keep_alive`, …).

Docs: https://docs.ollama.com/api/chat
"""

import base64
import struct
from typing import Any, ClassVar

from tianji import (
    END,
    BadRequest,
    Call,
    Decoder,
    Deployment,
    Failure,
    HTTPProvider,
    Op,
    ProtocolError,
    Usage,
    Wire,
    chunk,
    completion,
    decode_json,
    encode_json,
    must_be_object,
    usage_to_openai,
)

OPTIONS = frozenset(
    {
        "draft_num_predict", "frequency_penalty", "main_gpu", "min_p", "mirostat", "mirostat_eta", "mirostat_tau",
        "num_batch", "num_ctx", "num_gpu", "num_keep", "num_predict", "num_thread", "presence_penalty",
        "repeat_last_n", "repeat_penalty", "seed", "temperature", "tfs_z", "top_k", "top_p", "typical_p", "use_mmap",
    }
)  # fmt: skip
"""Fields that travel inside `options`, by the same name."""
SAME = frozenset({"format", "keep_alive", "logprobs", "shift", "think", "tools", "top_logprobs", "truncate"})
"""Fields that stay where they are."""
DONE_WITH = frozenset(
    {
        "max_completion_tokens", "max_tokens", "messages", "model", "options", "reasoning_effort",
        "response_format", "stop", "stream", "stream_options", "tool_choice",
    }
)  # fmt: skip
"""Fields that are said in another way, or that the gateway sees to."""
EFFORTS: dict[str, bool | str] = {
    "none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max",
}  # fmt: skip
FINISH = {"stop": "stop", "length": "length", "load": "stop", "unload": "stop"}


class Ollama(HTTPProvider):
    name = "ollama"
    base_url = "http://localhost:11434"
    api_key_env = ("OLLAMA_API_KEY",)
    api_base_env = ("OLLAMA_API_BASE",)
    needs_key = False
    framing = "json-lines"
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT, Op.EMBEDDINGS})
    native: ClassVar[frozenset[str]] = frozenset()

    def base(self, deployment: Deployment) -> str:
        """The server's root, also where the address of its OpenAI-like API was configured."""
        return super().base(deployment).removesuffix("/v1").removesuffix("/api")

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        body = {**deployment.defaults, **call.body}
        for field in sorted(deployment.drop & body.keys()):
            del body[field]
            call.drop(field)
        body["model"] = deployment.model
        embeds = call.op == Op.EMBEDDINGS
        made = _embed_request(call, body) if embeds else _chat_request(call, body)
        made.update(deployment.extra_body)
        url = f"{self.base(deployment)}{'/api/embed' if embeds else '/api/chat'}"
        return Wire(url, self.request_headers(deployment), made)

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        body = must_be_object(data)
        if body.get("error"):
            raise self._reported(body)
        return _embeddings(call, body) if call.op == Op.EMBEDDINGS else _completion(call, body)

    def decoder(self, call: Call) -> Decoder:
        chunks: list[dict[str, Any]] = []
        tools = 0
        while True:
            event = yield chunks
            chunks = []
            data = event.data
            if event is END or not isinstance(data, dict):
                continue
            if data.get("error"):
                raise self._reported(data)
            delta, count = _said(call, data.get("message"), tools)
            tools += count
            model = _text(data.get("model"))
            if delta:
                chunks.append(chunk(delta, model=model, **_logprobs(data)))
            if data.get("done") is True:
                chunks.append(chunk({}, _finish(data, tools), model=model, usage=_usage(data)))

    def _reported(self, data: dict[str, Any]) -> Failure:
        """An error in a 200 answer: the model broke down while it was at work."""
        return self.failure(500, data)


# -- the request -------------------------------------------------------------------------------------------------------


def _chat_request(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "model": body["model"],
        "messages": _messages(body.get("messages") or []),
        "stream": call.stream,  # left out, it means true there
    }
    made.update({name: body[name] for name in SAME & body.keys() if body[name] is not None})
    if options := _options(body):
        made["options"] = options
    _tools(call, body, made)
    _format(body.get("response_format"), made)
    effort = body.get("reasoning_effort")
    if isinstance(effort, str) and "think" not in made:
        if effort in EFFORTS:
            made["think"] = EFFORTS[effort]
        else:
            call.drop("reasoning_effort")
    known = SAME | OPTIONS | DONE_WITH
    call.drop(*(name for name in body if name not in known and not (name == "n" and body[name] == 1)))
    return made


def _options(body: dict[str, Any]) -> dict[str, Any]:
    options = {name: body[name] for name in sorted(OPTIONS & body.keys()) if body[name] is not None}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None:
        options.setdefault("num_predict", limit)
    stop = body.get("stop")
    if stop is not None:
        options["stop"] = stop if isinstance(stop, list) else [stop]
    given = body.get("options")
    return {**options, **given} if isinstance(given, dict) else options


def _tools(call: Call, body: dict[str, Any], made: dict[str, Any]) -> None:
    """Ollama has no `tool_choice`: `none` is said by sending no tools, `auto` by nothing; the others are lost."""
    choice = body.get("tool_choice")
    if choice == "none" or not made.get("tools"):
        made.pop("tools", None)
    elif choice not in (None, "auto"):
        call.drop("tool_choice")


def _format(wanted: Any, made: dict[str, Any]) -> None:
    if not isinstance(wanted, dict):
        return
    if wanted.get("type") == "json_object":
        made.setdefault("format", "json")
    elif wanted.get("type") == "json_schema":
        given = wanted.get("json_schema")
        schema = given.get("schema") if isinstance(given, dict) else None
        made.setdefault("format", schema if isinstance(schema, dict) else "json")


def _messages(messages: list[Any]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}
    made = []
    for index, message in enumerate(messages):
        if isinstance(message, dict):
            made.append(_message(message, names, f"messages[{index}]"))
    return made


def _message(message: dict[str, Any], names: dict[str, str], path: str) -> dict[str, Any]:
    """One message. `names` remembers which function an id of a tool call belongs to, for the results that follow."""
    role = {"developer": "system", "function": "tool"}.get(str(message.get("role")), message.get("role"))
    text, images = _content(message.get("content"), f"{path}.content")
    made: dict[str, Any] = {"role": role, "content": text}
    if images:
        made["images"] = images
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str):
        made["thinking"] = thought
    calls = []
    for tool_call in message.get("tool_calls") or ():
        function = tool_call.get("function") if isinstance(tool_call, dict) else None
        if isinstance(function, dict):
            name, identity = _text(function.get("name")), _text(tool_call.get("id"))
            names[identity] = name
            entry: dict[str, Any] = {"function": {"name": name, "arguments": _arguments(function.get("arguments"))}}
            calls.append({"id": identity, **entry} if identity else entry)
    if calls:
        made["tool_calls"] = calls
    if role == "tool":
        identity = _text(message.get("tool_call_id"))
        if identity:
            made["tool_call_id"] = identity
        if name := _text(message.get("name")) or names.get(identity, ""):
            made["tool_name"] = name
    return made


def _content(content: Any, path: str) -> tuple[str, list[str]]:
    """The text and the base64 media of a message. Only data can be sent: the server fetches no addresses."""
    if not isinstance(content, list):
        return _text(content), []
    texts: list[str] = []
    media: list[str] = []
    for index, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(_text(part.get("text")))
            continue
        found = part.get(kind) if kind in ("image_url", "input_audio") else None
        data = found.get("url", found.get("data")) if isinstance(found, dict) else found
        if not isinstance(data, str) or (kind == "image_url" and not data.startswith("data:")):
            raise BadRequest(
                "Ollama takes text, and images and audio as base64 data; it fetches no addresses and reads no files.",
                param=f"{path}[{index}]",
            )
        media.append(data.partition(",")[2] if data.startswith("data:") else data)
    return "".join(texts), media


def _arguments(arguments: Any) -> dict[str, Any]:
    """A tool call's arguments as the object that Ollama wants; text that is none is kept under one name."""
    if isinstance(arguments, dict):
        return arguments
    text = _text(arguments)
    if not text.strip():
        return {}
    try:
        value = decode_json(text.encode())
    except ValueError:
        value = text
    return value if isinstance(value, dict) else {"arguments": value}


def _embed_request(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        name: body[name] for name in ("model", "input", "dimensions", "truncate", "keep_alive") if name in body
    }
    options = {**{name: body[name] for name in sorted(OPTIONS & body.keys())}, **(body.get("options") or {})}
    if options:
        made["options"] = options
    call.drop(*(name for name in body if name not in made and name not in OPTIONS | {"options", "encoding_format"}))
    return made


# -- the answer --------------------------------------------------------------------------------------------------------


def _completion(call: Call, data: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(data.get("message"), dict):
        raise ProtocolError("The provider's answer has no message.")
    delta, tools = _said(call, data["message"], 0)
    for tool_call in delta.get("tool_calls", ()):
        del tool_call["index"]  # only streams have it
    if "content" not in delta:
        delta["content"] = None if tools else ""
    body = completion(
        id=f"chatcmpl-{call.id}",
        model=_text(data.get("model")),
        message=delta,
        finish_reason=_finish(data, tools),
        usage=_usage(data),
    )
    body["choices"][0].update(_logprobs(data))
    return body


def _said(call: Call, message: Any, tools: int) -> tuple[dict[str, Any], int]:
    """A message, or a piece of one, as a delta, and how many tool calls it holds. `tools` came before it."""
    if not isinstance(message, dict):
        return {}, 0
    delta: dict[str, Any] = {}
    if text := _text(message.get("content")):
        delta["content"] = text
    if thought := _text(message.get("thinking")):
        delta["reasoning_content"] = thought
    calls: list[dict[str, Any]] = []
    given = message.get("tool_calls")
    for tool_call in given if isinstance(given, list) else ():
        function = tool_call.get("function") if isinstance(tool_call, dict) else None
        if isinstance(function, dict):
            index = tools + len(calls)
            arguments = function.get("arguments")
            said = arguments if isinstance(arguments, str) else encode_json(arguments or {}).decode()
            calls.append(
                {
                    "index": index,
                    "id": _text(tool_call.get("id")) or f"call_{call.id}_{index}",
                    "type": "function",
                    "function": {"name": _text(function.get("name")), "arguments": said},
                }
            )
    if calls:
        delta["tool_calls"] = calls
    return delta, len(calls)


def _finish(data: dict[str, Any], tools: int) -> str:
    reason = FINISH.get(_text(data.get("done_reason")), "stop")
    return "tool_calls" if tools and reason == "stop" else reason


def _usage(data: dict[str, Any]) -> Usage | None:
    """Both counts are left out when they are zero; a prompt that was cached counts as zero in some versions."""
    given, made = data.get("prompt_eval_count"), data.get("eval_count")
    if given is None and made is None:
        return None
    return Usage(input_tokens=_count(given), output_tokens=_count(made))


def _logprobs(data: dict[str, Any]) -> dict[str, Any]:
    found = data.get("logprobs")
    return {"logprobs": {"content": found, "refusal": None}} if isinstance(found, list) and found else {}


def _embeddings(call: Call, data: dict[str, Any]) -> dict[str, Any]:
    vectors = data.get("embeddings")
    if not isinstance(vectors, list):
        raise ProtocolError("The provider's answer has no embeddings.")
    packed = call.body.get("encoding_format") == "base64"
    return {
        "object": "list",
        "model": _text(data.get("model")),
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": usage_to_openai(Usage(input_tokens=_count(data.get("prompt_eval_count")))),
    }


def _packed(vector: Any) -> str:
    """A vector as OpenAI's `base64`: little-endian 32-bit floats."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (TypeError, struct.error):
        raise ProtocolError("The provider's answer has an embedding that is not a list of numbers.") from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
