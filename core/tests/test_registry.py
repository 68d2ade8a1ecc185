"""Hooks compiled to plain tuples: order, argument subsets, misspellings, and no pluggy once a call runs."""

from __future__ import annotations

import itertools
from typing import Any

import pluggy
import pytest
from kernel import ask, asking, assembled, config, deployment, text_of
from pluggy import HookCaller

from tianji.errors import PluginError
from tianji.hookspecs import hookimpl
from tianji.model import Attempt, Call, Deployment, Reply
from tianji.plugin import Extension, Filter, Plugin, Provider, Selector, Strategy
from tianji.registry import Registry, bind
from tianji.testing import FakeAssembly, make_call, make_deployment


def extension(plugin_name: str, at: int = 500, **hooks: Any) -> type[Extension]:
    """An extension class with these hooks."""
    marked = {hook: hookimpl(fn) for hook, fn in hooks.items()}
    return type("Made", (Extension,), {"name": plugin_name, "order": at, **marked})


def registry(*classes: type[Plugin]) -> Registry:
    made = Registry()
    for cls in classes:
        made.add(cls(cls.Settings(), instance=cls.name, gateway=None))  # type: ignore[arg-type]
    return made


async def nothing(self: Any, call: Call) -> None:
    return None


class TestOrder:
    def test_bands_first_then_names(self) -> None:
        names = [("z", 100), ("m", 300), ("a", 300), ("b", 800), ("y", 100)]
        for shuffled in itertools.permutations(names):
            hooks = registry(*(extension(name, at, pre_call=nothing) for name, at in shuffled)).seal()
            assert [step.label.partition(":")[2] for step in hooks.pre_call] == ["y", "z", "a", "m", "b"]

    def test_the_way_back_is_reversed(self) -> None:
        async def seen(self: Any, call: Call, reply: Reply) -> None: ...
        async def closing(self: Any, gateway: Any) -> None: ...

        methods = {"post_call": seen, "startup": closing, "shutdown": closing}
        hooks = registry(extension("a", 1, **methods), extension("b", 2, **methods)).seal()
        assert [step.label for step in hooks.startup] == ["extensions:a", "extensions:b"]
        assert [step.label for step in hooks.shutdown] == ["extensions:b", "extensions:a"]
        assert [step.position for step in hooks.post_call] == [1, 0]

    def test_configure_runs_in_order(self) -> None:
        seen: list[str] = []

        def configure(self: Any, app: Any) -> None:
            seen.append(self.name)

        registry(extension("late", 800, configure=configure), extension("early", 100, configure=configure)).configure(
            FakeAssembly()
        )
        assert seen == ["early", "late"]


class TestArguments:
    @pytest.mark.parametrize(
        "taken", [p for size in range(4) for p in itertools.permutations(("call", "failure", "tried"), size)]
    )
    async def test_any_subset_in_any_order(self, taken: tuple[str, ...]) -> None:
        made: dict[str, Any] = {}
        exec(f"async def fallback(self, {', '.join(taken)}): return ({''.join(name + ', ' for name in taken)})", made)
        (step,) = registry(extension("x", fallback=made["fallback"])).seal().fallback
        given = {"call": 1, "failure": 2, "tried": 3}
        assert await step.fn(*given.values()) == tuple(given[name] for name in taken)

    async def test_a_hook_that_takes_all_is_called_directly(self) -> None:
        async def fn(call: Call) -> None: ...

        assert bind(fn, ("call",), ("call",)) is fn


class TestMistakes:
    def test_a_misspelt_hook(self) -> None:
        with pytest.raises(PluginError, match="pre_cal"):
            registry(extension("x", pre_cal=nothing)).seal()

    def test_an_argument_that_does_not_exist(self) -> None:
        async def pre_call(self: Any, call: Call, tenant: str) -> None: ...

        with pytest.raises(PluginError, match=r"(?s)extensions:x cannot be registered: .*tenant"):
            registry(extension("x", pre_call=pre_call))

    def test_two_of_one_name(self) -> None:
        with pytest.raises(PluginError, match="extensions:x cannot be registered"):
            registry(extension("x"), extension("x"))

    def test_one_class_under_two_names(self) -> None:
        cls, made = extension("x", pre_call=nothing), Registry()
        for instance in ("one", "two"):
            made.add(cls(None, instance=instance, gateway=None))  # type: ignore[arg-type]
        assert [step.label for step in made.seal().pre_call] == ["extensions:one", "extensions:two"]


