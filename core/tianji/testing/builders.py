"""Builders: the model's types with every field filled in plausibly, so that a test names only what it is about; and
plugins as the kernel makes them from a configuration.

Ids are fixed rather than fresh: the same arguments give an equal result, which golden files and purity checks need.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, TypeVar

from tianji import dialects, pricing
from tianji.model import Attempt, Call, Cost, Deployment, Ingress, Op, Principal, Record, Secret, Usage
from tianji.plugin import Plugin, convert_settings
from tianji.testing.fakes import FakeGateway

P = TypeVar("P", bound=Plugin)

TEST_KEY = "sk-test-key"
"""The upstream key of every built deployment; golden files name it in their headers."""

HELLO: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "Hello"}]}


def make_plugin(
    cls: type[P], settings: Mapping[str, Any] | None = None, *, instance: str | None = None, gateway: Any = None
) -> P:
    """A plugin as the kernel makes it for an entry of the configuration.

    `settings` are an operator's (`None`: nothing was written), `instance` the entry's name (default: the plugin's own),
    and the gateway a fresh `FakeGateway` unless one is given.

    Raises:
        ConfigError: The settings do not fit the plugin's `Settings`, or its constructor refuses them.
    """
    name = instance or cls.name
    values = convert_settings(cls.Settings, settings or {}, path=name)
    return cls(values, instance=name, gateway=FakeGateway() if gateway is None else gateway)


def make_principal(**fields: Any) -> Principal:
    """A caller who may use every model; `guardrails=("name",)` selects a guardrail by the key."""
    return Principal(**{"key_id": "key-1", "role": "internal_user", "models": ("*",), **fields})


def make_call(
    body: dict[str, Any] | None = None,
    *,
    op: Op | str | None = None,
    dialect: str = "openai-chat",
    principal: Principal | None = None,
    options: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    id: str = "call-1",
) -> Call:
    """A call as the pipeline would have parsed it. `body` is not copied; the default is a one-message chat.

    The model group and whether it streams are read from the body. `op` defaults to the dialect's own.
    """
    if body is None:
        body = {**HELLO, "messages": [dict(message) for message in HELLO["messages"]]}
    encoded = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
    call = Call(
        ingress=Ingress("POST", "/v1/chat/completions", encoded, "127.0.0.1"),
        op=Op(op) if op is not None else _op_of(dialect),
        dialect=dialect,
        model=str(body.get("model", "test-model")),
        body=body,
        stream=body.get("stream") is True,
        principal=principal or make_principal(),
        options=options,
    )
    call.id = call.call_id = id
    call.seed = next(_seeds)
    return call


_seeds = count(1)
"""Calls of one id would all throw the same dice."""


def _op_of(dialect: str) -> Op:
    """The dialect's op, without loading it where its name says enough."""
    known = {"openai-chat": Op.CHAT, "openai-completions": Op.COMPLETIONS, "openai-embeddings": Op.EMBEDDINGS}
    return known.get(dialect) or dialects.get(dialect).op


def make_deployment(**fields: Any) -> Deployment:
    """A deployment with the key `TEST_KEY`. A plain string given as `api_key` becomes a Secret.

    A mapping given as `price` is read like the price fields of `tianji_params`: `{"input_cost_per_token": 1e-6}`.
    """
    key = fields.pop("api_key", TEST_KEY)
    if isinstance(price := fields.get("price"), Mapping):
        fields["price"] = pricing.custom(price)
    return Deployment(
        **{
            "id": "deployment-1",
            "group": "test-model",
            "provider": "test",
            "model": "upstream-model",
            "api_key": Secret(key) if isinstance(key, str) else key,
            **fields,
        }
    )


def make_attempt(**fields: Any) -> Attempt:
    """A finished attempt; `outcome` is `ok` or the name of a failure's class."""
    return Attempt(
        **{
            "number": 1,
            "deployment_id": "deployment-1",
            "group": "test-model",
            "provider": "test",
            "model": "upstream-model",
            "started": 1_700_000_000.0,
            "duration": 0.25,
            "outcome": "ok",
            "status": 200,
            "usage": Usage(10, 5),
            **fields,
        }
    )


def make_record(**fields: Any) -> Record:
    """The record of a successful chat; name what is to be different."""
    return Record(
        **{
            "id": "call-1",
            "call_id": "call-1",
            "op": "chat",
            "dialect": "openai-chat",
            "model": "test-model",
            "group": "test-model",
            "provider": "test",
            "upstream_model": "upstream-model",
            "deployment_id": "deployment-1",
            "api_base": "http://127.0.0.1:9/v1",
            "stream": False,
            "status": "success",
            "http_status": 200,
            "error": None,
            "key_id": "key-1",
            "key_alias": "alias",
            "user_id": "user-1",
            "team_id": "team-1",
            "org_id": "org-1",
            "end_user": "end-user-1",
            "usage": Usage(10, 5),
            "cost": Cost(1500, 1000, 500, "test"),
            "source": "provider",
            "attempts": (make_attempt(),),
            "fallbacks": 0,
            "response_model": "upstream-model",
            "traceparent": None,
            "started": 1_750_000_000.0,
            "duration": 0.3,
            "time_to_first_token": None,
            "upstream_duration": 0.25,
            "overhead": 0.05,
            "tags": ("test",),
            "metadata": {"trace": "1"},
            "guardrails": (),
            "request": None,
            "response": None,
            **fields,
        }
    )
