"""The conformance kit: what a plugin's own test file is made of.

    class TestGroq(ProviderSuite):
        plugin = Groq
        wire = "wire"

is a complete one. A suite's tests switch on by what the plugin declares (`ops`, modes, overridden methods). Beside the
suites stand the fakes: `Upstream` (a scripted loopback server), `FakeGateway`, and builders for the model's types.

Names are loaded on first use (PEP 562), so that neither `import tianji.testing` nor the pytest plugin beside it costs
anything in a run that does not test Tianji.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_EXPORTS = {
    # one suite a family
    "ProviderSuite": "tianji.testing.suites.provider",
    "GuardrailSuite": "tianji.testing.suites.guardrail",
    "CallbackSuite": "tianji.testing.suites.callback",
    "StrategySuite": "tianji.testing.suites.strategy",
    "FilterSuite": "tianji.testing.suites.filter",
    "SelectorSuite": "tianji.testing.suites.selector",
    "ExtensionSuite": "tianji.testing.suites.extension",
    # services
    "CountersSuite": "tianji.testing.suites.services",
    "KVSuite": "tianji.testing.suites.services",
    # golden exchanges
    "Golden": "tianji.testing.goldens",
    "load_goldens": "tianji.testing.goldens",
    "parse_golden": "tianji.testing.goldens",
    "read_stream": "tianji.testing.goldens",
    "summarise": "tianji.testing.goldens",
    # fakes
    "Answer": "tianji.testing.fakes",
    "FakeAssembly": "tianji.testing.fakes",
    "FakeClock": "tianji.testing.clock",
    "FakeGateway": "tianji.testing.fakes",
    "Upstream": "tianji.testing.upstream",
    # builders
    "make_attempt": "tianji.testing.builders",
    "make_call": "tianji.testing.builders",
    "make_deployment": "tianji.testing.builders",
    "make_plugin": "tianji.testing.builders",
    "make_principal": "tianji.testing.builders",
    "make_record": "tianji.testing.builders",
    # checks
    "assert_imports_light": "tianji.testing.imports",
    "captured_logs": "tianji.testing.purity",
    "nothing_impure": "tianji.testing.purity",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - one table serves the exports and their homes


def __getattr__(name: str) -> Any:
    home = _EXPORTS.get(name)
    if home is None:
        raise AttributeError(f"module 'tianji.testing' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


if TYPE_CHECKING:
    from tianji.testing.builders import make_attempt as make_attempt
    from tianji.testing.builders import make_call as make_call
    from tianji.testing.builders import make_deployment as make_deployment
    from tianji.testing.builders import make_plugin as make_plugin
    from tianji.testing.builders import make_principal as make_principal
    from tianji.testing.builders import make_record as make_record
    from tianji.testing.clock import FakeClock as FakeClock
    from tianji.testing.fakes import Answer as Answer
    from tianji.testing.fakes import FakeAssembly as FakeAssembly
    from tianji.testing.fakes import FakeGateway as FakeGateway
    from tianji.testing.goldens import Golden as Golden
    from tianji.testing.goldens import load_goldens as load_goldens
    from tianji.testing.goldens import parse_golden as parse_golden
    from tianji.testing.goldens import read_stream as read_stream
    from tianji.testing.goldens import summarise as summarise
    from tianji.testing.imports import assert_imports_light as assert_imports_light
    from tianji.testing.purity import captured_logs as captured_logs
    from tianji.testing.purity import nothing_impure as nothing_impure
    from tianji.testing.suites.callback import CallbackSuite as CallbackSuite
    from tianji.testing.suites.extension import ExtensionSuite as ExtensionSuite
    from tianji.testing.suites.filter import FilterSuite as FilterSuite
    from tianji.testing.suites.guardrail import GuardrailSuite as GuardrailSuite
    from tianji.testing.suites.provider import ProviderSuite as ProviderSuite
    from tianji.testing.suites.selector import SelectorSuite as SelectorSuite
    from tianji.testing.suites.services import CountersSuite as CountersSuite
    from tianji.testing.suites.services import KVSuite as KVSuite
    from tianji.testing.suites.strategy import StrategySuite as StrategySuite
    from tianji.testing.upstream import Upstream as Upstream
