"""Router settings that an administrator changed while the gateway runs, over those of the configuration.

    await overrides.change({"num_retries": 1, "timeout": None})    # None: what the configuration says, again

A change is validated as the file is, takes effect as a reload does (all of it or nothing; running calls end as they
began) and is kept in the `KV` service under one key, with the fingerprint of the configuration that it was made to.
Where that service is shared, every worker and instance looks there once a second. With the kernel's own, which is in
memory, a change reaches one process and ends with it. A file whose content changed starts anew.

The store has no compare-and-set: of two changes that are made on two instances within the same second, the later one
may take the other's keys back.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

import msgspec

from tianji.config.convert import fill
from tianji.config.document import Document, canonical
from tianji.config.lint import astray
from tianji.config.schema import Config, RouterSettings
from tianji.errors import BadRequest, ConfigError, Overloaded, PluginError, TianjiError
from tianji.memory import MemoryKV
from tianji.model import Secret
from tianji.secrets import holds_secret
from tianji.services import KV

logger = logging.getLogger("tianji.overrides")

KEY = "tianji:router-settings"
FOLLOW = 1.0
"""Seconds between looks at a shared store."""
LARGEST = 1024 * 1024
"""Bytes of all overrides together."""
MASK = "********"

CHANGEABLE: Mapping[str, tuple[str, str]] = {
    "routing_strategy": ("String", "The strategy that orders a model group's deployments."),
    "routing_strategy_args": ("Dictionary", "The strategy's settings."),
    "num_retries": ("Integer", "Attempts after the first in a group; null for three attempts in all."),
    "retry_after": ("Float", "Least seconds before the same deployment is asked again."),
    "timeout": ("Float", "Seconds for a whole call."),
    "stream_timeout": ("Float", "Seconds to the first event of a stream."),
    "max_fallbacks": ("Integer", "Further groups that one call may try."),
    "retry_policy": ("Dictionary", "Retries by kind of failure."),
    "model_group_retry_policy": ("Dictionary", "Retries by model group."),
    "fallbacks": ("List", "Group (or `*`) to the groups to try when it cannot answer, in order."),
    "context_window_fallbacks": ("List", "The same, where the prompt does not fit the model."),
    "content_policy_fallbacks": ("List", "The same, where the provider's policy refused the content."),
    "default_fallbacks": ("List", "The groups for every group that `fallbacks` does not name."),
    "allowed_fails": ("Integer", "Failures in a row after which a deployment is put aside."),
    "allowed_fails_policy": ("Dictionary", "The same by kind of failure."),
    "cooldown_time": ("Float", "Seconds for which it is put aside."),
    "disable_cooldowns": ("Boolean", "Put none aside."),
    "model_group_alias": ("Dictionary", "Further names of model groups."),
    "enable_pre_call_checks": ("Boolean", "Leave out deployments whose context window is too small for the prompt."),
    "enable_tag_filtering": ("Boolean", "Serve a tagged request by deployments with its tags."),
    "tag_filtering_match_any": ("Boolean", "One tag in common is enough."),
}
"""The keys of `router_settings` that may be changed at run time: type and meaning."""
_AT = re.compile(r"router_settings\.(\w+)")
_SECTION = re.compile(r".*?\b(?:router_settings|tianji_settings)\.", re.DOTALL)
_ARGS = "routing_strategy_args"
_TABLES = frozenset({"fallbacks", "context_window_fallbacks", "content_policy_fallbacks"})


class Stored(msgspec.Struct):
    """What the store keeps."""

    fingerprint: str
    """Of the configuration that the overrides were made to."""
    values: dict[str, Any]


class Host(Protocol):
    """What overrides need of the gateway."""

    def need(self, service: type[KV]) -> KV: ...
    def every(self, seconds: float, fn: Callable[[], Awaitable[None]], *, name: str) -> None: ...


class Overrides:
    """The overrides of one gateway. `swap` puts a configuration into use, all of it or nothing."""

    def __init__(self, base: Config, host: Host, swap: Callable[[Config], Awaitable[None]]) -> None:
        self.base = base
        """The configuration as it was loaded."""
        self.values: dict[str, Any] = {}
        self._host = host
        self._swap = swap
        self._lock = asyncio.Lock()
        self._following = self._deaf = False
        self._refused: dict[str, Any] | None = None

    @property
    def shared(self) -> bool:
        """Whether other processes see what is changed here."""
        return not isinstance(self._host.need(KV), MemoryKV)  # type: ignore[type-abstract]

    async def start(self) -> None:
        """Take over what the store has, and follow it where it is shared."""
        if self.shared and not self._following:
            self._following = True
            await self.follow()
            self._host.every(FOLLOW, self.follow, name="follow changes of router settings")

    async def reload(self, config: Config) -> None:
        """Put another configuration into use; overrides stay where its content is the same. Raises what `swap` does."""
        async with self._lock:
            values = self.values if config.fingerprint == self.base.fingerprint else {}
            await self._swap(merged(config, values))
            if self.values and not values:
                logger.warning("the configuration has changed: router settings changed at run time are given up")
            self.base, self.values, self._refused = config, values, None
        await self.start()

    async def change(self, patch: Mapping[str, Any]) -> None:
        """Override some keys; a value of None ends the override.

        Raises `BadRequest` naming the key that cannot be used, `Overloaded` where the store fails; nothing is changed
        then.
        """
        async with self._lock:
            await self._catch_up()
            await self._change(patch)

    async def edit(self, key: str, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change one mapping, such as `fallbacks`, as it is at this moment. Raises what `edit` and `change` raise."""
        async with self._lock:
            await self._catch_up()
            table = dict(getattr(merged(self.base, self.values).router, key))
            edit(table)
            await self._change({key: None if table == getattr(self.base.router, key) else table})

    async def _change(self, patch: Mapping[str, Any]) -> None:
        patch = dict(patch)
        if isinstance(given := patch.get(_ARGS), dict):
            patch[_ARGS] = {key: value for key, value in given.items() if value != MASK}  # as it was shown
        check(patch)
        values = {key: value for key, value in {**self.values, **patch}.items() if value is not None}
        stored = msgspec.json.encode(Stored(self.base.fingerprint, values))
        values = msgspec.json.decode(stored, type=Stored).values  # as every other instance will see them
        if len(stored) > LARGEST:
            raise BadRequest(f"All changes together are more than {LARGEST} bytes.", code="too_large")
        before = self.values
        await self._use(values)
        try:
            await self._host.need(KV).set(KEY, stored)  # type: ignore[type-abstract]
        except Exception as error:
            logger.exception("router settings could not be stored")
            await self._swap(merged(self.base, before))
            self.values = before
            raise Overloaded("The store of run-time settings failed; nothing was changed.") from error
        logger.info("router settings changed at run time: %s", ", ".join(patch))

    async def _use(self, values: dict[str, Any]) -> None:
        try:
            config = merged(self.base, values)
            await self._swap(config)
        except ConfigError as error:
            raise refused(error) from error
        except PluginError as error:
            at = _AT.match(str(error))
            raise BadRequest(str(error), param=at[1] if at else None, code="invalid_value") from error
        self.values = values

    async def follow(self) -> None:
        """Look into the shared store, and use what is new there. Never raises."""
        async with self._lock:
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Use what the store has, where it was made to this configuration and is not what is in use. Never raises."""
        if not self.shared:
            return
        try:
            kv: KV = self._host.need(KV)  # type: ignore[type-abstract]
            raw = await kv.get(KEY)
            stored = None if raw is None else msgspec.json.decode(raw, type=Stored)
            if stored is None and self.values:
                # The store lost it. Whoever ends all overrides leaves an empty entry.
                await kv.set(KEY, msgspec.json.encode(Stored(self.base.fingerprint, self.values)))
        except Exception:
            if not self._deaf:
                logger.warning("the store of run-time settings does not answer", exc_info=True)
            self._deaf = True
            return
        self._deaf = False
        if stored is None:
            return
        values = stored.values if stored.fingerprint == self.base.fingerprint else {}
        values = {key: value for key, value in values.items() if key in CHANGEABLE}
        if values in (self.values, self._refused):
            return
        try:
            await self._use(values)
            self._refused = None
        except Exception as error:
            self._refused = values  # said once, and not tried again until it is something else
            known = isinstance(error, TianjiError)
            logger.error(
                "router settings that another instance changed cannot be used here: %s",
                error, exc_info=None if known else error,
            )  # fmt: skip


def merged(config: Config, values: Mapping[str, Any]) -> Config:
    """A configuration with other router settings. Raises `ConfigError` with the key's path (`num_retries`).

    Secrets among a strategy's settings stay those of the configuration: none can be given at run time.
    """
    if not values:
        return config
    section = Document("").read_tree(values).root
    read = fill(RouterSettings, section)
    if _ARGS in section:
        kept = {key: value for key, value in config.router.routing_strategy_args.items() if holds_secret(key)}
        read = msgspec.structs.replace(read, routing_strategy_args={**kept, **read.routing_strategy_args})
    router = msgspec.structs.replace(config.router_settings, **{key: getattr(read, key) for key in section})
    changed = msgspec.structs.replace(config, router_settings=router)
    known = {(finding.path, finding.message) for finding in astray(config)}
    for finding in astray(changed):
        if finding.level == "error" and (finding.path, finding.message) not in known:
            raise ConfigError(finding.message, path=finding.path, mend=finding.mend)
    return changed


def check(patch: Mapping[str, Any]) -> None:
    """Refuse what may not be changed at run time: `BadRequest` names the key."""
    for key, value in patch.items():
        if key not in CHANGEABLE:
            near = get_close_matches(key[:80], CHANGEABLE, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"These can: {', '.join(CHANGEABLE)}."
            if key in RouterSettings.__struct_fields__ or canonical(key) in RouterSettings.__struct_fields__:
                hint = "Change it in the configuration file."
            raise BadRequest(f"'{key[:80]}' cannot be changed at run time. {hint}", param=key[:80], code="unknown_key")
        for path, name, one in _leaves(value, key):
            if one == MASK or (key == _ARGS and isinstance(one, str) and holds_secret(name)):
                raise BadRequest("A secret belongs in the configuration file.", param=path[:200], code="invalid_value")


def refused(error: ConfigError) -> BadRequest:
    """A configuration error as the answer to a request: `param` is the key without its section."""
    param = _SECTION.sub("", error.path, count=1).removeprefix(": ")  # a path may begin with the file and the line
    mend = f" {error.mend.rstrip('.')}{'' if error.mend.endswith('?') else '.'}" if error.mend else ""
    return BadRequest(f"{error.message.rstrip('.')}.{mend}", param=param or None, code="invalid_value")


def shown(key: str, value: Any) -> Any:
    """A setting as it may be shown, in the form in which LiteLLM does: a table of fallbacks is a list of mappings."""
    if key in _TABLES:
        return [{group: list(targets)} for group, targets in value.items()]
    if key == "model_group_alias":
        return {
            name: {"model": alias.model, "hidden": True} if alias.hidden else alias.model
            for name, alias in value.items()
        }
    return _masked(value)


def _masked(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item, name) for item in value]
    return MASK if isinstance(value, Secret) or (isinstance(value, str) and holds_secret(name)) else value


def _leaves(value: Any, path: str, name: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every scalar: where it is, under which key, and itself."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}", str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]", name)
    else:
        yield path, name, value


__all__ = ["CHANGEABLE", "KEY", "MASK", "Overrides", "Stored", "check", "merged", "shown"]
