"""Which server: the section `redis:`, else the router's settings of LiteLLM's files, else the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tianji import ConfigError, PluginSettings, Secret

PORT = 6379
_SCHEMES = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
"""And whether the connection is encrypted."""
_FIELDS = ("url", "host", "port", "db", "username", "password", "ssl")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off", "none"})


class RedisSettings(PluginSettings, frozen=True):
    enabled: bool | None = None
    """`false`: off, whatever else is configured. `true`: the start stops where no server is configured."""
    url: Secret | None = None
    """`redis://user:password@host:6379/0`; `rediss://` for TLS."""
    host: str | None = None
    """In place of `url`, with the five below."""
    port: int | None = None
    """6379 where nothing is said."""
    db: int | None = None
    """Number of the database; 0 where nothing is said."""
    username: str | None = None
    """The user, where the server has several."""
    password: Secret | None = None
    """The user's password. Not used where `url` has one."""
    ssl: bool | None = None
    """TLS. A `rediss://` address needs no word here."""
    ssl_verify: bool = True
    """Whether the server's certificate must be good."""
    ssl_ca_certs: str | None = None
    """File of certificates to trust, in place of the system's."""
    prefix: str = "tianji:"
    """Begins every key on the server. Gateways with the same prefix share their state."""
    timeout: float = 0.025
    """Seconds that a call waits for the server before it goes by the process's own memory."""
    connect_timeout: float = 2.0
    """Seconds for a new connection, which is made in the background."""
    retry_after: float = 1.0
    """Seconds between two attempts to reach a server that failed."""


class Target(msgspec.Struct, frozen=True):
    """A server, and how to get in."""

    host: str
    port: int = PORT
    db: int = 0
    username: str | None = None
    password: Secret | None = None
    ssl: bool = False
    ssl_verify: bool = True
    ssl_ca_certs: str | None = None

    def __str__(self) -> str:
        return f"{'rediss' if self.ssl else 'redis'}://{self.host}:{self.port}/{self.db}"


def find(settings: RedisSettings, config: Any, environ: Mapping[str, str]) -> Target | None:
    """The server that the first source names. Sources are not mixed. None: there is none. Raises `ConfigError`."""
    if settings.enabled is False:
        return None
    for name in ("timeout", "connect_timeout", "retry_after"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise ConfigError("a number of seconds above 0 is expected", path=f"redis.{name}")
    own = {name: getattr(settings, name) for name in _FIELDS}
    extra = getattr(getattr(config, "router", None), "extra", None) or {}
    router = {name: extra.get(f"redis_{name}") for name in _FIELDS}
    outside = {name: environ.get(f"REDIS_{name.upper()}") for name in _FIELDS}
    paths = ("redis.{}", "router_settings.redis_{}", "$REDIS_{}")
    for values, path in zip((own, router, outside), paths, strict=True):
        if values["url"] or values["host"]:
            return _target(values, path, settings)
        lost = [name for name in _FIELDS if values[name] is not None]
        if values is own and lost:
            raise ConfigError(
                f"there is {', '.join(lost)}, but neither url nor host", path="redis", mend="Add `host` or `url`"
            )
    if settings.enabled:
        raise ConfigError("it is enabled and no server is configured", path="redis", mend="Add `host` or `url`")
    return None


def _target(values: Mapping[str, Any], path: str, settings: RedisSettings) -> Target:
    def where(name: str) -> str:
        return path.format(name.upper() if path.startswith("$") else name)

    verify, given = settings.ssl_verify, dict(values)
    if values["url"]:
        url = values["url"].reveal() if isinstance(values["url"], Secret) else str(values["url"])
        parts, query = _parse(url, where("url"))
        given |= {name: value for name, value in parts.items() if value is not None}
        verify = verify and query.get("ssl_cert_reqs", "required") != "none"
    password = given["password"]
    if password is not None and not isinstance(password, Secret):
        password = Secret(str(password))
    target = Target(
        host=str(given["host"]),
        port=_number(given["port"], PORT, where("port"), 65_535),
        db=_number(given["db"], 0, where("db"), 2**31),
        username=str(given["username"]) if given["username"] else None,
        password=password or None,
        ssl=_flag(given["ssl"], where("ssl")),
        ssl_verify=verify,
        ssl_ca_certs=settings.ssl_ca_certs,
    )
    if target.ssl_ca_certs is not None:
        try:
            open(target.ssl_ca_certs, "rb").close()
        except OSError as error:
            raise ConfigError(f"the file cannot be read: {error}", path="redis.ssl_ca_certs") from None
    return target


def _parse(url: str, path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What an address says, and its options. An error never shows the address: there may be a password in it."""
    mend = "Write it like redis://user:password@host:6379/0, special characters of the password as %XX"
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        raise ConfigError("this is not an address", path=path, mend=mend) from None
    if split.scheme not in _SCHEMES or not split.hostname:
        raise ConfigError("this is not the address of a Redis server", path=path, mend=mend)
    query = dict(parse_qsl(split.query))
    named = query.pop("db", "")
    db = split.path.strip("/") or named or None
    unknown = sorted(set(query) - {"ssl_cert_reqs"})
    if unknown:
        raise ConfigError(f"the option {unknown[0]} of the address is not known", path=path)
    parts = {
        "host": split.hostname,
        "port": port,
        "db": db,
        "username": unquote(split.username) if split.username else None,
        "password": Secret(unquote(split.password)) if split.password else None,
        "ssl": _SCHEMES[split.scheme] or None,
    }
    return parts, query


def _number(value: Any, default: int, path: str, most: int) -> int:
    if value is None or value == "":
        return default
    text = str(value)
    if text.startswith("tcp://"):  # what Kubernetes puts into REDIS_PORT beside a service called redis
        text = text.rpartition(":")[2]
    if not text.isdecimal() or int(text) > most:
        raise ConfigError(f"a whole number up to {most} is expected", path=path)
    return int(text)


def _flag(value: Any, path: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    text = str(value).strip().lower()
    if text not in _TRUE | _FALSE:
        raise ConfigError("true or false is expected", path=path)
    return text in _TRUE
