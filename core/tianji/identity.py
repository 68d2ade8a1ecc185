"""Credentials in a request, and the one identity that the kernel itself knows: the holder of the master key.

Virtual keys, tokens and sign-on are extensions that implement `identify`. Header precedence is LiteLLM's
(https://docs.litellm.ai/docs/proxy/user_keys): the gateway's own header, then `Authorization`, then the headers that
Azure's, Anthropic's and Google's SDKs send.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from tianji.errors import Unauthorized
from tianji.model import Ingress, Principal, Secret

_HEADERS = (
    b"x-tianji-api-key", b"x-litellm-api-key", b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key",
    b"ocp-apim-subscription-key",
)  # fmt: skip


def credential(ingress: Ingress, own_header: bytes | None = None) -> str | None:
    """The key that a request carries, without its `Bearer`; None when there is none."""
    headers = ingress.headers
    if own_header is not None and (value := headers.get(own_header)):
        return _bare(value)
    value = headers.get(b"authorization")
    if value is not None and b"x-tianji-api-key" not in headers and b"x-litellm-api-key" not in headers:
        return _bare(value)
    for name in _HEADERS:
        value = headers.get(name)
        if value:
            return _bare(value)
    return None


def _bare(value: bytes) -> str:
    text = value.decode("latin-1").strip()
    return text[7:].strip() if text[:7].lower() == "bearer " else text


class MasterKey:
    """Compares a credential with the master key, in constant time."""

    def __init__(self, key: Secret, own_header: str | None = None) -> None:
        self._usual = b"Bearer " + key.reveal().encode()
        self._digest = sha256(key.reveal().encode()).digest()
        self._own_header = own_header.lower().encode() if own_header else None
        self.principal = Principal(
            key_id="master-key", role="proxy_admin", models=("*",), key_hash=self._digest.hex(), alias="master-key"
        )

    def identify(self, ingress: Ingress) -> Principal:
        """The administrator, or `Unauthorized`. The message never repeats what was sent."""
        usual = ingress.headers.get(b"authorization")
        if usual is not None and hmac.compare_digest(usual, self._usual) and self._own_header is None:
            return self.principal
        key = credential(ingress, self._own_header)
        if not key:
            raise Unauthorized(
                "Authentication Error, No api key passed in. Send it as `Authorization: Bearer <key>`.",
                code="missing_api_key",
            )
        if hmac.compare_digest(sha256(key.encode("latin-1")).digest(), self._digest):
            return self.principal
        raise Unauthorized("Authentication Error, Invalid proxy server token passed.")
