"""What is known of each deployment: how its calls end, whether it is put aside, and when it is tried again.

A deployment that fails is put aside for a while, so that calls go elsewhere at once. When its time is over it is
half-open: one call is its probe, and the others go on avoiding it until that call's outcome is known. An answer brings
it back; a failure puts it aside for twice as long as the last time, until it has been well for a while. At most half of
a group is *ejected*, which means that it gets probes and nothing else as long as any other can be asked. What fails
beyond that half is only *doubted*: it comes after those that are well, and before the ejected. Nothing is ever lost.

Which failures put a deployment aside follows LiteLLM's router (https://docs.litellm.ai/docs/routing): a 429, a refused
key or an unknown model at once, more than half of at least five attempts in a minute, or `allowed_fails` and
`allowed_fails_policy` in their place. Five failures in a row do as well, as they do in Envoy
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier): a deployment that breaks after a
thousand successes is noticed after five calls.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from tianji.errors import BadCredentials, Failure, Throttled, UpstreamFailure, UpstreamNotFound
from tianji.health_state import WINDOW, Check, DeploymentHealth, Name, Split, State
from tianji.model import Deployment
from tianji.retries import by_kind, kind_of

IN_A_ROW = 5
"""Failures without a success between them that put a deployment aside."""
LEASE = 30.0
"""Seconds for which a probe keeps others away. It ends earlier, with the outcome of the probe's call."""
LONGEST = 60.0
"""Seconds to which the time aside grows."""
ASKED = 3600.0
"""Seconds that a provider's `retry-after` is followed at most."""
JITTER = 0.1
"""Part of a grown time that is left to chance, so that probes of several deployments do not fall together."""
_DOUBLINGS = 16
_AT_ONCE = (Throttled, BadCredentials, UpstreamNotFound)


