"""The record of one deployment: how its calls ended in the last minute, and whether it is put aside.

Kept by `tianji.health`, which is the only one to change it. Others see a `DeploymentHealth`: what is known at
one moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from tianji.model import Deployment

WINDOW = 60.0
"""Seconds over which outcomes are counted."""
_CELL = 10.0

Name = Literal["healthy", "doubted", "ejected", "probing"]


class Check(msgspec.Struct, frozen=True):
    """The outcome of the last background check."""

    at: float
    """Epoch seconds."""
    ok: bool
    error: str = ""


class State:
    """The record of one deployment. Times are the clock's of `Health`."""

    __slots__ = (
        "aside", "asked", "back_at", "bad", "cells", "changed_at", "check", "cooldowns", "ejected", "ends", "group",
        "in_flight", "kinds", "lasted", "lease", "ok", "reason", "row", "start", "times", "until",
    )  # fmt: skip

    def __init__(self, group: str) -> None:
        self.group = group
        self.in_flight = 0
        """Calls that hold a slot; counted only where `max_parallel_requests` is set."""
        self.aside = False
        self.ejected = False
        """Aside, and one of the half of its group that gets nothing but probes."""
        self.until = 0.0
        """End of its time aside. It stays aside until an answer brings it back."""
        self.asked = False
        """The provider itself has said until when."""
        self.lease = 0.0
        """End of the probe that is under way."""
        self.times = 0
        """How often it was put aside without having been well for a while in between."""
        self.cooldowns = 0
        """How often it was put aside here, by a probe that failed as well, since it is known. Never goes down."""
        self.lasted = 0.0
        """Seconds of the last time."""
        self.back_at = 0.0
        self.changed_at = 0.0
        """When it was last put aside, claimed or brought back, here or by another instance."""
        self.reason = ""
        self.row = 0
        """Failures since the last success."""
        self.kinds: dict[str, int] | None = None
        """The same by kind of failure, for those that a policy names."""
        self.cells: deque[tuple[float, int, int]] = deque(maxlen=8)
        """Start, successes and failures of the spans of `_CELL` seconds before the present one."""
        self.start = self.ends = 0.0
        self.ok = self.bad = 0
        self.check: Check | None = None

    def turn(self, now: float) -> None:
        """Begin another cell."""
        if self.ok or self.bad:
            self.cells.append((self.start, self.ok, self.bad))
        self.start, self.ends = now, now + _CELL
        self.ok = self.bad = 0

    def counts(self, now: float, since: float = 0.0) -> tuple[int, int]:
        """Successes and failures of the last minute, to ten seconds; only those after `since`."""
        since = max(since, now - WINDOW)
        cells = [(ok, bad) for start, ok, bad in (*self.cells, (self.start, self.ok, self.bad)) if start >= since]
        return sum(ok for ok, _ in cells), sum(bad for _, bad in cells)


class Split(NamedTuple):
    """A group, divided by health."""

    probe: Deployment | None
    """One that was put aside and is due; this call finds out about it, and tries it first."""
    ready: Sequence[Deployment]
    spare: Sequence[Deployment]
    """Put aside: the doubted before the ejected, and among them the one that comes back soonest first."""


class DeploymentHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What this process knows of one deployment at one moment."""

    deployment: Deployment
    state: Name = "healthy"
    cooling_for: float = 0.0
    """Seconds until its time aside ends; 0 when it is not aside, or to be probed."""
    reason: str = ""
    """The failure that put it aside; empty when it is not."""
    cooldowns: int = 0
    """How often this process has put it aside so far. Never goes down while the deployment is configured."""
    successes: int = 0
    """Of the last minute, as are failures."""
    failures: int = 0
    in_flight: int | None = None
    """Attempts under way. None where they are not counted: it has no `max_parallel_requests`."""
    check: Check | None = None
    """The last background check; None where there was none."""


class GatewayHealth(msgspec.Struct, frozen=True):
    """What this process knows of all deployments that can be asked, and of the retries that are left to its calls."""

    deployments: tuple[DeploymentHealth, ...]
    retries_left: float
    """Tokens of the retry budget; a retry at a deployment in doubt takes one."""
    retries_denied: int
    """Retries that were not made so far, as no token was left."""
