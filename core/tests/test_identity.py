"""Which credential a request carries, who holds the master key, and that a fault is never an identity."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel import assembled, config

from tianji.errors import ConfigError, Forbidden, Unauthorized
from tianji.hookspecs import hookimpl
from tianji.identity import MasterKey, credential
from tianji.model import Ingress, Principal, Secret
from tianji.plugin import Extension
from tianji.testing import make_principal

KEY = "sk-master-0123456789"


def ingress(**headers: str) -> Ingress:
    named = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    return Ingress("POST", "/v1/chat/completions", named, "127.0.0.1")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"authorization": "Bearer a"}, "a"),
        ({"authorization": "bearer  a "}, "a"),
        ({"authorization": "a"}, "a"),
        ({"x_api_key": "b"}, "b"),
        ({"api_key": "b"}, "b"),
        ({"x_goog_api_key": "b"}, "b"),
        ({"ocp_apim_subscription_key": "b"}, "b"),
        ({"x_api_key": "Bearer b"}, "b"),
        ({"authorization": "Bearer a", "x_api_key": "b"}, "a"),
        ({"x_tianji_api_key": "c", "authorization": "a"}, "c"),
        ({"x_litellm_api_key": "c", "authorization": "a"}, "c"),
        ({"authorization": ""}, ""),
        ({"x_tianji_api_key": "c", "x_litellm_api_key": "d"}, "c"),
        ({"cookie": "sk"}, None),
    ],
)
def test_where_it_is_found(headers: dict[str, str], found: str | None) -> None:
    assert credential(ingress(**headers)) == found


def test_an_own_header_goes_before_all_others() -> None:
    assert credential(ingress(my_key="Bearer x", authorization="Bearer a"), b"my-key") == "x"
    assert credential(ingress(authorization="Bearer a"), b"my-key") == "a"


class TestMasterKey:
    @pytest.mark.parametrize("header", ["authorization", "x_api_key", "api_key", "x_tianji_api_key"])
    @pytest.mark.parametrize("value", [KEY, f"Bearer {KEY}", f"bearer {KEY}"])
    def test_its_holder_is_the_administrator(self, header: str, value: str) -> None:
        who = MasterKey(Secret(KEY)).identify(ingress(**{header: value}))
        assert (who.key_id, who.role, who.models, who.is_admin) == ("master-key", "proxy_admin", ("*",), True)
        assert KEY not in repr(who)

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40))
    def test_nobody_else_is_and_nothing_is_repeated(self, text: str) -> None:
        if text.strip() == KEY:
            return
        for header in ("authorization", "x_api_key"):
            with pytest.raises(Unauthorized) as caught:
                MasterKey(Secret(KEY)).identify(ingress(**{header: f"Bearer {text}"}))
            assert KEY not in str(caught.value)
            assert len(text) < 8 or text not in str(caught.value)

    @pytest.mark.parametrize("part", [KEY[:-1], KEY + "x", KEY.upper(), KEY[:10], f"Bearer Bearer {KEY}", f"{KEY}\x00"])
    def test_nearly_is_not_enough(self, part: str) -> None:
        with pytest.raises(Unauthorized):
            MasterKey(Secret(KEY)).identify(ingress(authorization=f"Bearer {part}"))

    def test_no_key_says_how_to_send_one(self) -> None:
        with pytest.raises(Unauthorized) as caught:
            MasterKey(Secret(KEY)).identify(ingress())
        assert caught.value.code == "missing_api_key"
        assert "Authorization: Bearer <key>" in caught.value.message

    def test_with_an_own_header_only_the_right_one_counts(self) -> None:
        master = MasterKey(Secret(KEY), "X-My-Key")
        assert master.identify(ingress(x_my_key=KEY, authorization="Bearer of-the-proxy")).is_admin
        with pytest.raises(Unauthorized):
            master.identify(ingress(x_my_key="wrong", authorization=f"Bearer {KEY}"))

    def test_a_gateway_without_one_does_not_start(self) -> None:
        with pytest.raises(ConfigError, match="a gateway without one would serve everybody"):
            assembled(config(general_settings={"master_key": None}))


class TestIdentity:
    @pytest.mark.parametrize(
        ("outcome", "expected"),
        [
            (None, "master-key"),
            (make_principal(key_id="mine"), "mine"),
            (Forbidden("no"), Forbidden),
            (Unauthorized("bad"), Unauthorized),
            (ValueError("secret"), Unauthorized),
            (KeyError("x"), Unauthorized),
        ],
    )
    async def test_a_fault_is_never_an_identity(self, outcome: Any, expected: Any) -> None:
        class Knows(Extension):
            name = "knows"
            order = 100

            @hookimpl
            async def identify(self, ingress: Ingress) -> Principal | None:
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome  # type: ignore[no-any-return]

        gateway = assembled(config(), Knows)
        ingress = Ingress("POST", "/", {b"authorization": b"Bearer sk-master"}, "")
        if isinstance(expected, str):
            assert (await gateway.pipeline.identify(ingress)).key_id == expected
        else:
            with pytest.raises(expected) as caught:
                await gateway.pipeline.identify(ingress)
            assert "secret" not in str(caught.value)
        await gateway.stop()
