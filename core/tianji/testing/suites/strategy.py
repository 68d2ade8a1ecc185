"""`StrategySuite`: what every strategy must do, on generated deployments and histories.

    class TestLeastBusy(StrategySuite):
        plugin = LeastBusy
        returns = ("in_flight",)

The examples are generated the same way in every run (`derandomize`), so a failure is repeatable.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from tianji import errors
from tianji.errors import Failure
from tianji.model import Call, Deployment, Usage
from tianji.plugin import Strategy
from tianji.testing.builders import make_attempt, make_call, make_deployment
from tianji.testing.suites.base import Suite, start, stop

OUTCOMES = ("ok", *sorted(name for name, kind in vars(errors).items() if _is_failure(kind))) if False else ()


def _failure_names() -> tuple[str, ...]:
    found = [kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Failure)]
    return ("ok", *sorted(found))
