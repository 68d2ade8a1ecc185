"""`tianji doctor`: each thing that can be loose."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest

from tianji.cli import symptoms
from tianji.cli.symptoms import Symptom

from .conftest import FAKE_PROVIDER, GOOD, Site
from .test_check import ECHO


@pytest.fixture(autouse=True)
def _free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether port 4000 is free on this machine is not what these tests are about."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PORT", str(probe.getsockname()[1]))
    monkeypatch.setattr(symptoms, "files", lambda: iter([Symptom("file limit", "ok", "many")]))


def levels(result: Any) -> dict[str, str]:
    order = ["ok", "info", "warning", "error"]
    worst: dict[str, str] = {}
    for one in result.data["checks"]:
        worst[one["check"]] = max(worst.get(one["check"], "ok"), one["level"], key=order.index)
    return worst


def test_all_is_well(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    result = tianji("doctor", "-c", config(), "--json")
    assert (result.status, result.data["ok"]) == (0, True)
    assert result.data.keys() == {"ok", "version", "checks"}
    assert {tuple(one) for one in result.data["checks"]} == {("check", "level", "message", "mend")}
    assert levels(result) == {
        "python": "ok", "event loop": "ok", "kernel": "ok", "libraries": "ok", "plugins": "ok", "configuration": "ok",
        "master key": "ok", "ledger": "info", "permissions": "ok", "address": "ok", "file limit": "ok",
    }  # fmt: skip
    assert "Nothing is loose." in tianji("doctor", "-c", "c.yaml").out


def test_without_a_file(site: Site, tianji: Any, config: Any) -> None:
    site.plugin("providers", ECHO, "echo")
    config(name="proxy_config.yaml")
    result = tianji("doctor", "--json")
    assert (result.status, levels(result)["master key"]) == (0, "info")
    assert "tianji doctor -c proxy_config.yaml" in tianji("doctor").out


def test_plugins_that_are_broken(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    site.plugin("callbacks", "import no_such_module", "wrecked")
    site.plugin("callbacks", "import no_such_module", "off")
    site.plugin("providers", FAKE_PROVIDER, "old", requires="tianji-core>=99")
    result = tianji("doctor", "-c", config(GOOD + "plugins: {disable: [callbacks.off]}\n"), "--json")
    assert result.status == 1
    broken = [one["message"] for one in result.data["checks"] if one["level"] == "error"]
    assert len(broken) == 2
    assert "no_such_module" in broken[1]
    assert "needs tianji-core>=99" in broken[0]


def test_two_distributions_for_one_name(site: Site, tianji: Any) -> None:
    site.plugin("providers", ECHO, "echo")
    site.plugin("providers", ECHO, "echo", dist="other-echo")
    result = tianji("doctor")
    assert result.status == 1
    assert "the same name is offered by other-echo" in " ".join(result.out.split())


def test_a_key_whose_provider_is_not_installed(site: Site, tianji: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.plugin("providers", ECHO, "echo")
    monkeypatch.setenv("TOGETHERAI_API_KEY", "sk-secret-of-mine")
    result = tianji("doctor", "--json")
    (key,) = (one for one in result.data["checks"] if one["check"] == "keys")
    assert (key["level"], key["mend"]) == ("info", "pip install tianji-provider-together-ai")
    assert "sk-secret-of-mine" not in result.out


def test_a_configuration_with_faults(site: Site, tianji: Any, config: Any) -> None:
    result = tianji("doctor", "-c", config(), "--json")
    assert (result.status, levels(result)["configuration"]) == (1, "error")
    result = tianji("doctor", "-c", config("a: ["), "--json")
    assert (result.status, levels(result)["configuration"]) == (1, "error")
    assert tianji("doctor", "-c", "none.yaml").status == 2


def test_a_weak_master_key(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    result = tianji("doctor", "-c", config(GOOD.replace("sk-a-long-enough-key", "sk-1234")))
    assert result.status == 1
    assert "anybody can guess it" in " ".join(result.out.split())


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        (GOOD, True),
        ("general_settings:\n  master_key: os.environ/MASTER\n", False),
        ("general_settings:\n  master_key: $MASTER_KEY_OF_MINE\n", False),
        ("general_settings:\n  master_key: 'secret://vault/one'\n", False),
        ("general_settings:\n  master_key: 'sk-literal-one'\n", True),
        ("general_settings:\n  database_url: postgres://me:hunter2@db/x\n", True),
        ("general_settings:\n  database_url: postgres://me@db/x\n", False),
        ("model_list:\n  - {model_name: a, tianji_params: {max_tokens: 1000000, api_key: ''}}\n", False),
    ],
)
def test_secrets_that_everybody_can_read(config: Any, text: str, literal: bool) -> None:
    path = config(text)
    Path(path).chmod(0o644)
    assert [one.level for one in symptoms.permissions(path)] == (["warning"] if literal else [])
    Path(path).chmod(0o640)
    assert [one.level for one in symptoms.permissions(path)] == (["ok"] if literal else [])


def test_a_port_that_is_taken_and_an_address_open_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (busy,) = symptoms.address("127.0.0.1", port)
    assert (busy.level, f":{port}" in busy.message) == ("warning", True)
    (free,) = symptoms.address("127.0.0.1", 0)
    assert free.level == "ok"
    assert [one.level for one in symptoms.address("127.0.0.1", 70_000)] == ["warning"]
    assert "TLS" in list(symptoms.address("0.0.0.0", 0))[-1].message


def test_libraries_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = importlib_metadata.version

    def version(name: str) -> str:
        if name == "msgspec":
            raise importlib_metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "litestar" else versions(name)

    monkeypatch.setattr(importlib_metadata, "version", version)
    bad = {one.mend for one in symptoms.kernel() if one.level == "error"}
    assert bad == {"pip install 'msgspec>=0.22,<1'", "pip install 'litestar>=2.25,<3'"}


def test_the_kernel_is_another_one_than_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symptoms, "__version__", "0.0.7")
    (kernel,) = (one for one in symptoms.kernel() if one.check == "kernel")
    assert (kernel.level, "0.0.7" in kernel.message) == ("error", True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_database_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o500)
    assert [one.level for one in data_of(f"sqlite:///{folder}/t.db")] == ["error"]


def test_the_database_folder(tmp_path: Path) -> None:
    assert [one.level for one in data_of(f"sqlite:////{str(tmp_path).lstrip('/')}/t.db")] == ["ok"]
    assert [one.level for one in data_of(f"sqlite:////{tmp_path}/nowhere/t.db")] == ["error"]
    assert data_of("postgres://x/y") == []


def data_of(url: str) -> list[Symptom]:
    from tianji.config import from_dict

    return list(symptoms.data(from_dict({"general_settings": {"database_url": url}}, environ={})))


def test_the_file_limit() -> None:
    assert symptoms.worst([Symptom("a", "info", ""), Symptom("a", "warning", ""), Symptom("a", "ok", "")]) == "warning"
    assert symptoms.worst([]) == "ok"
