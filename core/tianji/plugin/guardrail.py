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
from tianji.errors import Blocked, Failure, GuardrailUnavailable, Refused
from tianji.hookspecs import hookimpl
from tianji.model import Call, Chunk, Reply
from tianji.plugin.base import Plugin
from tianji.services import GatewayAPI

logger = logging.getLogger("tianji.guardrail")

MODES = ("pre_call", "post_call", "during_call", "logging_only")
WINDOW = 400
"""Characters of a stream that are checked at once, and that much again of what went before."""


class Content(msgspec.Struct, frozen=True):
    """What a check looks at: all texts of one request, or of one reply (for a stream: of one window)."""

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
        slots = dialect.texts(call.body)
        if not slots:
            return
        verdict = await self._judge(Content("prompt", tuple(box[key] for box, key in slots)), call)
        if verdict.action == "rewrite" and rewrite:
            body = copy.deepcopy(call.body)
            _fill(dialect.texts(body), verdict.texts)
            call.body = body

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

        Each window is checked together with the last `WINDOW` characters before it, so that a phrase across the border
        is seen. A rewrite of a window puts its texts into the window's own events.
        """
        dialect = dialects.get(call.dialect)
        held: list[Chunk] = []
        size, before = 0, ""
        try:
            async for chunk in stream:
                held.append(chunk)
                size += sum(len(box[key]) for event in chunk.events for box, key in dialect.reply_texts(event))
                if size >= WINDOW:
                    released, before = await self._release(call, held, before)
                    for chunk in released:
                        yield chunk
                    held, size = [], 0
            released, _ = await self._release(call, held, before)
            for chunk in released:
                yield chunk
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _release(self, call: Call, held: list[Chunk], before: str) -> tuple[list[Chunk], str]:
        dialect = dialects.get(call.dialect)
        texts = [box[key] for chunk in held for event in chunk.events for box, key in dialect.reply_texts(event)]
        window = "".join(texts)
        if not window:
            return held, before
        verdict = await self._judge(Content("reply", (before + window,)), call)
        if verdict.action == "rewrite" and verdict.texts[0] != before + window:
            clean = _after(verdict.texts[0], before)
            held = _rewrite_window(dialect, held, clean)
        return held, (before + window)[-WINDOW:]


async def within(awaitable: Any, seconds: float) -> Any:
    """Await with a deadline; `TimeoutError` when it passes."""
    async with asyncio.timeout(seconds):
        return await awaitable


def _fill(slots: list[tuple[Any, Any]], texts: tuple[str, ...]) -> None:
    for (box, key), text in zip(slots, texts, strict=True):
        box[key] = text


def _after(text: str, before: str) -> str:
    """What of a rewritten window is new. Text that was already sent cannot be called back."""
    common = 0
    for left, right in zip(text, before, strict=False):
        if left != right:
            break
        common += 1
    return text[common:] if common == len(before) else text[len(before) :] if len(text) > len(before) else ""


def _rewrite_window(dialect: Any, held: list[Chunk], clean: str) -> list[Chunk]:
    """The window's events with `clean` in the first text place and nothing in the others."""
    fresh = []
    first = True
    for chunk in held:
        events = copy.deepcopy(chunk.events)
        for event in events:
            for box, key in dialect.reply_texts(event):
                box[key] = clean if first else ""
                first = False
        fresh.append(chunk.with_events(events))
    return fresh
