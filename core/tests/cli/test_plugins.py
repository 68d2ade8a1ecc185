"""`tianji plugins`: list, chain, info."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import FAKE_PROVIDER, GUARD, Site

FIELDS = {
    "family", "name", "aliases", "distribution", "version", "summary", "entry_point", "requires", "state", "reason",
}  # fmt: skip


def by_name(result: Any) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in result.data["plugins"]}


def test_the_list_folds_aliases_and_imports_nothing(site: Site, tianji: Any) -> None:
    site.everything()
    result = tianji("plugins", "--json")
    rows = by_name(result)
    assert result.status == 0
    assert list(rows) == ["fake", "words", "sink", "first-come", "limits"]
    assert rows["fake"].keys() == FIELDS
    assert rows["fake"]["aliases"] == ["fake_chat"]
    assert rows["fake"]["distribution"] == "tianji-provider-fake"
    assert {row["state"] for row in rows.values()} == {"installed"}
    assert not set(site.modules) & set(sys.modules)


@pytest.mark.parametrize(("width", "summary"), [("80", False), ("120", True)])
def test_the_table_fits_the_line(
    site: Site, tianji: Any, monkeypatch: pytest.MonkeyPatch, width: str, summary: bool
) -> None:
    site.everything()
    monkeypatch.setenv("COLUMNS", width)
    out = tianji("plugins").out
    assert max(map(len, out.splitlines())) <= int(width)
    assert ("The fake of the tests" in out) is summary
    assert re.search(r"^  fake +tianji-provider-fake +1\.2\.3 +installed", out, re.MULTILINE)
    assert "5 plugins." in out


@pytest.mark.parametrize("given", ["providers", "provider"])
def test_one_family(site: Site, tianji: Any, given: str) -> None:
    site.everything()
    assert list(by_name(tianji("plugins", "list", "--family", given, "--json"))) == ["fake"]


def test_an_unknown_family_names_the_families(site: Site, tianji: Any) -> None:
    result = tianji("plugins", "--family", "gods")
    assert (result.status, result.out) == (2, "")
    assert "providers, guardrails" in result.err
    assert result.err.count("\n") == 1


def test_states_with_a_configuration(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    site.plugin("providers", FAKE_PROVIDER.replace('"fake"', '"idle"'), "idle")
    site.plugin("callbacks", "import no_such_module", "wrecked")
    site.plugin("callbacks", "import no_such_module", "wreck-not-used")
    path = config()
    Path(path).write_text(Path(path).read_text().replace("[sink]", "[sink, wrecked]"))
    with Path(path).open("a") as file:
        file.write("plugins: {disable: [strategies.*]}\n")
    rows = by_name(tianji("plugins", "-c", path, "--json"))
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {
        "fake": "in use", "idle": "installed", "words": "in use", "sink": "in use", "wrecked": "broken",
        "wreck-not-used": "installed", "first-come": "disabled", "limits": "in use",
    }  # fmt: skip
    assert "no_such_module" in rows["wrecked"]["reason"]
    assert "pip install --force-reinstall tianji-callback-wrecked" in rows["wrecked"]["reason"]
    table = tianji("plugins", "-c", path)
    assert "callbacks.wrecked is broken: tianji-callback-wrecked 1.2.3 cannot be imported" in table.out
    assert "4 in use, 1 disabled, 1 broken" in table.out


def test_two_distributions_for_one_name_and_a_kernel_that_is_too_old(site: Site, tianji: Any) -> None:
    site.plugin("providers", FAKE_PROVIDER, "fake")
    site.plugin("providers", FAKE_PROVIDER, "fake", dist="other-fake")
    site.plugin("guardrails", GUARD, "words", requires="tianji-core>=99")
    rows = tianji("plugins", "--json").data["plugins"]
    assert [row["state"] for row in rows] == ["broken"] * 3
    assert "pin: {providers.fake:" in rows[0]["reason"]
    assert "other-fake" in rows[1]["reason"]
    assert "needs tianji-core>=99" in rows[2]["reason"]
    ambiguous = tianji("plugins", "info", "fake")
    assert (ambiguous.status, "other-fake and tianji-provider-fake" in ambiguous.err) == (2, True)
    assert tianji("plugins", "info", "other-fake", "--json").data["distribution"] == "other-fake"


def test_nothing_installed(site: Site, tianji: Any) -> None:
    assert "pip install tianji" in tianji("plugins").out
    assert tianji("plugins", "--json").data == {"plugins": []}


# -- chain -------------------------------------------------------------------------------------------------------------


def test_the_chain(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    data = tianji("plugins", "--chain", "-c", config(), "--json").data
    assert [(entry["order"], entry["label"]) for entry in data["row"]] == [
        (200, "extensions:limits"), (300, "guardrails:polite"), (500, "providers:fake"), (500, "strategies:first-come"),
        (500, "callbacks:sink"),
    ]  # fmt: skip
    guard = data["row"][1]
    assert guard["hooks"] == ["pre_call", "post_call"]
    assert guard["modes"] == ["pre_call", "post_call"]
    assert guard["distribution"] == "tianji-guardrail-words"
    assert guard["on_failure"].startswith("closed")
    assert data["row"][4]["on_failure"].startswith("open")
    assert data["stages"] == {
        "identify": ["kernel:master-key"],
        "pre_call": ["extensions:limits", "guardrails:polite"],
        "route": ["strategies:first-come"],
        "provider_call": ["providers:fake"],
        "fallback": ["kernel:fallbacks"],
        "post_call": ["guardrails:polite"],
        "log": ["callbacks:sink"],
    }
    assert data["broken"] == {}


def test_the_chain_as_a_table(site: Site, tianji: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.everything()
    monkeypatch.setenv("COLUMNS", "140")
    out = tianji("plugins", "--chain", "-c", config()).out
    assert out.index("extensions:limits") < out.index("guardrails:polite") < out.index("providers:fake")
    assert "closed: the call is refused with 503" in out


def test_the_chain_of_a_bad_configuration_is_one_line(site: Site, tianji: Any, config: Any) -> None:
    result = tianji("plugins", "--chain", "-c", config())
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "pip install tianji-provider-fake" in result.err


# -- info --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["fake", "fake_chat", "providers.fake", "provider.fake", "tianji-provider-fake"])
def test_info(site: Site, tianji: Any, asked: str) -> None:
    site.everything()
    result = tianji("plugins", "info", asked, "--json")
    assert result.status == 0
    data = result.data
    assert data["docs"] == "https://fake.example/docs"
    assert data["summary"] == "The fake of the tests"
    assert data["requires"] == ["tianji-core>=0.1,<1"]
    assert data["hooks"] == ["provider_call"]
    provider = data["provider"]
    assert provider.keys() == {"base_url", "ops", "native", "api_key_env", "api_base_env", "needs_key"}
    assert (provider["base_url"], provider["api_key_env"]) == ("https://fake.example/v1", ["FAKE_API_KEY"])
    assert "chat" in provider["ops"]
    fields = {field["name"]: field for field in data["settings"]}
    assert fields["fake_region"] == {
        "name": "fake_region", "type": "str", "default": "'moon'", "required": False, "secret": False,
        "doc": "Where it runs.",
    }  # fmt: skip
    assert fields["fake_token"]["secret"] is True


@pytest.mark.parametrize("width", ["80", "120"])
def test_info_as_text(site: Site, tianji: Any, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    site.everything()
    monkeypatch.setenv("COLUMNS", width)
    out = tianji("plugins", "info", "words").out
    assert max(map(len, out.splitlines())) <= int(width)
    for part in (
        "guardrails.words: The words of the tests",
        "required",
        "What to refuse.",
        "guardrails[].tianji_params",
    ):
        assert part in out
    assert "It has no settings." in tianji("plugins", "info", "sink").out


def test_info_when_two_families_share_a_name(site: Site, tianji: Any) -> None:
    site.plugin("providers", FAKE_PROVIDER, "fake")
    site.plugin("guardrails", GUARD.replace('"words"', '"fake"'), "fake")
    result = tianji("plugins", "info", "fake")
    assert result.status == 2
    assert "providers.fake, guardrails.fake" in result.err
    assert tianji("plugins", "info", "guardrails.fake", "--json").data["family"] == "guardrails"
    assert tianji("plugins", "info", "fake", "--family", "provider", "--json").data["family"] == "providers"


def test_info_of_something_broken_or_unknown(site: Site, tianji: Any) -> None:
    site.plugin("callbacks", "raise RuntimeError('no')", "wrecked")
    result = tianji("plugins", "info", "wrecked")
    assert result.status == 1
    assert "is broken: tianji-callback-wrecked 1.2.3 cannot be imported: RuntimeError: no" in result.out
    assert tianji("plugins", "info", "wrecked", "--json").data["state"] == "broken"
    unknown = tianji("plugins", "info", "wreked")
    assert (unknown.status, "Did you mean wrecked" in unknown.err) == (2, True)
    assert "Did you mean `tianji plugins info wrecked`" in tianji("plugins", "list", "wrecked").err
    assert tianji("plugins", "info").status == 2


def test_a_file_given_with_plugin(site: Site, tianji: Any) -> None:
    Path("mine.py").write_text(GUARD)
    rows = by_name(tianji("plugins", "--plugin", "mine.py", "--json"))
    assert (rows["words"]["distribution"], rows["words"]["version"]) == ("mine.py", "local")
    assert tianji("plugins", "info", "words", "--plugin", "mine.py", "--json").data["requires"] == []
    assert tianji("plugins", "--plugin", "none.py").err.startswith("tianji: none.py: no such file")
