"""What the tests of the configuration share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tianji.config import Config, from_dict, loads


@pytest.fixture
def env() -> dict[str, str]:
    """An environment of the test's own; nothing is read from or written to the process's."""
    return {}


@pytest.fixture
def of_yaml(env: dict[str, str]) -> Callable[[str], Config]:
    return lambda text: loads(text, name="proxy_config.yaml", environ=env)


@pytest.fixture
def of_dict(env: dict[str, str]) -> Callable[[dict[str, Any]], Config]:
    return lambda tree: from_dict(tree, environ=env)


@pytest.fixture
def one(env: dict[str, str]) -> Callable[..., Config]:
    """A configuration with one deployment of these `tianji_params` and further keys of the entry."""

    def build(params: dict[str, Any], **entry: Any) -> Config:
        return from_dict({"model_list": [{"model_name": "m", "tianji_params": params, **entry}]}, environ=env)

    return build
