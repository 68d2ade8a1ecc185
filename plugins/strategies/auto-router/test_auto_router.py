"""The conformance suite, the configuration, what is chosen and when, and what goes wrong.

A whole gateway with an auto router is in `core/tests/test_selectors.py`.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tianji_strategy_auto_router as module
from tianji_strategy_auto_router import AutoRouter

from tianji import BadRequest, Call, ConfigError, Embedder, OverBudget, PluginError, Rejected, Reply, Unavailable
from tianji.testing import SelectorSuite, make_call, make_plugin, make_principal
from tianji.testing.fakes import FakeGateway

ROUTES: list[dict[str, Any]] = [
    {"name": "code", "model": "coder", "examples": ["write a python function", "fix the bug in this code"]},
    {"name": "translator", "utterances": ["translate this into french"], "score_threshold": 0.8},
]
CONFIG = {"auto_router_config": {"routes": ROUTES}, "auto_router_default_model": "chat"}
AXES = ("function", "bug", "translate", "weather")


def vector(text: str) -> list[float]:
    """A direction for each of four words, so that a test can say how near two texts are."""
    found = [float(word in text.lower()) for word in AXES]
    return found if any(found) else [0.01] * len(AXES)


def embeddings(texts: Sequence[str]) -> dict[str, Any]:
    """An answer of `/v1/embeddings`, in reverse order as the API allows."""
    data = [{"object": "embedding", "index": n, "embedding": vector(text)} for n, text in enumerate(texts)]
    return {"object": "list", "model": "e", "data": data[::-1], "usage": {"prompt_tokens": 5, "total_tokens": 5}}


class Embedding(FakeGateway):
    """A gateway with an embedding model. `hold` keeps its answers back; `replies` come first."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.hold: asyncio.Event | None = None

    async def ask(self, call: Call) -> Reply:
        if self.replies:
            return await super().ask(call)
        self.asked.append(call)
        await (self.hold.wait() if self.hold else asyncio.sleep(0))
        return Reply(embeddings(call.body["input"]))


