"""Chance that can be repeated: a call's dice.

Everything that is left to chance in choosing a deployment is thrown with the dice of the call, so that a route can be
explained (`POST /v1/explain` shows the seed) and had again. The generator is SplitMix64
(https://prng.di.unimi.it/splitmix64.c): one multiplication-and-shift a throw, and the same numbers on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")

_MASK = (1 << 64) - 1


class Dice:
    """Throws from one seed, an integer from 0 to 2^64 - 1."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def random(self) -> float:
        """A float from 0 up to, but not including, 1."""
        self._state = state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((state ^ (state >> 31)) >> 11) / 9007199254740992.0

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a random order; the given sequence stays as it is."""
        drawn = [(self.random(), index) for index in range(len(items))]
        return [items[index] for _, index in sorted(drawn)]


def seed_of(name: str) -> int:
    """A seed from an id: 32 bits, short enough to be read aloud."""
    return crc32(name.encode())
