"""AWS STS: temporary credentials for a role, by a signature or by an OIDC token.

Docs: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html and
https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from html import unescape
from urllib.parse import urlencode

from tianji import BadCredentials, Failure, Secret, Throttled, Unavailable, Wire

from .sigv4 import Credentials, sign

Fetch = Callable[[Wire, float], Awaitable[tuple[int, Mapping[str, str], bytes]]]
"""One small request, and the seconds that it may take: status, headers, body."""

_SECONDS = 10.0

# A general XML parser reads far more than these four texts, entity bombs among it.
_MEMBER = re.compile(r"<(AccessKeyId|SecretAccessKey|SessionToken|Expiration|Code|Message)>([^<>]{1,8192})</\1>")


class Role:
    """A role to assume, and where to ask."""

    def __init__(self, arn: str, *, session: str, region: str, endpoint: str, external_id: str | None = None) -> None:
        self.arn = arn
        self.session = session
        self.region = region
        self.endpoint = endpoint
        self.external_id = external_id

    async def assume(self, fetch: Fetch, base: Credentials, at: float) -> Credentials:
        """AssumeRole, signed with other credentials. Raises a Failure where STS refuses."""
        fields = {"Action": "AssumeRole", **({"ExternalId": self.external_id} if self.external_id else {})}
        return await self._ask(fetch, sign(self._wire(fields), base, region=self.region, service="sts", at=at))

    async def assume_with_token(self, fetch: Fetch, token: str) -> Credentials:
        """AssumeRoleWithWebIdentity; the token is all the proof there is."""
        return await self._ask(
            fetch, self._wire({"Action": "AssumeRoleWithWebIdentity", "WebIdentityToken": token.strip()})
        )

    def _wire(self, fields: dict[str, str]) -> Wire:
        session = re.sub(r"[^\w+=,.@-]", "-", self.session, flags=re.ASCII)[:64]
        body = urlencode({**fields, "Version": "2011-06-15", "RoleArn": self.arn, "RoleSessionName": session})
        headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
        return Wire(self.endpoint.rstrip("/") + "/", headers, body.encode())

    async def _ask(self, fetch: Fetch, wire: Wire) -> Credentials:
        status, _, raw = await fetch(wire, _SECONDS)
        found = {name: unescape(text) for name, text in _MEMBER.findall(raw.decode("utf-8", "replace"))}
        if status != 200:
            raise _refusal(status, found)
        try:
            return Credentials(
                found["AccessKeyId"],
                Secret(found["SecretAccessKey"]),
                Secret(found["SessionToken"]),
                datetime.fromisoformat(found["Expiration"]).timestamp(),
            )
        except (KeyError, ValueError):
            raise Unavailable("AWS STS answered without credentials.", code="sts_error") from None


def _refusal(status: int, found: dict[str, str]) -> Failure:
    code = found.get("Code", f"status {status}")
    said = f"AWS STS: {code}: {found.get('Message', 'no reason given')}"[:1000]
    if code.startswith("Throttl"):
        return Throttled(said)
    return Unavailable(said, code="sts_error") if status >= 500 else BadCredentials(said, code="sts_error")


def sts_endpoint(region: str) -> str:
    """The regional endpoint of STS."""
    return f"https://sts.{region}.{domain(region)}"


def domain(region: str) -> str:
    """The domain of a region's services."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
