"""Priority: where deployments have no free slot calls wait, and the most urgent one goes first.

Docs: https://docs.litellm.ai/docs/scheduler (the semantics that operators expect of `priority`)
"""

import asyncio
from bisect import insort
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from typing import Annotated, Any

from msgspec import Meta

from tianji import Call, Deployment, Overloaded, PluginSettings, Release, Strategy

LAST = 255
"""The lowest priority; 0 is the highest."""


class Priority(Strategy):
    name = "priority"
    alone = True

    class Settings(PluginSettings, frozen=True):
        default_priority: Annotated[int, Meta(ge=0, le=LAST)] = 128
        """Of calls that do not say; `router_settings.default_priority`. From 0, the most urgent, to 255."""
        max_parallel_requests: Annotated[int, Meta(ge=1)] | None = None
        """Slots of a deployment that has no `max_parallel_requests` of its own. None: as many as it is asked for."""
        max_queue: Annotated[int, Meta(ge=0)] = 1000
        """Calls of a model group that wait at most."""
        timeout: Annotated[float, Meta(gt=0)] | None = None
        """Seconds that a call waits at most. None: until its deadline."""

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.busy: dict[str, int] = {}
        """Slots that are taken by deployment id, those that were handed to a waiting call included."""
        self.waiting: dict[str, list[Waiter]] = {}
        """By model group, in the order in which they are served. A call waits only while nothing that it may use has a
        free slot: whoever gives one back hands it on."""
        self._serial = count()

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Deployments with a free slot, drawn by weight. Where there is none, wait for one.

        Raises `Overloaded` with status 429 where the queue is full or the wait too long.
        """
        free = [one for one in candidates if self._has_room(one)]
        if free or call.dry or not candidates:
            return self.shuffled(call, free or candidates)
        chosen = await self._wait(call, candidates)
        others = [one for one in candidates if one is not chosen and self._has_room(one)]
        return [chosen, *self.shuffled(call, others)]

    def begin(self, call: Call, deployment: Deployment) -> Release | None:
        """Take a slot: the one that was handed to this call, else a free one."""
        handed: Deployment | None = call.state.get(self.instance)
        if handed is not None and handed.id == deployment.id:
            del call.state[self.instance]
            return partial(self._give_back, deployment)
        self._drop(call)
        if self._limit(deployment) is None:
            return None
        if not self._has_room(deployment):
            raise _refusal(f"Deployment '{deployment.id}' has no free slot.", "max_parallel_requests")
        self._take(deployment)
        return partial(self._give_back, deployment)

    # -- slots ---------------------------------------------------------------------------------------------------------

    def _limit(self, deployment: Deployment) -> int | None:
        own = deployment.max_parallel_requests
        limit: int | None = self.settings.max_parallel_requests if own is None else own
        return limit

    def _has_room(self, deployment: Deployment) -> bool:
        limit = self._limit(deployment)
        return limit is None or self.busy.get(deployment.id, 0) < limit

    def _take(self, deployment: Deployment) -> None:
        self.busy[deployment.id] = self.busy.get(deployment.id, 0) + 1

    def _give_back(self, deployment: Deployment) -> None:
        """Free a slot, and hand it to the most urgent call that may use it."""
        left = self.busy[deployment.id] - 1
        if left:
            self.busy[deployment.id] = left
        else:
            del self.busy[deployment.id]
        for waiter in self.waiting.get(deployment.group, ()):
            wanted = waiter.wanted.get(deployment.id)
            if wanted is not None and not waiter.turn.done() and self._has_room(wanted):
                self._take(wanted)
                self._leave(deployment.group, waiter)
                waiter.turn.set_result(wanted)
                return

    # -- the queue -----------------------------------------------------------------------------------------------------

    async def _wait(self, call: Call, candidates: Sequence[Deployment]) -> Deployment:
        """Wait in the group's queue for a slot. It is this call's then, until its attempt begins or the call ends."""
        group = candidates[0].group
        waiter = self._enter(group, self._priority(call), {one.id: one for one in candidates})
        seconds = min(self.settings.timeout or call.remaining(), call.remaining())
        try:
            async with asyncio.timeout(seconds):
                chosen = await waiter.turn
        except BaseException as error:
            # The slot may have been handed over in the same moment.
            if waiter.turn.done() and not waiter.turn.cancelled() and (late := waiter.turn.result()) is not None:
                self._give_back(late)
            else:
                self._leave(group, waiter)
            if isinstance(error, TimeoutError):
                raise _refusal(f"No deployment had a free slot within {seconds:.3g} s.", "queue_timeout") from None
            raise
        if chosen is None:
            raise _refusal("The queue for this model is full of more urgent calls.", "queue_full", retry_after=1.0)
        self._drop(call)
        call.state[self.instance] = chosen

        async def undo() -> None:
            self._drop(call)

        call.defer(undo)
        return chosen

    def _drop(self, call: Call) -> None:
        """Give back the slot that was handed to a call and that no attempt took."""
        handed: Deployment | None = call.state.pop(self.instance, None)
        if handed is not None:
            self._give_back(handed)

    def _enter(self, group: str, priority: int, wanted: Mapping[str, Deployment]) -> "Waiter":
        """A place in the queue. A full queue refuses its last call: this one, or one that is less urgent."""
        waiter = Waiter(priority, next(self._serial), wanted)
        queue = self.waiting.get(group, [])
        if len(queue) >= self.settings.max_queue:
            if not queue or queue[-1] < waiter:
                raise _refusal("The queue for this model is full.", "queue_full", retry_after=1.0)
            last = queue.pop()
            if not last.turn.done():
                last.turn.set_result(None)
        insort(queue, waiter)
        self.waiting[group] = queue
        return waiter

    def _leave(self, group: str, waiter: "Waiter") -> None:
        queue = self.waiting.get(group)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self.waiting[group]

    def _priority(self, call: Call) -> int:
        asked = call.options.get("priority")
        return asked if type(asked) is int else int(self.settings.default_priority)


class Waiter:
    """A call that waits. The smaller goes first: by priority, then by arrival."""

    __slots__ = ("place", "turn", "wanted")

    def __init__(self, priority: int, serial: int, wanted: Mapping[str, Deployment]) -> None:
        self.place = priority, serial
        self.wanted = wanted
        """By id: the deployments that may serve it."""
        self.turn: asyncio.Future[Deployment | None] = asyncio.get_running_loop().create_future()
        """The deployment whose slot it got; None: it had to make room for a more urgent one."""

    def __lt__(self, other: "Waiter") -> bool:
        return self.place < other.place


def _refusal(message: str, code: str, *, retry_after: float | None = None) -> Overloaded:
    return Overloaded(message, status=429, type="rate_limit_error", code=code, retry_after=retry_after)
