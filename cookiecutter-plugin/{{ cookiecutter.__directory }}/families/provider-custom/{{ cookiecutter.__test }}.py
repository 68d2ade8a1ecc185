"""The conformance suite over the exchanges in `wire`, and what is particular to {{ cookiecutter.__title }}."""

from {{ cookiecutter.__module }} import {{ cookiecutter.__class }}

from tianji.testing import ProviderSuite, make_call


class Test{{ cookiecutter.__class }}(ProviderSuite):
    plugin = {{ cookiecutter.__class }}
    wire = "wire"

    def test_the_default_limit_is_a_setting(self) -> None:
        settings = {{ cookiecutter.__class }}.Settings(default_limit=7)
        wire = self.make_plugin().encode(make_call(), self.make_deployment(settings=settings))
        assert wire.body["limit"] == 7
