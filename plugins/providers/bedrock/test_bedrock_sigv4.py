"""Signatures against AWS's own signer, and which requests are signed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest import mock
from urllib.parse import quote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tianji_provider_bedrock import Bedrock
from tianji_provider_bedrock.sigv4 import Credentials, sign

from tianji import Secret, Wire, encode_json
from tianji.testing import FakeGateway, captured_logs, make_call, make_deployment

NOW = 1_750_000_000.0
REGION = "eu-west-1"

# -- signatures --------------------------------------------------------------------------------------------------------

tokens = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
segments = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)


@examples(max_examples=1000)
@given(
    host=st.sampled_from(
        ["bedrock-runtime.us-east-1.amazonaws.com", "UPPER.example.com", "127.0.0.1:8443", "[::1]:81"]
    ),
    scheme=st.sampled_from(["https", "http"]),
    path=st.lists(st.one_of(segments, st.sampled_from(["arn:aws:bedrock:x:1:a/b", "a%b", "..", ".", "~"])), max_size=5),
    query=st.lists(st.tuples(tokens, tokens), max_size=3),
    headers=st.dictionaries(st.from_regex(r"x-(amz-|amzn-)?[a-z]{1,8}", fullmatch=True), tokens, max_size=3),
    body=st.binary(max_size=60),
    key=tokens,
    secret=tokens,
    token=st.none() | tokens,
    at=st.integers(0, 4_000_000_000),
)
def test_signature_is_botocores(
    host: str, scheme: str, path: list[str], query: list[tuple[str, str]], headers: dict[str, str], body: bytes,
    key: str, secret: str, token: str | None, at: int,
) -> None:  # fmt: skip
    url = f"{scheme}://{host}/" + "/".join(quote(segment, safe=".~") for segment in path)
    url += "?" + "&".join(f"{quote(name)}={quote(value)}" for name, value in query) if query else ""
    headers = {name: value for name, value in headers.items() if name not in ("x-amz-date", "x-amz-security-token")}
    headers["content-type"] = "application/json; charset=utf-8"
    ours = sign(
        Wire(url, headers, body),
        Credentials(key, Secret(secret), Secret(token) if token else None),
        region="us-east-1", service="bedrock", at=at,
    )  # fmt: skip
    # botocore signs whatever is there; what we leave out of the signature on purpose is kept from it.
    given = {name: value for name, value in headers.items() if name == "content-type" or name.startswith("x-amz-")}
    theirs = AWSRequest(method="POST", url=url, headers=given, data=body)
    moment = datetime.fromtimestamp(at, UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)):
        SigV4Auth(BotocoreCredentials(key, secret, token), "bedrock", "us-east-1").add_auth(theirs)
    assert ours.headers["authorization"] == theirs.headers["Authorization"]
    assert ours.headers["x-amz-date"] == theirs.headers["X-Amz-Date"]
    assert ours.headers.get("x-amz-security-token") == theirs.headers.get("X-Amz-Security-Token")
    assert ours.body == body


def test_signed_body_is_the_bytes_that_are_sent() -> None:
    wire = sign(Wire("https://h/", {"Authorization": "Bearer old"}, {"a": "ö"}), Credentials("AK", Secret("sk")),
                region=REGION, service="bedrock", at=NOW)  # fmt: skip
    assert wire.body == encode_json({"a": "ö"})
    assert wire.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AK/20250615/eu-west-1/bedrock/")
    assert [name for name in wire.headers if name.lower() == "authorization"] == ["authorization"]


# -- the provider ------------------------------------------------------------------------------------------------------

OWN = Bedrock.Settings(
    aws_access_key_id=Secret("AK"), aws_secret_access_key=Secret("top-secret"), aws_session_token=Secret("tok"),
    aws_region_name=REGION,
)  # fmt: skip


def provider_with(gateway: FakeGateway | None, ambient: str | None = None) -> Bedrock:
    provider = Bedrock(None, instance="bedrock", gateway=gateway)
    provider._ambient_key = ambient
    return provider


async def authorized(provider: Bedrock, **fields: Any) -> Wire:
    deployment = make_deployment(model="amazon.nova-lite-v1:0", **{"settings": OWN, "api_key": None, **fields})
    wire: Wire = await provider.authorize(provider.encode(make_call(), deployment), deployment)
    return wire


async def test_request_is_signed() -> None:
    with captured_logs() as lines:
        wire = await authorized(provider_with(None))
    assert isinstance(wire.body, bytes)
    assert (
        "/eu-west-1/bedrock/aws4_request, SignedHeaders=content-type;host;x-amz-date;" in wire.headers["authorization"]
    )
    assert wire.headers["x-amz-security-token"] == "tok"
    assert "top-secret" not in repr((wire, OWN, lines))


async def test_api_key_is_used_as_it_is() -> None:
    assert (await authorized(provider_with(None), api_key="bedrock-key")).headers[
        "authorization"
    ] == "Bearer bedrock-key"
    wire = await authorized(provider_with(None), extra_headers={"Authorization": "Custom"})
    assert wire.headers["Authorization"] == "Custom"


async def test_key_of_the_environment_gives_way_to_what_the_deployment_names() -> None:
    signed = await authorized(provider_with(None, "from-env"), api_key="from-env")
    assert signed.headers["authorization"].startswith("AWS4-HMAC-SHA256")
    plain = await authorized(provider_with(None, "from-env"), api_key="from-env", settings=Bedrock.Settings())
    assert plain.headers["authorization"] == "Bearer from-env"


async def test_whole_attempt_is_signed_on_the_way() -> None:
    gateway = FakeGateway()
    gateway.answer(200, {"output": {"message": {"role": "assistant", "content": [{"text": "Hi"}]}},
                         "stopReason": "end_turn"})  # fmt: skip
    provider = provider_with(gateway)
    deployment = make_deployment(model="arn:aws:bedrock:eu-west-1:1:imported-model/a", settings=OWN, api_key=None)
    reply = await provider.call(make_call(), deployment)
    assert reply.body["choices"][0]["message"]["content"] == "Hi"
    sent = gateway.requests[0]
    request = AWSRequest(method="POST", url=sent.url, headers={"content-type": "application/json"}, data=sent.body)
    moment = datetime.strptime(sent.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        SigV4Auth(BotocoreCredentials("AK", "top-secret", "tok"), "bedrock", REGION).add_auth(request)
    assert sent.headers["authorization"] == request.headers["Authorization"]
