"""`KV` and `Counters` on a server, and in memory while it cannot be used."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from tianji import MemoryCounters, MemoryKV
from tianji_extension_redis.lane import Down, Lane, Word

T = TypeVar("T")

CELLS = 60
"""Cells that a window is divided into. None is shorter than a second."""
FOREVER = 10 * 365 * 24 * 3600.0
"""Seconds. A longer time to live is this one."""
AMOUNT = 2**53
SCRIPT = b"""
-- KEYS: one counter, a hash of cells: when the cell begins, in seconds, and what was added in it.
-- ARGV: the amount (below 0 it is given back, 0 only reads), the window and a cell's length in seconds.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local amount, window, length = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local current = time[1] - time[1] % length
local held = redis.call('HGETALL', KEYS[1])
local cells, gone, sum, ahead = {}, {}, 0, 0
for i = 1, #held, 2 do
  local begin, part = tonumber(held[i]), tonumber(held[i + 1])
  if begin + length <= now - window then
    gone[#gone + 1] = held[i]
  elseif begin > current then  -- the clock was set back: it counts from now on, and not for ever
    gone[#gone + 1] = held[i]
    ahead = ahead + part
    sum = sum + part
  else
    cells[#cells + 1] = {begin, part}
    sum = sum + part
  end
end
if amount == 0 then
  return sum
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
if ahead > 0 then
  redis.call('HINCRBY', KEYS[1], string.format('%.0f', current), string.format('%.0f', ahead))
end
if amount > 0 then
  redis.call('HINCRBY', KEYS[1], string.format('%.0f', current), ARGV[1])
  redis.call('EXPIRE', KEYS[1], string.format('%.0f', math.ceil(window + length) + 1))
  return sum + amount
end
if ahead > 0 then
  local there = false
  for _, cell in ipairs(cells) do
    if cell[1] == current then
      cell[2] = cell[2] + ahead
      there = true
    end
  end
  if not there then
    cells[#cells + 1] = {current, ahead}
  end
end
table.sort(cells, function(one, two) return one[1] < two[1] end)
for _, cell in ipairs(cells) do
  local taken = math.min(cell[2], -amount)
  if taken == 0 then
    break
  end
  amount = amount + taken
  sum = sum - taken
  if taken == cell[2] then
    redis.call('HDEL', KEYS[1], string.format('%.0f', cell[1]))
  else
    redis.call('HINCRBY', KEYS[1], string.format('%.0f', cell[1]), string.format('%.0f', -taken))
  end
end
return sum
"""
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()


class RedisKV:
    """`KV`: a string for each key."""

    def __init__(self, lane: Lane, prefix: str) -> None:
        self.lane = lane
        self._prefix = f"{prefix}kv:"
        self._memory: MemoryKV | None = None
        """Of an outage; what is in it is not read again after that."""

    async def get(self, key: str) -> bytes | None:
        return await self._ask((b"GET", self._name(key)), lambda memory: memory.get(key))

    async def many(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        return await self._ask((b"MGET", *map(self._name, keys)), lambda memory: memory.many(keys))

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        words: tuple[Word, ...] = (b"SET", self._name(key), value)
        if ttl is not None:
            if not ttl > 0:
                await self.delete(key)
                return
            words = (*words, b"PX", max(1, round(min(ttl, FOREVER) * 1000)))
        await self._ask(words, lambda memory: memory.set(key, value, ttl))

    async def delete(self, *keys: str) -> int:
        if not keys:
            return 0
        return await self._ask((b"DEL", *map(self._name, keys)), lambda memory: memory.delete(*keys))

    def _name(self, key: str) -> bytes:
        return (self._prefix + key).encode("utf-8", "surrogatepass")

    async def _ask(self, words: tuple[Word, ...], instead: Callable[[MemoryKV], Awaitable[T]]) -> T:
        try:
            answer: T = await self.lane.ask(*words)
        except Down:
            if self._memory is None:
                self._memory = MemoryKV()
            return await instead(self._memory)
        self._memory = None
        return answer

    async def aclose(self) -> None:
        await self.lane.close()


class RedisCounters:
    """`Counters`: a hash of cells for each key, and one script, so that each call is one round trip and one step."""

    def __init__(self, lane: Lane, prefix: str) -> None:
        self.lane = lane
        self._prefix = f"{prefix}counter:"
        self._memory = MemoryCounters()

    async def add(self, key: str, amount: int, window: float) -> int:
        if abs(amount) > AMOUNT:
            raise ValueError(f"an amount is at most 2**53, not {amount!r}")
        return await self._run(key, amount, window, lambda: self._memory.add(key, amount, window))

    async def read(self, key: str, window: float) -> int:
        return await self._run(key, 0, window, lambda: self._memory.read(key, window))

    async def _run(self, key: str, amount: int, window: float, instead: Callable[[], Awaitable[int]]) -> int:
        if not 0 < window < math.inf:
            raise ValueError(f"a window is a finite number of seconds above 0, not {window!r}")
        name = (self._prefix + key).encode("utf-8", "surrogatepass")
        words: tuple[Word, ...] = (1, name, amount, repr(float(window)), math.ceil(max(1.0, window / CELLS)))
        try:
            return int(await self._script(words))
        except Down:
            return await instead()

    async def _script(self, words: tuple[Word, ...]) -> Any:
        from redis.exceptions import NoScriptError

        try:
            return await self.lane.ask(b"EVALSHA", SHA, *words)
        except NoScriptError:
            pass
        try:
            return await self.lane.ask(b"EVAL", SCRIPT, *words)
        except NoScriptError:
            raise Down from None

    async def aclose(self) -> None:
        await self.lane.close()
