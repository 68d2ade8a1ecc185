"""The conformance suite, and Groq's quirks."""

from tianji_provider_groq import Groq

from tianji.testing import ProviderSuite


class TestGroq(ProviderSuite):
    plugin = Groq
    wire = "wire"
