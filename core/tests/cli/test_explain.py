"""`tianji explain`: the document and the tables, from a configuration and from a running gateway."""

from __future__ import annotations

import http.server
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .conftest import GOOD, Site

HELLO = {"model": "a", "messages": [{"role": "user", "content": "Hello"}]}
TWO = GOOD.replace(
    "guardrails:",
    """  - model_name: a
    tianji_params: {model: fake/two, api_key: sk-0123456789, order: 2}
  - model_name: b
    tianji_params: {model: fake/three, api_key: sk-0123456789}
guardrails:""",
    1,
).replace("router_settings: {", "router_settings: {fallbacks: [{a: [b]}], ")


@pytest.fixture
def request_file() -> str:
    Path("r.json").write_text(json.dumps(HELLO))
    return "r.json"


def test_the_document(site: Site, tianji: Any, config: Any, request_file: str) -> None:
    site.everything()
    result = tianji("explain", request_file, "-c", config(TWO), "--json", "--seed", "5")
    document = result.data
    assert result.status == 0
    assert (document["seed"], document["refused"]) == (5, None)
    assert [one["model"] for one in document["routes"][0]["candidates"]] == ["one", "two"]
    assert [one["model"] for one in document["fallbacks"]["general"]["routes"]] == ["b"]
    assert document["hooks"]["pre_call"][1]["distribution"] == "tianji-guardrail-words"
    assert document["hooks"]["pre_call"][1]["version"] == "1.2.3"
    assert "sk-" not in result.out


def test_the_tables(site: Site, tianji: Any, config: Any, request_file: str) -> None:
    site.everything()
    result = tianji("explain", request_file, "-c", config(TWO))
    assert result.status == 0
    for words in (
        "chat of 'a' as master-key",
        "guardrails:polite",
        "Route: 'a' → group 'a' (exact), strategy first-come",
        "fake/one",
        "Fallback: 'b' → group 'b' (exact)",
        "at a price that is not known",
        "Not known before it happens",
        "extensions:limits: what it does in pre_call",
    ):
        assert words in result.out
    assert result.out.index("fake/one") < result.out.index("fake/two")
    assert max(map(len, result.out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("body", "words", "status"),
    [
        ({**HELLO, "model": "c"}, "does not exist", 404),
        ({"model": "a"}, "messages", 400),
        ([], "must be a JSON object", 400),
    ],
)
def test_a_refused_request_is_status_1(
    site: Site, tianji: Any, config: Any, body: Any, words: str, status: int
) -> None:
    site.everything()
    Path("r.json").write_text(json.dumps(body))
    result = tianji("explain", "r.json", "-c", config())
    assert result.status == 1
    assert f"Refused with {status}" in result.out
    assert words in result.out
    data = tianji("explain", "r.json", "-c", config(), "--json")
    assert (data.status, data.data["refused"]["status"]) == (1, status)


def test_a_key_that_is_not_accepted(site: Site, tianji: Any, config: Any, request_file: str) -> None:
    site.everything()
    result = tianji("explain", request_file, "-c", config(), "--key", "sk-nobody", "--json")
    assert result.status == 1
    assert result.data["refused"]["status"] == 401
    assert "sk-nobody" not in result.out


def test_standard_input(site: Site, tianji: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.everything()
    raw = io.BytesIO(json.dumps(HELLO).encode())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=raw))
    assert tianji("explain", "-", "-c", config(), "--json").data["call"]["model"] == "a"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.json",), "nowhere.json cannot be read"),
        (("r.json", "--dialect", "klingon"), "there is no dialect 'klingon'"),
        (("r.json", "--seed", "-1"), "a seed is a whole number"),
        (("r.json", "--seed", "18446744073709551616"), "a seed is a whole number"),
        (("r.json", "--url", "localhost:4000"), "is no address"),
        (("r.json", "--url", "http://127.0.0.1:9"), "as whom?"),
        (("r.json", "--url", "http://127.0.0.1:9", "--key", "k"), "does not answer"),
        (("r.json", "--url", "http://127.0.0.1:nine", "--key", "k"), "is no address"),
    ],
)
def test_wrong_use_is_status_2(
    site: Site, tianji: Any, config: Any, request_file: str, words: tuple[str, ...], message: str
) -> None:
    site.everything()
    result = tianji("explain", *words, "-c", config())
    assert (result.status, result.out) == (2, "")
    assert message in result.err


