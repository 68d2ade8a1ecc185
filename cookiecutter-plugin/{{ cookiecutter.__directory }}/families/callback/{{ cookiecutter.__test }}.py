"""The conformance suite, and what is sent."""

from {{ cookiecutter.__module }} import {{ cookiecutter.__class }}

from tianji.testing import CallbackSuite, make_record


class Test{{ cookiecutter.__class }}(CallbackSuite):
    plugin = {{ cookiecutter.__class }}
    settings = {"url": "https://hooks.example.invalid/in", "api_key": "canary-5f0d"}

    async def test_one_array_a_batch(self) -> None:
        sent = await self.export([make_record(id="a"), make_record(id="b", usage=None, cost=None)])
        assert len(sent) == 1
        assert sent[0].headers["authorization"] == "Bearer canary-5f0d"
        known, unknown = sent[0].json()
        assert (known["id"], known["tokens"], known["usd"]) == ("a", 15, 1.5e-06)
        assert (unknown["id"], unknown["tokens"], unknown["usd"]) == ("b", None, None)
