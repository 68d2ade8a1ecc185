"""Guardrails: look at texts, then allow, block or rewrite. The author writes `check`.

The base finds the texts in any dialect's request and reply, runs the check in the configured modes, holds a stream
back in windows until each has passed, and decides what an error of the check means (`failure_policy`).
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar, Literal, final

import msgspec

from tianji import dialects
from tianji.dialects.base import Dialect
from tianji.errors import Blocked, Failure, GuardrailUnavailable, ProtocolError, Refused
from tianji.hookspecs import hookimpl
from tianji.model import Call, Chunk, Reply
from tianji.plugin.base import Plugin
from tianji.services import GatewayAPI

logger = logging.getLogger("tianji.guardrail")

MODES = ("pre_call", "post_call", "during_call", "logging_only")
WINDOW = 400
"""Characters of a stream that are checked at once, and that much again of what went before."""
HELD_BYTES = 1 << 20
"""Bytes of a stream that are held back at most before they are checked, however little text they carry."""
LANES = 4096
"""Separate texts in one stream at most: what went before is kept for each."""

LaneKey = tuple[Any, ...]


class Content(msgspec.Struct, frozen=True):
    """What a check looks at: all texts of one request or reply; for a stream, one for each lane of a window."""

    part: Literal["prompt", "reply"]
    texts: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def map(self, fn: Callable[[str], str]) -> tuple[str, ...]:
        """The texts, each changed by `fn`: what `Verdict.rewrite` takes."""
        return tuple(fn(text) for text in self.texts)


class Verdict(msgspec.Struct, frozen=True):
    """What a check decided."""

    action: Literal["allow", "block", "rewrite"]
    reason: str = ""
    texts: tuple[str, ...] = ()
    details: dict[str, Any] = {}

    @staticmethod
    def allow() -> Verdict:
        return ALLOW

    @staticmethod
    def block(reason: str, **details: Any) -> Verdict:
        """Refuse the content. The reason reaches the client; `details` join the error object."""
        return Verdict("block", reason, (), details)

    @staticmethod
    def rewrite(texts: tuple[str, ...] | list[str], reason: str = "") -> Verdict:
        """Go on with other texts: exactly as many as the content had, in the same order."""
        return Verdict("rewrite", reason, tuple(texts))


ALLOW = Verdict("allow")


class Guardrail(Plugin):
    """Checks what goes in and what comes out.

    The kernel sets `modes`, `default_on` and `fail_open` from the configuration's entry. A check that raises anything
    but a `Refused` (its own service is down, slow, or talks nonsense) counts as unavailable: the call is refused with
    503, or goes on when `failure_policy: fail_open`.
    """

    family: ClassVar[str] = "guardrails"
    order: ClassVar[int] = 300
    timeout: float = 10.0
    """Seconds for one check."""

    modes: frozenset[str] = frozenset({"pre_call"})
    default_on: bool = False
    fail_open: bool = False

    def __init__(self, settings: Any, *, instance: str, gateway: GatewayAPI) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)

    async def check(self, content: Content, call: Call) -> Verdict:
        """Judge one content. `content.part` says which side it is. Must not change the call."""
        raise NotImplementedError

    # -- the sealed hooks ----------------------------------------------------------------------------------------------

    def applies(self, call: Call) -> bool:
        """Whether this call selected the guardrail: by default, by the caller's key, or by the request."""
        if self.default_on:
            return True
        return self.instance in call.principal.guardrails or self.instance in call.options.get("guardrails", ())

    def explain(self, call: Call) -> dict[str, Any] | None:
        """Whether it applies, and why; its verdict is not known before the check has run."""
        applies = self.applies(call)
        why = "it applies to no call that does not ask for it, and neither the request nor the key does"
        if applies and self.default_on:
            why = "it is always on"
        elif applies and self.instance in call.principal.guardrails:
            why = "the caller's key asks for it"
        elif applies:
            why = "the request asks for it"
        modes = [mode for mode in MODES if mode in self.modes]
        if applies and not self.modes.isdisjoint(("pre_call", "during_call")):
            self._refuse_unreadable(call)
        return {"applies": applies, "why": why, "modes": modes, "fail_open": self.fail_open}

    @final
    @hookimpl
    async def pre_call(self, call: Call) -> Reply | None:
        if not self.applies(call):
            return None
        call.state.setdefault("guardrails", []).append(self.instance)
        modes = self.modes
        if "pre_call" in modes:
            await self._check_request(call)
        if "during_call" in modes:
            call.watch(self._check_request(call, rewrite=False))
        if "logging_only" in modes:
            call.defer(lambda: self._observe(call))
        return None

    @final
    @hookimpl
    async def post_call(self, call: Call, reply: Reply) -> Reply | None:
        if "post_call" not in self.modes or not self.applies(call):
            return None
        if reply.stream is not None:
            reply.stream = self._checked_stream(call, reply.stream)
            return reply
        dialect = dialects.get(call.dialect)
        slots = dialect.reply_texts(reply.body) if type(reply.body) is dict else []
        if not slots:
            return None
        verdict = await self._judge(Content("reply", tuple(box[key] for box, key in slots)), call)
        if verdict.action == "rewrite":
            body = copy.deepcopy(reply.body)
            _fill(dialect.reply_texts(body), verdict.texts)
            reply.body = body
        return reply

    # -- how they work -------------------------------------------------------------------------------------------------

    async def _check_request(self, call: Call, *, rewrite: bool = True) -> None:
        dialect = dialects.get(call.dialect)
        self._refuse_unreadable(call)
        slots = dialect.texts(call.body)
        if not slots:
            return
        verdict = await self._judge(Content("prompt", tuple(box[key] for box, key in slots)), call)
        if verdict.action == "rewrite" and rewrite:
            body = copy.deepcopy(call.body)
            _fill(dialect.texts(body), verdict.texts)
            call.body = body

    def _refuse_unreadable(self, call: Call) -> None:
        if field := dialects.get(call.dialect).unreadable(call.body):
            # Whoever could send tokens instead of text would have switched the guardrail off.
            raise Blocked(
                f"Blocked by guardrail '{self.instance}': '{field}' holds token numbers, which it cannot read; "
                "send text.",
                param=field,
                extra={"guardrail": self.instance},
            )

    async def _judge(self, content: Content, call: Call) -> Verdict:
        """Run the check under its own clock; a block and a failed check become Failures here."""
        try:
            verdict: Verdict = await within(self.check(content, call), min(self.timeout, call.remaining()))
            if verdict.action == "rewrite" and len(verdict.texts) != len(content.texts):
                raise ValueError(f"rewrote {len(content.texts)} texts into {len(verdict.texts)}")
        except Refused:
            raise
        except Exception as error:
            if self.fail_open:
                logger.warning("guardrail %s failed open: %s", self.instance, type(error).__name__)
                return ALLOW
            logger.warning("guardrail %s failed: %s", self.instance, error, exc_info=True)
            raise GuardrailUnavailable(
                f"Guardrail '{self.instance}' could not check the {content.part}; the call was refused.",
                extra={"guardrail": self.instance},
            ) from error
        if verdict.action == "block":
            raise Blocked(
                f"Blocked by guardrail '{self.instance}': {verdict.reason or 'content not allowed'}",
                extra={"guardrail": self.instance, **verdict.details},
            )
        return verdict

    async def _observe(self, call: Call) -> None:
        """Mode `logging_only`: judge after the answer, note the finding, never block."""
        findings = call.state.setdefault("guardrail_findings", {})
        try:
            await self._check_request(call, rewrite=False)
            findings[self.instance] = "allow"
        except Failure as failure:
            findings[self.instance] = failure.message

    async def _checked_stream(self, call: Call, stream: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
        """Hold chunks back until the window they are in has passed.

        The texts of a window are judged lane by lane (see `Dialect.reply_lanes`), each together with the last `WINDOW`
        characters sent before it in its lane, so that a phrase across the border is seen. A rewrite stays within its
        lane. What carries no text (audio) is held by its size.
        """
        dialect = dialects.get(call.dialect)
        held: list[Chunk] = []
        before: dict[LaneKey, str] = {}
        size = weight = 0
        try:
            async for chunk in stream:
                held.append(chunk)
                weight += len(chunk.raw)
                size += sum(len(box[key]) for event in chunk.events for box, key in dialect.reply_texts(event))
                if size >= WINDOW or weight >= HELD_BYTES:
                    for one in await self._release(call, held, before):
                        yield one
                    held, size, weight = [], 0, 0
            for one in await self._release(call, held, before):
                yield one
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _release(self, call: Call, held: list[Chunk], before: dict[LaneKey, str]) -> list[Chunk]:
        """The held chunks once they have passed, rewritten where the check says so. Brings `before` up to date."""
        dialect = dialects.get(call.dialect)
        pieces: dict[LaneKey, list[str]] = {}
        for chunk in held:
            for event in chunk.events:
                for lane, box, key in dialect.reply_lanes(event):
                    if box[key]:
                        pieces.setdefault(lane, []).append(box[key])
        if not pieces:
            return held
        windows = {lane: "".join(texts) for lane, texts in pieces.items()}
        if len(before.keys() | windows.keys()) > LANES:
            raise ProtocolError("The provider's stream holds too many separate texts to be checked.")
        texts = tuple(before.get(lane, "") + window for lane, window in windows.items())
        verdict = await self._judge(Content("reply", texts), call)
        clean: dict[LaneKey, str] = {}
        if verdict.action == "rewrite":
            for (lane, window), text, new in zip(windows.items(), texts, verdict.texts, strict=True):
                if new != text:
                    clean[lane] = _after(new, before.get(lane, ""), window)
        for lane, window in windows.items():
            before[lane] = (before.get(lane, "") + clean.get(lane, window))[-WINDOW:]
        return _rewrite_window(dialect, held, clean) if clean else held


async def within(awaitable: Any, seconds: float) -> Any:
    """Await with a deadline; `TimeoutError` when it passes."""
    async with asyncio.timeout(seconds):
        return await awaitable


def _fill(slots: list[tuple[Any, Any]], texts: tuple[str, ...]) -> None:
    for (box, key), text in zip(slots, texts, strict=True):
        box[key] = text


def _after(text: str, before: str, window: str) -> str:
    """What of a rewritten `before + window` is to be sent. What was sent already (`before`) cannot be called back."""
    if text.startswith(before):
        return text[len(before) :]
    if text.endswith(window):
        return window  # only what was sent already was changed
    common = next((at for at, (new, old) in enumerate(zip(text, before, strict=False)) if new != old), len(text))
    # From the first difference on: this may repeat some of what was sent, but neither loses nor leaks anything.
    return text[common:]


def _rewrite_window(dialect: Dialect, held: list[Chunk], clean: dict[LaneKey, str]) -> list[Chunk]:
    """The window's events with each rewritten lane's text in its first place and nothing in its others."""
    fresh = []
    left = dict(clean)
    for chunk in held:
        if not any(lane in clean for event in chunk.events for lane, _, _ in dialect.reply_lanes(event)):
            fresh.append(chunk)
            continue
        events = copy.deepcopy(chunk.events)
        for event in events:
            for lane, box, key in dialect.reply_lanes(event):
                if lane in clean:
                    box[key] = left.pop(lane, "")
        fresh.append(chunk.with_events(events))
    return fresh
