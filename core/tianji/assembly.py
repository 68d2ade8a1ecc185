"""One configuration on its way to being sealed: what `configure` hooks are given, and what they leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from tianji.config.schema import Config
from tianji.errors import ConfigError, PluginError
from tianji.identity import MasterKey
from tianji.log import Log, Outlet
from tianji.plugin import Callback
from tianji.registry import Hooks, Registry
from tianji.retries import ATTEMPTS

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

opening: ContextVar[Assembly | None] = ContextVar("opening", default=None)
"""The configuration whose `startup` hooks run in this task, before it is the one in use."""


class Assembly:
    """What `configure` is given: one configuration on its way to being sealed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.services: dict[type[Any], Any] = {}
        self.routes: list[Any] = []
        self.commands: list[Any] = []
        self.sections: dict[str, type[Any]] = {}

    def provide(self, service: type[T], implementation: T) -> None:
        """Offer a service. Two offers for one service raise `PluginError` naming both."""
        if service in self.services:
            raise PluginError(f"{service.__name__} is offered twice: {self.services[service]!r} and {implementation!r}")
        self.services[service] = implementation

    def add_route(self, *handlers: Any) -> None:
        self.routes += handlers

    def add_command(self, command: Any) -> None:
        self.commands.append(command)

    def add_section(self, name: str, schema: type[Any]) -> None:
        self.sections[name] = schema


def ssl_context(config: Config) -> ssl.SSLContext | None:
    """`ssl_verify: false` and `ssl_verify: /path/to/ca.pem`; None for the system's trust store."""
    verify = config.tianji_settings.ssl_verify
    if verify is True:
        return None
    import ssl

    if isinstance(verify, str):
        try:
            return ssl.create_default_context(cafile=verify)
        except OSError as error:
            raise ConfigError(f"the CA bundle cannot be read: {error}", path="tianji_settings.ssl_verify") from error
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def patience(config: Config) -> float:
    """Seconds for a call that brings no timeout of its own.

    A configured timeout bounds an attempt; a call must outlive it, or a provider that hangs could never be left.
    """
    attempt = config.router.timeout or config.tianji_settings.request_timeout or 0.0
    return max(600.0, ATTEMPTS * attempt)


def make_log(hooks: Hooks, registry: Registry, whens: Mapping[str, str], config: Config, old: Log | None) -> Log:
    """The outlets of all callbacks; those whose callback stays the same keep their queue and their circuit."""
    wants = any(plugin.wants_content for plugin in registry.plugins if isinstance(plugin, Callback))
    outlets = []
    for step in hooks.log:
        when = whens.get(step.label, "all")
        kept = next((one for one in (old.outlets if old is not None else ()) if one.serves(step, when)), None)
        outlets.append(kept or Outlet(step, when=when))
    return Log(outlets, content=wants and not config.tianji_settings.turn_off_message_logging)


def master_key(config: Config) -> MasterKey:
    """The identity of the master key. Raises `ConfigError` where there is none."""
    key = config.general_settings.master_key
    if not key:
        raise ConfigError(
            "no master key",
            path="general_settings.master_key",
            mend="Set it there or in TIANJI_MASTER_KEY; a gateway without one would serve everybody",
        )
    return MasterKey(key, config.general_settings.tianji_key_header_name)
