"""A provider that hangs is nobody's problem but its own: bulkheads, over sockets.

The requirement UP-5 of the reliability page.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tianji.model import Wire
from tianji.testing import Upstream
from tianji.testing.gateway import gateway
from tianji.testing.upstream import Stall
from tianji.transport import Clocks, Transport

HANGING, OVERFLOW, HEALTHY = 500, 50, 200
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
}


def config(dead: Upstream, well: Upstream) -> dict[str, Any]:
    def entry(name: str, upstream: Upstream, **params: Any) -> dict[str, Any]:
        params |= {"model": "openai/m", "api_base": f"{upstream.url}/v1", "api_key": "sk-x"}
        return {"model_name": name, "tianji_params": params}

    return {
        "model_list": [entry("a", dead, max_parallel_requests=HANGING, num_retries=0), entry("b", well)],
        "router_settings": {"timeout": 60},
    }


async def test_a_provider_that_hangs_does_not_hold_up_another() -> None:
    """500 calls hang at A. What is more is refused at once, B answers all, and everything is given back at the end."""
    async with Upstream() as dead, Upstream() as well:
        dead.script(None, [Stall()])
        well.reply(json=ANSWER)
        async with gateway(config(dead, well)) as running:
            transport = Transport(max_connections=1000)
            headers = {"authorization": f"Bearer {running.key}", "content-type": "application/json"}

            async def ask(model: str) -> tuple[int, Any]:
                body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
                wire = Wire(f"{running.url}/v1/chat/completions", headers, body)
                async with await transport.send(wire, clocks=Clocks(10, 60, 60)) as response:
                    return response.status, json.loads(await response.read())

            hanging = [asyncio.create_task(ask("a")) for _ in range(HANGING)]
            await dead.wait_requests(HANGING, timeout=30)
            refused = await asyncio.gather(*(ask("a") for _ in range(OVERFLOW)))
            assert {status for status, _ in refused} == {429}
            assert {answer["error"]["code"] for _, answer in refused} == {"max_parallel_requests"}
            answers = await asyncio.gather(*(ask("b") for _ in range(HEALTHY)))
            assert [status for status, _ in answers] == [200] * HEALTHY
            assert not any(task.done() for task in hanging), "the hanging ones hang to the end of the test"
            assert len(dead.requests) == HANGING
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            await transport.aclose()
            await dead.wait_disconnects(HANGING, timeout=10)
            sealed = running.gateway.sealed
            async with asyncio.timeout(10):
                while sealed.pipeline.in_flight:
                    await asyncio.sleep(0.01)
            assert [sealed.health.state(one).in_flight for one in sealed.router.deployments] == [0, 0]
            assert all(pool["active"] == 0 for pool in running.gateway.transport.stats().values())  # type: ignore[attr-defined]
