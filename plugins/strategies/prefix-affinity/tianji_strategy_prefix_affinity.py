"""Prefix affinity: keeps conversations on the deployment that has their prompt in its cache.

Docs: https://docs.litellm.ai/docs/completion/prompt_caching (the check `prompt_caching`, as operators know it)

What providers cache: https://platform.openai.com/docs/guides/prompt-caching,
https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from time import monotonic
from typing import Annotated, Any

from msgspec import Meta

from tianji import KV, Call, Deployment, Filter, PluginSettings, Release, encode_json, hookimpl

logger = logging.getLogger("tianji.strategies.prefix-affinity")

LENGTHS = 20
"""Beginnings of a prompt that are looked for, the longest first: Anthropic looks back over as many blocks."""
MOST = 10_000
"""Beginnings that are known in this process; the one that was used longest ago goes first."""
PAUSE = 1.0
"""Seconds between two times that other processes are told."""
BYTES = 4
"""Of text, a token."""
_HEAD = ("tools", "functions", "system", "instructions", "systemInstruction", "system_instruction")
"""Fields of a body that come before the first message, in some dialect or other."""
_TURNS = ("messages", "contents", "input")
"""Where the messages are."""
_AWAY = "where prompts are cached cannot be exchanged; this process goes by its own memory"


class Prompt:
    """What is known of a call's prompt: digests of its beginnings, and where the longest known one is cached."""

    __slots__ = ("group", "learn", "look", "warm")

    def __init__(self, group: str, look: list[str], learn: list[str]) -> None:
        self.group = group
        self.look = look
        """The stable beginning, and shorter ones, the longest first."""
        self.learn = learn
        """What a provider has cached after it has answered."""
        self.warm: str | None = None
        """Id of the deployment that has the longest known beginning in its cache."""


