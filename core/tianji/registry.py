"""The registry: pluggy as the contract, plain tuples and dicts as the thing that runs.

pluggy validates every implementation when it is registered (names, arguments, misspellings). `seal()` then compiles
each hook once, because a pluggy call costs 2 to 46 microseconds and a tuple entry 0.1.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pluggy

from tianji import hookspecs
from tianji.errors import PluginError, TianjiError
from tianji.plugin import Filter, Plugin, Provider, Routing, Selector, Strategy

HookFn = Callable[..., Awaitable[Any]]
_OF_CALLS = frozenset({"identify", "pre_call", "narrow", "fallback", "post_call", "log"})
"""Hooks that an extension which is not active has no part in."""


class Step(msgspec.Struct, frozen=True):
    """One implementation of a hook, ready to call with the hook's arguments in the order of its specification."""

    position: int
    """Place of the plugin in the row; `post_call` of a plugin runs only when its place was reached."""
    label: str
    """`family:instance`."""
    fn: HookFn


class Hooks(msgspec.Struct, frozen=True):
    """Every hook of one configuration, compiled. Replaced as a whole, never changed."""

    identify: tuple[Step, ...]
    pre_call: tuple[Step, ...]
    post_call: tuple[Step, ...]
    """In reverse order."""
    fallback: tuple[Step, ...]
    log: tuple[Step, ...]
    startup: tuple[Step, ...]
    shutdown: tuple[Step, ...]
    row: tuple[str, ...]
    """Labels of all plugins, in the order in which a call meets them."""
    providers: dict[str, HookFn]
    """By provider name: `provider_call`."""
    drains: frozenset[str]
    """Providers whose abandoned streams are read to their end."""
    natives: dict[str, frozenset[str]]
    """By provider name: the dialects it speaks itself."""
    prefills: dict[str, Provider]
    """By provider name: those that can go on with the beginning of an answer."""
    strategies: dict[str, HookFn]
    """By instance name: `route`."""
    selectors: dict[str, HookFn]
    """By instance name: `select`."""
    narrow: tuple[Step, ...]
    preferers: tuple[Filter, ...]
    """Filters that may put a deployment first."""
    beginners: tuple[Routing, ...]
    """Routing plugins that count attempts as they begin."""
    observers: tuple[Routing, ...]
    """Routing plugins that learn."""


class Registry:
    """Collects plugin instances, then seals them."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("tianji")
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []

    def add(self, plugin: Plugin) -> None:
        """Register one instance as `family:instance`.

        Raises `PluginError` for a second instance of that name, an unknown hook or argument name.
        """
        label = f"{plugin.family}:{plugin.instance}"
        try:
            self.manager.register(plugin, name=label)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{label} cannot be registered: {error}") from error
        self.plugins.append(plugin)

    def configure(self, app: Any) -> None:
        """Run every `configure` hook, in order."""
        for step in self._steps("configure"):
            try:
                step.fn(app)
            except TianjiError:
                raise
            except Exception as error:
                raise PluginError(f"{step.label} cannot be assembled: {type(error).__name__}: {error}") from error

    def seal(self, *, attempt: Callable[[Provider], HookFn] | None = None) -> Hooks:
        """Compile. Raises `PluginError` for an implementation that matches no hook.

        `attempt` may offer a shorter way to a provider than its `provider_call`.
        """
        short = attempt or (lambda provider: provider.provider_call)
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(str(error)) from error
        post = self._steps("post_call")
        shutdown = self._steps("shutdown")
        routing = [p for p in self.row() if isinstance(p, Routing)]
        return Hooks(
            identify=self._steps("identify"),
            pre_call=self._steps("pre_call"),
            post_call=post[::-1],
            fallback=self._steps("fallback"),
            log=self._steps("log"),
            startup=self._steps("startup"),
            shutdown=shutdown[::-1],
            row=tuple(f"{p.family}:{p.instance}" for p in self.row()),
            providers={p.instance: short(p) for p in self.plugins if isinstance(p, Provider)},
            drains=frozenset(p.instance for p in self.plugins if getattr(p, "drain", False)),
            natives={p.instance: p.native for p in self.plugins if isinstance(p, Provider)},
            prefills={p.instance: p for p in self.plugins if isinstance(p, Provider) and p.prefill},
            # The sealed hooks of routing plugins do nothing but call these.
            strategies={p.instance: p.rank for p in self.plugins if isinstance(p, Strategy)},
            selectors={p.instance: p.choose for p in self.plugins if isinstance(p, Selector)},
            narrow=tuple(
                msgspec.structs.replace(step, fn=getattr(getattr(step.fn, "__self__", None), "keep", step.fn))
                for step in self._steps("narrow")
            ),
            preferers=tuple(p for p in routing if isinstance(p, Filter) and type(p).prefer is not Filter.prefer),
            beginners=tuple(p for p in routing if type(p).begin is not Routing.begin),
            observers=tuple(p for p in routing if type(p).observe is not Routing.observe),
        )

    def row(self) -> list[Plugin]:
        """The plugins in the order in which a call meets them."""
        return sorted(self.plugins, key=lambda plugin: (plugin.order, plugin.instance))

    def _steps(self, hook: str) -> tuple[Step, ...]:
        positions = {id(plugin): index for index, plugin in enumerate(self.row())}
        caller = getattr(self.manager.hook, hook)
        names = tuple(inspect.signature(getattr(hookspecs, hook)).parameters)
        steps = []
        for impl in caller.get_hookimpls():
            plugin: Any = impl.plugin
            if hook in _OF_CALLS and not getattr(plugin, "active", True):
                continue
            label = f"{plugin.family}:{plugin.instance}"
            steps.append(Step(positions[id(plugin)], label, bind(impl.function, impl.argnames, names)))
        return tuple(sorted(steps, key=lambda step: step.position))


def bind(fn: HookFn, wanted: tuple[str, ...], offered: tuple[str, ...]) -> HookFn:
    """`fn` as a function of all the hook's arguments in order, where it takes only some of them, in any order."""
    if tuple(wanted) == offered:
        return fn
    places = tuple(offered.index(name) for name in wanted)
    if len(places) == 1:
        (place,) = places
        return lambda *args: fn(args[place])
    return lambda *args: fn(*(args[place] for place in places))
