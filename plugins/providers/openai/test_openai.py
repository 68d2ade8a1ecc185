"""The conformance suite, and OpenAI's quirks."""

import pytest
from tianji_provider_openai import OpenAI

from tianji.testing import ProviderSuite, make_call


class TestOpenAI(ProviderSuite):
    plugin = OpenAI
    wire = "wire"

    @pytest.mark.parametrize("model", ["o1", "o3-mini", "gpt-5", "gpt-5-nano"])
    def test_reasoning_models_get_max_completion_tokens(self, model: str) -> None:
        call = make_call({"model": "m", "messages": [], "max_tokens": 5, "max_completion_tokens": 7})
        body = self.make_plugin().request_body(call, self.make_deployment(model=model))
        assert "max_tokens" not in body
        assert body["max_completion_tokens"] == 7, "what the client said by its proper name wins"

    @pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo", "omni-moderation-latest"])
    def test_other_models_keep_max_tokens(self, model: str) -> None:
        call = make_call({"model": "m", "messages": [], "max_tokens": 5})
        assert self.make_plugin().request_body(call, self.make_deployment(model=model))["max_tokens"] == 5
