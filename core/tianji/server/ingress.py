"""From bytes to a `Call`: read the body under its limits, decode it, check its shape, take out what is ours.

Fields and headers that speak to the gateway rather than to the model follow LiteLLM
(https://docs.litellm.ai/docs/proxy/request_headers); each `x-litellm-` name is also known as `x-tianji-`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tianji.chance import seed_of
from tianji.dialects import Dialect
from tianji.dialects.base import type_name
from tianji.errors import BadRequest, TooLarge
from tianji.model import Call, Ingress, Op, Principal, decode_json
from tianji.plan import Plan

Receive = Callable[[], Awaitable[dict[str, Any]]]

MAX_BODY = 32 * 1024 * 1024
MAX_DEPTH = 200
"""Arrays and objects within each other. Whatever walks a body later, also by recursion, stays far from its limit."""
MAX_NAME = 512
"""Characters of a model's name, which becomes a key in memory and a header."""
MAX_FALLBACKS = 20
MAX_RETRIES = 10
LAST = 255
"""The lowest priority; 0 is the highest."""
OWN_FIELDS = frozenset(
    {
        "fallbacks", "disable_fallbacks", "num_retries", "timeout", "request_timeout", "stream_timeout", "guardrails",
        "tags", "cache", "priority", "tianji_metadata", "litellm_metadata", "no-log", "caching",
        "context_window_fallbacks", "content_policy_fallbacks", "mock_response", "mock_tool_calls",
        "include_fallback_errors", "allowed_model_region",
    }
)  # fmt: skip
"""Taken out of the body before anyone else sees it."""
_REFUSED = frozenset({"api_base", "base_url", "api_key", "api_version", "user_config"})
_OURS = OWN_FIELDS | _REFUSED | {"metadata"}
_HEADER_OPTIONS = ("timeout", "num-retries", "tags", "stream-timeout")
_CALL_HEADERS = (b"call-id", b"strict", b"timing", b"explain", b"seed")
_OWN_HEADERS = frozenset(
    prefix + name
    for prefix in (b"x-tianji-", b"x-litellm-")
    for name in (*_CALL_HEADERS, *(option.encode() for option in _HEADER_OPTIONS))
)
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The whole request body. `TooLarge` as soon as that is certain, at most one chunk past the limit."""
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        raise TooLarge(f"The request body is {int(length)} bytes; the limit is {limit}.")
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise BadRequest("Compressed request bodies are not accepted; send it without Content-Encoding.", status=415)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit:
            raise TooLarge(f"The request body is over the limit of {limit} bytes.")
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        if size > limit:
            raise TooLarge(f"The request body is over the limit of {limit} bytes.")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The client left while sending.", status=499)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > limit:
        raise TooLarge(f"The request body is over the limit of {limit} bytes.")
    return b"".join(parts)


def decode_body(raw: bytes) -> dict[str, Any]:
    """The body as a JSON object; `BadRequest` says what is wrong and where."""
    if not raw:
        raise BadRequest(
            "The request has no body; a JSON object is expected.", param="request_body", code="invalid_json"
        )
    try:
        body = decode_json(raw)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise BadRequest(f"The body is not valid JSON: {error}", param="request_body", code="invalid_json") from None
    if type(body) is not dict:
        raise BadRequest(
            f"The body must be a JSON object, got {type_name(body)}.", param="request_body", code="invalid_json"
        )
    # Few bytes or brackets cannot nest deeply, so an ordinary body is not walked.
    if len(raw) > 2 * MAX_DEPTH and raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deep(body):
        raise _too_deep()
    return body


def _too_deep() -> BadRequest:
    return BadRequest("The JSON is nested too deeply.", param="request_body", code="invalid_json")


def _deep(body: dict[str, Any]) -> bool:
    """Whether a body is nested more than `MAX_DEPTH` levels deep."""
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            one
            for container in level
            for one in (container.values() if type(container) is dict else container)
            if type(one) is dict or type(one) is list
        ]
        if not level:
            return False
    return True


def make_call(
    ingress: Ingress, principal: Principal, dialect: Dialect, raw: bytes, *, path_model: str | None, guardrails: Any
) -> Call:
    """A checked `Call`. `guardrails` are the names that exist, for requests that select some."""
    body = decode_body(raw)
    kept: bytes | None = raw
    if path_model is not None and "model" not in body:
        body["model"] = path_model
        kept = None
    model = path_model or body.get("model")
    if type(model) is not str or not model:
        if model is None or model == "":
            raise BadRequest("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
        raise BadRequest(
            f"Invalid type for 'model': expected a string, got {type_name(model)}.", param="model", code="invalid_type"
        )
    if len(model) > MAX_NAME:
        raise BadRequest(
            f"'model' is {len(model)} characters long; the limit is {MAX_NAME}.", param="model", code="invalid_value"
        )
    stream = body.get("stream")
    if stream is not None and type(stream) is not bool:
        raise BadRequest(
            f"Invalid type for 'stream': expected a boolean, got {type_name(stream)}.",
            param="stream",
            code="invalid_type",
        )
    dialect.check(body)
    options: dict[str, Any] = {}
    if not _OURS.isdisjoint(body):
        body, changed = _own_fields(body, options, guardrails)
        kept = None if changed else kept
    call = Call(
        ingress=ingress,
        op=dialect.op,
        dialect=dialect.name,
        model=model,
        body=body,
        raw=kept,
        stream=stream is True and dialect.op in (Op.CHAT, Op.COMPLETIONS),
        principal=principal,
        options=options,
    )
    _headers(call, ingress.headers, options)
    return call


def _own_fields(body: dict[str, Any], options: dict[str, Any], guardrails: Any) -> tuple[dict[str, Any], bool]:
    refused = _REFUSED & body.keys()
    if refused:
        field = sorted(refused)[0]
        raise BadRequest(
            f"'{field}' may not be sent by a client: where requests go is the operator's to configure.",
            param=field,
            code="unsupported_parameter",
        )
    own = OWN_FIELDS & body.keys()
    if own:
        body = dict(body)
        for field in own:
            value = body.pop(field)
            if value is not None:
                options[field] = value
    _check_options(options, guardrails)
    metadata = body.get("metadata")
    changed = bool(own)
    if isinstance(metadata, dict):
        options.setdefault("metadata", metadata)
        if "tags" not in options and isinstance(metadata.get("tags"), list):
            options["tags"] = [tag for tag in metadata["tags"] if isinstance(tag, str)]
        plain = {key: value for key, value in metadata.items() if isinstance(value, str)}
        if len(plain) != len(metadata):
            # Vendors take strings only; lists and objects in here are for the gateway and its callbacks.
            body = {key: value for key, value in body.items() if key != "metadata"}
            if plain:
                body["metadata"] = plain
            changed = True
    own_metadata = options.get("tianji_metadata") or options.get("litellm_metadata")
    if isinstance(own_metadata, dict):
        options["metadata"] = own_metadata
    return body, changed


def _check_options(options: dict[str, Any], guardrails: Any) -> None:
    for field, kinds, what in (
        ("timeout", (int, float), "a number of seconds"),
        ("stream_timeout", (int, float), "a number of seconds"),
        ("num_retries", (int,), "an integer"),
        ("priority", (int,), "an integer"),
        ("fallbacks", (list,), "an array of model names"),
        ("tags", (list,), "an array of strings"),
        ("allowed_model_region", (str,), "a string"),
        ("guardrails", (list,), "an array of guardrail names"),
        ("cache", (dict,), "an object"),
    ):
        value = options.get(field)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise BadRequest(
                f"Invalid type for '{field}': expected {what}, got {type_name(value)}.",
                param=field,
                code="invalid_type",
            )
    for field in ("timeout", "stream_timeout"):
        if (seconds := options.get(field)) is not None and seconds <= 0:
            raise BadRequest(f"'{field}' must be more than 0 seconds.", param=field, code="invalid_value")
    if not 0 <= options.get("priority", 0) <= LAST:
        raise BadRequest(f"'priority' must be from 0 to {LAST}.", param="priority", code="invalid_value")
    if (retries := options.get("num_retries")) is not None:
        if retries < 0:
            raise BadRequest("'num_retries' must be 0 or more.", param="num_retries", code="invalid_value")
        options["num_retries"] = min(retries, MAX_RETRIES)
    if "fallbacks" in options:
        options["fallbacks"] = _fallbacks(options["fallbacks"])
    for index, tag in enumerate(options.get("tags", ())):
        if type(tag) is not str:
            raise BadRequest(
                f"Invalid type for 'tags[{index}]': expected a string, got {type_name(tag)}.",
                param=f"tags[{index}]",
                code="invalid_type",
            )
    if not options.get("allowed_model_region", "any").strip():
        raise BadRequest("'allowed_model_region' is empty.", param="allowed_model_region", code="invalid_value")
    if "request_timeout" in options:
        options.setdefault("timeout", options["request_timeout"])
    wanted = options.get("guardrails")
    if wanted:
        names = [next(iter(one)) if isinstance(one, dict) and one else one for one in wanted]
        for name in names:
            if type(name) is not str or name not in guardrails:
                known = ", ".join(sorted(guardrails)) or "none is configured"
                raise BadRequest(f"There is no guardrail '{name}'. Known: {known}.", param="guardrails")
        options["guardrails"] = names


def _fallbacks(entries: list[Any]) -> list[str]:
    """The names of the model groups to fall back to; an entry is a name or, as in LiteLLM, `{"model": name}`."""
    if len(entries) > MAX_FALLBACKS:
        raise BadRequest(
            f"'fallbacks' has {len(entries)} entries; the limit is {MAX_FALLBACKS}.",
            param="fallbacks",
            code="invalid_value",
        )
    names = []
    for index, entry in enumerate(entries):
        name = entry["model"] if type(entry) is dict and entry.keys() == {"model"} else entry
        if type(name) is not str or not 0 < len(name) <= MAX_NAME:
            raise BadRequest(
                f"Invalid value for 'fallbacks[{index}]': expected a model's name, or an object with 'model' alone.",
                param=f"fallbacks[{index}]",
                code="invalid_value",
            )
        names.append(name)
    return names


def _headers(call: Call, headers: Mapping[bytes, bytes], options: dict[str, Any]) -> None:
    if _OWN_HEADERS.isdisjoint(headers):
        return
    get = headers.get
    ident = get(b"x-tianji-call-id") or get(b"x-litellm-call-id")
    if ident is not None and _ID.fullmatch(text := ident.decode("latin-1")):
        call.call_id = text
    if get(b"x-tianji-strict") == b"1":
        call.strict = True
    if get(b"x-tianji-timing") == b"1":
        call.timing = []
    if call.principal.is_admin:
        if (seed := get(b"x-tianji-seed")) is not None:
            call.seed = seed_in(seed.decode("latin-1"), "x-tianji-seed")
        if get(b"x-tianji-explain") == b"1":
            call.seed = seed_of(call.id) if call.seed is None else call.seed
            call.plan = Plan()
    for name in _HEADER_OPTIONS:
        value = get(b"x-tianji-" + name.encode()) or get(b"x-litellm-" + name.encode())
        if value is not None:
            _header_option(name, value.decode("latin-1"), options)


def seed_in(text: str, param: str) -> int:
    """The seed that a header or a query names."""
    if not text.isascii() or not text.isdecimal() or len(text) > 20 or int(text) >= 2**64:
        raise BadRequest(f"'{param}' must be a whole number from 0 to 2^64 - 1.", param=param, code="invalid_value")
    return int(text)


def _header_option(name: str, text: str, options: dict[str, Any]) -> None:
    field = name.replace("-", "_")
    if name == "tags":
        options["tags"] = [tag.strip() for tag in text.split(",") if tag.strip()]
        return
    try:
        options[field] = int(text) if name == "num-retries" else float(text)
        if not 0 <= options[field] < float("inf"):
            raise ValueError
        if name == "num-retries":
            options[field] = min(options[field], MAX_RETRIES)
    except ValueError:
        raise BadRequest(f"The header x-tianji-{name} must be a number.", param=f"x-tianji-{name}") from None