class Words:
    """An embedder that is no model group."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [vector(text) for text in texts]


class TestAutoRouter(SelectorSuite):
    plugin = AutoRouter
    settings = CONFIG

    def make_gateway(self) -> FakeGateway:
        return Embedding()


class TestLocal(SelectorSuite):
    plugin = AutoRouter
    settings = {**CONFIG, "auto_router_embedding_model": "local"}

    def make_gateway(self) -> FakeGateway:
        return FakeGateway(services={Embedder: Words()})


def make(gateway: Any = None, **settings: Any) -> AutoRouter:
    return make_plugin(AutoRouter, {**CONFIG, **settings}, gateway=gateway or Embedding(), instance="auto-router:auto")


def ask(text: Any = "Please write a function", **fields: Any) -> Call:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    return make_call(body, **fields)


# -- the configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mapping", "json", "file"])
async def test_three_ways_to_give_the_routes(kind: str, tmp_path: Path) -> None:
    layout = {"encoder_type": "openai", "encoder_name": "text-embedding-3-large", "routes": ROUTES}
    routes: dict[str, Any] = {"auto_router_config": layout}
    if kind == "json":
        routes = {"auto_router_config": json.dumps(layout)}
    elif kind == "file":
        (tmp_path / "router.json").write_text("\ufeff" + json.dumps(layout))
        routes = {"auto_router_config": None, "auto_router_config_path": str(tmp_path / "router.json")}
    router = make(**routes)
    assert await router.choose(ask()) == "coder"
    assert await router.choose(ask("Translate: good morning")) == "translator", "its name is the model group"
    assert await router.choose(ask("What will the weather be?")) == "chat"


def test_a_changed_file_makes_other_settings(tmp_path: Path) -> None:
    file = tmp_path / "router.json"
    file.write_text(json.dumps({"routes": ROUTES}))
    before, same = make_settings(file), make_settings(file)
    file.write_text(json.dumps({"routes": ROUTES[:1]}))
    assert before == same
    assert before != make_settings(file), "a reload would keep the instance"


def make_settings(file: Path) -> Any:
    return AutoRouter.Settings(auto_router_config_path=str(file))


@pytest.mark.parametrize(
    ("settings", "path", "message"),
    [
        ({"auto_router_config": None}, "auto_router_config", "missing"),
        ({"auto_router_config": "{"}, "auto_router_config", "truncated"),
        ({"auto_router_config": "[]"}, "auto_router_config", "array"),
        ({"auto_router_config": {"routes": []}}, "auto_router_config.routes", "length"),
        ({"auto_router_config": {"routes": [{"model": "m"}]}}, "auto_router_config.routes[0]", "`name`"),
        ({"auto_router_config": {"routes": [*ROUTES, {"name": "x"}]}}, "auto_router_config.routes[2]", "'x'"),
        ({"auto_router_config": {"routes": [{"name": "x", "exampels": []}]}}, "routes[0]", "exampels"),
        ({"auto_router_config": {"routes": [{**ROUTES[0], "score_threshold": 2}]}}, "score_threshold", "<= 1.0"),
        ({"auto_router_config_path": "/nowhere/r.json"}, "auto_router_config_path", "given twice"),
        ({"auto_router_config": None, "auto_router_config_path": "/nowhere/r"}, "auto_router_config_path", "/nowhere"),
        ({"auto_router_config": {"routes": [{"name": "x", "examples": ["a"] * 2049}]}}, "auto_router_config", "2048"),
    ],
)
def test_bad_routes(settings: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**settings)
    assert path in caught.value.path
    assert message in caught.value.message
    assert caught.value.mend or "length" in message


def test_where_it_leads() -> None:
    assert make(auto_router_embedding_model="e").targets() == {
        "coder": "auto_router_config.routes[0]",
        "translator": "auto_router_config.routes[1]",
        "chat": "auto_router_default_model",
        "e": "auto_router_embedding_model",
    }
    assert "local" not in make(auto_router_embedding_model="local").targets()
    assert make(auto_router_default_model=None).default == "coder", "the first route's model"


async def test_a_description_stands_in_for_examples() -> None:
    routes = [{"name": "weather", "description": "Questions about the weather"}, ROUTES[0]]
    router = make(auto_router_config={"routes": routes})
    assert await router.choose(ask("How is the weather?")) == "weather"


# -- choosing ----------------------------------------------------------------------------------------------------------


async def test_examples_are_embedded_once_and_in_one_request() -> None:
    fake = Embedding()
    router = make(fake)
    assert not fake.asked, "not before they are needed"
    for _ in range(3):
        await router.choose(ask())
    assert [call.body["input"] for call in fake.asked] == [
        ["write a python function", "fix the bug in this code", "translate this into french"],
        *[["Please write a function"]] * 3,
    ]
    assert {call.model for call in fake.asked} == {"text-embedding-3-small"}


async def test_what_the_embeddings_call_says() -> None:
    fake = Embedding()
    call = ask(principal=make_principal(key_id="k", models=("auto",)))
    await make(fake, auto_router_embedding_model="e").choose(call)
    for asked in fake.asked:
        assert (asked.op, asked.dialect, asked.model) == ("embeddings", "openai-embeddings", "e")
        assert (asked.principal.key_id, asked.principal.models) == ("k", ("auto", "e")), "the caller pays, and may"
        assert asked.options["disable_fallbacks"], "the vectors of another model mean something else"
    assert call.principal.models == ("auto",)


async def test_the_mean_of_the_examples_decides() -> None:
    router = make()
    assert await router.choose(ask("bug")) == "coder", "0.707: half of what its examples say"
    router = make(auto_router_config={"routes": [{**ROUTES[0], "score_threshold": 0.75}]})
    assert await router.choose(ask("bug")) == "chat"
    assert await router.choose(ask("the bug in that function")) == "coder", "1.0"


async def test_the_best_of_those_above_their_thresholds() -> None:
    for near, target, reason in (
        (0.45, "coder", "near to code 0.500 of 0.45 (translator 0.707 of 0.8)"),
        (0.6, "chat", "the default: nothing is near enough (translator 0.707 of 0.8, code 0.500 of 0.6)"),
    ):
        router = make(auto_router_config={"routes": [{**ROUTES[0], "score_threshold": near}, ROUTES[1]]})
        call, reasons = explained("translate this function", role="proxy_admin")
        assert (await router.choose(call), reasons) == (target, [reason])
    call, reasons = explained("translate this function")
    router = make(auto_router_config={"routes": [ROUTES[0], {**ROUTES[1], "score_threshold": 0.7}]})
    assert await router.choose(call) == "translator"
    assert reasons == ["near to translator 0.707 of 0.7 (0.500 of 0.5)"], "not every caller may know every name"


async def test_an_explanation_asks_nobody() -> None:
    fake = Embedding()
    router = make(fake)
    call, reasons = explained("write a function")
    call.dry = True
    assert await router.choose(call) == "chat"
    assert reasons == ["the default: a call that is only explained is not embedded, as that costs money"]
    assert "'text-embedding-3-small' would have to be asked" in (router.explain(call) or {})["unknown"]
    assert router.explain(ask("")) is None
    assert not fake.asked


def explained(text: str, **principal: Any) -> tuple[Call, list[str]]:
    """A call whose route is written down, and where the reasons are."""
    reasons: list[str] = []
    call = ask(text, principal=make_principal(**principal))
    call.plan = SimpleNamespace(because=reasons.append)
    return call, reasons


USER, OTHER = "user", "assistant"
CALLED = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "weather"}


@pytest.mark.parametrize(
    ("dialect", "turns", "expected"),
    [
        ("openai-chat", [(USER, [{"type": "text", "text": "A function"}])], "coder"),
        ("openai-chat", [(USER, "bug"), (USER, "weather")], "chat"),
        ("openai-chat", [(USER, "bug"), (OTHER, "weather")], "coder"),
        ("anthropic-messages", [(USER, "The bug"), (OTHER, [CALLED]), (USER, [RESULT])], "coder"),
    ],
)
async def test_the_last_message_of_a_user(dialect: str, turns: list[tuple[str, Any]], expected: str) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    call = make_call({"model": "auto", "max_tokens": 1, "messages": messages}, dialect=dialect)
    assert await make().choose(call) == expected


async def test_a_prompt_is_a_message() -> None:
    assert (
        await make().choose(make_call({"model": "a", "prompt": "a function"}, dialect="openai-completions")) == "coder"
    )


@pytest.mark.parametrize("content", ["", "  \n", None, [], [{"type": "image_url", "image_url": {"url": "x"}}]])
async def test_without_a_text_nothing_is_asked(content: Any) -> None:
    fake = Embedding()
    assert await make(fake).choose(ask(content)) == "chat"
    assert not fake.asked


async def test_long_messages_are_shortened() -> None:
    fake = Embedding()
    assert await make(fake).choose(ask("x" * 3_000_000 + " bug")) == "coder", "the end is looked at, too"
    assert len(fake.asked[-1].body["input"][0]) < 5000


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "body",
    [
        {}, [], {"data": [{"index": 0}] * 3}, {"data": [{"embedding": [1.0]}]}, {"data": [{"embedding": []}] * 3},
        {"data": [{"embedding": [1.0]}, {"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]},
        {"data": [{"embedding": "AAAA"}] * 3}, {"data": [{"embedding": ["x"]}] * 3},
        {"data": [{"embedding": [float("nan")]}] * 3},
    ],
)  # fmt: skip
async def test_an_answer_that_cannot_be_used(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    fake = Embedding()
    fake.replies.append(Reply(body))
    assert await make(fake).choose(ask()) == "chat"
    assert "no embeddings from 'text-embedding-3-small'" in caplog.text
    assert "Traceback" not in caplog.text


async def test_after_a_failure_a_pause_then_another_try(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    fake = Embedding()
    fake.replies.append(Unavailable("down"))
    router = make(fake)
    for _ in range(5):
        assert await router.choose(ask()) == "chat"
    assert len(fake.asked) == 1
    assert caplog.text.count("no embeddings") == 1
    clock[0] += module.PAUSE
    assert await router.choose(ask()) == "coder"
    fake.replies.append(Unavailable("down"))
    assert await router.choose(ask()) == "chat"
    assert caplog.text.count("no embeddings") == 1, "not more than one line a minute"
    clock[0] += module.PAUSE
    assert await router.choose(ask()) == "coder"
    assert len(fake.asked) == 1 + 2 + 1 + 1, "the examples are still known"


@pytest.mark.parametrize("failure", [OverBudget("no money left"), Rejected("too long"), BadRequest("no")])
async def test_one_callers_failure_is_not_the_others(failure: Exception) -> None:
    fake = Embedding()
    fake.replies.append(failure)  # type: ignore[arg-type]
    router = make(fake)
    assert await router.choose(ask()) == "chat"
    assert await router.choose(ask()) == "coder"


async def test_calls_that_come_together_wait_for_one_request() -> None:
    fake = Embedding()
    fake.hold = asyncio.Event()
    router = make(fake)
    first = asyncio.create_task(router.choose(ask()))
    others = [asyncio.create_task(router.choose(ask())) for _ in range(10)]
    await asyncio.sleep(0.01)
    assert len(fake.asked) == 1
    first.cancel()
    await asyncio.sleep(0)
    fake.hold.set()
    assert await asyncio.gather(*others) == ["coder"] * 10, "who began it left, and it went on"
    assert len(fake.asked) == 11
    assert not router._tasks


async def test_patience_is_half_of_what_the_call_has_left() -> None:
    fake = Embedding()
    fake.hold = asyncio.Event()
    router = make(fake)
    call = ask()
    call.deadline = call.started + 0.1
    assert await router.choose(call) == "chat"
    assert call.remaining() > 0
    assert router._paused_until == 0.0, "the call was short of time; others are not"
    fake.hold.set()
    assert await router.choose(ask()) == "coder"
    assert len(fake.asked) == 2, "and the request that it had begun was not lost"
    await router.shutdown()


async def test_stopping_ends_what_is_under_way() -> None:
    fake = Embedding()
    fake.hold = asyncio.Event()
    router = make(fake)
    waiting = asyncio.create_task(router.choose(ask()))
    await asyncio.sleep(0.01)
    await router.shutdown()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not router._tasks


async def test_other_deployments_make_other_vectors() -> None:
    config = SimpleNamespace(deployments=("a",), router_settings=1)
    fake = Embedding(config=config)
    router = make(fake)
    await router.choose(ask())
    fake.config = SimpleNamespace(deployments=("a",), router_settings=1)
    await router.choose(ask())
    assert len(fake.asked) == 3, "the same deployments after a reload"
    fake.config = SimpleNamespace(deployments=("b",), router_settings=1)
    assert await router.choose(ask()) == "coder"
    assert len(fake.asked) == 5, "the examples again"


async def test_many_examples_are_worked_on_beside_the_loop() -> None:
    routes = [{"name": "coder", "examples": ["function"] * 100}, ROUTES[1]]
    assert await make(auto_router_config={"routes": routes}).choose(ask()) == "coder"


async def test_local_needs_the_service() -> None:
    with pytest.raises(PluginError, match="tianji-extension-embedder-local"):
        await make(FakeGateway(), auto_router_embedding_model="local").startup()
    embedder = Words()
    router = make(FakeGateway(services={Embedder: embedder}), auto_router_embedding_model="local")
    assert await router.choose(ask()) == "coder"
    assert router.thresholds == [0.25, 0.8], "a text has less in common with others than a meaning has"


def test_it_says_nothing_of_texts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        fake = Embedding()
        fake.replies.append(Unavailable("down"))
        asyncio.run(make(fake).choose(ask("my secret function")))
    assert "secret" not in caplog.text