# -- against a gateway that runs ---------------------------------------------------------------------------------------


class Peer:
    """Answers every request with what is set, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status, self.body = 200, b"{}"
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[str, str | None, bytes]] = []
        peer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                peer.seen.append((self.path, self.headers["authorization"], body))
                self.send_response(peer.status)
                for name, value in peer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(peer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def test_a_running_gateway_is_asked(
    site: Site, tianji: Any, config: Any, request_file: str, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.everything()
    offline = tianji("explain", request_file, "-c", config(), "--json").data
    peer.body = json.dumps(offline).encode()
    monkeypatch.setenv("TIANJI_MASTER_KEY", "sk-from-the-environment")
    result = tianji("explain", request_file, "--url", f"{peer.url}/", "--seed", "3", "--json")
    assert (result.status, result.data) == (0, offline)
    path, key, body = peer.seen[0]
    assert (path, key) == ("/v1/explain?dialect=openai-chat&seed=3", "Bearer sk-from-the-environment")
    assert json.loads(body) == HELLO


def test_a_key_that_no_header_carries_is_not_shown(tianji: Any, request_file: str, peer: Peer) -> None:
    for key in ("sk-secret\r", "sk-secret\nx", "sk-secret-\N{GRINNING FACE}"):
        result = tianji("explain", request_file, "--url", peer.url, "--key", key)
        assert (result.status, result.out) == (2, "")
        assert "characters that a header cannot carry" in result.err
        assert "sk-secret" not in result.err
    assert peer.seen == []


@pytest.mark.parametrize("url", ["http://me:sk-secret@127.0.0.1:1", "ftp://me:sk-secret@host"])
def test_credentials_in_an_address_are_refused_and_not_shown(tianji: Any, request_file: str, url: str) -> None:
    result = tianji("explain", request_file, "--url", url, "--key", "k")
    assert result.status == 2
    assert "--url is no address of a gateway" in result.err
    assert "sk-secret" not in result.err


def test_a_name_does_not_speak_to_the_terminal(site: Site, tianji: Any, config: Any) -> None:
    site.everything()
    Path("r.json").write_text(json.dumps({**HELLO, "model": "\x1b[31mred\r\x9b"}))
    result = tianji("explain", "r.json", "-c", config())
    assert result.status == 1
    assert "\N{REPLACEMENT CHARACTER}[31mred" in result.out
    assert not {"\x1b", "\r", "\x9b"} & set(result.out)


def test_its_refusal_is_status_1(tianji: Any, request_file: str, peer: Peer) -> None:
    peer.status, peer.body = 401, json.dumps({"error": {"message": "Who are you?", "code": "x"}}).encode()
    result = tianji("explain", request_file, "--url", peer.url, "--key", "k")
    assert result.status == 1
    assert "Who are you?" in result.out


@pytest.mark.parametrize(("status", "body"), [(200, b"{}"), (200, b"<html>"), (404, b'{"error": {}}'), (500, b"")])
def test_what_is_no_gateway(tianji: Any, request_file: str, peer: Peer, status: int, body: bytes) -> None:
    peer.status, peer.body = status, body
    result = tianji("explain", request_file, "--url", peer.url, "--key", "k")
    assert (result.status, result.out) == (2, "")
    assert f"answered with status {status}" in result.err


def test_a_redirect_does_not_take_the_key_along(tianji: Any, request_file: str, peer: Peer) -> None:
    peer.status, peer.headers = 307, {"location": f"{peer.url}/elsewhere"}
    assert tianji("explain", request_file, "--url", peer.url, "--key", "k").status == 2
    assert len(peer.seen) == 1
