"""Amazon Bedrock: chat over Converse and ConverseStream, signed with SigV4 or with a Bedrock API key.

Docs: https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference.html
"""

import os
import time
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

from tianji import Call, Decoder, Deployment, Failure, HTTPProvider, Op, Wire

from .credentials import Chain
from .errors import read_failure
from .models import Place, model_of, place
from .reply import to_chat
from .request import converse_request
from .settings import BedrockSettings
from .sigv4 import sign
from .stream import stream_to_chat
from .sts import domain

__all__ = ["Bedrock"]


@cache
def surroundings() -> Mapping[str, str]:
    """What the environment says of AWS. Read once, as `encode` needs the region of it and may not read it."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "HOME", "USERPROFILE"))}


class Bedrock(HTTPProvider):
    name = "bedrock"
    base_url = "https://bedrock-runtime.us-east-1.amazonaws.com"
    api_base_env = ("AWS_BEDROCK_RUNTIME_ENDPOINT", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME")
    api_key_env = ("AWS_BEARER_TOKEN_BEDROCK",)
    needs_key = False
    framing = "aws-eventstream"
    ops = frozenset({Op.CHAT})
    native = frozenset()
    drain = True
    prefill = True
    Settings = BedrockSettings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        environ = surroundings()
        regions = (environ.get(name) for name in ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION"))
        self._region = next((region for region in regions if region), "us-east-1")
        self._ambient_key = environ.get(self.api_key_env[0])
        self.credentials = Chain(self._fetch, environ, time.time)

    # -- requests ------------------------------------------------------------------------------------------------------

    def prefills(self, call: Call, deployment: Deployment) -> bool:
        """Claude until 4.5, and not while it thinks
        (https://docs.claude.com/en/docs/build-with-claude/prompt-engineering/prefill-claudes-response)."""
        model = model_of(deployment)
        asked = {**deployment.defaults, **call.body, **deployment.extra_body}
        still = not asked.get("thinking") and asked.get("reasoning_effort") in (None, "none")
        return model.family == "claude" and (0, 0) < model.version < (4, 6) and still

    def encode(self, call: Call, deployment: Deployment) -> Wire:
        verb = "converse-stream" if call.stream else "converse"
        model = quote(self._place(deployment).id, safe="")
        url = f"{self.base(deployment)}/model/{model}/{verb}"
        return Wire(url, self.request_headers(deployment), converse_request(call, deployment))

    def base(self, deployment: Deployment) -> str:
        settings: BedrockSettings = deployment.settings
        if given := settings.aws_bedrock_runtime_endpoint or deployment.api_base:
            return given.rstrip("/")
        region = self.region(deployment)
        return f"https://bedrock-runtime.{region}.{domain(region)}"

    def region(self, deployment: Deployment) -> str:
        """Where the model runs, which the signature names too."""
        settings: BedrockSettings = deployment.settings
        return settings.aws_region_name or self._place(deployment).region or self._region

    def _place(self, deployment: Deployment) -> Place:
        settings: BedrockSettings = deployment.settings
        named = place(deployment.model)
        if not settings.model_id:
            return named
        own = place(settings.model_id)
        return Place(own.id, own.region or named.region)

    # -- who asks ------------------------------------------------------------------------------------------------------

    async def authorize(self, wire: Wire, deployment: Deployment) -> Wire:
        if self._has_key(wire.headers, deployment):
            return wire
        region = self.region(deployment)
        credentials = await self.credentials.get(deployment.settings, region)
        return sign(wire, credentials, region=region, service="bedrock", at=self.credentials.clock())

    def _has_key(self, headers: Mapping[str, str], deployment: Deployment) -> bool:
        """Whether the request carries an API key. One that merely stands in the environment gives way to credentials
        that the deployment names: they are why it is a deployment of its own."""
        if not any(name.lower() == "authorization" for name in headers):
            return False
        settings: BedrockSettings = deployment.settings
        named = settings.aws_access_key_id or settings.aws_profile_name or settings.aws_role_name
        ambient = deployment.api_key is not None and deployment.api_key.reveal() == self._ambient_key
        return not (named and ambient)

    async def _fetch(self, wire: Wire, seconds: float) -> tuple[int, Mapping[str, str], bytes]:
        answer: tuple[int, Mapping[str, str], bytes] = await self.gateway.fetch(wire, timeout=seconds)
        return answer

    # -- answers -------------------------------------------------------------------------------------------------------

    def decode(self, call: Call, data: Any) -> dict[str, Any]:
        return to_chat(call, data)

    def decoder(self, call: Call) -> Decoder:
        return stream_to_chat(call)

    def failure(self, status: int, data: Any) -> Failure:
        return read_failure(status, data)
