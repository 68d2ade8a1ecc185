"""Every place that credentials may come from, and how long they are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tianji_provider_bedrock.credentials import PATIENCE, RECHECK, Chain
from tianji_provider_bedrock.settings import BedrockSettings
from tianji_provider_bedrock.sigv4 import Credentials

from tianji import BadCredentials, Failure, Secret, Throttled, Unavailable, Wire
from tianji.testing import FakeGateway
from tianji.testing.fakes import Answer, Sent

NOW = 1_750_000_000.0
REGION = "eu-west-1"
ARN = "arn:aws:iam::012345678901:role/caller"


# -- where credentials come from ---------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def chain_of(
    gateway: FakeGateway, environ: dict[str, str] | None = None, home: Path | None = None, clock: Clock | None = None
) -> Chain:
    async def fetch(wire: Wire, seconds: float) -> Any:
        return await gateway.fetch(wire, timeout=seconds)

    surroundings = {"HOME": str(home or "/nonexistent"), "AWS_EC2_METADATA_DISABLED": "true", **(environ or {})}
    return Chain(fetch, surroundings, clock or Clock())


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sts_answer(key: str = "ASIA", expires: float = NOW + 3600) -> bytes:
    return f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
      <AssumedRoleUser><Arn>arn</Arn></AssumedRoleUser><Credentials><AccessKeyId>{key}</AccessKeyId>
      <SecretAccessKey>s&amp;k/+=</SecretAccessKey><SessionToken>tok</SessionToken>
      <Expiration>{iso(expires)}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>""".encode()


def metadata_answer(key: str, expires: float = NOW + 3600) -> bytes:
    return json.dumps(
        {"AccessKeyId": key, "SecretAccessKey": "sk", "Token": "tok", "Expiration": iso(expires)}
    ).encode()


def form(sent: Sent) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(sent.body.decode()).items()}


def settings(**fields: Any) -> Any:
    for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_web_identity_token"):
        if name in fields:
            fields[name] = Secret(fields[name])
    return BedrockSettings(**fields)


async def test_keys_of_the_settings_come_first() -> None:
    chain = chain_of(FakeGateway(), {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "x"})
    own = settings(aws_access_key_id="AK", aws_secret_access_key="sk", aws_session_token="tok")
    assert await chain.get(own, REGION) == Credentials("AK", Secret("sk"), Secret("tok"))
    with pytest.raises(BadCredentials, match="aws_secret_access_key"):
        await chain.get(settings(aws_access_key_id="AK"), REGION)


async def test_environment_comes_before_the_default_profile(tmp_path: Path) -> None:
    write(tmp_path, "credentials", "[default]\naws_access_key_id=FILE\naws_secret_access_key=s%k\n")
    environ = {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "sk", "AWS_SESSION_TOKEN": "tok"}
    found = await chain_of(FakeGateway(), environ, tmp_path).get(settings(), REGION)
    assert found == Credentials("ENV", Secret("sk"), Secret("tok"))
    assert (await chain_of(FakeGateway(), {}, tmp_path).get(settings(), REGION)).access_key == "FILE"
    named = await chain_of(FakeGateway(), environ, tmp_path).get(settings(aws_profile_name="default"), REGION)
    assert named == Credentials("FILE", Secret("s%k"))


def write(home: Path, name: str, text: str) -> Path:
    path = home / ".aws" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


CONFIG = f"""
[default]
region = us-east-1
[profile worker]
role_arn = {ARN}
source_profile = base
external_id = ext
role_session_name = me
[profile loop]
role_arn = {ARN}
source_profile = loop
[profile machine]
role_arn = {ARN}
credential_source = Environment
[profile oidc]
role_arn = {ARN}
web_identity_token_file = %s
[profile browser]
sso_session = corp
s3 =
  max_queue_size = 1
"""


