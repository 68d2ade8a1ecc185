"""The profiles of `~/.aws/credentials` and `~/.aws/config`.

Docs: https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
"""

from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from pathlib import Path

from tianji import BadCredentials, Secret

from .sigv4 import Credentials

_ELSEWHERE = ("credential_process", "sso_session", "sso_start_url", "sso_account_id")


def read_profiles(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """All profiles by name; a missing file holds none. What the credentials file says goes before the other."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or "~"
    config = environ.get("AWS_CONFIG_FILE") or f"{home}/.aws/config"
    credentials = environ.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials"
    profiles: dict[str, dict[str, str]] = {}
    for section, values in _sections(config).items():
        kind, _, name = section.partition(" ")
        if kind == "profile" and name:
            profiles.setdefault(name.strip(), {}).update(values)
        elif section == "default":
            profiles.setdefault(section, {}).update(values)
    for section, values in _sections(credentials).items():
        profiles.setdefault(section, {}).update(values)
    return profiles


def _sections(path: str) -> dict[str, dict[str, str]]:
    parser = ConfigParser(interpolation=None, strict=False, default_section="\0", allow_no_value=True)
    try:
        parser.read_string(Path(path).expanduser().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        return {}
    except (OSError, ValueError, ConfigParserError):
        # The parser's own message quotes the line, which may hold a key.
        raise BadCredentials(f"The AWS configuration file {path} cannot be read.") from None
    return {name: {key: value for key, value in parser[name].items() if value} for name in parser.sections()}


def static_key(profile: Mapping[str, str]) -> Credentials | None:
    """The key that a profile holds itself."""
    key, secret = profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")
    if not key or not secret:
        return None
    token = profile.get("aws_session_token")
    return Credentials(key, Secret(secret), Secret(token) if token else None)


def unsupported(name: str, profile: Mapping[str, str]) -> BadCredentials | None:
    """The failure for a profile that gets its key in a way that is not offered here: other programs, or a browser."""
    used = next((key for key in _ELSEWHERE if key in profile), None)
    if used is None:
        return None
    return BadCredentials(
        f"The AWS profile '{name}' uses {used}, which Tianji does not run. Export its credentials to the environment, "
        "or name a role."
    )
