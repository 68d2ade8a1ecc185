"""`FakeClock`: time that passes when a test says so."""

from __future__ import annotations


class FakeClock:
    """A clock that moves when told to. Call it as `time.monotonic` would be; seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self.now += seconds