async def test_profile_that_is_a_role(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("jwt\n")
    write(tmp_path, "config", CONFIG % token)
    write(tmp_path, "credentials", "[base]\naws_access_key_id = BASE\naws_secret_access_key = sk\n")
    gateway = FakeGateway()
    gateway.handler = lambda sent: Answer(200, sts_answer())
    chain = chain_of(gateway, {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "x"}, tmp_path)
    for profile, signer in (("worker", "BASE"), ("machine", "ENV"), ("oidc", None)):
        found = await chain.get(settings(aws_profile_name=profile), REGION)
        assert found == Credentials("ASIA", Secret("s&k/+="), Secret("tok"), NOW + 3600)
        sent = gateway.requests[-1]
        assert sent.url == "https://sts.eu-west-1.amazonaws.com/"
        assert (f"Credential={signer}/" in sent.headers.get("authorization", "")) is (signer is not None)
    worker, _, oidc = map(form, gateway.requests)
    assert (worker["Action"], worker["RoleArn"], worker["ExternalId"]) == ("AssumeRole", ARN, "ext")
    assert worker["RoleSessionName"] == "me"
    assert (oidc["Action"], oidc["WebIdentityToken"]) == ("AssumeRoleWithWebIdentity", "jwt")


@pytest.mark.parametrize(
    ("profile", "why"), [("browser", "sso_session"), ("absent", "no credentials"), ("loop", "no credentials")]
)
async def test_profile_without_credentials(tmp_path: Path, profile: str, why: str) -> None:
    write(tmp_path, "config", CONFIG % "x")
    with pytest.raises(BadCredentials, match=why):
        await chain_of(FakeGateway(), {}, tmp_path).get(settings(aws_profile_name=profile), REGION)


async def test_broken_file_is_not_quoted(tmp_path: Path) -> None:
    write(tmp_path, "credentials", "aws_secret_access_key = top-secret\n")
    with pytest.raises(BadCredentials) as caught:
        await chain_of(FakeGateway(), {}, tmp_path).get(settings(), REGION)
    assert "top-secret" not in repr(caught.value)
    assert caught.value.__cause__ is None


async def test_role_of_the_settings_is_assumed_with_whatever_is_there() -> None:
    gateway = FakeGateway()
    gateway.answer(200, sts_answer())
    own = settings(aws_access_key_id="AK", aws_secret_access_key="sk", aws_role_name=ARN, aws_session_name="a b/c",
                   aws_external_id="e", aws_sts_endpoint="https://sts.example.com")  # fmt: skip
    found = await chain_of(gateway).get(own, REGION)
    assert found.access_key == "ASIA"
    sent = gateway.requests[0]
    assert sent.url == "https://sts.example.com/"
    assert "Credential=AK/20250615/eu-west-1/sts/aws4_request" in sent.headers["authorization"]
    assert (form(sent)["RoleSessionName"], form(sent)["ExternalId"]) == ("a-b-c", "e")


@pytest.mark.parametrize("given", ["jwt", "file"])
async def test_web_identity_of_the_settings(tmp_path: Path, given: str) -> None:
    path = tmp_path / "token"
    path.write_text("jwt")
    gateway = FakeGateway()
    gateway.answer(200, sts_answer())
    own = settings(aws_role_name=ARN, aws_web_identity_token=str(path) if given == "file" else given)
    assert (await chain_of(gateway).get(own, REGION)).access_key == "ASIA"
    assert form(gateway.requests[0])["WebIdentityToken"] == "jwt"
    assert "authorization" not in gateway.requests[0].headers


async def test_web_identity_of_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("jwt")
    gateway = FakeGateway()
    gateway.answer(200, sts_answer())
    environ = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(path), "AWS_ROLE_ARN": ARN, "AWS_ROLE_SESSION_NAME": "pod"}
    assert (await chain_of(gateway, environ).get(settings(), REGION)).access_key == "ASIA"
    assert form(gateway.requests[0])["RoleSessionName"] == "pod"
    with pytest.raises(BadCredentials, match="cannot be read"):
        await chain_of(gateway, {**environ, "AWS_WEB_IDENTITY_TOKEN_FILE": "/nonexistent/t"}).get(settings(), REGION)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/creds"}, "http://169.254.170.2/v2/creds"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1"}, "http://169.254.170.23/v1"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "https://agent.example.com/v1"}, "https://agent.example.com/v1"),
    ],
)
async def test_container(tmp_path: Path, environ: dict[str, str], url: str) -> None:
    token = tmp_path / "token"
    token.write_text("let-me-in\n")
    gateway = FakeGateway()
    gateway.answer(200, metadata_answer("ECS"))
    environ = {**environ, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)}
    found = await chain_of(gateway, environ).get(settings(), REGION)
    assert found == Credentials("ECS", Secret("sk"), Secret("tok"), NOW + 3600)
    assert (gateway.requests[0].url, gateway.requests[0].headers["authorization"]) == (url, "let-me-in")


