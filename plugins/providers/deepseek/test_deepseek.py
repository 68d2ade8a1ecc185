"""The conformance suite, and DeepSeek's quirks."""

from typing import Any

import pytest
from tianji_provider_deepseek import DeepSeek

from tianji import usage_from_openai
from tianji.testing import ProviderSuite, make_call, make_deployment


class TestDeepSeek(ProviderSuite):
    plugin = DeepSeek
    wire = "wire"

    def body(self, messages: list[Any] | None = None, **fields: Any) -> dict[str, Any]:
        call = make_call({"model": "m", "messages": messages or [], **fields})
        made: dict[str, Any] = self.make_plugin().request_body(call, self.make_deployment())
        return made

    def test_texts_become_one_string(self) -> None:
        parts = [{"type": "text", "text": "Say "}, "it ", {"type": "text", "text": "again."}]
        assert self.body([{"role": "user", "content": parts}])["messages"] == [
            {"role": "user", "content": "Say it again."}
        ]

    def test_an_image_is_not_lost_in_silence(self) -> None:
        message = {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image_url"}]}
        assert self.body([message])["messages"] == [message]

    def test_developer_is_system_there(self) -> None:
        message = {"role": "developer", "content": "Be brief.", "name": "x"}
        assert self.body([message])["messages"] == [{**message, "role": "system"}]

    def test_reasoning_of_earlier_turns_is_kept(self) -> None:
        message = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [{"id": "1"}]}
        assert self.body([message])["messages"] == [message], "refused without it, in a turn with tool calls"

    @pytest.mark.parametrize(
        ("asked", "sent"),
        [
            ({"reasoning_effort": "high"}, {"reasoning_effort": "high", "thinking": {"type": "enabled"}}),
            ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
            (
                {"reasoning_effort": "low", "thinking": {"type": "disabled"}},
                {"reasoning_effort": "low", "thinking": {"type": "disabled"}},
            ),
            ({}, {}),
        ],
    )
    def test_effort(self, asked: dict[str, Any], sent: dict[str, Any]) -> None:
        body = self.body(**asked)
        assert {name: body[name] for name in ("reasoning_effort", "thinking") if name in body} == sent

    def test_cache_hits_are_counted(self) -> None:
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25, "prompt_cache_hit_tokens": 16}
        assert usage_from_openai(usage).cache_read_tokens == 16  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("base", "model", "fields", "goes_on"),
        [
            ("https://api.deepseek.com/beta", "deepseek-chat", {}, True),
            ("https://api.deepseek.com/beta/", "deepseek-chat", {"thinking": {"type": "disabled"}}, True),
            (None, "deepseek-chat", {}, False),
            ("https://api.deepseek.com/beta", "deepseek-reasoner", {}, False),
            ("https://api.deepseek.com/beta", "deepseek-chat", {"thinking": {"type": "enabled"}}, False),
            ("https://api.deepseek.com/beta", "deepseek-chat", {"reasoning_effort": "high"}, False),
        ],
    )
    def test_who_goes_on_from_a_prefix(
        self, base: str | None, model: str, fields: dict[str, Any], goes_on: bool
    ) -> None:
        call = make_call({"model": "m", "messages": [], **fields})
        deployment = make_deployment(provider="deepseek", model=model, api_base=base)
        assert self.make_plugin().prefills(call, deployment) is goes_on
