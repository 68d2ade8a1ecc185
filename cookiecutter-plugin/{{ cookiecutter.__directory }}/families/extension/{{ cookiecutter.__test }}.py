"""The conformance suite, and the pausing."""

import pytest
from {{ cookiecutter.__module }} import {{ cookiecutter.__class }}

from tianji import Forbidden
from tianji.testing import ExtensionSuite, make_call


class Test{{ cookiecutter.__class }}(ExtensionSuite):
    plugin = {{ cookiecutter.__class }}
    settings = {"models": ["big"], "message": "Back at nine."}

    async def test_paused(self) -> None:
        with pytest.raises(Forbidden, match="Back at nine"):
            await self.make_plugin().pre_call(make_call({"model": "big", "messages": []}))

    async def test_others_go_on(self) -> None:
        assert await self.make_plugin().pre_call(make_call({"model": "small", "messages": []})) is None
