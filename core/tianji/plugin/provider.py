"""Providers: the upstream side. Nearly every one subclasses `HTTPProvider` or `OpenAICompatible`, not this."""

from __future__ import annotations

from typing import ClassVar, final

from tianji.hookspecs import hookimpl
from tianji.model import Call, Deployment, Op, Reply
from tianji.plugin.base import Plugin


class Provider(Plugin):
    """Makes attempts against deployments. One instance serves all deployments of its name.

    `Settings` are the provider's own keys of `tianji_params`; each deployment carries its filled struct in
    `deployment.settings`. Keys that nobody knows become default request fields.
    """

    family: ClassVar[str] = "providers"
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT})
    """What it can do."""
    native: ClassVar[frozenset[str]] = frozenset({"openai-chat"})
    """Dialects that `call` accepts and answers in. Calls in another dialect arrive as `openai-chat`."""
    api_key_env: ClassVar[tuple[str, ...]] = ()
    """Variables that usually hold its key, the first set one wins. Also how the empty configuration finds it."""
    needs_key: ClassVar[bool] = True
    """A deployment without a key cannot work."""
    models: ClassVar[tuple[str, ...]] = ()
    """Model names to list for a wildcard, beside those of the price file."""
    prefill: ClassVar[bool] = False
    """Goes on with an answer whose beginning is the last message: an assistant's, marked `prefix: true` in a chat call.
    Only where the vendor documents it; `prefills` says for which models."""
    repeats_prefill: ClassVar[bool] = False
    """The answer to such a call repeats that beginning before it goes on."""

    async def call(self, call: Call, deployment: Deployment) -> Reply:
        """Make one attempt. Raise an `UpstreamFailure`; never retry, never sleep."""
        raise NotImplementedError

    def serves(self, call: Call) -> bool:
        """Whether this provider can answer the call at all, natively or through chat."""
        return call.op in self.ops or call.dialect in self.native or (call.op == Op.COMPLETIONS and Op.CHAT in self.ops)

    def prefills(self, call: Call, deployment: Deployment) -> bool:
        """Whether this deployment can go on with the beginning of an answer. Asked only where `prefill` is set."""
        return self.prefill

    @final
    @hookimpl
    async def provider_call(self, call: Call, deployment: Deployment) -> Reply:
        return await self.call(call, deployment)