class PrefixAffinity(Filter):
    name = "prefix-affinity"
    order = 700

    class Settings(PluginSettings, frozen=True):
        affinity_ttl: Annotated[float, Meta(gt=0)] = 300.0
        """Seconds for which a prompt is taken to be cached; providers keep them for five minutes."""
        affinity_min_tokens: Annotated[int, Meta(ge=0)] = 1024
        """Prompts with less, estimated at four bytes a token, are not cached by providers, and not looked at here."""
        affinity_deadline: Annotated[float, Meta(gt=0, le=1)] = 0.02
        """Seconds for which a store that is shared with other processes is waited for."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.known: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """By digest: the deployment's id, and until when."""
        self.untold: dict[str, str] = {}
        """What other processes do not know yet."""
        self._failing = False
        self._closed = False

    @hookimpl
    async def startup(self) -> None:
        self.gateway.every(PAUSE, self.tell, name="tell where prompts are cached")

    @hookimpl
    async def shutdown(self) -> None:
        await self.tell()
        self._closed = True

    async def keep(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """All of them; where several may serve the call, it is found out which of them has its prompt."""
        if len(candidates) > 1 and (prompt := self._prompt(call, candidates[0].group)) is not None:
            prompt.warm = self._remembered(prompt.look)
            if prompt.warm is None and not call.dry and (store := self._store()) is not None:
                prompt.warm = await self._looked_up(store, prompt.look)
        return candidates

    def prefer(self, call: Call, ranked: Sequence[Deployment]) -> Deployment | None:
        prompt: Prompt | None = call.state.get(self.instance)
        if prompt is None or prompt.warm is None:
            return None
        return next((one for one in ranked if one.id == prompt.warm and one.group == prompt.group), None)

    def begin(self, call: Call, deployment: Deployment) -> Release | None:
        """Remember at the attempt's end where the prompt went, if there was an answer."""
        prompt: Prompt | None = call.state.get(self.instance)
        if prompt is None or prompt.group != deployment.group:
            return None

        def remember() -> None:
            if call.reply is not None:  # of a failed attempt nothing is cached for certain
                self._learn(prompt.learn, deployment.id)

        return remember

    # -- what is known -------------------------------------------------------------------------------------------------

    def _prompt(self, call: Call, group: str) -> Prompt | None:
        """The beginnings of the call's prompt; None where it is too short to be cached, or has no messages."""
        prompt: Prompt | None = call.state.get(self.instance)
        if prompt is None or prompt.group != group:
            least = self.settings.affinity_min_tokens * BYTES
            if call.raw is not None and len(call.raw) < least:
                return None
            prompt = _beginnings(call.body, group, least)
            if prompt is None:
                call.state.pop(self.instance, None)
            else:
                call.state[self.instance] = prompt
        return prompt

    def _remembered(self, digests: Sequence[str]) -> str | None:
        now = monotonic()
        for digest in digests:
            found = self.known.get(digest)
            if found is not None and found[1] > now:
                return found[0]
        return None

    def _learn(self, digests: Sequence[str], chosen: str) -> None:
        until = monotonic() + self.settings.affinity_ttl
        for digest in digests:
            self.known[digest] = (chosen, until)
            self.known.move_to_end(digest)
            if len(self.untold) < MOST:
                self.untold[digest] = chosen
        while len(self.known) > MOST:
            self.known.popitem(last=False)

    # -- together with other processes ---------------------------------------------------------------------------------

    def _store(self) -> KV | None:
        """The store that other processes see; None where there is none. Asked for anew: a reload may replace it."""
        store = self.gateway.need(KV)  # type: ignore[type-abstract]
        return store if getattr(store, "shared", True) else None

    async def _looked_up(self, store: KV, digests: Sequence[str]) -> str | None:
        """Where another process found the prompt; None as well where the store does not answer in time."""
        try:
            async with asyncio.timeout(self.settings.affinity_deadline):
                found = await store.many([f"{self.name}:{digest}" for digest in digests])
        except TimeoutError:
            return None
        except Exception:
            if not self._failing:
                logger.exception(_AWAY)
            self._failing = True
            return None
        return next((value.decode("utf-8", "replace") for value in found if value), None)

    async def tell(self) -> None:
        """Tell other processes what was learnt since the last time. What cannot be told is lost: it is only a cache."""
        untold, self.untold = self.untold, {}
        store = self._store()
        if self._closed or not untold or store is None:
            return
        ttl = self.settings.affinity_ttl
        try:
            await asyncio.gather(
                *(store.set(f"{self.name}:{digest}", chosen.encode(), ttl) for digest, chosen in untold.items())
            )
        except Exception:
            if not self._failing:
                logger.exception(_AWAY)
            self._failing = True
        else:
            self._failing = False


def _beginnings(body: dict[str, Any], group: str, least: int) -> Prompt | None:
    """Digests of a prompt up to each of its last messages, for beginnings of at least so many bytes.

    What repeats in the next call is the prompt up to its last cache marker; without one, all but the last message.
    """
    turns = next((found for key in _TURNS if isinstance(found := body.get(key), list) and found), None)
    if turns is None:
        return None
    head = {key: body[key] for key in _HEAD if key in body}
    stable, marked = _stable(head, turns)
    data = encode_json([group, head])
    digest, size = blake2b(data, digest_size=16), len(data)
    digests: dict[int, str] = {}
    for number in range(len(turns) + 1):
        if number:
            data = encode_json(turns[number - 1])
            digest.update(b"\n" + data)
            size += len(data)
        if size >= least and number > stable - LENGTHS:
            digests[number] = digest.hexdigest()
        if marked and number == stable:
            break
    look = [found for number in range(stable, stable - LENGTHS, -1) if (found := digests.get(number)) is not None]
    learn = [found for number in {stable, len(turns)} if (found := digests.get(number)) is not None]
    return Prompt(group, look, learn) if learn else None


def _stable(head: dict[str, Any], turns: Sequence[Any]) -> tuple[int, bool]:
    """How many messages belong to the stable beginning, and whether a cache marker says so."""
    for number in range(len(turns), 0, -1):
        if _has_marker(turns[number - 1]):
            return number, True
    for part in head.values():
        if isinstance(part, list) and any(_has_marker(one) for one in part):
            return 0, True
    return len(turns) - 1, False


def _has_marker(block: Any) -> bool:
    if not isinstance(block, dict):
        return False
    if block.get("cache_control"):
        return True
    content = block.get("content")
    return isinstance(content, list) and any(isinstance(one, dict) and one.get("cache_control") for one in content)
