"""Redis: counters and cached values that all instances share, in Redis or Valkey.

Where the server cannot be reached, each process goes by its own memory until it can: a call is never refused for it,
and waits for a few hundredths of a second at most.

Docs: https://redis.io/docs/latest/develop/reference/protocol-spec/ and, for the configuration,
https://docs.litellm.ai/docs/proxy/load_balancing
"""

import asyncio
import os
from typing import Any, ClassVar

from tianji import KV, Counters, Extension, PluginSettings, hookimpl
from tianji_extension_redis.lane import Lane, Outage
from tianji_extension_redis.store import RedisCounters, RedisKV
from tianji_extension_redis.target import RedisSettings, Target, find


class Server:
    """One server and what is kept on it. A connection for each service: large values must not hold up counters."""

    def __init__(self, target: Target, settings: RedisSettings) -> None:
        self.target = target
        self.outage = Outage(target)
        lanes = (Lane(target, settings, self.outage), Lane(target, settings, self.outage))
        self.lanes = lanes
        self.kv = RedisKV(lanes[0], settings.prefix)
        self.counters = RedisCounters(lanes[1], settings.prefix)

    async def open(self) -> None:
        """Connect, or find that this is not possible now."""
        await asyncio.gather(*(lane.open() for lane in self.lanes))

    async def close(self) -> None:
        await asyncio.gather(*(lane.close() for lane in self.lanes))


class Redis(Extension):
    name = "redis"
    order = 100
    Settings: ClassVar[type[PluginSettings]] = RedisSettings

    settings: RedisSettings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.servers: list[Server] = []
        """More than one only after a reload that named another server outside of the section."""

    @hookimpl
    def configure(self, app: Any) -> None:
        app.add_section("redis", RedisSettings)
        target = find(self.settings, app.config, os.environ)
        if target is None:
            return
        server = next((one for one in self.servers if one.target == target), None)
        if server is None:
            server = Server(target, self.settings)
            self.servers.append(server)
        app.provide(KV, server.kv)
        app.provide(Counters, server.counters)

    @hookimpl
    async def startup(self) -> None:
        for server in self.servers:
            await server.open()

    @hookimpl
    async def shutdown(self) -> None:
        for server in self.servers:
            await server.close()
