"""What the configuration says about the cache: the extension's own section over `tianji_settings.cache_params`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tianji import ConfigError, Op, PluginSettings

TTL = 600.0
TYPES = (None, "local", "memory")
"""`cache_params.type` that mean this cache."""
CALL_TYPES = {
    "completion": Op.CHAT, "acompletion": Op.CHAT, "anthropic_messages": Op.CHAT, "text_completion": Op.COMPLETIONS,
    "atext_completion": Op.COMPLETIONS, "embedding": Op.EMBEDDINGS, "aembedding": Op.EMBEDDINGS,
    "transcription": Op.TRANSCRIBE, "atranscription": Op.TRANSCRIBE, "arerank": Op.RERANK, "aresponses": Op.RESPONSES,
}  # fmt: skip
"""LiteLLM's names of ops; Tianji's own are understood too."""
DEFAULT_OPS = (Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS, Op.RERANK, Op.TRANSCRIBE, Op.RESPONSES)


class CacheSettings(PluginSettings, frozen=True):
    enabled: bool | None = None
    """On or off. Else it is on where `tianji_settings.cache` is true and `cache_params.type` is absent, `local` or
    `memory`. The other settings are looked for in `cache_params`, too, where they are not given here."""
    ttl: float | None = None
    """Seconds that an answer is kept; 600 where nothing is said."""
    namespace: str | None = None
    """Part of every key."""
    mode: Literal["default_on", "default_off"] | None = None
    """`default_off`: only requests that say `cache: {use-cache: true}` are cached."""
    max_entries: int = 10_000
    """Answers kept at most; the one that was not used for longest goes first."""
    max_bytes: int = 64 * 1024 * 1024
    """Memory that the answers may take."""
    max_entry_bytes: int = 1024 * 1024
    """A longer answer is not kept."""
    single_flight_wait: float = 30.0
    """Seconds that a call waits for an equal one that is under way, before it goes its own way. 0: not at all."""
    supported_call_types: tuple[str, ...] | None = None
    """Ops that are cached, by Tianji's names (`chat`, `embeddings`) or LiteLLM's (`acompletion`). Else chat,
    completions, embeddings, rerank, transcribe and responses."""


class Policy(msgspec.Struct, frozen=True):
    """What the configuration says. Replaced as a whole on a reload."""

    active: bool = False
    ttl: float = TTL
    namespace: str = ""
    opt_in: bool = False
    max_entries: int = 10_000
    max_bytes: int = 64 * 1024 * 1024
    max_entry_bytes: int = 1024 * 1024
    wait: float = 30.0
    ops: frozenset[Op] = frozenset(DEFAULT_OPS)


def policy(settings: CacheSettings, tianji: Any) -> Policy:
    """The settings of the section, over those of `tianji_settings.cache_params`. Raises `ConfigError`."""
    params: dict[str, Any] = getattr(tianji, "cache_params", None) or {}
    ours = params.get("type") in TYPES
    active = bool(getattr(tianji, "cache", False)) and ours if settings.enabled is None else settings.enabled
    if not active:
        return Policy()
    params = params if ours else {}
    ttl = settings.ttl
    if ttl is None:
        ttl = _number(params, "ttl", _number(params, "default_in_memory_ttl", TTL))
    mode = settings.mode or params.get("mode") or "default_on"
    if mode not in ("default_on", "default_off"):
        raise ConfigError(f"{mode!r} is neither default_on nor default_off", path="tianji_settings.cache_params.mode")
    if min(ttl, settings.max_entries, settings.max_bytes, settings.max_entry_bytes) <= 0:
        raise ConfigError("ttl, max_entries, max_bytes and max_entry_bytes must be more than 0", path="cache_memory")
    types = settings.supported_call_types
    if types is None:
        types = tuple(params.get("supported_call_types") or DEFAULT_OPS)
    namespace = settings.namespace if settings.namespace is not None else str(params.get("namespace") or "")
    return Policy(
        True, ttl, namespace, mode == "default_off", settings.max_entries, settings.max_bytes,
        settings.max_entry_bytes, settings.single_flight_wait, frozenset(map(_op, types)),
    )  # fmt: skip


def _number(params: dict[str, Any], name: str, default: float) -> float:
    value = params.get(name)
    if value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError("expected seconds", path=f"tianji_settings.cache_params.{name}") from None


def _op(name: str) -> Op:
    try:
        return CALL_TYPES.get(name) or Op(name)
    except ValueError:
        known = ", ".join([*Op, *CALL_TYPES])
        raise ConfigError(f"{name!r} is no op; known: {known}", path="supported_call_types") from None
