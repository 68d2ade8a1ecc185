"""The conformance suite over the exchanges in `first_provider_wire`."""

from first_provider import Parrot

from tianji.testing import ProviderSuite


class TestParrot(ProviderSuite):
    plugin = Parrot
    wire = "first_provider_wire"
