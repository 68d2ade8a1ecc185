"""Mirror: a share of a model group's calls is sent to another group as well, and what that one answers is thrown away.

It shows what a new model costs, how fast it is and how often it fails under real traffic, before anybody depends on it.
The client never waits for a copy and never pays for it: copies are calls of their own, in the name of `mirror`, with a
record that carries the tag `mirror` and the id of the call that was copied.

Docs: https://docs.litellm.ai/docs/traffic_mirroring (what operators of other gateways call shadow traffic)
"""

import asyncio
from typing import Annotated, Any

import msgspec

from tianji import Call, Extension, Failure, Op, PluginSettings, Principal, Reply, hookimpl

PAYS = Principal(key_id="mirror", role="proxy_admin", models=("*",), alias="mirror")
"""Whoever asked for the copy is the operator; a client's budget and limits have no part in it."""
COPIED = frozenset({Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS})
REGION = "allowed_model_region"
"""What a request, or the metadata of its key, must not leave. It is about the data, so it binds a copy as well."""

Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]


class Copy(PluginSettings, frozen=True):
    """One mirror."""

    group: str
    """The model name whose calls are copied, as clients write it."""
    to: str
    """The model group that gets the copies."""
    percent: Percent = 100.0
    """Share of the calls that is copied."""


class Mirror(Extension):
    name = "mirror"
    order = 900  # after everything that may refuse, answer or rewrite the call

    class Settings(PluginSettings, frozen=True):
        copies: tuple[Copy, ...] = ()
        """Which groups are copied where: `{group, to, percent}`, several for one group if need be."""
        max_in_flight: Annotated[int, msgspec.Meta(ge=1)] = 100
        """Copies under way at once. What would be more is not sent, and counted."""
        timeout: Annotated[float, msgspec.Meta(gt=0)] = 60.0
        """Seconds that a copy may take."""

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.counts: dict[str, int] = {"sent": 0, "failed": 0, "dropped": 0}
        """Shown at `/health/plugins`."""
        self.in_flight = 0
        self._copies: dict[str, tuple[Copy, ...]] = {}

    @hookimpl
    def configure(self, app: Any) -> None:
        app.add_section("mirror", self.Settings)
        groups = {copy.group for copy in self.settings.copies}
        self._copies = {group: tuple(one for one in self.settings.copies if one.group == group) for group in groups}
        self.active = bool(self._copies)

    @hookimpl
    async def post_call(self, call: Call, reply: Reply) -> None:
        # Not before: routing refuses callers, too, and throws the dice that an explanation of the call throws.
        for copy in self._copies.get(call.model, ()):
            if call.op in COPIED and call.principal.key_id != PAYS.key_id and call.dice.random() * 100.0 < copy.percent:
                self._send(call, copy)

    def explain(self, call: Call) -> dict[str, Any]:
        """Where copies may go, for administrators; whether this one is copied is left to chance."""
        copies = self._copies.get(call.model, ())
        if not call.principal.is_admin:
            return {"copies": [{"percent": one.percent} for one in copies]}
        return {"copies": [{"to": one.to, "percent": one.percent} for one in copies]}

    def _send(self, call: Call, copy: Copy) -> None:
        if self.in_flight >= self.settings.max_in_flight:
            self.counts["dropped"] += 1
            return
        self.in_flight += 1
        options = {"timeout": self.settings.timeout, "num_retries": 0, "disable_fallbacks": True,
                   "metadata": {"mirror_of": call.id}}  # fmt: skip
        if REGION in call.options:
            options[REGION] = call.options[REGION]
        # What was read from the request is not changed by anybody, only replaced: the bodies may share their parts.
        twin = Call(
            ingress=call.ingress,
            op=call.op,
            dialect=call.dialect,
            model=copy.to,
            body=dict(call.body),
            stream=call.stream,
            principal=_payer(call),
            options=options,
        )

        async def tag() -> None:
            twin.options = {**options, "tags": ["mirror"]}

        twin.defer(tag)  # for the record alone: a tag filter would look for deployments that carry it
        self.gateway.spawn(self._run(twin), name=f"mirror {call.id} to {copy.to}")

    async def _run(self, twin: Call) -> None:
        self.counts["sent"] += 1
        try:
            async with asyncio.timeout(self.settings.timeout + 1.0):
                await self.gateway.ask(twin)
        except (Failure, TimeoutError):
            self.counts["failed"] += 1  # its record says how
        finally:
            self.in_flight -= 1


def _payer(call: Call) -> Principal:
    """Who asks for the copy: held to the region of the key whose call is copied, and to nothing else."""
    bound = call.principal.metadata.get(REGION)
    return PAYS if bound is None else msgspec.structs.replace(PAYS, metadata={REGION: bound})
