"""The conformance suite, and the file."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from tianji_callback_jsonl import JSONL

from tianji import ConfigError, decode_json
from tianji.testing import CallbackSuite, make_plugin, make_record


def make(path: Path | str, **settings: Any) -> JSONL:
    return make_plugin(JSONL, {"path": str(path), **settings}, instance="file")


def ids(path: Path) -> list[str]:
    return [decode_json(line)["id"] for line in path.read_bytes().splitlines()]


class TestJSONL(CallbackSuite):
    plugin = JSONL

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.settings = {"path": str(tmp_path / "calls.jsonl")}  # type: ignore[misc]  # one file for each test


async def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "calls.jsonl"
    callback = make(path)
    await callback.export([make_record(id="a"), make_record(id="b", metadata={"text": "two\nlines\u2028"})])
    await make(path).export([make_record(id="c")])
    assert ids(path) == ["a", "b", "c"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    line = decode_json(path.read_bytes().splitlines()[0])
    assert line["schema"] == "tianji.call.v1"
    assert line["usage"]["total_tokens"] == 15
    assert line["cost"]["nano"] == 1500
    assert "request" not in line


async def test_content(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    callback = make(path, content=True)
    assert callback.wants_content is True
    assert make(path).wants_content is False
    await callback.export([make_record(request={"messages": []}, response=b'{"choices": []}')])
    line = decode_json(path.read_bytes())
    assert (line["request"], line["response"]) == ({"messages": []}, {"choices": []})


def test_the_process_is_in_the_name(tmp_path: Path) -> None:
    assert make(tmp_path / "calls-{pid}.jsonl").path == tmp_path / f"calls-{os.getpid()}.jsonl"


async def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    await make(path).export([make_record(id="0")])
    size = path.stat().st_size
    callback = make(path, max_bytes=2 * size, keep=2)
    for number in range(1, 9):
        await callback.export([make_record(id=str(number))])
    assert ids(path) == ["8"]
    assert ids(tmp_path / "calls.jsonl.1") == ["6", "7"]
    assert ids(tmp_path / "calls.jsonl.2") == ["4", "5"]
    assert len(list(tmp_path.iterdir())) == 3


async def test_a_batch_larger_than_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    callback = make(path, max_bytes=10, keep=0)
    await callback.export([make_record(id=str(number)) for number in range(3)])
    assert ids(path) == ["0", "1", "2"]
    await callback.export([make_record(id="3")])
    assert ids(path) == ["3"]
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_half_written_batch_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "calls.jsonl"
    callback = make(path)
    await callback.export([make_record(id="before")])
    real = os.write
    calls = 0

    def full(handle: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[:100])

    monkeypatch.setattr("tianji_callback_jsonl.os.write", full)
    with pytest.raises(OSError, match="No space"):
        await callback.export([make_record(id="lost")])
    monkeypatch.undo()
    await callback.export([make_record(id="after")])
    assert ids(path) == ["before", "after"]


async def test_what_cannot_be_written_is_an_exception(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file|directory"):
        await make(tmp_path / "file" / "calls.jsonl").export([make_record()])


@pytest.mark.parametrize("settings", [{"path": " "}, {"max_bytes": -1}, {"keep": -1}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="callback file"):
        make(**{"path": "x", **settings})
