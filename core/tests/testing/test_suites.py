"""What holds for all five suites: nothing is overridden in silence, and every failure explains itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tianji import Callback
from tianji.model import Record
from tianji.testing import CallbackSuite, ExtensionSuite, GuardrailSuite, ProviderSuite, StrategySuite

Run = Callable[[type[Any]], dict[str, str]]


class Nothing(Callback):
    """Exports nowhere."""

    name = "nothing"

    async def export(self, records: Sequence[Record]) -> None: ...


def test_overriding_a_test_is_found(failed: Run) -> None:
    class Quiet(CallbackSuite):
        plugin = Nothing

        async def test_batch(self, size: int = 1) -> None:
            """Silently nothing."""

    class Loose(CallbackSuite):
        plugin = Nothing

        @pytest.mark.xfail(reason="not strict")
        async def test_batch(self, size: int = 1) -> None: ...

    class Honest(CallbackSuite):
        plugin = Nothing

        @pytest.mark.xfail(strict=True, reason="the peer takes one record at a time")
        async def test_batch(self, size: int = 1) -> None: ...

        def test_of_its_own(self) -> None: ...

    class Inherits(Quiet):
        pass

    found = ["test_no_test_is_overridden" in failed(suite) for suite in (Quiet, Loose, Honest, Inherits)]
    assert found == [True, True, False, True]


def test_the_test_against_overriding_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="overrides the test"):
        type("Sly", (CallbackSuite,), {"test_no_test_is_overridden": lambda self: None, "__module__": __name__})


@pytest.mark.parametrize("suite", [ProviderSuite, GuardrailSuite, CallbackSuite, StrategySuite, ExtensionSuite])
def test_every_suite_test_explains_itself(suite: type[Any]) -> None:
    tests = [getattr(suite, name) for name in dir(suite) if name.startswith("test_")]
    assert len(tests) > 5
    for test in tests:
        assert (test.__doc__ or "").strip(), f"{suite.__name__}.{test.__name__} has no docstring"
