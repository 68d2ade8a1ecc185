"""Log file: one JSON line for each finished call, appended, rotated by size.

A batch is one write. What was written of a batch that failed half-way is taken back, so that no line is broken and the
kernel's next try does not repeat any.

Docs: https://jsonlines.org
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tianji import Callback, ConfigError, PluginSettings, Record, document, encode_json


class JSONL(Callback):
    name = "jsonl"

    class Settings(PluginSettings, frozen=True):
        path: str
        """The file. `{pid}` in it is the number of the process: give each worker a file of its own with it. Missing
        folders are made; the file can be read by its owner only."""
        max_bytes: int = 100 * 1024 * 1024
        """Before it grows beyond this, the file is renamed to `<path>.1`, `.1` to `.2` and so on. 0: never."""
        keep: int = 5
        """How many renamed files stay; older ones are deleted."""
        content: bool = False
        """Write what was asked and answered, too."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        own = self.settings
        if not own.path.strip():
            raise ConfigError("path is empty", path=f"callback {instance}", mend="Name the file to write to")
        if own.max_bytes < 0 or own.keep < 0:
            raise ConfigError("max_bytes and keep must not be negative", path=f"callback {instance}")
        self.path = Path(own.path.replace("{pid}", str(os.getpid()))).expanduser()
        self.wants_content = own.content
        self._lock = threading.Lock()

    async def export(self, records: Sequence[Record]) -> None:
        await asyncio.to_thread(self._append, records)

    def _append(self, records: Sequence[Record]) -> None:
        content = self.settings.content
        data = b"".join(encode_json(document(record, content=content)) + b"\n" for record in records)
        with self._lock:  # a batch that ran out of time may still be writing
            self._rotate(len(data))
            write(self.path, data)

    def _rotate(self, coming: int) -> None:
        limit, keep = self.settings.max_bytes, self.settings.keep
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if not limit or not size or size + coming <= limit:
            return
        if keep == 0:
            self.path.unlink()
            return
        for number in range(keep - 1, 0, -1):
            older = Path(f"{self.path}.{number}")
            if older.exists():
                older.replace(f"{self.path}.{number + 1}")
        self.path.replace(f"{self.path}.1")


def write(path: Path, data: bytes) -> None:
    """Append all of the data or nothing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        before = os.fstat(handle).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(handle, data[written:])
        except OSError:
            if os.fstat(handle).st_size == before + written:  # nobody else has written behind it
                os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)
