"""Background health checks: a minimal request to each deployment every so often, where the configuration asks for it.

They find what traffic does not: a deployment that nobody uses at the moment, a key that has expired over night. They
cost money, so they are off unless `general_settings.background_health_checks` is set. The keys are LiteLLM's
(https://docs.litellm.ai/docs/proxy/health): `health_check_interval`, and in a deployment's `model_info`
`health_check_model`, `health_check_timeout`, `health_check_max_tokens` and `disable_background_health_check`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any

import msgspec

from tianji.errors import Failure, Refused
from tianji.health_state import Check
from tianji.model import Call, Deployment, Ingress, Op
from tianji.plugin import Provider

if TYPE_CHECKING:
    from tianji.gateway import Gateway, Sealed

logger = logging.getLogger("tianji.health")

AT_ONCE = 5
"""Checks under way at the same time."""
TIMEOUT = 60.0
"""Seconds for one check, where `health_check_timeout` says nothing."""
SPREAD = 0.1
"""Part of the interval over which the checks of a round begin."""
_BODIES: dict[str, tuple[Op, str, dict[str, Any]]] = {
    "chat": (Op.CHAT, "openai-chat", {"messages": [{"role": "user", "content": "ping"}]}),
    "completion": (Op.COMPLETIONS, "openai-completions", {"prompt": "ping"}),
    "embedding": (Op.EMBEDDINGS, "openai-embeddings", {"input": "ping"}),
}
"""By mode: op, dialect and the request. Other modes have no request that is worth its price."""


class Target(msgspec.Struct, frozen=True):
    """What is asked, and of whom."""

    deployment: Deployment
    """With the model and the timeout of its checks; its id is that of the deployment that the check is about."""
    op: Op
    dialect: str
    body: dict[str, Any]


class Checks:
    """Runs the checks of the configuration in use. One per gateway."""

    def __init__(self, gateway: Gateway, *, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self.gateway = gateway
        self.uniform = uniform
        self._job: asyncio.Task[None] | None = None
        self._planned: tuple[Sealed | None, tuple[Target, ...]] = (None, ())

    def start(self) -> None:
        """Begin, if the configuration in use asks for it. Nothing happens where they have begun already."""
        wanted = self.gateway.sealed.config.general_settings.background_health_checks
        if wanted and (self._job is None or self._job.done()):
            self._job = self.gateway.spawn(self._run(), name="check the health of deployments")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while (settings := self.gateway.sealed.config.general_settings).background_health_checks:
            interval = max(1.0, settings.health_check_interval)
            began = loop.time()
            await self.round(interval)
            await asyncio.sleep(max(1.0, began + interval - loop.time()))

    async def round(self, interval: float) -> None:
        """One check of each deployment, spread over a part of the interval."""
        sealed = self.gateway.sealed
        free = asyncio.Semaphore(AT_ONCE)

        async def later(target: Target) -> None:
            await asyncio.sleep(self.uniform(0.0, SPREAD * interval))
            async with free:
                if self.gateway.sealed is sealed:  # else a reload came between; the next round checks what it brought
                    await self._check(sealed, target)

        outcomes = await asyncio.gather(*map(later, self.targets(sealed)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                logger.error("a health check could not be made", exc_info=outcome)

    def targets(self, sealed: Sealed) -> tuple[Target, ...]:
        """The checks of a configuration, worked out once."""
        if self._planned[0] is not sealed:
            providers = {one.instance: one for one in sealed.registry.plugins if isinstance(one, Provider)}
            found = (_target(one, sealed, providers) for one in sealed.router.deployments)
            self._planned = (sealed, tuple(one for one in found if one is not None))
        return self._planned[1]

    async def _check(self, sealed: Sealed, target: Target) -> None:
        """Ask once, and note how that ended. A failure counts as any call's does; an answer ends all doubts."""
        health, deployment = sealed.health, target.deployment
        if health.cooling(deployment) and health.state(deployment).asked:
            return  # the provider wants to be left alone until then
        call = Call(
            ingress=Ingress("POST", "/health", {}, ""),
            op=target.op,
            dialect=target.dialect,
            model=deployment.group,
            body=dict(target.body),
            principal=sealed.pipeline.master.principal,
            options={"tags": ["health-check"]},
        )
        call.snapshot = sealed
        try:
            await sealed.pipeline.ask(call, deployment)
        except Refused as refused:
            logger.info("%s was not checked: %s", deployment.id, type(refused).__name__)  # no fault of its own
        except Failure as failure:
            error = _discreet(f"{type(failure).__name__} {failure.status}: {failure.message}", deployment)
            health.state(deployment).check = Check(at=time(), ok=False, error=error)
        else:
            health.state(deployment).check = Check(at=time(), ok=True)
            health.well(deployment)


def _target(deployment: Deployment, sealed: Sealed, providers: dict[str, Provider]) -> Target | None:
    """How a deployment is checked; None for one that is not."""
    info = deployment.info
    if info.get("disable_background_health_check") is True:
        return None
    model = info.get("health_check_model")
    if isinstance(model, str) and model:
        model = model.removeprefix(f"{deployment.provider}/")
        deployment = sealed.router.refined(msgspec.structs.replace(deployment, model=model, price=None, ceiling=None))
    elif "*" in deployment.model or deployment.provider == "*":
        return None  # any model of the provider's: which one to ask only `health_check_model` can say
    provider = providers.get(deployment.provider)
    mode = info.get("mode") or sealed.prices.info(deployment.provider, deployment.model).get("mode")
    request = _BODIES.get(str(mode or "chat"))
    if provider is None or request is None:
        return None
    op, dialect, body = request
    if op is not Op.EMBEDDINGS:
        tokens = info.get("health_check_max_tokens")
        body = {**body, "max_tokens": tokens if type(tokens) is int and tokens > 0 else 1}
    timeout = info.get("health_check_timeout")
    seconds = float(timeout) if isinstance(timeout, (int, float)) and timeout > 0 else TIMEOUT
    return Target(
        msgspec.structs.replace(deployment, timeout=seconds), op, dialect, {"model": deployment.group, **body}
    )


def _discreet(message: str, deployment: Deployment) -> str:
    """An error as `/health` shows it: short, and without the deployment's key should a provider repeat that."""
    key = deployment.api_key.reveal() if deployment.api_key else ""
    return (message.replace(key, "***") if key else message)[:500]
