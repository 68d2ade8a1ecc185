"""What is known of each deployment: failures, cooldown, calls in flight.

A deployment that fails is put aside for a while (cooldown), so that calls go elsewhere at once. Two promises: a group
is never put aside as a whole (when all are cooling, the one that comes back soonest is tried), and one success after a
cooldown clears the record. Thresholds follow LiteLLM's router (https://docs.litellm.ai/docs/routing): a 429 or a
credential error cools at once where the group has another deployment; other failures do when more than half of at
least five attempts in a minute failed; `allowed_fails`, when set, counts instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from tianji.errors import BadCredentials, Failure, Throttled, UpstreamNotFound
from tianji.model import Deployment

WINDOW = 60.0
_AT_ONCE = (Throttled, BadCredentials, UpstreamNotFound)


class State:
    """The record of one deployment."""

    __slots__ = ("cooldowns", "cooling_until", "fails", "in_flight", "outcomes", "reason")

    def __init__(self) -> None:
        self.in_flight = 0
        self.cooling_until = 0.0
        self.cooldowns = 0
        self.reason = ""
        self.outcomes: deque[tuple[float, bool]] = deque(maxlen=500)
        self.fails = 0


class Health:
    """The states of all deployments. Survives a reload for the deployments that stay."""

    def __init__(
        self,
        *,
        cooldown_time: float = 5.0,
        allowed_fails: int | None = None,
        disabled: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.cooldown_time = cooldown_time
        self.allowed_fails = allowed_fails
        self.disabled = disabled
        self.clock = clock
        self.states: dict[str, State] = {}

    def state(self, deployment: Deployment) -> State:
        state = self.states.get(deployment.id)
        if state is None:
            state = self.states[deployment.id] = State()
        return state

    def keep(self, ids: set[str], earlier: Health) -> None:
        """Take over what an earlier configuration's health knew of the deployments that are still there."""
        self.states = {key: state for key, state in earlier.states.items() if key in ids}

    def available(self, deployments: Sequence[Deployment]) -> Sequence[Deployment]:
        """Those not cooling down; when all are, every one of them, the one that comes back soonest first."""
        states = self.states
        if self.disabled or not states:
            return deployments
        now = self.clock()
        healthy = [one for one in deployments if (state := states.get(one.id)) is None or state.cooling_until <= now]
        if len(healthy) == len(deployments):
            return deployments
        return healthy or sorted(deployments, key=lambda one: states[one.id].cooling_until)

    def cooling(self, deployment: Deployment) -> float:
        """Seconds until the deployment's cooldown ends; 0 when it is not cooling."""
        state = self.states.get(deployment.id)
        return max(0.0, state.cooling_until - self.clock()) if state else 0.0

    def succeeded(self, deployment: Deployment) -> None:
        state = self.states.get(deployment.id)
        if state is None or not state.outcomes:
            return
        now = self.clock()
        state.fails = 0
        if state.cooling_until and state.cooling_until <= now:
            state.outcomes.clear()
            state.cooling_until = 0.0
            state.reason = ""
        state.outcomes.append((now, True))

    def failed(self, deployment: Deployment, failure: Failure, group_size: int) -> None:
        """Note a failed attempt, and put the deployment aside where that is due."""
        if not failure.cools_down or self.disabled:
            return
        now = self.clock()
        state = self.state(deployment)
        state.outcomes.append((now, False))
        state.fails += 1
        if not self._due(state, failure, group_size, now):
            return
        seconds = deployment.cooldown_time
        if seconds is None:
            seconds = max(self.cooldown_time, failure.retry_after or 0.0)
        state.cooling_until = max(state.cooling_until, now + min(seconds, 3600.0))
        state.cooldowns += 1
        state.fails = 0
        state.reason = f"{type(failure).__name__} {failure.status}"

    def _due(self, state: State, failure: Failure, group_size: int, now: float) -> bool:
        if self.allowed_fails is not None:
            return state.fails > self.allowed_fails
        if group_size < 2:
            return False
        if isinstance(failure, _AT_ONCE):
            return True
        recent = [ok for at, ok in state.outcomes if now - at <= WINDOW]
        return len(recent) >= 5 and recent.count(False) * 2 > len(recent)