async def test_container_elsewhere_is_not_asked_in_clear_text() -> None:
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example.com/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t",
    }
    gateway = FakeGateway()
    with pytest.raises(BadCredentials):
        await chain_of(gateway, environ).get(settings(), REGION)
    assert gateway.requests == []


def instance(sent: Sent) -> Answer:
    """The metadata service of an EC2 instance."""
    path = urlsplit(sent.url).path
    if path == "/latest/api/token":
        assert (sent.method, sent.headers["x-aws-ec2-metadata-token-ttl-seconds"]) == ("PUT", "300")
        return Answer(200, b"v2-token")
    assert sent.headers["x-aws-ec2-metadata-token"] == "v2-token"
    if path == "/latest/meta-data/iam/security-credentials/":
        return Answer(200, b"the role\n")
    assert path == "/latest/meta-data/iam/security-credentials/the%20role"
    return Answer(200, metadata_answer("EC2"))


async def test_instance() -> None:
    gateway = FakeGateway()
    gateway.handler = instance
    found = await chain_of(gateway, {"AWS_EC2_METADATA_DISABLED": ""}).get(settings(), REGION)
    assert found.access_key == "EC2"
    assert gateway.requests[0].url == "http://169.254.169.254/latest/api/token"


@pytest.mark.parametrize("trouble", ["unreachable", "no token", "no role"])
async def test_machine_that_is_no_instance(trouble: str) -> None:
    gateway = FakeGateway()

    def handler(sent: Sent) -> Answer:
        if trouble == "unreachable":
            raise ConnectionRefusedError
        if trouble == "no role" and sent.method == "PUT":
            return Answer(200, b"t")
        return Answer(404, b"")

    gateway.handler = handler
    with pytest.raises(BadCredentials, match="No AWS credentials were found"):
        await chain_of(gateway, {"AWS_EC2_METADATA_DISABLED": "false"}).get(settings(), REGION)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            403,
            b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no &lt;way&gt;</Message></Error>",
            BadCredentials,
        ),
        (400, b"<Code>Throttling</Code><Message>slow</Message>", Throttled),
        (500, b"<html>", Unavailable),
        (200, b"<AccessKeyId>A</AccessKeyId>", Unavailable),
        (200, b"<!DOCTYPE x [<!ENTITY a 'b'>]><AccessKeyId>&a;</AccessKeyId>", Unavailable),
    ],
)
async def test_sts_that_refuses(status: int, body: bytes, kind: type[Failure]) -> None:
    gateway = FakeGateway()
    gateway.answer(status, body)
    with pytest.raises(Failure) as caught:
        await chain_of(gateway).get(settings(aws_role_name=ARN, aws_web_identity_token="j"), REGION)
    assert type(caught.value) is kind
    if status == 403:
        assert caught.value.message == "AWS STS: AccessDenied: no <way>"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"AccessKeyId":"a","SecretAccessKey":"b","Expiration":7}'])
async def test_container_that_answers_nonsense(body: bytes) -> None:
    gateway = FakeGateway()
    gateway.answer(200, body)
    with pytest.raises(Unavailable):
        await chain_of(gateway, {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}).get(settings(), REGION)


# -- how long they are kept --------------------------------------------------------------------------------------------

ROLE = settings(aws_role_name=ARN, aws_web_identity_token="jwt")