class TestTables:
    def test_providers_and_strategies_by_name(self) -> None:
        class Mine(Provider):
            name = "mine"
            native = frozenset({"openai-chat", "anthropic-messages"})
            drain = True

            async def call(self, call: Call, deployment: Deployment) -> Reply:
                return Reply({"by": self.name})

        class First(Strategy):
            name = "first"

            async def rank(self, call: Call, candidates: Any) -> Any:
                return candidates[:1]

        class Learns(First):
            name = "learns"

            def observe(self, attempt: Attempt) -> None: ...

        hooks = registry(Mine, First, Learns).seal()
        assert hooks.providers.keys() == hooks.drains == {"mine"}
        assert hooks.natives["mine"] == {"openai-chat", "anthropic-messages"}
        assert hooks.strategies.keys() == {"first", "learns"}
        assert [one.name for one in hooks.observers] == ["learns"]

    def test_routing_plugins_by_what_they_do(self) -> None:
        class Counting(Strategy):
            name = "counting"

            async def rank(self, call: Call, candidates: Any) -> Any:
                return candidates

            def begin(self, call: Call, deployment: Deployment) -> None: ...

        class Keeps(Filter):
            name = "keeps"

            async def keep(self, call: Call, candidates: Any) -> Any:
                return candidates

        class Chooses(Selector):
            name = "chooses"

            async def choose(self, call: Call) -> str:
                return "group"

            def observe(self, attempt: Attempt) -> None: ...

        hooks = registry(Counting, Keeps, Chooses).seal()
        assert hooks.strategies.keys() == {"counting"}
        assert [step.label for step in hooks.narrow] == ["strategies:keeps"]
        assert hooks.selectors.keys() == {"chooses"}
        assert [one.name for one in hooks.beginners] == ["counting"]
        assert [one.name for one in hooks.observers] == ["chooses"]

    async def test_a_shorter_way_to_a_provider(self) -> None:
        class Mine(Provider):
            name = "mine"

        async def short(call: Call, deployment: Deployment) -> Reply:
            return Reply({"short": True})

        hooks = registry(Mine).seal(attempt=lambda provider: short)
        assert (await hooks.providers["mine"](make_call(), make_deployment())).body == {"short": True}


async def test_no_pluggy_call_while_a_call_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def pre_call(self: Any, call: Call) -> None:
        seen.append("pre")

    async def post_call(self: Any, reply: Reply) -> None:
        seen.append("post")

    async def identify(self: Any) -> None:
        seen.append("identify")

    class Ranks(Strategy):
        name = "ranks"

        async def rank(self, call: Call, candidates: Any) -> Any:
            seen.append("rank")
            return candidates

    settings = config(deployment(), deployment(model="two"), router_settings={"routing_strategy": "ranks"})
    plugin = extension("x", pre_call=pre_call, post_call=post_call, identify=identify)
    gateway = assembled(settings, plugin, Ranks)

    def dispatched(*_: Any, **__: Any) -> None:
        raise AssertionError("pluggy was asked to call a hook")

    call = asking(headers={"authorization": "Bearer sk-master"})
    with monkeypatch.context() as patch:  # pytest itself runs on pluggy
        patch.setattr(HookCaller, "__call__", dispatched)
        patch.setattr(pluggy.PluginManager, "_hookexec", dispatched)
        who = await gateway.pipeline.identify(call.ingress)
        got = await ask(gateway, call)
    assert who.is_admin
    assert text_of(got.replied) == "ok"
    assert seen == ["identify", "pre", "rank", "post"]
    assert isinstance(gateway.sealed.hooks.pre_call, tuple)
    with pytest.raises(AttributeError):
        gateway.sealed.hooks.pre_call = ()  # type: ignore[misc]
    await gateway.stop()


async def test_post_call_runs_for_those_whose_turn_came() -> None:
    seen: list[str] = []

    def named(name: str, at: int, *, answers: bool = False) -> type[Extension]:
        async def pre_call(self: Any, call: Call) -> Reply | None:
            seen.append(f"pre {name}")
            return Reply({"choices": [{"message": {"content": name}}]}, source="plugin") if answers else None

        async def post_call(self: Any, call: Call, reply: Reply) -> None:
            seen.append(f"post {name}")

        return extension(name, at, pre_call=pre_call, post_call=post_call)

    gateway = assembled(config(), named("a", 100), named("b", 400, answers=True), named("c", 500))
    assert text_of((await ask(gateway)).replied) == "b"
    assert seen == ["pre a", "pre b", "post b", "post a"]
    await gateway.stop()
