"""The kernel's own ledger: sums of entries, each line once, unknown prices apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tianji.ledger import KEPT, MemoryLedger
from tianji.model import Entry
from tianji.services import Ledger
from tianji.testing import make_principal

WHO = make_principal()


def entry(kind: str, call: str = "c", attempt: int = 1, nano: int | None = 10, key: str = "k") -> Entry:
    name = "reserve" if kind == "reserve" else "settle"
    return Entry(f"{call}:{attempt}:{name}", kind, call, attempt, key, "d", "m", nano)


def test_it_is_the_service() -> None:
    assert isinstance(MemoryLedger(), Ledger)


async def test_a_hold_gives_way_to_the_cost() -> None:
    ledger = MemoryLedger()
    await ledger.reserve(entry("reserve", nano=100), WHO)
    assert (ledger.open, ledger.held, ledger.spend("k")) == (1, 100, 0)
    await ledger.settle(entry("settle", nano=7))
    assert (ledger.open, ledger.held, ledger.spend("k")) == (0, 0, 7)
    assert [one.kind for one in ledger.entries] == ["reserve", "settle"]


async def test_the_same_line_twice_counts_once() -> None:
    ledger = MemoryLedger()
    for _ in range(2):
        await ledger.reserve(entry("reserve", nano=100), WHO)
    for _ in range(2):
        await ledger.settle(entry("settle", nano=7))
    assert (len(ledger.entries), ledger.held, ledger.spend("k")) == (2, 0, 7)


async def test_a_settlement_without_a_hold_is_nothing() -> None:
    ledger = MemoryLedger()
    await ledger.settle(entry("settle", nano=7))
    assert (len(ledger.entries), ledger.spend("k")) == (0, 0)


async def test_an_unknown_price_is_counted_apart() -> None:
    ledger = MemoryLedger()
    await ledger.reserve(entry("reserve", nano=None), WHO)
    assert (ledger.open, ledger.held) == (1, 0)
    await ledger.settle(entry("settle", nano=None))
    assert (ledger.unpriced, ledger.spend("k"), ledger.open) == (1, 0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "settle", "void"]),
            st.sampled_from("abc"),
            st.integers(1, 2),
            st.none() | st.integers(0, 10**15),
            st.sampled_from("kl"),
        ),
        max_size=60,
    )
)
async def test_balances_are_sums_of_entries_in_any_order(steps: list[tuple[str, str, int, int | None, str]]) -> None:
    ledger = MemoryLedger()
    for kind, call, attempt, nano, key in steps:
        nano = 0 if kind == "void" else nano
        made = entry(kind, call, attempt, nano, key)
        await (ledger.reserve(made, WHO) if kind == "reserve" else ledger.settle(made))
    held: dict[tuple[str, int], int] = {}
    spent = {"k": 0, "l": 0}
    for one in ledger.entries:
        if one.kind == "reserve":
            held[one.call_id, one.attempt] = one.nano or 0
        else:
            del held[one.call_id, one.attempt]
            spent[one.key_id] += one.nano or 0
    assert ledger.held == sum(held.values())
    assert ledger.open == len(held)
    assert {key: ledger.spend(key) for key in spent} == spent


async def test_what_is_kept_for_inspection_is_bounded_and_the_sums_are_not() -> None:
    ledger = MemoryLedger()
    for number in range(KEPT):
        await ledger.reserve(entry("reserve", str(number)), WHO)
        await ledger.settle(entry("settle", str(number), nano=3))
    assert len(ledger.entries) == KEPT
    assert ledger.spend("k") == 3 * KEPT
