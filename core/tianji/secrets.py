"""References in configuration values, and which values are secrets.

A string in the configuration may stand for another one:

    os.environ/NAME     whole value: the environment variable NAME
    $NAME               whole value: the same
    ${NAME}             anywhere in a value: the same, put in place; `$${NAME}` stays as the text `${NAME}`
    vault://path        whole value: kept by a secret manager. Also secret:// conjur:// aws_secret:// gcp_secret://
                        azure_kv://. An extension that offers `SecretSource` fetches it; until then it is `Unresolved`

A `$` that no name follows is a plain character, and so is a `$NAME` inside a longer text. The first form is LiteLLM's
(https://docs.litellm.ai/docs/proxy/configs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from tianji.errors import ConfigError
from tianji.model import Secret

SCHEMES = frozenset({"secret", "vault", "conjur", "aws_secret", "gcp_secret", "azure_kv"})
"""Prefixes (`scheme://`) of references that a secret manager resolves."""

_ENVIRON = "os.environ/"
_WHOLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_EMBEDDED = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SCHEME = re.compile(r"([a-z][a-z0-9_]*)://")

_HOLDS_SECRET = re.compile(
    r"(^|_)(api_?key|secret|secret_.*key|secret_id|password|passwd|passphrase|token|credentials|authorization|cookie"
    r"|auth_value|dsn|connection_string|webhook_url|database_url|redis_url"
    r"|(master|salt|private|access|signing|encryption|app|service|subscription|account|routing|license)_key)$"
)
_HOLDS_NO_SECRET = re.compile(r"cost|_per_|^(max|min|num)_")


class Unresolved(Secret):
    """A secret whose value is still with a secret manager. `reveal` raises instead of giving the reference away."""

    __slots__ = ()

    @property
    def reference(self) -> str:
        return self._value

    def reveal(self) -> NoReturn:
        raise ConfigError(
            f"the secret {self._value} has not been fetched",
            mend="Install and configure the extension of the secret manager that keeps it",
        )


class Expansion(msgspec.Struct, frozen=True):
    """What became of one string. `value` is None where the variable that it names is not set."""

    value: str | Unresolved | None
    reference: str | None = None
    """The reference as written; None for a plain value."""
    unset: tuple[str, ...] = ()
    """Variables that are not set."""


def expand(text: str, environ: Mapping[str, str], fetched: Mapping[str, str]) -> Expansion:
    """Resolve the references in one value.

    `fetched` holds what secret managers gave, by reference as written; it is asked before the environment. A
    `${NAME}` inside a longer text whose variable is not set leaves the whole text as it was: half a URL is worse.
    """
    if text in fetched:
        return Expansion(fetched[text], text)
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme[1] in SCHEMES:
        return Expansion(Unresolved(text), text)
    name = text[len(_ENVIRON) :] if text.startswith(_ENVIRON) else ""
    if not name and (whole := _WHOLE.fullmatch(text)):
        name = whole[1] or whole[2]
    if name:
        value = environ.get(name)
        return Expansion(value, text, () if value is not None else (name,))
    if "${" not in text:
        return Expansion(text)
    return _embedded(text, environ)


def _embedded(text: str, environ: Mapping[str, str]) -> Expansion:
    names = [match[2] for match in _EMBEDDED.finditer(text) if not match[1]]
    unset = tuple(dict.fromkeys(name for name in names if name not in environ))
    if unset:
        return Expansion(text, text, unset)
    value = _EMBEDDED.sub(lambda match: match[0][1:] if match[1] else environ[match[2]], text)
    return Expansion(value, text if names else None)


def holds_secret(key: str) -> bool:
    """Whether a key of this name (`api_key`, `X-Api-Key`, `vertex_credentials`, …) holds a secret."""
    name = key.lower().replace("-", "_")
    return _HOLDS_SECRET.search(name) is not None and _HOLDS_NO_SECRET.search(name) is None