def counting(lifetime: float, clock: Clock) -> Callable[[Sent], Answer]:
    """An STS that numbers the keys it gives."""
    given = iter(range(1, 100))
    return lambda sent: Answer(200, sts_answer(f"KEY{next(given)}", clock.now + lifetime))


@pytest.mark.parametrize(("lifetime", "kept"), [(3600, 3300), (900, 600), (200, 100)])
async def test_temporary_credentials_are_kept_until_shortly_before_their_end(lifetime: float, kept: float) -> None:
    gateway, clock = FakeGateway(), Clock()
    gateway.handler = counting(lifetime, clock)
    chain = chain_of(gateway, clock=clock)
    keys = []
    for later in (0, kept - 1, kept + 1):
        clock.now = NOW + later
        keys.append((await chain.get(ROLE, REGION)).access_key)
    assert keys == ["KEY1", "KEY1", "KEY2"]
    assert (await chain.get(ROLE, "us-west-2")).access_key == "KEY3", "each region has an STS of its own"


async def test_only_one_caller_asks() -> None:
    gateway, clock = FakeGateway(), Clock()
    gateway.handler = counting(3600, clock)
    chain = chain_of(gateway, clock=clock)
    found = await asyncio.gather(*(chain.get(ROLE, REGION) for _ in range(20)))
    assert {credentials.access_key for credentials in found} == {"KEY1"}
    assert len(gateway.requests) == 1


async def test_failed_search_is_not_repeated_at_once() -> None:
    gateway, clock = FakeGateway(), Clock()
    gateway.handler = lambda sent: Answer(500, b"")
    chain = chain_of(gateway, clock=clock)
    found = await asyncio.gather(*(chain.get(ROLE, REGION) for _ in range(5)), return_exceptions=True)
    assert [type(failure) for failure in found] == [Unavailable] * 5
    assert len({id(failure) for failure in found}) == 5
    assert len(gateway.requests) == 1
    clock.now += PATIENCE
    gateway.handler = counting(3600, clock)
    assert (await chain.get(ROLE, REGION)).access_key == "KEY1"


async def test_old_credentials_serve_while_they_are_good_and_new_ones_cannot_be_had() -> None:
    gateway, clock = FakeGateway(), Clock()
    gateway.handler = counting(3600, clock)
    chain = chain_of(gateway, clock=clock)
    await chain.get(ROLE, REGION)
    gateway.handler = lambda sent: Answer(500, b"")
    clock.now = NOW + 3595
    assert (await chain.get(ROLE, REGION)).access_key == "KEY1"
    assert (await chain.get(ROLE, REGION)).access_key == "KEY1"
    assert len(gateway.requests) == 2
    clock.now = NOW + 3600
    with pytest.raises(Unavailable):
        await chain.get(ROLE, REGION)


async def test_caller_who_leaves_does_not_lock_the_others_out() -> None:
    clock, started = Clock(), asyncio.Event()
    never = asyncio.Event()

    async def fetch(wire: Wire, seconds: float) -> Any:
        if not started.is_set():
            started.set()
            await never.wait()
        return 200, {}, sts_answer()

    chain = Chain(fetch, {}, clock)
    first = asyncio.create_task(chain.get(ROLE, REGION))
    await started.wait()
    second = asyncio.create_task(chain.get(ROLE, REGION))
    first.cancel()
    assert (await second).access_key == "ASIA"
    assert first.cancelled() or first.cancelling()


async def test_files_are_read_again(tmp_path: Path) -> None:
    clock = Clock()
    chain = chain_of(FakeGateway(), {}, tmp_path, clock)
    keys = []
    for key in ("OLD", "NEW"):
        write(tmp_path, "credentials", f"[default]\naws_access_key_id={key}\naws_secret_access_key=s\n")
        keys.append((await chain.get(settings(), REGION)).access_key)
    clock.now += RECHECK
    keys.append((await chain.get(settings(), REGION)).access_key)
    assert keys == ["OLD", "OLD", "NEW"]
