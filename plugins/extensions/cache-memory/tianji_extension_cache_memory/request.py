"""What a call says: the key that its answer is kept under, and its wishes about caching.

Docs: https://docs.litellm.ai/docs/proxy/caching#dynamic-cache-controls
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from tianji import BadRequest, Call

NO_EFFECT = frozenset({"user", "metadata", "stream", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Fields of a body that change nothing in the answer (`stream` is in the key by itself)."""
HEADERS = (b"anthropic-beta", b"anthropic-version")
"""Request headers that change an answer."""
_canonical = msgspec.json.Encoder(order="deterministic").encode


class Wishes(msgspec.Struct, frozen=True):
    """What the request says about caching."""

    read: bool = True
    write: bool = True
    ttl: float | None = None
    max_age: float | None = None
    namespace: str = ""
    use: bool = False


NO_WISHES = Wishes()


def key_of(call: Call, namespace: str = "", own_namespace: str = "") -> bytes:
    """A hash of everything that the answer depends on.

    That is the caller and what the caller may use, the configuration, the dialect, the model group, the tags (they
    choose deployments), and the body without the fields that change nothing.
    """
    caller, body = call.principal, call.body
    if not NO_EFFECT.isdisjoint(body):
        body = {name: value for name, value in body.items() if name not in NO_EFFECT}
    config = getattr(call.snapshot, "config", None)
    headers = call.ingress.headers
    identity = (
        namespace, own_namespace, getattr(config, "fingerprint", ""),
        caller.key_id, caller.user_id, caller.team_id, caller.org_id, caller.role, caller.models,
        call.dialect, call.op, call.model, call.stream, call.strict, call.options.get("tags"),
        [str(headers.get(name)) for name in HEADERS],
    )  # fmt: skip
    return hashlib.sha256(_canonical((identity, body))).digest()


def wishes_of(call: Call) -> Wishes:
    """The request's `cache` object, its `caching` and its `Cache-Control`. Raises `BadRequest`."""
    options = call.options
    said: dict[str, Any] = options.get("cache") or {}
    header = call.ingress.headers.get(b"cache-control")
    if not said and header is None and "caching" not in options and "mock_response" not in options:
        return NO_WISHES
    directives = (header or b"").decode("latin-1").lower()
    named = {part.partition("=")[0].strip(): part.partition("=")[2].strip() for part in directives.split(",")}
    age = named.get("s-maxage", "")
    off = options.get("caching") is False or "mock_response" in options
    namespace = said.get("namespace", "")
    if not isinstance(namespace, str):
        raise BadRequest("Invalid type for 'cache.namespace': expected a string.", param="cache.namespace")
    return Wishes(
        read=not (off or _flag(said, "no-cache") or "no-cache" in named or "no-store" in named),
        write=not (off or _flag(said, "no-store") or "no-store" in named),
        ttl=_seconds(said, "ttl"),
        max_age=_seconds(said, "s-maxage") if "s-maxage" in said else float(age) if age.isdecimal() else None,
        namespace=namespace,
        use=_flag(said, "use-cache") or options.get("caching") is True,
    )


def _flag(said: dict[str, Any], name: str) -> bool:
    value = said.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"Invalid type for 'cache.{name}': expected a boolean.", param=f"cache.{name}")
    return value is True


def _seconds(said: dict[str, Any], name: str) -> float | None:
    value = said.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 10**9:
        raise BadRequest(f"Invalid 'cache.{name}': expected a number of seconds.", param=f"cache.{name}")
    return float(value)
