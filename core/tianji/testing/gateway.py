"""A whole gateway on a loopback port, in the test's own event loop.

    async with gateway({"model_list": [...]}) as gw:
        reply = await gw.client.post("/v1/chat/completions", json={...})

It is the real server, with the real protocol class and a random port; only signal handlers and file watching are left
out. `plugins` adds classes that are not installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tianji.config import from_dict
from tianji.discovery import Catalogue, Found, check, scan
from tianji.gateway import Gateway
from tianji.plugin import Plugin
from tianji.server.run import Server, bind, server_config

KEY = "sk-test-master-key"


class RunningGateway:
    """A gateway that serves: `url`, `key`, an httpx `client` that sends it, and the `gateway` object itself."""

    def __init__(self, gateway: Gateway, url: str, key: str) -> None:
        self.gateway = gateway
        self.url = url
        self.key = key
        self.client = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30.0, trust_env=False
        )

    async def chat(self, model: str, text: str = "Hello", **fields: Any) -> httpx.Response:
        """One chat completion with one user message."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)


@asynccontextmanager
async def gateway(
    config: Mapping[str, Any], *, plugins: Iterable[type[Plugin]] = (), key: str = KEY
) -> AsyncIterator[RunningGateway]:
    """Serve a configuration until the block ends. The master key is `key` unless the configuration has one."""
    tree = dict(config)
    tree["general_settings"] = {"master_key": key, **tree.get("general_settings", {})}
    catalogue = Catalogue(scan())
    for cls in plugins:
        add(catalogue, cls)
    made = Gateway(from_dict(tree), catalogue)
    listener = bind("127.0.0.1", 0)
    server = Server(server_config(made, grace=2), made)
    task = asyncio.create_task(server._serve([listener]), name="gateway under test")
    while not server.started:
        if task.done():
            await task
            raise RuntimeError("the gateway did not start")
        await asyncio.sleep(0.01)
    running = RunningGateway(made, f"http://127.0.0.1:{listener.getsockname()[1]}", key)
    try:
        yield running
    finally:
        await running.client.aclose()
        server.should_exit = True
        await task
        listener.close()


def add(catalogue: Catalogue, cls: type[Plugin]) -> None:
    """Put a class into a catalogue as if it were installed."""
    found = Found(cls.family, cls.name, f"{cls.__module__}:{cls.__qualname__}", "test")
    check(cls, found)
    found._loaded = cls
    catalogue._known[cls.family, cls.name] = found


__all__ = ["RunningGateway", "add", "gateway"]
