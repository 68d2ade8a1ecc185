"""The pytest plugin that comes with `tianji-core`. It is installed with the kernel, so it loads in every pytest run of
every environment that has Tianji; therefore it acts on a test in two cases only:

- the test belongs to one of the kit's suites (`class TestGroq(ProviderSuite)`), or
- the ini option `tianji_hygiene = true` is set, which makes it act on all tests.

What it does around such a test, fixtures included: connections and name look-ups that would leave this machine raise
`NetworkBlocked`, and credentials and proxies are taken out of the environment, so that a test passes or fails for the
same reason on every machine. `@pytest.mark.allow_network` exempts a test from the first.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tianji.testing.hygiene import loopback_only, scrubbed_environment

# So that a suite's bare `assert` explains itself, as one in a test file does.
pytest.register_assert_rewrite("tianji.testing.suites", "tianji.testing.goldens")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("tianji_hygiene", "keep every test off the network and away from real keys", "bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "allow_network: let this test open connections to other machines")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not (item.config.getini("tianji_hygiene") or hasattr(getattr(item, "cls", None), "tianji_suite")):
        return (yield)
    with scrubbed_environment():
        if item.get_closest_marker("allow_network") is not None:
            return (yield)
        with loopback_only():
            return (yield)
