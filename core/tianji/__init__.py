"""Tianji: an LLM gateway in which every provider, guardrail, callback, strategy and extension is a plugin.

What this module exports is the public API for plugin authors; everything else may change between minor versions.
Names are loaded on first use (PEP 562), so that `import tianji` costs a dictionary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    # the five bases
    "Plugin": "tianji.plugin",
    "PluginSettings": "tianji.plugin",
    "Provider": "tianji.plugin",
    "HTTPProvider": "tianji.providers",
    "OpenAICompatible": "tianji.providers",
    "Guardrail": "tianji.plugin",
    "Callback": "tianji.plugin",
    "Strategy": "tianji.plugin",
    "Filter": "tianji.plugin",
    "Selector": "tianji.plugin",
    "Release": "tianji.plugin",
    "Extension": "tianji.plugin",
    # what their methods speak
    "Content": "tianji.plugin",
    "Verdict": "tianji.plugin",
    "Decoder": "tianji.providers.http",
    "END": "tianji.providers.http",
    "classify": "tianji.errors",
    "error_fields": "tianji.providers.http",
    "must_be_object": "tianji.providers.http",
    "estimate_input": "tianji.accounting",
    "completion": "tianji.dialects.openai",
    "chunk": "tianji.dialects.openai",
    "usage_from_openai": "tianji.dialects.usage:from_openai",
    "usage_to_openai": "tianji.dialects.usage:to_openai",
    # the model
    "Attempt": "tianji.model",
    "Call": "tianji.model",
    "DONE": "tianji.model",
    "Chunk": "tianji.model",
    "Cost": "tianji.model",
    "Deployment": "tianji.model",
    "DeploymentHealth": "tianji.health_state",
    "GatewayHealth": "tianji.health_state",
    "Entry": "tianji.model",
    "Event": "tianji.model",
    "Headers": "tianji.model",
    "Ingress": "tianji.model",
    "Op": "tianji.model",
    "Principal": "tianji.model",
    "Record": "tianji.model",
    "Reply": "tianji.model",
    "Secret": "tianji.model",
    "Usage": "tianji.model",
    "Wire": "tianji.model",
    "decode_json": "tianji.model",
    "document": "tianji.records",
    "encode_json": "tianji.model",
    # hooks and services
    "hookimpl": "tianji.hookspecs",
    "Counters": "tianji.services",
    "Database": "tianji.services",
    "Embedder": "tianji.services",
    "KV": "tianji.services",
    "KeyStore": "tianji.services",
    "Ledger": "tianji.services",
    "MemoryCounters": "tianji.memory",
    "MemoryKV": "tianji.memory",
    "ResponseCache": "tianji.services",
    "SecretSource": "tianji.services",
    "Tokenizer": "tianji.services",
    "Tally": "tianji.tally",
    # failures
    "TianjiError": "tianji.errors",
    "ConfigError": "tianji.errors",
    "PluginError": "tianji.errors",
    "Failure": "tianji.errors",
    "Refused": "tianji.errors",
    "BadRequest": "tianji.errors",
    "Blocked": "tianji.errors",
    "Forbidden": "tianji.errors",
    "NoDeployment": "tianji.errors",
    "OverBudget": "tianji.errors",
    "Overloaded": "tianji.errors",
    "RateLimited": "tianji.errors",
    "Unauthorized": "tianji.errors",
    "UpstreamFailure": "tianji.errors",
    "BadCredentials": "tianji.errors",
    "ContentPolicy": "tianji.errors",
    "ContextWindow": "tianji.errors",
    "PermissionDenied": "tianji.errors",
    "ProtocolError": "tianji.errors",
    "Rejected": "tianji.errors",
    "Throttled": "tianji.errors",
    "Timeout": "tianji.errors",
    "Unavailable": "tianji.errors",
    "UpstreamNotFound": "tianji.errors",
    "from_status": "tianji.errors",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - one table serves the exports, their homes and the type stubs' check


def __getattr__(name: str) -> Any:
    home = _EXPORTS.get(name)
    if home is None:
        raise AttributeError(f"module 'tianji' has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = home.partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


if TYPE_CHECKING:
    from tianji.accounting import estimate_input as estimate_input
    from tianji.dialects import usage as _usage
    from tianji.dialects.openai import chunk as chunk
    from tianji.dialects.openai import completion as completion
    from tianji.errors import BadCredentials as BadCredentials
    from tianji.errors import BadRequest as BadRequest
    from tianji.errors import Blocked as Blocked
    from tianji.errors import ConfigError as ConfigError
    from tianji.errors import ContentPolicy as ContentPolicy
    from tianji.errors import ContextWindow as ContextWindow
    from tianji.errors import Failure as Failure
    from tianji.errors import Forbidden as Forbidden
    from tianji.errors import NoDeployment as NoDeployment
    from tianji.errors import OverBudget as OverBudget
    from tianji.errors import Overloaded as Overloaded
    from tianji.errors import PermissionDenied as PermissionDenied
    from tianji.errors import PluginError as PluginError
    from tianji.errors import ProtocolError as ProtocolError
    from tianji.errors import RateLimited as RateLimited
    from tianji.errors import Refused as Refused
    from tianji.errors import Rejected as Rejected
    from tianji.errors import Throttled as Throttled
    from tianji.errors import TianjiError as TianjiError
    from tianji.errors import Timeout as Timeout
    from tianji.errors import Unauthorized as Unauthorized
    from tianji.errors import Unavailable as Unavailable
    from tianji.errors import UpstreamFailure as UpstreamFailure
    from tianji.errors import UpstreamNotFound as UpstreamNotFound
    from tianji.errors import classify as classify
    from tianji.errors import from_status as from_status
    from tianji.health_state import DeploymentHealth as DeploymentHealth
    from tianji.health_state import GatewayHealth as GatewayHealth
    from tianji.hookspecs import hookimpl as hookimpl
    from tianji.memory import MemoryCounters as MemoryCounters
    from tianji.memory import MemoryKV as MemoryKV
    from tianji.model import DONE as DONE
    from tianji.model import Attempt as Attempt
    from tianji.model import Call as Call
    from tianji.model import Chunk as Chunk
    from tianji.model import Cost as Cost
    from tianji.model import Deployment as Deployment
    from tianji.model import Entry as Entry
    from tianji.model import Event as Event
    from tianji.model import Headers as Headers
    from tianji.model import Ingress as Ingress
    from tianji.model import Op as Op
    from tianji.model import Principal as Principal
    from tianji.model import Record as Record
    from tianji.model import Reply as Reply
    from tianji.model import Secret as Secret
    from tianji.model import Usage as Usage
    from tianji.model import Wire as Wire
    from tianji.model import decode_json as decode_json
    from tianji.model import encode_json as encode_json
    from tianji.plugin import Callback as Callback
    from tianji.plugin import Content as Content
    from tianji.plugin import Extension as Extension
    from tianji.plugin import Filter as Filter
    from tianji.plugin import Guardrail as Guardrail
    from tianji.plugin import Plugin as Plugin
    from tianji.plugin import PluginSettings as PluginSettings
    from tianji.plugin import Provider as Provider
    from tianji.plugin import Release as Release
    from tianji.plugin import Selector as Selector
    from tianji.plugin import Strategy as Strategy
    from tianji.plugin import Verdict as Verdict
    from tianji.providers import HTTPProvider as HTTPProvider
    from tianji.providers import OpenAICompatible as OpenAICompatible
    from tianji.providers.http import END as END
    from tianji.providers.http import Decoder as Decoder
    from tianji.providers.http import error_fields as error_fields
    from tianji.providers.http import must_be_object as must_be_object
    from tianji.records import document as document
    from tianji.services import KV as KV
    from tianji.services import Counters as Counters
    from tianji.services import Database as Database
    from tianji.services import Embedder as Embedder
    from tianji.services import KeyStore as KeyStore
    from tianji.services import Ledger as Ledger
    from tianji.services import ResponseCache as ResponseCache
    from tianji.services import SecretSource as SecretSource
    from tianji.services import Tokenizer as Tokenizer
    from tianji.tally import Tally as Tally

    usage_from_openai = _usage.from_openai
    usage_to_openai = _usage.to_openai
