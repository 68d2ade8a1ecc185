"""The conformance suite, blocking and masking."""

from {{ cookiecutter.__module }} import {{ cookiecutter.__class }}

from tianji.testing import GuardrailSuite


class TestBlocking(GuardrailSuite):
    plugin = {{ cookiecutter.__class }}
    settings = {"words": ["bluebird"]}
    blocks = ["the Bluebird lands at nine"]
    allows = ["tell me a story", "a bluebirdish thing"]


class TestMasking(GuardrailSuite):
    plugin = {{ cookiecutter.__class }}
    settings = {"words": ["bluebird"], "mask": True}
    rewrites = {"the Bluebird lands at nine": "the *** lands at nine"}
    allows = ["tell me a story"]
