"""Recorded exchanges of real providers, replayed through a running gateway over sockets.

The upstream answers with the recorded bytes; what the client must receive is derived from them by `reader`, which
shares no code with the gateway. One test for each provider collects all differences and reports them together.
"""

from __future__ import annotations

import pytest

from tests.corpus.records import CORPUS, SOMEONE_ELSE, deployment, installed, load, manifest, records, routes
from tests.corpus.replay import BROKEN, REFUSED, Case, Stage
from tianji.testing.gateway import gateway
from tianji.testing.upstream import Upstream

LINES = manifest()
PROVIDERS = sorted({line["provider"] for line in LINES})
SEVENS = 10_000
"""Streams up to this size are also sent in pieces of seven bytes."""

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not LINES, reason=f"the recorded traffic is not at {CORPUS} (set TIANJI_CORPUS)"),
]


@pytest.mark.parametrize("provider", PROVIDERS or ["none"])
async def test_replay(provider: str) -> None:
    """Text, tool calls, finish reason, usage and errors reach the client; nothing raises, nothing is lost."""
    asked = [(record, route) for record in records(provider) for route in routes(record)]
    missing = {route.plugin for _, route in asked} - installed()
    if missing:
        pytest.skip(f"{', '.join(sorted(missing))} is not installed")
    if not asked:
        pytest.skip(f"all of it is {next(why for (name, _), why in SOMEONE_ELSE.items() if name == provider)}")
    problems: list[str] = []
    async with Upstream() as up:
        stage = Stage(up)
        names = {f"{number}-group": one for number, one in enumerate(asked)}
        config = {
            "model_list": [deployment(*one, name, stage.base(name)) for name, one in names.items()],
            "router_settings": {"num_retries": 0},
        }
        async with gateway(config) as gw:
            for name, (record, route) in names.items():
                case = Case(gw, stage, record, route, name)
                await case.run(sevens=len(record.raw) <= SEVENS)
                problems += case.problems
    assert not problems, f"{len(problems)} differences in {len(asked)} replays:\n" + "\n".join(problems)


def test_every_record_has_its_place() -> None:
    """A record is replayed, or it stands in the table of those that no installed plugin could read."""
    placeless = {(one.provider, one.endpoint) for one in map(load, LINES) if not routes(one)}
    assert placeless == set(SOMEONE_ELSE)


def test_the_tables_name_records_that_exist() -> None:
    assert set(BROKEN) | set(REFUSED) <= {line["id"] for line in LINES}
