"""A chat answer that breaks off is gone on with by another deployment, in the same stream, and every cent is booked."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import pytest
from kernel import VirtualLoop, ask, virtually
from survival import (
    Heard,
    HeardMessages,
    Talker,
    accounts,
    breaks,
    chat,
    gateway_of,
    heard,
    reset,
    run,
    sink,
    some_text,
    spent,
    talker,
)

from tianji.errors import Rejected
from tianji.model import Call, Record, Reply

DIALECTS = ["openai-chat", "anthropic-messages"]
BOTH = frozenset(DIALECTS)


# -- the promise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [frozenset({"openai-chat"}), BOTH], ids=["translated", "native"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_500_breaks_after_the_first_byte_and_not_a_letter_twice(dialect: str, native: frozenset[str]) -> None:
    async def main(loop: VirtualLoop) -> int:
        resumed = 0
        for seed in range(125):
            rng = random.Random(seed)
            text = some_text(rng, rng.randint(2, 30))
            breaks: dict[str, int | None] = {"a": rng.randint(0, 12), "b": rng.choice([None, rng.randint(0, 5)])}
            provider = talker(
                rng=rng, text=text, breaks=breaks, native=native, repeats_prefill=rng.random() < 0.3,
                pause=rng.choice([0.0, 0.01]),
            )  # fmt: skip
            gateway = gateway_of(provider, "a", "b", "c")
            call = chat(dialect=dialect, max_tokens=10_000, stream_options={"include_usage": True})
            collector = await ask(gateway, call)
            raw = b"".join(collector.chunks)
            told = Heard(raw) if dialect == "openai-chat" else HeardMessages(raw)
            assert told.text == text, seed
            assert told.done == 1
            assert told.finish == ("stop" if dialect == "openai-chat" else "end_turn")
            assert told.error is None
            statuses = accounts(gateway, call)
            assert statuses == ["partial"] * (len(provider.calls) - 1) + ["success"]
            assert [model for model, _ in provider.calls] == ["a", "b", "c"][: len(statuses)]
            given, made, nano = spent(gateway, call)
            assert nano == given * 1000 + made * 2000
            assert told.usage is not None
            stated = told.usage.get("prompt_tokens"), told.usage.get("completion_tokens")
            if dialect != "openai-chat":  # an unbroken stream says at its beginning what was put in
                stated = told.usage.get("input_tokens", 10), told.usage["output_tokens"]
            assert stated == (given, made)
            assert call.reply is not None
            assert call.reply.usage is not None
            assert (call.reply.usage.input_tokens, call.reply.usage.output_tokens) == (given, made)
            assert call.reply.cost is not None
            assert call.reply.cost.nano == nano
            resumed += len(statuses) > 1
            await gateway.stop()
        return resumed

    assert virtually(main) > 100


def test_500_breaks_before_the_first_byte_are_not_noticed() -> None:
    async def main(loop: VirtualLoop) -> int:
        good = 0
        for seed in range(500):
            rng = random.Random(seed)
            text = some_text(rng, 5)
            provider = talker(rng=rng, text=text, breaks={"a": rng.randint(0, 3)}, pause=0.01)
            gateway = gateway_of(provider, "a", "b", stream_commit_delay=0.5, continue_streams=rng.random() < 0.5)
            told, call = await heard(gateway)
            good += told.text == text and told.done == 1 and accounts(gateway, call)[-1] == "success"
            await gateway.stop()
        return good

    assert virtually(main) >= 499.5


# -- what the next one is asked ----------------------------------------------------------------------------------------


def test_the_rest_is_asked_for_with_a_trimmed_prefill_and_fewer_tokens() -> None:
    async def main() -> None:
        provider = talker(text="One two three.", breaks={"a": 1})
        provider._pieces = lambda self, body: (  # type: ignore[method-assign]
            (["One ", "two three."] if len(body["messages"]) == 1 else [" two", " three."]),
            10,
        )
        gateway = gateway_of(provider, "a", "b")
        told, call = await heard(gateway, chat(max_tokens=50, max_completion_tokens=1))
        assert told.text == "One two three."
        assert told.finish == "stop"
        (_, first), (_, second) = provider.calls
        assert first["max_tokens"] == 50
        assert second["messages"] == [
            *first["messages"], {"role": "assistant", "content": "One", "prefix": True}
        ]  # fmt: skip
        assert second["max_tokens"] == 49
        assert second["max_completion_tokens"] == 1, "never less than one"
        assert call.body is first or len(call.body["messages"]) == 1, "the client's request stays as it was"

    run(main)


def test_a_translated_call_marks_the_beginning_too() -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2}, native=frozenset({"openai-chat"}))
        gateway = gateway_of(provider, "a", "b")
        await ask(gateway, chat(dialect="anthropic-messages", max_tokens=100))
        assert provider.calls[1][1]["messages"][-1]["prefix"] is True

    run(main)


def test_with_nothing_said_yet_anybody_may_answer() -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 0}, prefill=False)
        gateway = gateway_of(provider, "a", "b")
        told, call = await heard(gateway)
        assert told.text == "One two three."
        assert provider.calls[1][1]["messages"] == provider.calls[0][1]["messages"]
        assert accounts(gateway, call) == ["partial", "success"]

    run(main)


# -- who is asked ------------------------------------------------------------------------------------------------------


def test_fallbacks_go_on_and_can_be_switched_off() -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2, "b": 1})
        gateway = gateway_of(provider, "a", "other/b", "third/c", fallbacks=[{"group": ["other", "third"]}])
        told, call = await heard(gateway)
        assert told.text == "One two three."
        assert accounts(gateway, call) == ["partial", "partial", "success"]
        assert call.fallbacks == 2
        _, call, _ = await breaks(gateway, chat(options={"disable_fallbacks": True}))
        assert accounts(gateway, call) == ["partial"]

    run(main)


def test_a_provider_that_takes_no_prefill_is_not_asked() -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2}, prefill=False)
        gateway = gateway_of(provider, "a", "b")
        told, call, failure = await breaks(gateway)
        assert told.text
        assert failure.code == "connection_error"
        assert len(provider.calls) == 1
        assert accounts(gateway, call) == ["partial"]

    run(main)


def test_a_provider_may_refuse_by_model() -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2}, prefills=lambda self, call, deployment: deployment.model == "c")
        gateway = gateway_of(provider, "a", "b", "c")
        await heard(gateway)
        assert [model for model, _ in provider.calls] == ["a", "c"]

    run(main)


def test_one_that_failed_is_not_asked_again() -> None:
    async def main() -> None:
        left = {"a": 1, "c": 1}

        class Refusing(Talker):
            calls: ClassVar[list[Any]] = []
            breaks: ClassVar[dict[str, int | None]] = {"b": 2}

            async def call(self, call: Call, deployment: Any) -> Reply:
                if left.pop(deployment.model, None):
                    type(self).calls.append((deployment.model, call.body))
                    raise Rejected("no prefill here") if deployment.model == "c" else reset()
                return await super().call(call, deployment)

        gateway = gateway_of(Refusing, "a", "b", "c", "d")
        told, call = await heard(gateway)
        assert [model for model, _ in Refusing.calls] == ["a", "b", "c", "d"]
        assert accounts(gateway, call) == ["void", "partial", "void", "success"]
        assert [one.outcome for one in call.attempts] == ["Unavailable", "Unavailable", "Rejected"]
        assert told.text == Talker.text

    run(main)


def test_when_all_fail_the_client_gets_the_failure_of_the_break() -> None:
    async def main() -> None:
        class Refusing(Talker):
            calls: ClassVar[list[Any]] = []
            breaks: ClassVar[dict[str, int | None]] = {"a": 2}

            async def call(self, call: Call, deployment: Any) -> Reply:
                if deployment.model != "a":
                    raise Rejected("no prefill here")
                return await super().call(call, deployment)

        records: list[Record] = []
        gateway = gateway_of(Refusing, "a", "b", plugins=[sink(records)])
        _, call, failure = await breaks(gateway)
        assert failure.code == "connection_error"
        assert accounts(gateway, call) == ["partial", "void"]
        await gateway.stop()
        (record,) = records
        assert record.status == "partial"
        assert record.usage is not None
        assert record.usage.output_tokens == 2
        assert record.cost is not None
        assert record.cost.nano == spent(gateway, call)[2]
        assert [(one.deployment_id, one.outcome) for one in record.attempts] == [
            ("group-a", "Unavailable"), ("group-b", "Rejected"),
        ]  # fmt: skip

    run(main)


def test_no_more_breaks_than_fallbacks_are_allowed() -> None:
    async def main() -> None:
        provider = talker(breaks=dict.fromkeys("abcdef", 1), rng=random.Random(3))
        gateway = gateway_of(provider, *"abcdef", max_fallbacks=2)
        told, call, _ = await breaks(gateway)
        assert accounts(gateway, call) == ["partial"] * 3
        assert Talker.text.startswith(told.text)

    run(main)


def test_a_deployment_in_doubt_is_asked_only_within_the_retry_budget() -> None:
    async def main() -> None:
        for tokens, expected in ((5.0, ["partial", "success"]), (0.0, ["partial"])):
            provider = talker(breaks={"a": 1})
            gateway = gateway_of(provider, "a", "b")
            attempts = gateway.pipeline.attempts
            second = attempts.router.groups["group"].deployments[1]
            attempts.health.cooling = lambda one, second=second: float(one is second)  # type: ignore[method-assign,misc]
            attempts.budget.tokens, attempts.budget.cap = tokens, tokens
            call = chat()
            await ask(gateway, call)
            assert accounts(gateway, call) == expected

    run(main)


def test_there_is_no_time_left_for_another() -> None:
    async def main() -> None:
        provider = talker(breaks={"a": 2}, pause=0.49)
        gateway = gateway_of(provider, "a", "b")
        _, call, _ = await breaks(gateway, chat(options={"timeout": 1.0}))
        assert accounts(gateway, call) == ["partial"]

    run(main)
