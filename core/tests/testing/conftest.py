"""A small runner for suites: the tests below need to see a suite fail without failing themselves."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Verdicts = dict[str, str]
"""Test → `passed`, `skipped: …` or `failed: …`; of a parametrised test the worst outcome."""


def _cases(suite: type[Any], test: Any) -> Iterator[dict[str, Any]]:
    """The arguments of one test, as pytest would have made them."""
    rows: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize":
            names, values = mark.args
            rows.append([{names: value} for value in values])
    for name, wanted in (("golden", lambda one: True), ("stream", lambda one: one.streams)):
        if name in inspect.signature(test).parameters:
            rows.append([{name: golden} for golden in suite.goldens() if wanted(golden)])
    for combination in itertools.product(*rows):
        yield {key: value for part in combination for key, value in part.items()}


def _run_one(suite: type[Any], name: str, arguments: dict[str, Any]) -> str:
    loop = asyncio.new_event_loop()
    try:
        result = getattr(suite(), name)(**arguments)
        if inspect.iscoroutine(result):
            loop.run_until_complete(asyncio.wait_for(result, 10))
    except pytest.skip.Exception as skipped:
        return f"skipped: {skipped}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"failed: {type(error).__name__}: {error}"
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    return "passed"


def run_suite(suite: type[Any]) -> Verdicts:
    verdicts: Verdicts = {}
    for name in dir(suite):
        if name.startswith("test_"):
            outcomes = [_run_one(suite, name, arguments) for arguments in _cases(suite, getattr(suite, name))]
            verdicts[name] = min(
                outcomes or ["skipped: no case"], key=lambda outcome: outcome[:2]
            )  # "fa" < "pa" < "sk"
    return verdicts


@pytest.fixture
def failed() -> Callable[[type[Any]], dict[str, str]]:
    """Run a suite class; the tests that failed, with their messages."""

    def run(suite: type[Any]) -> dict[str, str]:
        return {name: verdict for name, verdict in run_suite(suite).items() if verdict.startswith("failed")}

    return run


@pytest.fixture
def verdicts() -> Callable[[type[Any]], Verdicts]:
    return run_suite
