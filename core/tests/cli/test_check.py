"""`tianji check`: what is found, where it says so, and with which status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import EXTENSION, GOOD, STRATEGY, Site

NEUTRAL = GOOD.replace(", fake_region: mars", "").replace("limits: {per_minute: 5}\n", "")
ECHO = """
from tianji import Provider


class Plugin(Provider):
    name = "echo"
    needs_key = False
"""


def found(result: Any) -> list[tuple[str, str]]:
    return [(one["level"], one["path"].rpartition(" ")[2]) for one in result.data["findings"]]


def test_a_good_file(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    result = tianji("check", "-c", config(), "--strict", "--json")
    assert result.status == 0
    assert result.data == {
        "file": "c.yaml", "ok": True, "strict": True, "counts": {"error": 0, "warning": 0, "info": 0}, "findings": [],
    }  # fmt: skip
    assert tianji("check", "-c", "c.yaml").out == "Nothing to mend. 1 deployment in 1 model group, 5 plugins.\n"


def test_warnings_fail_only_when_strict(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    path = config(GOOD + "modle_list: []\n")
    relaxed, strict = tianji("check", "-c", path), tianji("check", "-c", path, "--strict")
    assert (relaxed.status, strict.status) == (0, 1)
    assert "modle_list  line 12" in relaxed.out
    assert "→ Did you mean `model_list`?" in relaxed.out
    assert "1 warning." in strict.out


def test_the_section_of_an_extension_is_known(site: Site, tianji: Any, config: Any) -> None:
    site.plugin("extensions", EXTENSION, "limits")
    text = "limits: {per_minute: 1}\nlimit: 2\ngeneral_settings: {master_key: sk-123456789}"
    data = tianji("check", "-c", config(text), "--json").data
    assert [one["path"] for one in data["findings"]] == ["c.yaml:2: limit"]


def test_the_settings_of_a_provider_are_known(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    litellm = GOOD.replace("tianji_params", "litellm_params")
    assert tianji("check", "-c", config(litellm), "--strict").status == 0
    data = tianji("check", "-c", config(GOOD.replace("fake_region", "fake_regoin")), "--json").data
    assert [one["path"] for one in data["findings"]] == ["c.yaml:4: model_list[0].tianji_params.fake_regoin"]


def test_missing_plugins_have_a_pip_line_each(site: Site, tianji: Any, config: Any) -> None:
    result = tianji(
        "check", "-c", config(GOOD.replace("callbacks: [sink]", "callbacks: [sink], cache: true")), "--json"
    )
    assert result.status == 1
    assert {one["mend"] for one in result.data["findings"] if "not installed" in one["message"]} == {
        "pip install tianji-provider-fake",
        "pip install tianji-guardrail-words",
        "pip install tianji-callback-sink",
        "pip install tianji-strategy-first-come",
        "pip install tianji-extension-cache-memory",
    }
    assert len([one for one in result.data["findings"] if one["level"] == "error"]) == 3


def test_every_fault_that_only_assembling_shows(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    site.plugin("callbacks", "import no_such_module", "wrecked")
    text = (
        GOOD.replace("words: [darn], ", "")
        .replace("[sink]", "[sink, wrecked]")
        .replace("fake_region: mars", "fake_size: x")
    )
    result = tianji("check", "-c", config(text), "--json")
    assert found(result) == [
        ("error", "model_list[0]"), ("error", "guardrails[0]"), ("warning", "tianji_settings.callbacks[1]"),
    ]  # fmt: skip
    size, words, callback = result.data["findings"]
    assert "fake_size" in size["message"]
    assert "`words` (known: words)" in words["message"]
    assert callback["mend"] == "pip install --force-reinstall tianji-callback-wrecked"
    assert result.err == ""


def test_a_deployment_at_fault_does_not_hide_the_next(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    entry = "  - {model_name: m, tianji_params: {model: fake/x, api_key: sk-abcdef, fake_size: %s}}\n"
    text = "general_settings: {master_key: sk-123456789}\nmodel_list:\n" + "".join(
        entry % word for word in ("x", "1", "[]")
    )
    assert found(tianji("check", "-c", config(text), "--json")) == [
        ("error", "model_list[0]"),
        ("error", "model_list[2]"),
    ]


def test_a_plugin_that_raises_in_configure(site: Site, tianji: Any, config: Any) -> None:
    source = EXTENSION.replace(
        "async def pre_call(self, call):\n        return None", "def configure(self, app):\n        1 / 0"
    )
    site.plugin("extensions", source, "limits")
    (finding,) = tianji("check", "-c", config("general_settings: {master_key: sk-123456789}"), "--json").data[
        "findings"
    ]
    assert "cannot be assembled: ZeroDivisionError" in finding["message"]
    assert tianji("plugins", "--chain", "-c", "c.yaml").err.count("\n") == 1


def test_a_plugin_that_is_switched_off(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    result = tianji("check", "-c", config(NEUTRAL + "plugins: {disable: [providers.fake, strategies.*]}\n"), "--json")
    messages = [one["message"] for one in result.data["findings"]]
    assert len(messages) == 2
    assert all("switched off by the `plugins:` section" in message for message in messages)
    assert all("pip install" not in one["mend"] for one in result.data["findings"])


def test_two_distributions_for_one_name(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    site.plugin("strategies", STRATEGY, "first-come", dist="another")
    (finding,) = tianji("check", "-c", config(NEUTRAL), "--json").data["findings"]
    assert (finding["level"], finding["path"]) == ("error", "plugins")
    assert "offered by another 1.2.3 and tianji-strategy-first-come" in finding["message"]
    assert "pin:" in finding["mend"]


@pytest.mark.parametrize("text", ["a: [", "[1]", "router_settings: {num_retries: many}"])
def test_a_file_that_cannot_be_loaded(site: Site, tianji: Any, config: Any, text: str) -> None:
    result = tianji("check", "-c", config(text), "--json")
    assert result.status == 1
    assert result.data["counts"] == {"error": 1, "warning": 0, "info": 0}
    assert result.data["findings"][0]["path"].startswith("c.yaml")
    assert tianji("check", "-c", "c.yaml").out.startswith("c.yaml\n\nerrors\n")


def test_no_such_file_is_status_2(site: Site, tianji: Any) -> None:
    result = tianji("check", "-c", "none.yaml")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "none.yaml" in result.err


def test_without_a_file(site: Site, tianji: Any, config: Any) -> None:
    (finding,) = tianji("check", "--json").data["findings"]
    assert finding["mend"] == "pip install tianji-provider-echo"
    site.plugin("providers", ECHO, "echo")
    config(name="config.yaml")
    result = tianji("check")
    assert result.status == 0
    assert "tianji check -c config.yaml" in result.out
    assert tianji("check", "--json").data["file"] is None


def test_the_variable_names_the_file(site: Site, tianji: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIG_FILE_PATH", config("a: ["))
    assert tianji("check", "--json").data["file"] == "c.yaml"


def test_no_secret_is_printed(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    config(GOOD.replace("fake_region: mars", "fake_size: [sk-inner]"))
    for words in (("check",), ("check", "--json"), ("doctor",), ("plugins", "--chain")):
        result = tianji(*words, "-c", "c.yaml")
        assert not {"sk-0123456789", "sk-a-long-enough-key", "sk-inner"} & set(result.out.split() + result.err.split())
        assert "sk-0123456789" not in result.out + result.err


def test_it_fits_eighty_columns(site: Site, tianji: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, tianji("check", "-c", config()).out.splitlines())) <= 80


def test_a_file_given_with_plugin(site: Site, tianji: Any, config: Any) -> None:
    Path("mine.py").write_text(STRATEGY)
    text = "router_settings: {routing_strategy: first-come}\ngeneral_settings: {master_key: sk-123456789}"
    assert tianji("check", "-c", config(text)).status == 1
    assert tianji("check", "-c", "c.yaml", "--plugin", "mine.py").status == 0
    assert "no such file" in tianji("check", "-c", "c.yaml", "--plugin", "none.py").out
