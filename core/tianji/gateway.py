"""The gateway: assembles plugins into a sealed pipeline, and replaces it on reload.

assemble (load classes, fill settings, `configure`) → open (`startup`) → sealed pipeline → reload: assemble again and
swap one reference. Plugin instances whose class and settings did not change are carried over, with their state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tianji.assembly import Assembly, make_log, master_key, opening, patience, ssl_context
from tianji.attempts import Attempts
from tianji.composition import Composer
from tianji.config.schema import Config
from tianji.continuation import Surviving
from tianji.deployments import Builder, listed
from tianji.discovery import Catalogue
from tianji.errors import PluginError
from tianji.exchange import Exchange
from tianji.health import Health
from tianji.health_checks import Checks
from tianji.health_state import GatewayHealth
from tianji.health_watch import Sharing
from tianji.ledger import MemoryLedger
from tianji.memory import MemoryCounters, MemoryKV
from tianji.model import Call, Deployment, Reply, Wire
from tianji.overrides import Overrides
from tianji.pipeline import Pipeline
from tianji.plan import only_for_real
from tianji.plugin import Guardrail, Plugin
from tianji.pricing import PriceBook
from tianji.registry import Hooks, Registry, Step
from tianji.retries import RetryBudget
from tianji.router import Router
from tianji.selection import Selection
from tianji.services import KV, OFFERED_BY, Counters, Ledger

if TYPE_CHECKING:
    import httpx

    from tianji.transport import Transport

logger = logging.getLogger("tianji.gateway")

T = TypeVar("T")

_loops: ContextVar[list[asyncio.Task[None]] | None] = ContextVar("loops", default=None)
"""Where the loops of the plugin whose `startup` is running are kept."""


class Sealed(msgspec.Struct, frozen=True):
    """One configuration, assembled and compiled: what a running call pins."""

    config: Config
    hooks: Hooks
    pipeline: Pipeline
    router: Router
    health: Health
    registry: Registry
    assembly: Assembly
    models: tuple[str, ...]
    guardrail_names: frozenset[str]
    exchange: Exchange
    broken: Mapping[str, str]
    """Callbacks that could not be loaded, and why. Everything else that cannot be loaded stops the start."""
    prices: PriceBook


class Gateway:
    """The object that the server drives and that plugins see as `self.gateway`."""

    def __init__(
        self, config: Config, catalogue: Catalogue, *, transport: Transport | None = None, shared: Path | None = None
    ) -> None:
        """`shared`: a folder for what the kernel's own services share with other processes. None: they are alone."""
        from tianji.transport import Transport as KernelTransport

        self.catalogue = catalogue
        self.shared = shared
        self.transport = transport or KernelTransport(ssl_context=ssl_context(config))
        self._defaults = _shared(shared) if shared is not None else {}
        self._kept: dict[tuple[str, str], Plugin] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._loops: dict[Plugin, list[asyncio.Task[None]]] = {}
        """What plugins began with `every` when they were opened: it ends with them."""
        self._http: httpx.AsyncClient | None = None
        self._budget = RetryBudget()
        self._assembling: Assembly | None = None
        self.reloads = 0
        self.overrides = Overrides(config, self, self._swap)
        self.sealed = self._assemble(config, None)
        self._sharing = Sharing(self)
        self._checks = Checks(self)

    # -- what plugins may ask ------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        assembly = self._assembling or opening.get()
        return assembly.config if assembly is not None else self.sealed.config

    @property
    def pipeline(self) -> Pipeline:
        return self.sealed.pipeline

    def need(self, service: type[T]) -> T:
        """The implementation of a service; the kernel's own where no extension offers one.

        Raises `PluginError` naming the distributions that offer it.
        """
        assembly = self._assembling or opening.get() or self.sealed.assembly
        if service in assembly.services:
            found: T = assembly.services[service]
            return found
        if service not in self._defaults:
            maker = _OWN.get(service)
            if maker is None:
                offers = ", ".join(OFFERED_BY.get(service, ())) or "no distribution of this repository"
                raise PluginError(f"{service.__name__} is needed and nobody offers it. It is offered by: {offers}")
            self._defaults[service] = maker()
        default: T = self._defaults[service]
        return default

    @property
    def http(self) -> httpx.AsyncClient:
        """An ordinary httpx client over the kernel's connection pool, for everything off the hot path."""
        only_for_real("an answer over HTTP")
        if self._http is None:
            try:
                from tianji.transport.httpx_adapter import client
            except ImportError as error:
                raise PluginError(
                    "gateway.http needs httpx. Install it with: pip install 'tianji-core[http]'"
                ) from error
            self._http = client(self.transport)
        return self._http

    async def exchange(self, provider: Any, call: Call, deployment: Deployment) -> Reply:
        return await self.sealed.exchange(provider, call, deployment)

    async def ask(self, call: Call) -> Reply:
        """Send a call of a plugin's own to the model group that it names; see `GatewayAPI.ask`."""
        only_for_real(f"the answer of '{call.model}'")
        sealed = call.snapshot = self.sealed
        return await sealed.pipeline.ask(call)

    async def fetch(self, wire: Wire, *, timeout: float = 30.0) -> tuple[int, Mapping[str, str], bytes]:
        """One small HTTP request through the kernel's transport: status, headers, body (at most 1 MiB)."""
        from tianji.transport import Clocks

        only_for_real("an answer over HTTP")
        response = await self.transport.send(wire, clocks=Clocks(min(5.0, timeout), timeout, timeout))
        try:
            return response.status, response.headers, await response.read(1024 * 1024, timeout)
        finally:
            response.close()

    def health(self) -> GatewayHealth:
        """What is known now of the deployments of the configuration in use; see `GatewayAPI.health`."""
        deployments = tuple(map(self.sealed.health.report, self.sealed.router.deployments))
        return GatewayHealth(deployments, self._budget.left(), self._budget.denied)

    def spawn(self, job: Awaitable[None], *, name: str) -> asyncio.Task[None]:
        """Run a background job until it ends or the gateway stops."""

        async def run() -> None:
            try:
                await job
            except asyncio.CancelledError:
                raise
            except Exception:
                logger.exception("background job %s failed", name)

        context = copy_context()
        context.run(opening.set, None)  # a job outlives the reload that it was started in
        task = asyncio.get_running_loop().create_task(run(), name=name, context=context)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task

    def every(self, seconds: float, fn: Callable[[], Awaitable[None]], *, name: str) -> None:
        """Run `fn` every so often until the gateway stops, or the plugin goes whose `startup` asked for it.

        A failure is logged and does not end the loop.
        """

        async def loop() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await fn()
                except Exception:
                    logger.exception("%s failed", name)

        task = self.spawn(loop(), name=name)
        if (loops := _loops.get()) is not None:
            loops.append(task)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything, in order. Raises what the first failing `startup` raised."""
        for step in self.sealed.hooks.startup:
            await self._startup(self.sealed, step)
        await self.overrides.start()
        self._sharing.attach()
        self._checks.start()

    async def stop(self, grace: float = 10.0) -> None:
        """Flush the log, close plugins in reverse order, end background jobs, close connections."""
        if self._retiring:
            await asyncio.wait(set(self._retiring), timeout=grace)
        await self.pipeline.stop(grace)
        for step in self.sealed.hooks.shutdown:
            await self._shut(step.label, step.fn)
        for task in list(self._jobs):
            task.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for default in self._defaults.values():
            if hasattr(default, "aclose"):
                await default.aclose()
        if self._http is not None:
            await self._http.aclose()
        await self.transport.aclose()

    async def reload(self, config: Config) -> None:
        """Swap to another configuration, with what was changed at run time. An error changes nothing and is raised.

        Running calls end on the pipeline they began with; plugins that are gone are closed after the last of them.
        """
        await self.overrides.reload(config)

    async def _swap(self, config: Config) -> None:
        """Assemble and open a configuration, and put it in the place of the one in use. One at a time."""
        old = self.sealed
        before = dict(self._kept)
        try:
            new = self._assemble(config, old)
            await self._open(
                new, {f"{p.family}:{p.instance}" for p in new.registry.plugins if before.get(_key(p)) is not p}
            )
        except BaseException:
            self._kept = before
            raise
        self.sealed = new
        self.reloads += 1
        self._sharing.attach()
        self._checks.start()
        task = self.spawn(self._retire(old, new), name="retire the previous configuration")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _open(self, new: Sealed, fresh: set[str]) -> None:
        """`startup` of the plugins that are new, which see the configuration that they are part of.

        Where one fails, those before it are closed again.
        """
        opened: set[str] = set()
        token = opening.set(new.assembly)
        try:
            for step in new.hooks.startup:
                if step.label in fresh:
                    await self._startup(new, step)
                    opened.add(step.label)
        except BaseException:
            for step in new.hooks.shutdown:
                if step.label in opened:
                    await self._shut(step.label, step.fn)
            self._end_loops(p for p in new.registry.plugins if f"{p.family}:{p.instance}" in fresh)
            raise
        finally:
            opening.reset(token)

    async def _retire(self, old: Sealed, new: Sealed) -> None:
        """Wait for the old pipeline's calls, then close what only it used."""
        while old.pipeline.in_flight:  # noqa: ASYNC110 - an event would cost every call, for something this rare
            await asyncio.sleep(0.05)
        await old.pipeline.stop(10.0, new.pipeline.log.outlets)
        alive = {id(plugin) for plugin in new.registry.plugins}
        gone = {f"{p.family}:{p.instance}" for p in old.registry.plugins if id(p) not in alive}
        for step in old.hooks.shutdown:
            if step.label in gone:
                await self._shut(step.label, step.fn)
        self._end_loops(p for p in old.registry.plugins if id(p) not in alive)

    async def _startup(self, sealed: Sealed, step: Step) -> None:
        plugin = next(p for p in sealed.registry.plugins if f"{p.family}:{p.instance}" == step.label)
        token = _loops.set(self._loops.setdefault(plugin, []))
        try:
            await step.fn(self)
        finally:
            _loops.reset(token)

    def _end_loops(self, plugins: Iterable[Plugin]) -> None:
        for plugin in plugins:
            for task in self._loops.pop(plugin, ()):
                task.cancel()

    async def _shut(self, label: str, fn: Callable[..., Awaitable[Any]]) -> None:
        try:
            async with asyncio.timeout(10.0):
                await fn(self)
        except Exception:
            logger.exception("%s could not be shut down", label)

    # -- assembly ------------------------------------------------------------------------------------------------------

    def _assemble(self, config: Config, old: Sealed | None) -> Sealed:
        prices = PriceBook.packaged()
        assembly = self._assembling = Assembly(config)
        registry = Registry()
        composer = Composer(config, self.catalogue, registry, self, self._kept)
        try:
            builder = Builder(config, self.catalogue, prices)
            deployments = builder.build()
            composer.extensions()
            for name, cls in builder.classes.items():
                composer.add(cls, None, name)
            for stand_in in builder.selectors.values():
                composer.add(*stand_in)
            composer.routing()
            composer.guardrails(old.config if old is not None else None)
            composer.callbacks()
            registry.configure(assembly)
            exchange = Exchange.of(config, self.transport)
            hooks = registry.seal(attempt=exchange.attempt_of)
            ledger: Ledger = self.need(Ledger)  # type: ignore[type-abstract]
        finally:
            self._assembling = None
        router, health = self._router(config, builder, deployments, old)
        builder.check_selectors(router, hooks)
        selection = Selection(router, health, hooks, check_context=config.router.enable_pre_call_checks)
        loop = Surviving if config.router.continue_streams else Attempts
        attempts = loop(selection=selection, hooks=hooks, ledger=ledger, settings=config.router, budget=self._budget)
        pipeline = Pipeline(
            hooks=hooks,
            attempts=attempts,
            ledger=ledger,
            log=make_log(hooks, registry, composer.whens, config, old.pipeline.log if old is not None else None),
            master=master_key(config),
            default_timeout=patience(config),
        )
        wild = {group.group.name: group.group.deployments[0] for group in router.wildcards}
        models = listed(router.names(), wild, lambda name: self._catalogue_models(builder, name))
        self._kept = {_key(plugin): plugin for plugin in registry.plugins}
        guards = frozenset(plugin.instance for plugin in registry.plugins if isinstance(plugin, Guardrail))
        return Sealed(
            config, hooks, pipeline, router, health, registry, assembly, tuple(models), guards, exchange,
            composer.broken, prices,
        )  # fmt: skip

    def _router(
        self, config: Config, builder: Builder, deployments: tuple[Deployment, ...], old: Sealed | None
    ) -> tuple[Router, Health]:
        settings = config.router
        router = Router(
            deployments,
            strategy=settings.routing_strategy,
            aliases={name: (alias.model, alias.hidden) for name, alias in settings.model_group_alias.items()},
            selectors={group: instance for group, (_, _, instance) in builder.selectors.items()},
            refine=builder.refine,
        )
        health = Health(
            cooldown_time=settings.cooldown_time,
            allowed_fails=settings.allowed_fails,
            allowed_fails_policy=settings.allowed_fails_policy,
            disabled=settings.disable_cooldowns,
        )
        if old is not None:
            health.keep({one.id for one in deployments}, old.health)
        return router, health

    def _catalogue_models(self, builder: Builder, provider: str) -> tuple[str, ...]:
        cls = builder.classes.get(provider)
        return tuple(dict.fromkeys((*(cls.models if cls else ()), *builder.prices.models(provider))))


_OWN: dict[type[Any], Callable[[], Any]] = {Ledger: MemoryLedger, KV: MemoryKV, Counters: MemoryCounters}


def _shared(folder: Path) -> dict[type[Any], Any]:
    from tianji.sqlite import services

    return services(folder)


def _key(plugin: Plugin) -> tuple[str, str]:
    return plugin.family, plugin.instance
