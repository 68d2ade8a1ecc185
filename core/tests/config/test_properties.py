"""Whatever stands in the file, only ConfigError comes out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tianji.config import Config, from_dict, lint, loads
from tianji.config.convert import parse_seconds
from tianji.config.known_keys import SECTIONS
from tianji.errors import ConfigError
from tianji.secrets import expand

KEYS = sorted({key for section in SECTIONS.values() for key in section.known} | {"litellm_params", "litellm_settings"})
OTHERS = [key for key in KEYS if key != "model"][::7]
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["os.environ/A", "$A", "${A}", "x${B}", "vault://x", "30s", "true", "a/b", "*", "", "/", "pre_call"]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
JUNK: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), inner, max_size=4),
    ),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "model_name": TEXTS,
        "tianji_params": st.fixed_dictionaries({"model": TEXTS}, optional=dict.fromkeys(OTHERS, JUNK)),
    },
    optional={"model_info": JUNK, "tags": JUNK, "access_control": JUNK},
)
GUARDRAIL = st.fixed_dictionaries(
    {"guardrail_name": TEXTS, "tianji_params": st.fixed_dictionaries({"guardrail": TEXTS}, optional={"mode": JUNK})}
)
SETTINGS = {
    name: st.dictionaries(st.sampled_from(sorted(SECTIONS[name].used)), JUNK, max_size=3)
    for name in ("tianji_settings", "router_settings", "general_settings", "plugins")
}
TREES = st.one_of(
    st.dictionaries(st.sampled_from(sorted(SECTIONS[""].known)), JUNK, max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            "model_list": st.lists(ENTRY, max_size=2),
            "guardrails": st.lists(GUARDRAIL, max_size=2),
            "callback_settings": JUNK,
            **SETTINGS,
        },
    ),
)


def build(tree: Any) -> Config | None:
    try:
        return from_dict(tree, environ={"A": "5"})
    except ConfigError:
        return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_junk_under_any_section(tree: Any) -> None:
    config = build(tree)
    if config is not None:
        lint(config, installed={})
        repr(config)
        again = build(tree)
        assert again is not None
        assert [d.id for d in again.deployments] == [d.id for d in config.deployments]
        assert len({d.id for d in config.deployments}) == len(config.deployments)


@pytest.mark.parametrize("section", sorted(SECTIONS[""].known))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=JUNK)
def test_junk_under_each_section(section: str, value: Any) -> None:
    build({section: value})


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*<!|>'\"\n\t #%@`$1.,?", max_size=60))
def test_any_text_as_yaml(text: str) -> None:
    with suppress(ConfigError):
        assert loads(text, environ={}).source == "<string>"


@given(st.text(max_size=30))
def test_any_text_as_duration_or_reference(text: str) -> None:
    parse_seconds(text)
    found = expand(text, {}, {})
    if "$" not in text and "://" not in text and not text.startswith("os.environ/"):
        assert found.value == text
