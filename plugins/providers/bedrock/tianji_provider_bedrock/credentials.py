"""Where the credentials of a deployment come from, in the order of AWS's own SDKs, and how long they are kept.

Docs: https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html

settings → the profile that they name → environment → web identity → the default profile → container → instance;
then, where `aws_role_name` is given, that role.
"""

import asyncio
from collections.abc import Callable, Mapping

from tianji import BadCredentials, Failure

from .metadata import from_container, from_instance, read_token
from .profiles import read_profiles, static_key, unsupported
from .settings import BedrockSettings
from .sigv4 import Credentials
from .sts import Fetch, Role, sts_endpoint

EARLY = 300.0
"""Seconds before their end at which credentials are fetched anew."""
RECHECK = 300.0
"""Seconds after which credentials without an end are looked up again: somebody may have changed the file."""
PATIENCE = 10.0
"""Seconds for which a failed search is not repeated; for callers in between it has failed already."""
MOST = 256

_NONE_FOUND = (
    "No AWS credentials were found. Set aws_access_key_id and aws_secret_access_key, aws_profile_name or "
    "AWS_BEARER_TOKEN_BEDROCK, or run where AWS gives a role."
)


class _Slot:
    """What is known for one set of settings."""

    __slots__ = ("credentials", "failure", "lock", "until")

    def __init__(self) -> None:
        self.credentials: Credentials | None = None
        self.failure: Failure | None = None
        self.until = 0.0
        """When to look again."""
        self.lock = asyncio.Lock()


class Chain:
    """Finds and keeps credentials. One per provider; each set of settings is looked up by one caller at a time."""

    def __init__(self, fetch: Fetch, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        self.fetch = fetch
        self.environ = environ
        self.clock = clock
        self._slots: dict[tuple[BedrockSettings, str], _Slot] = {}

    async def get(self, settings: BedrockSettings, region: str) -> Credentials:
        """Credentials that are good for a while. Raises `BadCredentials` where there are none."""
        if settings.aws_access_key_id and not settings.aws_role_name:
            return _given(settings)
        slot = self._slots.get((settings, region))
        if slot is None:
            if len(self._slots) >= MOST:
                self._slots.clear()
            slot = self._slots[settings, region] = _Slot()
        if slot.credentials is not None and self.clock() < slot.until:
            return slot.credentials
        async with slot.lock:
            return await self._refreshed(slot, settings, region)

    async def _refreshed(self, slot: _Slot, settings: BedrockSettings, region: str) -> Credentials:
        now = self.clock()
        if now < slot.until:  # somebody else has looked while this caller waited
            if slot.failure is not None:
                raise _again(slot.failure)
            if slot.credentials is not None:
                return slot.credentials
        try:
            found = await self._find(settings, region)
        except Failure as failure:
            slot.until = now + PATIENCE
            old = slot.credentials
            if old is not None and (old.expires is None or now < old.expires):
                slot.until = min(slot.until, old.expires or slot.until)
                return old
            slot.credentials, slot.failure = None, failure
            raise
        slot.credentials, slot.failure = found, None
        slot.until = now + RECHECK
        if found.expires is not None:
            left = found.expires - now
            slot.until = found.expires - min(EARLY, left / 2)  # some are handed out with less than that to live
        return found

    # -- where they come from ------------------------------------------------------------------------------------------

    async def _find(self, settings: BedrockSettings, region: str) -> Credentials:
        if not settings.aws_role_name:
            return await self._base(settings, region)
        role = self._role(settings.aws_role_name, settings, region, settings.aws_session_name, settings.aws_external_id)
        if settings.aws_web_identity_token:
            token = settings.aws_web_identity_token.reveal()
            if token.startswith("/"):
                token = await asyncio.to_thread(read_token, token)
            return await role.assume_with_token(self.fetch, token)
        return await role.assume(self.fetch, await self._base(settings, region), self.clock())

    async def _base(self, settings: BedrockSettings, region: str) -> Credentials:
        if settings.aws_access_key_id:
            return _given(settings)
        if settings.aws_profile_name:
            found = await self._profile(settings.aws_profile_name, settings, region)
            if found is None:
                raise BadCredentials(f"The AWS profile '{settings.aws_profile_name}' holds no credentials.")
            return found
        found = (
            _of_environment(self.environ)
            or await self._web_identity(settings, region)
            or await self._profile(self.environ.get("AWS_PROFILE") or "default", settings, region)
            or await from_container(self.fetch, self.environ)
            or await from_instance(self.fetch, self.environ)
        )
        if found is None:
            raise BadCredentials(_NONE_FOUND)
        return found

    async def _web_identity(self, settings: BedrockSettings, region: str) -> Credentials | None:
        path, arn = self.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), self.environ.get("AWS_ROLE_ARN")
        if not path or not arn:
            return None
        role = self._role(arn, settings, region, self.environ.get("AWS_ROLE_SESSION_NAME"))
        return await role.assume_with_token(self.fetch, await asyncio.to_thread(read_token, path))

    async def _profile(
        self, name: str, settings: BedrockSettings, region: str, seen: tuple[str, ...] = ()
    ) -> Credentials | None:
        """The credentials of a profile, which may be a role that another profile's credentials are good for."""
        profiles = await asyncio.to_thread(read_profiles, self.environ)
        profile = profiles.get(name, {})
        arn, key = profile.get("role_arn"), static_key(profile)
        if not arn or name in seen:
            if key is None and not arn and (failure := unsupported(name, profile)) is not None:
                raise failure
            return key
        role = self._role(arn, settings, region, profile.get("role_session_name"), profile.get("external_id"))
        if path := profile.get("web_identity_token_file"):
            return await role.assume_with_token(self.fetch, await asyncio.to_thread(read_token, path))
        if source := profile.get("source_profile"):
            base = await self._profile(source, settings, region, (*seen, name))
        else:
            base = await self._source(profile.get("credential_source", ""))
        if base is None:
            raise BadCredentials(f"The AWS profile '{name}' is a role, and its source holds no credentials.")
        return await role.assume(self.fetch, base, self.clock())

    async def _source(self, name: str) -> Credentials | None:
        if name == "Environment":
            return _of_environment(self.environ)
        if name == "EcsContainer":
            return await from_container(self.fetch, self.environ)
        return await from_instance(self.fetch, self.environ) if name == "Ec2InstanceMetadata" else None

    def _role(
        self,
        arn: str,
        settings: BedrockSettings,
        region: str,
        session: str | None = None,
        external_id: str | None = None,
    ) -> Role:
        endpoint = settings.aws_sts_endpoint or self.environ.get("AWS_ENDPOINT_URL_STS") or sts_endpoint(region)
        session = session or settings.aws_session_name
        return Role(arn, session=session, region=region, endpoint=endpoint, external_id=external_id)


def _given(settings: BedrockSettings) -> Credentials:
    """The key that the settings hold."""
    if not settings.aws_access_key_id or not settings.aws_secret_access_key:
        raise BadCredentials("aws_access_key_id needs aws_secret_access_key beside it.")
    return Credentials(
        settings.aws_access_key_id.reveal(), settings.aws_secret_access_key, settings.aws_session_token or None
    )


def _of_environment(environ: Mapping[str, str]) -> Credentials | None:
    return static_key({name.lower(): value for name, value in environ.items() if name.startswith("AWS_")})


def _again(failure: Failure) -> Failure:
    """The same failure for another caller; one exception raised twice would collect both callers' tracebacks."""
    return type(failure)(failure.message, code=failure.code)
