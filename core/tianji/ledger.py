"""The kernel's own ledger: exact sums in memory, for a gateway that nobody asked to keep books.

It holds what is open and what each key has spent; a database extension replaces it through the `Ledger` service. It
sets no budgets, so it refuses nothing.
"""

from __future__ import annotations

from collections import deque

from tianji.model import Entry, Principal

KEPT = 1000


class MemoryLedger:
    """Balances as sums of entries. Keys are few here (the master key), so the table of balances stays small."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=KEPT)
        """The most recent entries, for inspection and tests."""
        self._open: dict[tuple[str, int], int] = {}
        self._spent: dict[str, int] = {}
        self.unpriced = 0
        """Settled calls whose cost is unknown. Unknown is not zero, so they are counted apart."""

    async def reserve(self, entry: Entry, principal: Principal) -> None:
        key = (entry.call_id, entry.attempt)
        if key not in self._open:
            self._open[key] = entry.nano or 0
            self.entries.append(entry)

    async def settle(self, entry: Entry) -> None:
        if self._open.pop((entry.call_id, entry.attempt), None) is None:
            return
        self.entries.append(entry)
        if entry.nano is None:
            self.unpriced += 1
        elif entry.nano:
            self._spent[entry.key_id] = self._spent.get(entry.key_id, 0) + entry.nano

    def spend(self, key_id: str) -> int:
        return self._spent.get(key_id, 0)

    @property
    def held(self) -> int:
        """The sum of what is reserved and not yet settled, in nano-dollars."""
        return sum(self._open.values())

    @property
    def open(self) -> int:
        """How many reservations are open."""
        return len(self._open)
