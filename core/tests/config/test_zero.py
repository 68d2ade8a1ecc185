"""The configuration without a file."""

from __future__ import annotations

from tianji.config import ProviderHint, lint, zero

HINTS = [
    ProviderHint("openai", ("OPENAI_API_KEY",)),
    ProviderHint("gemini", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    ProviderHint("groq", ("GROQ_API_KEY",)),
    ProviderHint("ollama", ()),
]


def test_providers_whose_key_is_there_and_echo() -> None:
    environ = {"OPENAI_API_KEY": "k1", "GOOGLE_API_KEY": "k2", "GROQ_API_KEY": ""}
    config = zero(environ, HINTS)
    assert [(d.model_name, d.provider, d.model) for d in config.deployments] == [
        ("openai/*", "openai", "*"), ("gemini/*", "gemini", "*"), ("echo/*", "echo", "*"),
    ]  # fmt: skip
    assert [d.api_key.reveal() if d.api_key else None for d in config.deployments] == ["k1", "k2", None]
    assert config.warnings == ()
    assert environ == {"OPENAI_API_KEY": "k1", "GOOGLE_API_KEY": "k2", "GROQ_API_KEY": ""}
    assert lint(config, installed={"providers": {"openai", "gemini"}}) == []


def test_the_master_key_is_made_once_a_process() -> None:
    first, second = zero({}, []), zero({}, [])
    assert first.generated_master_key
    keys = {
        config.general_settings.master_key.reveal() for config in (first, second) if config.general_settings.master_key
    }
    assert len(keys) == 2
    assert all(key.startswith("sk-") and len(key) >= 43 for key in keys)
    assert not any(key in repr(first) + repr(first.general_settings) for key in keys)


def test_a_master_key_of_the_environment_is_kept() -> None:
    config = zero({"LITELLM_MASTER_KEY": "sk-own"}, [])
    assert not config.generated_master_key
    assert config.general_settings.master_key is not None
    assert config.general_settings.master_key.reveal() == "sk-own"
