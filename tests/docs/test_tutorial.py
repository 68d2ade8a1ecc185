"""The tutorials: their code is the code of `docs/tutorial/examples`, and every command of theirs does what they say.

A gateway (and, for the provider, a vendor) is started as a process on a port of its own; the other commands run against
it, in a copy of the examples.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
EXAMPLES = ROOT / "docs" / "tutorial" / "examples"
KEY = "sk-tutorial-key"
_FENCED = re.compile(r"(?:^<!-- from ([\w./-]+)(?:#([\w-]+))? -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PART = re.compile(r"^ *# -- ([\w-]+)\n(.*?)(?=^ *# -- |\Z)", re.DOTALL | re.MULTILINE)

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def parts(name: str) -> dict[str, str]:
    """The named parts of an example."""
    return {part: body.strip("\n") for part, body in _PART.findall((EXAMPLES / name).read_text())}


# -- the pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_is_the_examples(page: Path) -> None:
    """A block is preceded by `<!-- from file -->` or `<!-- from file#part -->`; what is only shown is `text`."""
    blocks = list(_FENCED.findall(page.read_text()))
    assert blocks
    for file, part, language, code in blocks:
        if language == "text":
            continue
        assert file, f"a block of {language} names no example:\n{code}"
        text = (EXAMPLES / file).read_text().strip("\n")
        assert code.strip("\n") == (parts(file)[part] if part else text), f"{file}#{part}"


def test_every_part_is_shown() -> None:
    """No example has commands that no page shows, as nobody would know what they are for."""
    shown = {found[:2] for page in PAGES for found in _FENCED.findall(page.read_text())}
    for script in EXAMPLES.glob("*.sh"):
        assert {(script.name, part) for part in parts(script.name)} <= shown
    for example in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.yaml")):
        assert any(file == example.name for file, _ in shown), example.name


# -- the commands ------------------------------------------------------------------------------------------------------


class Session:
    """The reader's terminals: one for what goes on running, one for the rest."""

    def __init__(self, script: str, folder: Path) -> None:
        self.parts = parts(script)
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "TIANJI_MASTER_KEY": KEY,
            "KEY": KEY,
            "PORT": "0",
            "PARROT_PORT": "0",
            "NO_PROXY": "*",
        }

    def start(self, part: str) -> str:
        """Start what goes on running; the address that it prints."""
        process = subprocess.Popen(
            ["sh", "-c", f"exec {self.parts[part]}"], cwd=self.folder, env=self.environ, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.running.append(process)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            address = re.search(r"listen\w* on (http://\S+)", "".join(lines))
            if address and ("parrot" in line or re.match(r"\d+ models?: ", line)):
                self.lines = lines
                return address[1]
        raise AssertionError(f"{part} ended: {''.join(lines)}{process.communicate(timeout=10)[1]}")

    def serve(self, part: str) -> None:
        """Start a gateway in place of the one that runs."""
        self.environ["TIANJI"] = self.start(part)

    def run(self, part: str) -> str:
        """One command that ends well; what it prints."""
        done = subprocess.run(
            ["sh", "-euc", self.parts[part]],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{part}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running:
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate(timeout=10)
        self.running.clear()


@pytest.fixture
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    made = Session(request.param, folder)
    yield made
    made.stop()


def said(answer: str) -> str:
    """The text of a whole chat completion, with or without headers above it."""
    body = json.loads(answer[answer.index("{") :])
    text = body["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def streamed(answer: str) -> str:
    """The text of a streamed chat completion that came to its proper end."""
    frames = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: ")]
    assert frames.pop() == "[DONE]"
    choices = [choice for frame in frames for choice in json.loads(frame)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def header(answer: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*?)\r?$", answer, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else ""


@needs_curl
@pytest.mark.parametrize("session", ["first_gateway.sh"], indirect=True)
def test_first_gateway(session: Session) -> None:
    del session.environ["TIANJI_MASTER_KEY"]
    session.serve("serve")
    printed = re.search(r"Master key .*: (sk-\S+)", "".join(session.lines))
    assert printed is not None, session.lines
    session.environ["KEY"] = printed[1]
    assert said(session.run("request")) == "Hello"
    assert streamed(session.run("stream")) == "Hello there"
    message = json.loads(session.run("anthropic"))
    assert (message["type"], message["content"]) == ("message", [{"type": "text", "text": "Hello"}])
    error = session.run("error")
    assert error.startswith("HTTP/1.1 429 ")
    assert header(error, "x-should-retry") == "true"
    session.stop()

    session.environ |= {"TIANJI_MASTER_KEY": KEY, "KEY": KEY}
    assert "3 deployments in 2 model groups" in session.run("check")
    session.serve("serve-config")
    failover = session.run("failover")
    assert said(failover) == "Hello"
    assert header(failover, "x-tianji-attempted-retries") == "1"
    fallback = session.run("fallback")
    assert said(fallback) == "Hello"
    assert header(fallback, "x-tianji-attempted-fallbacks") == "1"
    assert header(fallback, "x-tianji-model-group") == "chat"
    assert json.loads(session.run("health"))["healthy_count"] == 3
    if importlib.util.find_spec("openai") is not None:
        assert session.run("client") == "Hello\n"


@needs_curl
@pytest.mark.parametrize("session", ["first_provider.sh"], indirect=True)
def test_first_provider(session: Session) -> None:
    session.environ |= {"PARROT_API_BASE": session.start("vendor"), "PARROT_API_KEY": "polly"}
    assert "1 deployment in 1 model group" in session.run("check")
    assert "How the parrot shall feel" in session.run("info")
    session.serve("serve")
    answer = session.run("request")
    assert said(answer) == "Hello"
    assert header(answer, "x-tianji-dropped") == "seed"
    assert streamed(session.run("stream")) == "Hello there "
    message = json.loads(session.run("anthropic"))
    assert message["content"] == [{"type": "text", "text": "Hello"}]
    assert message["usage"]["output_tokens"] == 1
    session.environ.pop("PARROT_API_BASE")
    assert re.search(r"\d+ passed", session.run("test"))


@needs_curl
@pytest.mark.parametrize("session", ["first_guardrail.sh"], indirect=True)
def test_first_guardrail(session: Session) -> None:
    chain = session.run("chain")
    assert "guardrails:no-code-names" in chain
    assert "guardrails:mask-people" in chain
    session.serve("serve")
    blocked = session.run("blocked")
    assert blocked.startswith("HTTP/1.1 400 ")
    error = json.loads(blocked[blocked.index("{") :])["error"]
    assert (error["code"], error["guardrail"]) == ("guardrail_blocked", "no-code-names")
    allowed = session.run("allowed")
    assert said(allowed) == "When does the plane land?"
    assert header(allowed, "x-tianji-applied-guardrails") == "no-code-names"
    assert said(session.run("masked")) == "Ask ***."
    assert streamed(session.run("masked-stream")) == "Ask ***."
    assert re.search(r"\d+ passed", session.run("test"))
