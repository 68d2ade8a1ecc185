"""`ProviderSuite`: what every provider must do. The tests are in three parts, of which this is the first.

    class TestGroq(ProviderSuite):
        plugin = Groq
        wire = "wire"

`wire` is the folder of golden exchanges beside the test file (`tianji.testing.goldens` has the format). Without one an
`OpenAICompatible` provider is held to the kit's generic exchanges.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from tianji.model import Deployment, Op
from tianji.plugin import Provider
from tianji.providers import HTTPProvider, OpenAICompatible
from tianji.testing.builders import make_deployment
from tianji.testing.fakes import FakeGateway
from tianji.testing.generic import generic_goldens
from tianji.testing.goldens import Golden, load_goldens
from tianji.testing.hygiene import is_local
from tianji.testing.suites.base import docs_of
from tianji.testing.suites.provider_answers import AnswerTests
from tianji.testing.suites.provider_requests import RequestTests

FRAMINGS = ("sse", "json-lines", "aws-eventstream")


class ProviderSuite(RequestTests, AnswerTests):
    """Subclass it with `plugin` and, for anything but a plain `OpenAICompatible`, `wire`.

    `settings` are the provider's own keys of `tianji_params`; `api_base` is needed where the class has no `base_url`.
    """

    family = "providers"
    plugin: type[Provider]
    wire: ClassVar[str | None] = None
    api_base: ClassVar[str | None] = None
    deployment: ClassVar[Mapping[str, Any]] = {}
    """Further fields of the deployments that the suite makes, for a provider that needs a certain model or region."""

    # -- what the tests are made of ------------------------------------------------------------------------------------

    @classmethod
    def goldens(cls) -> list[Golden]:
        """The golden exchanges of this suite, by name."""
        if cls.wire is not None:
            return load_goldens(Path(inspect.getfile(cls)).parent / cls.wire)
        if issubclass(cls.plugin, OpenAICompatible):
            return generic_goldens(cls.plugin, cls.api_base or cls.plugin.base_url)
        return []

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test that takes a `golden` (or a `stream`, a golden that streams) once for each."""
        if "golden" in metafunc.fixturenames:
            goldens = self.goldens()
            metafunc.parametrize("golden", goldens, ids=[golden.name for golden in goldens])
        if "stream" in metafunc.fixturenames:
            streams = [golden for golden in self.goldens() if golden.streams]
            metafunc.parametrize("stream", streams, ids=[golden.name for golden in streams])

    def make_plugin(self, gateway: FakeGateway | None = None) -> Any:
        """A fresh instance, as the kernel makes one: without settings, which each deployment carries for itself."""
        return self.plugin(None, instance=self.plugin.name, gateway=gateway or self.make_gateway())

    def make_deployment(self, **fields: Any) -> Deployment:
        """A deployment of this provider with the suite's settings."""
        base = {"provider": self.plugin.name, "api_base": self.api_base, "settings": self.make_settings()}
        return make_deployment(**{**base, **self.deployment, **fields})

    def deployment_of(self, golden: Golden) -> Deployment:
        """A golden's deployment; its `settings` and `api_base` default to the suite's."""
        given = {"api_base": self.api_base, "settings": dict(self.settings), **self.deployment, **golden.deployment}
        return golden.make_deployment(self.plugin, given)

    def http_provider(self) -> HTTPProvider:
        """A fresh instance. Skips the test for a provider that is no `HTTPProvider`: one that overrides `call`."""
        provider = self.make_plugin()
        if not isinstance(provider, HTTPProvider):
            pytest.skip(f"{self.plugin.__name__} is no HTTPProvider")
        return provider

    # -- the class -----------------------------------------------------------------------------------------------------

    def test_class_says_what_it_can_do(self) -> None:
        """A class attribute is missing or has a value that the kernel cannot use.

        Compare the class with `Provider`, `HTTPProvider` and `OpenAICompatible`, where each attribute is explained.
        """
        plugin = self.plugin
        assert isinstance(plugin.ops, frozenset), "`ops` is a frozenset of Op"
        assert plugin.ops, "`ops` is empty: the provider can do nothing"
        assert all(isinstance(op, Op) for op in plugin.ops)
        assert isinstance(plugin.native, frozenset)
        assert isinstance(plugin.api_key_env, tuple), "`api_key_env` is a tuple; a string needs a comma after it"
        assert plugin.api_key_env or not plugin.needs_key, "it needs a key and names no variable in `api_key_env`"
        if not issubclass(plugin, HTTPProvider):
            return
        assert "Docs: http" in docs_of(plugin), "the module's docstring has no `Docs: <url>` of the vendor's reference"
        base = urlsplit(self.api_base or plugin.base_url)
        assert base.hostname, "neither the class has a `base_url` nor the suite an `api_base`"
        assert base.scheme == "https" or is_local(base.hostname), "keys go over https, but for this machine"
        assert not base.query
        assert not base.username, "no credentials in `base_url`"
        assert isinstance(plugin.api_base_env, tuple)
        assert plugin.framing in FRAMINGS, f"`framing` is one of {FRAMINGS}"
        assert plugin.auth in ("bearer", "none") or plugin.auth.startswith("header:"), "keys never go into a URL"
        assert inspect.iscoroutinefunction(plugin.authorize), "authorize must be async"
        if issubclass(plugin, OpenAICompatible):
            assert isinstance(plugin.drop, frozenset)
            assert not plugin.ops - plugin.paths.keys() - {Op.MODELS}, "an op has no entry in `paths`"

    def test_every_op_has_a_golden(self) -> None:
        """The provider claims an op that no golden exchange shows.

        Add `wire/<name>.json`, at least one for each op; chat needs one that streams as well. Leave an op out of `ops`
        where it is not meant.
        """
        if not issubclass(self.plugin, HTTPProvider):
            pytest.skip("no HTTPProvider: nothing to transcribe")
        goldens = [golden for golden in self.goldens() if golden.upstream.status < 400]
        missing = self.plugin.ops - {Op(golden.call.op) for golden in goldens} - {Op.MODELS}
        assert not missing, f"no golden exchange for {', '.join(sorted(missing))}"
        if Op.CHAT in self.plugin.ops:
            chats = {golden.streams for golden in goldens if golden.call.op == Op.CHAT}
            assert chats == {True, False}, "chat needs a golden that streams and one that does not"

    def test_goldens_belong_to_this_provider(self) -> None:
        """A golden's call uses an op or a dialect that the provider never gets, so it proves nothing.

        Compare the file's `call` with the class's `ops` and `native`.
        """
        provider = self.make_plugin()
        for golden in self.goldens():
            call = golden.make_call()
            assert provider.serves(call), f"{golden.name}: {call.op} in {call.dialect} is not in `ops` or `native`"
            spoken = call.dialect in provider.native or call.dialect.startswith("openai-")
            assert spoken, f"{golden.name}: calls in {call.dialect} arrive as openai-chat"

    def test_goldens_hold_no_credentials(self) -> None:
        """A golden file contains what looks like a real key. Take it out, and revoke the key."""
        for golden in self.goldens():
            headers = dict(golden.request.headers) if golden.request else {}
            for name, value in headers.items():
                if name.lower() in ("authorization", "x-api-key", "api-key", "x-goog-api-key"):
                    assert "test" in value, f"{golden.name}: header {name} must carry the test key"
