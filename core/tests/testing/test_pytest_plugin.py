"""The pytest plugin acts where it says, and nowhere else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tianji.testing import assert_imports_light
from tianji.testing.hygiene import CREDENTIALS, NetworkBlocked, is_local, loopback_only, scrubbed_environment


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("app.localhost", True),
        ("0.0.0.0", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("api.example.com", False),
        ("localhost.example.com", False),
        (b"127.0.0.1", True),
        (None, True),
    ],
)
def test_what_is_local(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_other_machines_are_out_of_reach() -> None:
    before = socket.socket.connect, socket.socket.sendto, socket.getaddrinfo
    with loopback_only():
        with socket.socket() as one, pytest.raises(NetworkBlocked, match=r"192\.0\.2\.1"):
            one.connect(("192.0.2.1", 80))
        with socket.socket(type=socket.SOCK_DGRAM) as one, pytest.raises(NetworkBlocked):
            one.sendto(b"x", ("192.0.2.1", 53))
        with pytest.raises(NetworkBlocked, match=r"api\.example\.com"):
            socket.getaddrinfo("api.example.com", 443)
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("nobody.invalid", 443)
        assert socket.getaddrinfo("192.0.2.1", 443), "an address in digits is not looked up"
    assert (socket.socket.connect, socket.socket.sendto, socket.getaddrinfo) == before


def test_loopback_works() -> None:
    with loopback_only(), socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("OPENAI_API_KEY", True),
        ("OPENAI_BASE_URL", True),
        ("GROQ_API_KEY", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("AZURE_TENANT_ID", True),
        ("GOOGLE_APPLICATION_CREDENTIALS", True),
        ("https_proxy", True),
        ("TIANJI_MASTER_KEY", True),
        ("TIANJI_CORPUS", False),
        ("PATH", False),
        ("HOME", False),
        ("MY_API_KEY_FILE", False),
    ],
)
def test_which_variables_are_taken(name: str, taken: bool) -> None:
    assert bool(CREDENTIALS.search(name)) is taken


def test_the_environment_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "real")
    with scrubbed_environment():
        assert "GROQ_API_KEY" not in os.environ
        assert "PATH" in os.environ
    assert os.environ["GROQ_API_KEY"] == "real"


TESTS = '''
"""Docs: https://docs.example.invalid"""
import os
import socket
import pytest
from tianji import OpenAICompatible
from tianji.testing import ProviderSuite

class Plain(OpenAICompatible):
    name = "plain"
    base_url = "https://api.example.invalid/v1"
    api_key_env = ("PLAIN_API_KEY",)

class TestPlain(ProviderSuite):
    plugin = Plain

    def test_guarded(self):
        assert "PLAIN_API_KEY" not in os.environ
        socket.getaddrinfo("api.example.com", 443)

    @pytest.mark.allow_network
    def test_exempt(self):
        assert socket.getaddrinfo.__module__ == "socket"

    def test_encode_is_pure(self, golden):
        pass

def test_outside():
    assert "PLAIN_API_KEY" in os.environ
    assert socket.getaddrinfo.__module__ == "socket"
'''


def run(folder: Path, ini: str) -> str:
    (folder / "test_it.py").write_text(TESTS)
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=line", "-p", "no:cacheprovider", "--strict-markers"]
    done = subprocess.run(
        [*command, "--import-mode=importlib", "--strict-config", str(folder)],
        cwd=folder,
        env={**os.environ, "PLAIN_API_KEY": "real", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_suite_is_guarded_and_other_tests_are_not(tmp_path: Path) -> None:
    said = run(tmp_path, "")
    assert "FAILED test_it.py::TestPlain::test_guarded - tianji.testing.hygiene.NetworkBlocked" in said
    assert "PASSED test_it.py::TestPlain::test_exempt" in said
    assert "PASSED test_it.py::test_outside" in said
    assert "PASSED test_it.py::TestPlain::test_request_matches_golden[generic-chat-stream]" in said
    assert "FAILED test_it.py::TestPlain::test_no_test_is_overridden" in said
    assert "2 failed" in said


def test_hygiene_for_all_tests_can_be_asked_for(tmp_path: Path) -> None:
    assert "FAILED test_it.py::test_outside" in run(tmp_path, "tianji_hygiene = true\n")


def test_the_plugin_costs_an_ordinary_run_nothing() -> None:
    assert_imports_light("tianji.testing.pytest_plugin", without=("hypothesis", "httpx", "litestar", "tianji.model"))
