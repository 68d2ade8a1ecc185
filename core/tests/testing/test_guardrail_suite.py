"""The guardrail suite passes for sound guardrails and fails for each fault that it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tianji import Content, Guardrail, PluginSettings, Secret, Verdict
from tianji.errors import Blocked
from tianji.model import Call, decode_json
from tianji.testing import Answer, FakeGateway, GuardrailSuite
from tianji.testing.fakes import Sent

Run = Callable[[type[Any]], dict[str, str]]


class Words(Guardrail):
    """Blocks one word and masks another."""

    name = "words"

    class Settings(PluginSettings, frozen=True):
        word: str = "forbidden"
        """The word to block."""
        mask: str = "hidden"
        """The word to replace."""

    settings: Settings

    async def check(self, content: Content, call: Call) -> Verdict:
        if self.settings.word in content.text:
            return Verdict.block(f"a bad word in the {content.part}")
        if self.settings.mask in content.text:
            return Verdict.rewrite(content.map(lambda text: text.replace(self.settings.mask, "***")))
        return Verdict.allow()


class Service(Guardrail):
    """Asks a service."""

    name = "service"

    class Settings(PluginSettings, frozen=True):
        api_key: Secret = Secret("canary-of-the-service")
        """The service's key."""

    settings: Settings

    async def check(self, content: Content, call: Call) -> Verdict:
        headers = {"x-key": self.settings.api_key.reveal()}
        url = "https://guard.example.invalid/check"
        answer = await self.gateway.http.post(url, json={"text": content.text}, headers=headers)
        answer.raise_for_status()
        return Verdict.block("flagged") if answer.json()["flagged"] else Verdict.allow()


class WordsSuite(GuardrailSuite):
    plugin: Any = Words
    blocks = ("this is forbidden here",)
    allows = ("a plain sentence", "zweiter Satz mit Umläuten: äöü 🌉")
    rewrites = {"this is hidden from view": "this is *** from view"}


class ServiceSuite(GuardrailSuite):
    plugin: Any = Service
    blocks = ("this is forbidden here",)
    allows = ("a plain sentence",)

    def make_gateway(self) -> FakeGateway:
        def handler(sent: Sent) -> Answer:
            flagged = "forbidden" in sent.json()["text"]
            return Answer(200, b'{"flagged": true}' if flagged else b'{"flagged": false}')

        gateway = FakeGateway()
        gateway.handler = handler
        return gateway


class TestWords(WordsSuite):
    plugin = Words


class TestService(ServiceSuite):
    plugin = Service


def changed(suite: type[GuardrailSuite], **methods: Any) -> type[GuardrailSuite]:
    cls = type("Changed", (suite.plugin,), {"__doc__": "Broken.", "__module__": __name__, **methods})
    return type("Suite", (suite,), {"plugin": cls, "__module__": __name__})


def test_sound_guardrails_pass(failed: Run) -> None:
    assert failed(WordsSuite) == {}
    assert failed(ServiceSuite) == {}


def test_missing_samples_are_found(failed: Run) -> None:
    suite = type("Suite", (GuardrailSuite,), {"plugin": Words, "__module__": __name__})
    assert "test_there_are_samples" in failed(suite)


def test_a_blind_guardrail_is_found(failed: Run) -> None:
    async def check(self: Any, content: Content, call: Call) -> Verdict:
        return Verdict.allow()

    found = failed(changed(WordsSuite, check=check))
    assert {
        "test_check_judges_and_changes_nothing",
        "test_pre_call",
        "test_unselected_calls_pass",
        "test_during_call",
        "test_logging_only",
        "test_post_call",
        "test_stream",
        "test_interleaved_stream",
        "test_stream_across_windows",
    } == found.keys()


def test_an_overzealous_guardrail_is_found(failed: Run) -> None:
    async def check(self: Any, content: Content, call: Call) -> Verdict:
        return Verdict.block("one never knows")

    assert {"test_pre_call", "test_post_call", "test_stream"} <= failed(changed(WordsSuite, check=check)).keys()


