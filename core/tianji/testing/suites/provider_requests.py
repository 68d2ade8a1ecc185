"""The part of `ProviderSuite` that is about `encode`: what goes out."""

from __future__ import annotations

from typing import Any

import pytest

from tianji.model import Call, Deployment, Op, Wire, decode_json, encode_json
from tianji.plugin import Provider
from tianji.providers import HTTPProvider, OpenAICompatible
from tianji.testing.builders import make_call
from tianji.testing.goldens import Golden, decode_body
from tianji.testing.purity import captured_logs, nothing_impure
from tianji.testing.suites.base import Suite

CANARY = "sk-canary-5f0d6a1c"


class RequestTests(Suite):
    """Mixed into `ProviderSuite`; not for use by itself."""

    plugin: type[Provider]

    def http_provider(self) -> HTTPProvider:
        raise NotImplementedError

    def make_deployment(self, **fields: Any) -> Deployment:
        raise NotImplementedError

    def deployment_of(self, golden: Golden) -> Deployment:
        raise NotImplementedError

    @classmethod
    def goldens(cls) -> list[Golden]:
        raise NotImplementedError

    def some_call(self, **fields: Any) -> Call:
        """A call that this provider can encode: a golden's, with further body fields."""
        golden = next((golden for golden in self.goldens() if golden.call.op in self.plugin.ops), None)
        if golden is None:
            pytest.skip("no golden exchange to take a call from")
        call = golden.make_call()
        call.body = {**call.body, **fields}
        return call

    # -- goldens -------------------------------------------------------------------------------------------------------

    def test_request_matches_golden(self, golden: Golden) -> None:
        """`encode` makes another request than the golden file says, or names other dropped fields.

        The comparison of the body is whole: a field too many is a difference. If the file is wrong, mend the file and
        its `source`; if the code is, look at `encode` (for `OpenAICompatible`: `drop`, `rename`, `paths`, `auth`).
        """
        provider, call = self.http_provider(), golden.make_call()
        wire = provider.encode(call, self.deployment_of(golden))
        expected = golden.request
        if golden.dropped is not None:
            assert sorted(call.dropped) == sorted(golden.dropped)
        if expected is None:
            return
        assert wire.method == expected.method
        assert wire.url == expected.url
        sent = {name.lower(): value for name, value in wire.headers.items()}
        for name, value in expected.headers.items():
            assert sent.get(name.lower()) == value, f"header {name}"
        assert _body_of(wire) == expected.body

    # -- purity --------------------------------------------------------------------------------------------------------

    def test_encode_is_pure(self, golden: Golden) -> None:
        """`encode` changes its input, remembers something, or reads a clock, randomness, the environment or a socket.

        A retry encodes the same call again for another deployment, so what `encode` changed would be sent twice. Copy
        what you change (`{**call.body, ...}`); take ids from the call; let the kernel resolve the environment.
        """
        deployment = self.deployment_of(golden)
        before = encode_json(golden.call.body)
        fixed = _plain(deployment)
        first = _said(self.http_provider().encode(golden.make_call(), deployment))
        provider, call = self.http_provider(), golden.make_call()
        with nothing_impure(*self._modules(), what="encode"):
            wire = provider.encode(call, deployment)
        assert encode_json(call.body) == before, "encode changed call.body"
        assert _plain(deployment) == fixed, "encode changed the deployment"
        assert _said(wire) == first, "another instance encodes the same call differently"
        assert _said(provider.encode(call, deployment)) == first, "the second encode of one call differs from the first"

    def _modules(self) -> list[str]:
        """Where the provider's own code is: its module and those of the bases that are not the kernel's."""
        return sorted({cls.__module__ for cls in self.plugin.__mro__ if not cls.__module__.startswith("tianji.")})

    # -- deployments ---------------------------------------------------------------------------------------------------

    def test_deployment_says_where_and_how(self) -> None:
        """A deployment's `api_base`, `extra_headers` or key does not reach the wire.

        Build the URL on `self.base(deployment)` and take the headers from `self.request_headers(deployment)`.
        """
        provider = self.http_provider()
        deployment = self.make_deployment(
            id="elsewhere",
            api_base="http://127.0.0.1:9/elsewhere/",
            extra_headers={"x-extra": "1"},
            api_key=CANARY,
        )
        wire = provider.encode(self.some_call(), deployment)
        assert wire.url.startswith("http://127.0.0.1:9/"), "api_base is not honoured"
        assert "//" not in wire.url.removeprefix("http://"), "api_base ends with a slash, and the path begins with one"
        sent = {name.lower(): value for name, value in wire.headers.items()}
        assert sent.get("x-extra") == "1", "extra_headers are not sent"
        if provider.auth != "none" and provider.needs_key and not provider.authorizes:
            assert any(CANARY in value for value in sent.values()), "the key is in no header"
        other = provider.encode(self.some_call(), self.make_deployment(id="other"))
        assert not any(CANARY in value for value in other.headers.values()), "one deployment's key went to another"

    def test_key_is_not_seen(self) -> None:
        """The key is in the URL, in the body of a failure, in a repr, or in the log.

        URLs end up in logs of every proxy on the way. Put the key into a header (`auth`, `credential`).
        """
        provider, deployment, call = self.http_provider(), self.make_deployment(api_key=CANARY), self.some_call()
        with captured_logs() as lines:
            wire = provider.encode(call, deployment)
            failures = [provider.failure(status, {"error": {"message": "no"}}) for status in (400, 401, 429, 500)]
        assert CANARY not in wire.url
        said = [repr(deployment), repr(provider), repr(call), *lines, *(f"{f!r} {f.body()}" for f in failures)]
        assert not any(CANARY in text for text in said)

    # -- OpenAICompatible ----------------------------------------------------------------------------------------------

    def compatible(self) -> OpenAICompatible:
        """A fresh instance; skips the test for a provider with a wire format of its own."""
        provider = self.http_provider()
        if not isinstance(provider, OpenAICompatible) or Op.CHAT not in provider.ops:
            pytest.skip("only for the chat of an OpenAICompatible provider")
        return provider

    def test_unknown_fields_pass_through(self) -> None:
        """A body field that the gateway has never heard of does not arrive, so new vendor features do not work.

        Start from `super().request_body(call, deployment)`, and remove fields by name instead of choosing some.
        """
        provider = self.compatible()
        call = make_call({"model": "m", "messages": [{"role": "user", "content": "x"}], "a_new_field": {"deep": [1]}})
        body = _body_of(provider.encode(call, self.make_deployment(extra_body={"another": True})))
        assert body["a_new_field"] == {"deep": [1]}
        assert body["another"] is True, "the deployment's extra_body is not sent"
        assert "a_new_field" not in call.dropped

    def test_deployment_defaults_and_drops(self) -> None:
        """A deployment's default fields or its dropped fields are not applied, or the client does not hear of it.

        `OpenAICompatible.request_body` does all three; call it from an override.
        """
        provider = self.compatible()
        call = make_call({"model": "m", "messages": [{"role": "user", "content": "x"}], "mine": 1, "unwanted": 2})
        deployment = self.make_deployment(defaults={"mine": 9, "filled": 3}, drop=frozenset({"unwanted"}))
        body = _body_of(provider.encode(call, deployment))
        assert body["model"] == deployment.model, "the upstream must be asked for its own model name"
        assert body["mine"] == 1, "a default replaced what the client sent"
        assert body["filled"] == 3
        assert "unwanted" not in body
        assert "unwanted" in call.dropped, "what was left out must be named with call.drop"

    def test_quirks_are_applied(self) -> None:
        """A field of `drop` is sent, or one of `rename` under its old name.

        An override of `request_body` must call `super()` first.
        """
        provider = self.compatible()
        quirks: dict[str, Any] = dict.fromkeys((*provider.drop, *provider.rename), 1)
        call = make_call({"model": "m", "messages": [{"role": "user", "content": "x"}], **quirks})
        body = _body_of(provider.encode(call, self.make_deployment()))
        assert not provider.drop & body.keys()
        assert provider.drop <= set(call.dropped), "dropped fields must be named with call.drop"
        for old, new in provider.rename.items():
            if old not in provider.drop:
                assert old not in body
                assert body[new] == 1


def _body_of(wire: Wire) -> Any:
    """The request's body, decoded."""
    return decode_body(wire.body) if isinstance(wire.body, bytes) else _json(wire.body)


def _json(value: Any) -> Any:
    return decode_json(encode_json(value))


def _said(wire: Wire) -> tuple[Any, ...]:
    """A request in comparable form, detached from what it was made of."""
    body = wire.body if isinstance(wire.body, bytes) else encode_json(wire.body)
    return wire.method, wire.url, dict(wire.headers), body, wire.framing


def _plain(deployment: Deployment) -> str:
    """A deployment's mutable parts, as text."""
    parts = (deployment.defaults, deployment.extra_headers, deployment.extra_body, deployment.settings, deployment.info)
    return repr(parts)
