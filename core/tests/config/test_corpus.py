"""Configurations that a real LiteLLM proxy ran with load unmodified."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tianji.config import load, loads

CORPUS = Path(os.environ.get("TIANJI_CORPUS", "../shared/corpus")) / "litellm"
FILES = sorted(CORPUS.glob("proxy_config_*.json"))


@pytest.mark.corpus
@pytest.mark.skipif(not FILES, reason="no corpus here")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_proxy_configurations(path: Path) -> None:
    config = load(path, environ={})
    tree = json.loads(path.read_text())
    assert config.warnings == ()
    assert config.spelling == "litellm"
    assert [d.id for d in config.deployments] == [entry["model_info"]["id"] for entry in tree["model_list"]]
    assert [d.model_name for d in config.deployments] == [entry["model_name"] for entry in tree["model_list"]]
    for deployment, entry in zip(config.deployments, tree["model_list"], strict=True):
        assert f"{deployment.provider}/{deployment.model}" == entry["litellm_params"]["model"]
        assert deployment.api_base == entry["litellm_params"]["api_base"]
        assert deployment.api_key is not None
        assert deployment.api_key.reveal() == entry["litellm_params"]["api_key"]
    router = tree.get("router_settings", {})
    for kind in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
        expected = {group: tuple(to) for item in router.get(kind, []) for group, to in item.items()}
        assert getattr(config.router, kind) == expected
    assert config.router.num_retries == router.get("num_retries")
    twin = loads(path.read_text().replace('"litellm_params"', '"tianji_params"'), environ={})
    assert twin.deployments == tuple(
        type(d)(**{**{f: getattr(d, f) for f in d.__struct_fields__}, "where": t.where})
        for d, t in zip(config.deployments, twin.deployments, strict=True)
    )