def test_swallowed_errors_are_found(failed: Run) -> None:
    async def check(self: Any, content: Content, call: Call) -> Verdict:
        try:
            return await Words.check(self, content, call)
        except Exception:
            return Verdict.allow()

    assert set(failed(changed(WordsSuite, check=check))) == {"test_errors_are_not_swallowed"}


def test_a_service_that_fails_open_is_found(failed: Run) -> None:
    async def check(self: Any, content: Content, call: Call) -> Verdict:
        answer = await self.gateway.http.post("https://guard.example.invalid/check", json={"text": content.text})
        flagged = answer.status_code == 200 and decode_json(answer.content).get("flagged")
        return Verdict.block("flagged") if flagged else Verdict.allow()

    assert set(failed(changed(ServiceSuite, check=check))) == {"test_a_failed_service_refuses"}


def test_a_logged_secret_is_found(failed: Run) -> None:
    async def check(self: Any, content: Content, call: Call) -> Verdict:
        try:
            return await Service.check(self, content, call)
        except Exception as error:
            raise RuntimeError(f"asking with {self.settings.api_key.reveal()} failed") from error

    found = failed(changed(ServiceSuite, check=check))
    assert "a secret of the settings" in found["test_a_failed_service_refuses"]


def test_a_changed_call_is_found(failed: Run) -> None:
    async def check(self: Any, content: Content, call: Call) -> Verdict:
        call.body["checked"] = True
        return await Words.check(self, content, call)

    found = failed(changed(WordsSuite, check=check))
    assert {"test_check_judges_and_changes_nothing", "test_pre_call"} <= found.keys()


def test_a_lost_text_is_found(failed: Run) -> None:
    async def check(self: Any, content: Content, call: Call) -> Verdict:
        verdict = await Words.check(self, content, call)
        return Verdict.rewrite(verdict.texts[:1]) if verdict.action == "rewrite" else verdict

    assert set(failed(changed(WordsSuite, check=check))) == {"test_check_judges_and_changes_nothing"}


def test_reading_the_body_is_found(failed: Run) -> None:
    async def check(self: Any, content: Content, call: Call) -> Verdict:
        said = str(call.body["messages"][-1]["content"]) if call.body["messages"] else ""
        return Verdict.block("bad") if "forbidden" in said else Verdict.allow()

    found = failed(changed(WordsSuite, check=check))
    assert {"test_post_call", "test_stream", "test_errors_are_not_swallowed"} & found.keys()


@pytest.mark.parametrize("hook", ["pre_call", "post_call"])
def test_an_overridden_hook_is_found(failed: Run, hook: str) -> None:
    async def own(self: Any, *args: Any) -> None: ...

    assert "test_hooks_are_sealed_and_known" in failed(changed(WordsSuite, **{hook: own}))


def test_a_changed_failure_policy_is_found(failed: Run) -> None:
    async def _judge(self: Any, content: Content, call: Call) -> Verdict:
        try:
            return await Words._judge(self, content, call)
        except Blocked:
            raise
        except Exception:
            return Verdict.allow()

    assert "test_a_failed_check_refuses" in failed(changed(WordsSuite, _judge=_judge))


def test_one_side_only(verdicts: Callable[[type[Any]], dict[str, str]]) -> None:
    """Tests of a side that the guardrail does not judge are skipped, not failed."""

    async def check(self: Any, content: Content, call: Call) -> Verdict:
        return Verdict.allow() if content.part == "reply" else await Words.check(self, content, call)

    suite = changed(WordsSuite, check=check)
    suite.parts = frozenset({"prompt"})
    outcome = verdicts(suite)
    assert not [name for name, verdict in outcome.items() if verdict.startswith("failed")]
    assert outcome["test_stream"].startswith("skipped")
