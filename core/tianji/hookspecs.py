# mypy: disable-error-code="empty-body"
"""Every hook of Tianji, in the order in which a call meets them. This page is the table of contents of the gateway.

pluggy checks names and arguments when a plugin is registered: an implementation may take any subset of a hook's
arguments, in any order. It never dispatches a call. `Registry.seal()` compiles each hook to a plain tuple or dict,
sorted by the plugin's class attribute `order`, then by name:

    100 identity · 200 limits and budgets · 300 guardrails · 400 cache · 500 default · 800 rewriting

`async` here means `async def` there. There are no hook wrappers: take something in `pre_call` and return it with
`call.defer`; run a check beside the provider with `call.watch`; touch a stream by wrapping `reply.stream`.

Most authors never write a hook. They subclass one of the five bases in `tianji.plugin` and write one method; the base
turns it into the hook, sealed. Extensions mark their own hooks with `@hookimpl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from tianji.errors import Failure
    from tianji.model import Call, Deployment, Ingress, Principal, Record, Reply
    from tianji.services import Assembly, GatewayAPI

hookspec = pluggy.HookspecMarker("tianji")
hookimpl = pluggy.HookimplMarker("tianji")

# -- assembly: called through pluggy, once per start or reload --------------------------------------------------------


@hookspec
def configure(app: Assembly) -> None:
    """Add routes, CLI commands, services and config sections. No I/O here.

    An exception stops the start.
    """


@hookspec
async def startup(gateway: GatewayAPI) -> None:
    """Open connections, migrate, start loops. Every service is there; a missing one has already stopped the start.

    Runs in `order`. An exception stops the start.
    """


@hookspec
async def shutdown(gateway: GatewayAPI) -> None:
    """Flush and close. Runs in reverse `order`, after the last call; an exception is logged and the rest goes on."""


# -- one call: compiled by the registry, never dispatched by pluggy ---------------------------------------------------


@hookspec(firstresult=True)
async def identify(ingress: Ingress) -> Principal | None:
    """Who is calling?

    Return None for "not my kind of credential"; raise `Unauthorized` or `Forbidden` for "mine, and bad". The first
    principal wins; none at all is a 401. Any other exception is a 401 as well: a fault is never an identity.
    """


@hookspec
async def pre_call(call: Call) -> Reply | None:
    """Admit, limit, rewrite or answer the call, before a deployment is chosen.

    Runs in `order`. Returning a Reply skips routing and the provider (a cache hit, a canned answer); `post_call` then
    runs for this plugin and those before it. Raising a Failure ends the call; what was deferred still runs.
    """


@hookspec(firstresult=True)
async def select(call: Call) -> str | None:
    """The model group asked for is a stand-in: name the group that answers instead.

    Asked of the one selector that stands there. An exception refuses the call.
    """


@hookspec
async def narrow(call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment] | None:
    """Leave out the deployments that must not serve this call. None: all of them may.

    Runs in `order`, each on what the one before kept. An exception refuses the call: what guards does not fail open.
    """


@hookspec(firstresult=True)
async def route(call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment] | None:
    """Order the candidates that are healthy, best first; the tail is the failover list.

    Asked of the one strategy that the model group names. An exception falls back to the kernel's own order (as
    configured) and is counted.
    """


@hookspec(firstresult=True)
async def provider_call(call: Call, deployment: Deployment) -> Reply:
    """Make one attempt against one deployment.

    Asked of the one provider that the deployment names. Raise an `UpstreamFailure` and never retry: the attempt loop
    decides. The call is in a dialect that the provider declares in `native`, translated if need be.
    """


@hookspec(firstresult=True)
async def fallback(call: Call, failure: Failure, tried: Sequence[Deployment]) -> Sequence[Deployment] | None:
    """The candidates ran out: offer others, or None to give up.

    Runs in `order`; the kernel's own answer (from `fallbacks:` in the config) comes last. The first non-None wins.
    """


@hookspec
async def post_call(call: Call, reply: Reply) -> Reply | None:
    """See or replace the reply, in reverse order of `pre_call`.

    Called before the first byte leaves. To touch a stream, wrap `reply.stream`; there is no per-chunk hook. Raising a
    Failure answers the client with that error (or an error event, once a stream has begun).
    """


@hookspec
async def log(records: Sequence[Record]) -> None:
    """Finished calls, in batches, off the request path. Records are frozen and complete.

    An exception makes the kernel retry the batch; after repeated failures the plugin's circuit opens and batches are
    dropped and counted until it recovers.
    """