class Health:
    """The states of all deployments. Survives a reload for the deployments that stay.

    `uniform` gives a random float between two others.
    """

    def __init__(
        self,
        *,
        cooldown_time: float = 5.0,
        allowed_fails: int | None = None,
        allowed_fails_policy: Mapping[str, int] | None = None,
        disabled: bool = False,
        clock: Callable[[], float] = monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.cooldown_time = cooldown_time
        self.allowed_fails = allowed_fails
        self.policy = allowed_fails_policy or {}
        self.disabled = disabled
        self.clock = clock
        self.uniform = uniform
        self.states: dict[str, State] = {}
        self.aside: dict[str, State] = {}
        """Those of the states that are aside. Empty most of the time, and a call then asks nothing else."""
        self.changed: Callable[[str], None] | None = None
        """Called with a deployment's id when it is put aside, claimed for a probe or brought back here."""
        self._ids: set[str] | None = None

    def state(self, deployment: Deployment) -> State:
        state = self.states.get(deployment.id)
        if state is None:
            state = self.states[deployment.id] = State(deployment.group)
        return state

    def keep(self, ids: set[str], earlier: Health) -> None:
        """Take over what an earlier configuration's health knows of the deployments that are still there.

        Both then look at the same records: running calls end on the earlier one. `prune` when that one has gone.
        """
        self.states, self.aside, self.changed = earlier.states, earlier.aside, earlier.changed
        self._ids = ids

    def prune(self) -> None:
        """Forget the deployments that are no longer there."""
        if self._ids is None:
            return
        for one in self.states.keys() - self._ids:
            del self.states[one]
            self.aside.pop(one, None)

    # -- what is asked on the way of a call ----------------------------------------------------------------------------

    def split(self, members: Sequence[Deployment], *, claim: bool = True) -> Split:
        """Which of a group's deployments are used now, and which only when those have failed.

        `claim`: a probe that is due is this call's; without it nothing changes.
        """
        aside = self.aside
        if not aside or self.disabled:
            return Split(None, members, ())
        out = [one for one in members if one.id in aside]
        if not out:
            return Split(None, members, ())
        now = self.clock()
        ready = [one for one in members if one.id not in aside]
        probe = self._due(ready, out, now)
        if probe is not None:
            out.remove(probe)
            if claim:
                state = aside[probe.id]
                state.lease = now + LEASE
                self._note(probe.id, state, now)
        if len(out) > 1:
            out.sort(key=lambda one: _place(aside[one.id]))
        return Split(probe, ready, out)

    def unclaim(self, deployment: Deployment) -> None:
        """The call that `split` gave a probe to was refused before it could make it: the next call is the probe."""
        state = self.aside.get(deployment.id)
        if state is not None:
            self._release(deployment.id, state)

    def _due(self, ready: Sequence[Deployment], out: Sequence[Deployment], now: float) -> Deployment | None:
        """The one to probe: it has waited longest. A lower tier is not asked while a higher one is well."""
        tier = min((one.order for one in ready), default=None)
        best: Deployment | None = None
        for one in out:
            state = self.aside[one.id]
            if state.until > now or state.lease > now or (tier is not None and one.order > tier):
                continue
            if best is None or state.until < self.aside[best.id].until:
                best = one
        return best

    def cooling_for(self, deployment_id: str) -> float:
        """Seconds until a deployment's time aside ends; 0 when it is not aside, or to be probed."""
        state = self.aside.get(deployment_id)
        return max(0.0, state.until - self.clock()) if state is not None else 0.0

    def cooling(self, deployment: Deployment) -> float:
        """The same, of a deployment."""
        return self.cooling_for(deployment.id)

    def name(self, deployment: Deployment) -> Name:
        """In which state a deployment is."""
        state = self.aside.get(deployment.id)
        if state is None:
            return "healthy"
        if state.lease > self.clock():
            return "probing"
        return "ejected" if state.ejected else "doubted"

    def report(self, deployment: Deployment) -> DeploymentHealth:
        """All that is known of a deployment, to be read at leisure."""
        counted = deployment.max_parallel_requests is not None
        state = self.states.get(deployment.id)
        if state is None:
            return DeploymentHealth(deployment=deployment, in_flight=0 if counted else None)
        ok, bad = state.counts(self.clock())
        return DeploymentHealth(
            deployment=deployment,
            state=self.name(deployment),
            cooling_for=self.cooling(deployment),
            reason=state.reason,
            cooldowns=state.cooldowns,
            successes=ok,
            failures=bad,
            in_flight=state.in_flight if counted else None,
            check=state.check,
        )

    # -- what a call's outcome changes ---------------------------------------------------------------------------------

    def succeeded(self, deployment: Deployment) -> None:
        """Note an answer. It brings back a deployment whose time aside is over."""
        state = self.states.get(deployment.id)
        if state is None:
            state = self.state(deployment)
        now = self.clock()
        if now >= state.ends:
            state.turn(now)
        state.ok += 1
        if state.row:
            state.row = 0
            state.kinds = None
        if state.aside and state.until <= now:
            self._back(deployment.id, state, now)

    def failed(self, deployment: Deployment, failure: Failure, group_size: int) -> None:
        """Note a failed attempt, and put the deployment aside where that is due."""
        if self.disabled:
            return
        allowed, named = self._allowed(deployment, failure, group_size)
        if not failure.cools_down and not named:
            state = self.states.get(deployment.id)
            if state is not None:
                self._release(deployment.id, state)
            return
        now = self.clock()
        state = self.state(deployment)
        if now >= state.ends:
            state.turn(now)
        state.bad += 1
        state.row += 1
        if state.aside:
            self._again(deployment, state, failure, group_size, now)
        elif self._enough(state, failure, allowed, named, group_size, now):
            self._put_aside(deployment, state, failure, group_size, now)

    def well(self, deployment: Deployment) -> None:
        """A check has found the deployment well: it is used again at once."""
        state = self.aside.get(deployment.id)
        if state is not None:
            self._back(deployment.id, state, self.clock())

    def _allowed(self, deployment: Deployment, failure: Failure, group_size: int) -> tuple[int | None, bool]:
        """How many failures in a row are allowed, where that is configured, and whether by the failure's own kind.

        A deployment's own policy may also name failures that are the caller's and would not count otherwise.
        """
        if not isinstance(failure, UpstreamFailure):
            return None, False
        info = deployment.info
        own = info.get("allowed_fails_policy")
        if isinstance(own, Mapping) and (allowed := by_kind(own, failure, "AllowedFails")) is not None:
            return allowed, True
        if not failure.cools_down:
            return None, False
        general = info.get("allowed_fails")
        if type(general) is int and group_size > 1:
            return general, False
        if self.policy and (allowed := by_kind(self.policy, failure, "AllowedFails")) is not None:
            return allowed, True
        return self.allowed_fails, False

    def _enough(
        self, state: State, failure: Failure, allowed: int | None, named: bool, group_size: int, now: float
    ) -> bool:
        """Whether this failure puts the deployment aside."""
        if named:
            kinds = state.kinds = state.kinds or {}
            kind = kind_of(failure)
            kinds[kind] = kinds.get(kind, 0) + 1
            return kinds[kind] > (allowed or 0)
        if allowed is not None:
            return state.row > allowed
        if group_size < 2:
            return False
        if isinstance(failure, _AT_ONCE) or state.row >= IN_A_ROW:
            return True
        ok, bad = state.counts(now, state.back_at)
        return ok + bad >= IN_A_ROW and bad > ok

    def _again(self, deployment: Deployment, state: State, failure: Failure, group_size: int, now: float) -> None:
        """A failure of a deployment that is aside: of its probe, or of a call that was sent before, or had no other."""
        if state.until <= now:
            self._put_aside(deployment, state, failure, group_size, now)
        elif failure.retry_after and deployment.cooldown_time is None:
            until = now + min(failure.retry_after, ASKED)
            if until > state.until:
                state.until, state.asked = until, True
                self._note(deployment.id, state, now)

    def _put_aside(self, deployment: Deployment, state: State, failure: Failure, group_size: int, now: float) -> None:
        if not state.aside and state.times:  # a relapse: it flaps, which two doublings end sooner than one
            well = now - state.back_at >= max(WINDOW, 10.0 * state.lasted)
            state.times = 0 if well else state.times + 1
        seconds, grows = self._seconds(deployment, state, failure)
        if seconds <= 0.0:
            self._release(deployment.id, state)
            return
        if grows:
            state.times = min(state.times + 1, _DOUBLINGS)
            state.lasted = seconds
        state.cooldowns += 1
        state.asked = not grows
        state.until = now + seconds
        state.reason = f"{type(failure).__name__} {failure.status}"
        self._enter(deployment.id, state, group_size)
        self._note(deployment.id, state, now)

    def _seconds(self, deployment: Deployment, state: State, failure: Failure) -> tuple[float, bool]:
        """How long, and whether the next time is longer: the deployment's own time, the provider's, the router's."""
        base = deployment.cooldown_time
        if base is None:
            if failure.retry_after is not None and failure.retry_after > 0.0:
                return min(failure.retry_after, ASKED), False
            base = self.cooldown_time
        base = min(base, ASKED)
        if not state.times:
            return base, True
        grown = min(base * 2.0**state.times, max(LONGEST, base))
        return grown * self.uniform(1.0 - JITTER, 1.0 + JITTER), True

    def _enter(self, deployment_id: str, state: State, group_size: int) -> None:
        """Into the records of those aside: ejected as long as that leaves half of the group, rounded up."""
        ids = self._ids
        ejected = sum(
            other.ejected
            for one, other in self.aside.items()
            if other.group == state.group and one != deployment_id and (ids is None or one in ids)
        )
        state.ejected = ejected < group_size // 2
        state.lease = 0.0
        state.aside = True
        self.aside[deployment_id] = state

    def _back(self, deployment_id: str, state: State, now: float) -> None:
        self._leave(deployment_id, state, now)
        self._note(deployment_id, state, now)

    def _leave(self, deployment_id: str, state: State, now: float) -> None:
        self.aside.pop(deployment_id, None)
        state.aside = state.ejected = False
        state.until = state.lease = 0.0
        state.back_at = now
        state.row = 0
        state.kinds = None
        state.reason = ""
        state.turn(now)  # what failed before does not count against it any more

    def _release(self, deployment_id: str, state: State) -> None:
        """A probe ended and said nothing about the deployment: the next call is the probe."""
        if state.lease:
            state.lease = 0.0
            self._note(deployment_id, state, self.clock())

    def _note(self, deployment_id: str, state: State, now: float) -> None:
        state.changed_at = now
        if self.changed is not None:
            self.changed(deployment_id)

    # -- what other instances know -------------------------------------------------------------------------------------

    def learn(
        self, deployment: Deployment, group_size: int, *, until: float, lease: float, times: int, reason: str, at: float
    ) -> None:
        """Another instance has put a deployment aside, or probes it. What is known here is never made shorter.

        `until`, `lease` and `at`, the moment of that, are times of this clock.
        """
        now = self.clock()
        until, lease = min(until, now + ASKED), min(lease, now + LEASE)
        state = self.state(deployment)
        if at <= state.changed_at or (until <= now and lease <= now):
            return
        if not state.aside:
            self._enter(deployment.id, state, group_size)
            state.reason = reason
        state.until = max(state.until, until)
        state.lease = max(state.lease, lease)
        state.times = min(max(state.times, times), _DOUBLINGS)
        state.lasted = max(state.lasted, min(until - at, LONGEST))
        state.changed_at = at

    def learn_back(self, deployment: Deployment, at: float) -> None:
        """Another instance has brought a deployment back, at a time of this clock."""
        state = self.aside.get(deployment.id)
        if state is not None and at > state.changed_at:
            self._leave(deployment.id, state, self.clock())
            state.changed_at = at


def _place(state: State) -> tuple[bool, float]:
    """Where a deployment that is aside stands among the spare ones. One that is being probed comes back after that."""
    return state.ejected, max(state.until, state.lease)


__all__ = ["Check", "Health", "Split", "State"]
