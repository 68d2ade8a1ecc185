"""One configuration on its way to being sealed: what `configure` hooks are given, and what they leave behind."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from tianji.config.schema import Config
from tianji.errors import ConfigError, PluginError

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
