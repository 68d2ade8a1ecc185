"""The conformance suite, and what is particular to {{ cookiecutter.__title }}."""

from {{ cookiecutter.__module }} import {{ cookiecutter.__class }}

from tianji.testing import ProviderSuite, make_call


class Test{{ cookiecutter.__class }}(ProviderSuite):
    plugin = {{ cookiecutter.__class }}

    def test_quirks_reach_the_wire(self) -> None:
        call = make_call({"model": "m", "messages": [], "max_completion_tokens": 5, "logit_bias": {}})
        body = self.make_plugin().request_body(call, self.make_deployment())
        assert body["max_tokens"] == 5
        assert call.dropped == ("logit_bias",)
