"""Every cell of the fault matrix in `docs/explanation/faults.md`: what the client sees, how often providers were asked.

Nothing is timed here. That a stall ends at all shows that a clock fired; when, the page says.
"""

from __future__ import annotations

import pytest

from bench.faults import FAULTS, PAGE, WORDS, Fault, meet

WHOLE = ("answer", "".join(WORDS))
PART = "".join(WORDS[:2])


def broken(code: str) -> str:
    return f"part of the answer, then an error event `{code}`"


ALONE = {
    "reset": ("503 `connection_error`", 3),
    "stall before headers": ("408 `total_timeout`", 3),
    "stall mid-answer": ("408 `total_timeout`", 3),
    "429 storm": ("429 `429`", 3),
    "500 burst": ("answer", 3),
    "slow drip": ("answer", 1),
    "malformed": ("502 `upstream_protocol_error`", 3),
    "truncated": ("502 `upstream_protocol_error`", 3),
    "DNS failure": ("503 `dns_error`", 3),
    "TLS failure": ("503 `tls_error`", 3),
}
"""With one deployment, not streamed: what is seen, and how many attempts are made."""
ALONE_STREAMED = {
    **ALONE,
    "stall before headers": ("408 `headers_timeout`", 3),
    "stall mid-answer": (broken("idle_timeout"), 1),
    "truncated": (broken("upstream_protocol_error"), 1),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_with_one_deployment(fault: Fault, stream: bool) -> None:
    outcome = await meet(fault, stream=stream, deployments=1)
    assert (outcome.seen, outcome.attempts) == (ALONE_STREAMED if stream else ALONE)[fault.name]
    if outcome.seen == "answer":
        assert outcome.text == WHOLE[1]
    elif outcome.seen.startswith("part"):
        assert outcome.text == PART


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_with_three_deployments(fault: Fault, stream: bool) -> None:
    """Whatever comes before the first content is mended by another deployment, and the client never knows."""
    outcome = await meet(fault, stream=stream, deployments=3)
    if stream and fault.name in ("stall mid-answer", "truncated"):
        assert (outcome.seen, outcome.attempts, outcome.text) == (*ALONE_STREAMED[fault.name], PART)
    else:
        assert (outcome.seen, outcome.text) == WHOLE
        assert outcome.attempts == (1 if fault.name == "slow drip" else 2)


def test_the_page_has_every_cell() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    assert len(lines) == len(FAULTS) * 4
    for fault in FAULTS:
        for stream, table in (("no", ALONE), ("yes", ALONE_STREAMED)):
            seen, attempts = table[fault.name]
            begin = f"| {fault.name}: {fault.what} | {stream} | 1 | {seen} | {attempts} |"
            assert any(line.startswith(begin) for line in lines), begin
