"""The conformance suite, blocking and masking."""

from first_guardrail import CodeNames

from tianji.testing import GuardrailSuite


class TestBlocking(GuardrailSuite):
    plugin = CodeNames
    settings = {"words": ["bluebird"]}
    blocks = ["When does Bluebird land?"]
    allows = ["When does the plane land?"]


class TestMasking(GuardrailSuite):
    plugin = CodeNames
    settings = {"words": ["bluebird"], "mask": True}
    rewrites = {"When does Bluebird land?": "When does *** land?"}
    allows = ["When does the plane land?"]
