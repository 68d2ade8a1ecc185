"""The configuration without a file: what `tianji serve` runs when it is given none.

Every provider whose API key is in the environment serves all of its models under its own prefix (`openai/*`), and the
built-in `echo` provider answers with no key at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tianji.config.load import from_dict
from tianji.config.schema import Config
from tianji.model import Secret


class ProviderHint(msgspec.Struct, frozen=True):
    """A provider that is installed, and the variables that its API key may be in, the usual one first."""

    name: str
    api_key_env: tuple[str, ...]


def zero(environ: Mapping[str, str], providers: Iterable[ProviderHint]) -> Config:
    """A configuration out of the environment.

    The master key is `TIANJI_MASTER_KEY` or `LITELLM_MASTER_KEY`, else a new one with `generated_master_key` set, so
    that it can be shown once. `environ` is not changed.
    """
    model_list: list[dict[str, Any]] = []
    for provider in providers:
        variable = next((name for name in provider.api_key_env if environ.get(name)), None)
        if variable is not None and provider.name != "echo":
            everything = f"{provider.name}/*"
            params = {"model": everything, "api_key": f"os.environ/{variable}"}
            model_list.append({"model_name": everything, "tianji_params": params})
    model_list.append({"model_name": "echo/*", "tianji_params": {"model": "echo/*"}})
    config = from_dict({"model_list": model_list}, name="(no configuration file)", environ=dict(environ))
    if config.general_settings.master_key:
        return config
    key = Secret(f"sk-{secrets.token_urlsafe(32)}")
    general = msgspec.structs.replace(config.general_settings, master_key=key)
    return msgspec.structs.replace(config, general_settings=general, generated_master_key=True)
