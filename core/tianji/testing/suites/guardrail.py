"""`GuardrailSuite`: what every guardrail must do, in every mode, for whole answers and for streams.

    class TestBannedWords(GuardrailSuite):
        plugin = BannedWords
        settings = {"words": ["secret"]}
        blocks = ["tell me the secret"]
        allows = ["tell me a story"]
A guardrail that asks a service scripts the answers in `make_gateway` (`gateway.handler = ...`).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import pytest

from tianji.errors import Blocked, Failure, GuardrailUnavailable
from tianji.model import Call, Chunk, Reply
from tianji.plugin import Content, Guardrail, Verdict
from tianji.plugin.guardrail import WINDOW
from tianji.testing.builders import make_call
from tianji.testing.fakes import Answer, FakeGateway, Handler
from tianji.testing.purity import captured_logs
from tianji.testing.suites.base import Suite, assert_unseen, start, stop


class GuardrailSuite(Suite):
    """Subclass it with `plugin`, `settings` and samples: `allows`, and `blocks` or `rewrites` (text → new text)."""

    family = "guardrails"
    plugin: type[Guardrail]
    blocks: ClassVar[Sequence[str]] = ()
    allows: ClassVar[Sequence[str]] = ()
    rewrites: ClassVar[Mapping[str, str]] = {}
    parts: ClassVar[frozenset[str]] = frozenset({"prompt", "reply"})
    """The sides that it judges. One that looks at prompts only says `frozenset({"prompt"})`."""

    def make_guardrail(self, mode: str, gateway: FakeGateway | None = None, *, fail_open: bool = False) -> Any:
        """A fresh instance in one mode, on by default, as the kernel sets it up from an entry."""
        guardrail = self.make_plugin(gateway)
        guardrail.modes, guardrail.default_on, guardrail.fail_open = frozenset({mode}), True, fail_open
        return guardrail

    def _need(self, part: str) -> None:
        if part not in self.parts:
            pytest.skip(f"it does not judge the {part}")

    # -- samples -------------------------------------------------------------------------------------------------------

    def test_there_are_samples(self) -> None:
        """The suite has nothing to show: give `allows`, and `blocks` or `rewrites`."""
        assert self.allows, "no text that is allowed"
        assert self.blocks or self.rewrites, "no text that is blocked or rewritten"
        assert all(text != new for text, new in self.rewrites.items())

    @pytest.mark.asyncio
    async def test_check_judges_and_changes_nothing(self) -> None:
        """`check` gives another verdict than the samples say, changes the call, or rewrites another number of texts.

        It is given all texts of one side at once and answers for all of them; `content.map(fn)` keeps their number.
        """
        part = "prompt" if "prompt" in self.parts else "reply"
        samples = [(text, "allow", text) for text in self.allows]
        samples += [(text, "block", text) for text in self.blocks]
        samples += [(text, "rewrite", new) for text, new in self.rewrites.items()]
        gateway = self.make_gateway()
        guardrail = self.make_plugin(gateway)
        await start(guardrail, gateway)
        for text, action, new in samples:
            call = make_call({"model": "m", "messages": [{"role": "user", "content": text}]})
            before = copy.deepcopy(call.body)
            verdict = await guardrail.check(Content(part, (text, self.allows[0])), call)  # type: ignore[arg-type]
            assert isinstance(verdict, Verdict), f"check returns a Verdict, not {verdict!r}"
            assert verdict.action == action, f"{text!r}: {verdict}"
            assert action != "rewrite" or verdict.texts == (new, self.allows[0])
            assert call.body == before, "check changed the call; answer with Verdict.rewrite instead"
        await stop(guardrail, gateway)

    # -- pre_call ------------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    @pytest.mark.parametrize("form", ["string", "parts", "tool", "anthropic"])
    async def test_pre_call(self, form: str) -> None:
        """A prompt passes that must be blocked, is blocked that must pass, or is not rewritten.

        `form` is where the text stands: a string, a list of parts, the result of a tool, or a request in Anthropic's
        dialect. Judge `content.texts`; never read `call.body`, whose shape depends on the client's dialect.
        """
        self._need("prompt")
        guardrail = self.make_guardrail("pre_call")
        for text in self.blocks:
            call = _asking(text, form)
            with pytest.raises(Blocked) as caught:
                await guardrail.pre_call(call)
            assert caught.value.extra["guardrail"] == guardrail.instance
            assert_unseen(self.secret_values(), caught.value.body())
        for text in self.allows:
            call = _asking(text, form)
            body = call.body
            assert await guardrail.pre_call(call) is None
            assert call.body is body, "an allowed call was rewritten"
        for text, new in self.rewrites.items():
            call, before = _asking(text, form), _asking(text, form).body
            original = call.body
            await guardrail.pre_call(call)
            assert call.body == _asking(new, form).body
            assert original == before, "the client's body was changed in place; it is also what is logged"
            assert call.raw is None

    @pytest.mark.asyncio
    async def test_unselected_calls_pass(self) -> None:
        """A guardrail that the call did not select acts on it, or one that it selected does not.

        Do not override `applies` without need: `default_on`, the key's guardrails, the request's `guardrails`.
        """
        self._need("prompt")
        guardrail = self.make_guardrail("pre_call")
        guardrail.default_on = False
        for text in (*self.blocks, *self.rewrites):
            call = _asking(text)
            body = call.body
            assert await guardrail.pre_call(call) is None
            assert call.body is body
        for text in self.blocks:
            selected = make_call(_asking(text).body, options={"guardrails": [guardrail.instance]})
            with pytest.raises(Blocked):
                await guardrail.pre_call(selected)

    @pytest.mark.asyncio
    async def test_during_call(self) -> None:
        """In mode `during_call` the check does not run beside the provider, or it changes what was already sent."""
        self._need("prompt")
        guardrail = self.make_guardrail("during_call")
        for text in (*self.blocks, *self.allows, *self.rewrites):
            call = _asking(text)
            body = call.body
            assert await guardrail.pre_call(call) is None
            assert call.watched is not None
            assert len(call.watched) == 1
            if text in self.blocks:
                with pytest.raises(Blocked):
                    await call.watched[0]
            else:
                await call.watched[0]
            assert call.body is body

    @pytest.mark.asyncio
    async def test_logging_only(self) -> None:
        """In mode `logging_only` a call is stopped or changed, or the finding is not noted."""
        self._need("prompt")
        guardrail = self.make_guardrail("logging_only")
        for text in (*self.blocks, *self.allows):
            call = _asking(text)
            body = call.body
            assert await guardrail.pre_call(call) is None
            for undo in call.take_undo():
                await undo()
            assert call.body is body
            noted = call.state["guardrail_findings"][guardrail.instance]
            assert (noted == "allow") is (text in self.allows)

    # -- post_call -----------------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_post_call(self) -> None:
        """A whole answer leaves that must be blocked, is blocked that must leave, or is not rewritten."""
        self._need("reply")
        guardrail = self.make_guardrail("post_call")
        for text in self.blocks:
            with pytest.raises(Blocked):
                await guardrail.post_call(make_call(), Reply(_answer(text)))
        for text in self.allows:
            reply = await guardrail.post_call(make_call(), Reply(_answer(text)))
            assert reply is None or reply.body == _answer(text)
        for text, new in self.rewrites.items():
            reply = await guardrail.post_call(make_call(), Reply(_answer(text)))
            assert reply is not None
            assert reply.body == _answer(new)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("size", [1, 5, 1000])
    async def test_stream(self, size: int) -> None:
        """A streamed answer leaks what must be blocked, or an allowed one arrives changed.

        The base collects the stream in windows; `check` is given the text of one. `size` is the length of the pieces
        that the model sent.
        """
        self._need("reply")
        guardrail = self.make_guardrail("post_call")
        for text in self.blocks:
            said, failure = await _streamed(guardrail, text, size)
            assert isinstance(failure, Blocked), f"{text!r} went through as {said!r}"
            assert said == "", "a part of a blocked window was sent"
        for text, new in [*((text, text) for text in self.allows), *self.rewrites.items()]:
            assert await _streamed(guardrail, text, size) == (new, None)

    @pytest.mark.asyncio
    async def test_interleaved_stream(self) -> None:
        """What must be blocked passes when the pieces of another choice of the same stream come in between."""
        self._need("reply")
        guardrail = self.make_guardrail("post_call")
        for text in self.blocks:
            said, failure = await _streamed(guardrail, text, 3, beside=self.allows[0])
            assert isinstance(failure, Blocked), f"{text!r} went through as {said!r}"
            assert said == ""

    @pytest.mark.asyncio
    async def test_stream_across_windows(self) -> None:
        """What must be blocked passes when it begins in one window of a stream and ends in the next.

        The base repeats the end of the window before; keep no state of your own between two checks.
        """
        self._need("reply")
        guardrail = self.make_guardrail("post_call")
        for text in self.blocks:
            lead = WINDOW - len(text) // 2 - 1
            filler = " ".join([self.allows[0]] * (lead // (len(self.allows[0]) + 1) + 1))[: max(0, lead)]
            if (await _streamed(guardrail, filler, 7))[1] is not None:
                pytest.skip("the repeated sample is itself not allowed")
            said, failure = await _streamed(guardrail, f"{filler} {text}", 7)
            assert isinstance(failure, Blocked)
            assert text not in said

    # -- when it cannot decide -----------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    @pytest.mark.parametrize("fault", ["raises", "hangs", "miscounts", "returns nothing"])
    async def test_a_failed_check_refuses(self, fault: str) -> None:
        """The check failed and the call went on, or `fail_open` was set and it did not. Protection fails closed.

        The base decides about that in one place; do not override how it runs `check`.
        """

        async def broken(content: Content, call: Call) -> Any:
            if fault == "raises":
                raise RuntimeError("the check is broken")
            if fault == "hangs":
                await asyncio.Event().wait()
            return Verdict.rewrite(()) if fault == "miscounts" else None

        for fail_open in (False, True):
            guardrail = self.make_guardrail("pre_call", fail_open=fail_open)
            guardrail.check = broken
            guardrail.timeout = 0.01
            call = _asking("anything")
            with captured_logs() as lines:
                if fail_open:
                    assert await guardrail.pre_call(call) is None
                else:
                    with pytest.raises(GuardrailUnavailable):
                        await guardrail.pre_call(call)
            assert call.body == _asking("anything").body
            assert_unseen(self.secret_values(), *lines)

    @pytest.mark.asyncio
    async def test_errors_are_not_swallowed(self) -> None:
        """An error inside `check` became an "allow": who breaks the guardrail would switch it off.

        Let exceptions out. The base refuses the call, or lets it go on where the operator chose `fail_open`.
        """
        guardrail = self.make_plugin()
        content: Any = _Unreadable()
        try:
            verdict = await guardrail.check(content, _asking("anything"))
        except Exception:  # noqa: BLE001 - any exception is the right answer
            return
        assert not content.read, f"reading the texts failed, and check answered {verdict}"

    @pytest.mark.asyncio
    @pytest.mark.parametrize("fault", ["refused connection", "time-out", "500", "401", "not JSON", "empty object"])
    async def test_a_failed_service_refuses(self, fault: str) -> None:
        """The service that the guardrail asks failed, and the text that it must block was allowed.

        Check the status (`raise_for_status`), and raise where the answer is not what the service documents: a missing
        field is not an "allow".
        """
        for text in (*self.blocks, *self.rewrites):
            gateway = self.make_gateway()
            asked = _break(gateway, fault)
            guardrail = self.make_guardrail("pre_call" if "prompt" in self.parts else "post_call", gateway)
            await start(guardrail, gateway)
            with captured_logs() as lines:
                try:
                    if "prompt" in self.parts:
                        await guardrail.pre_call(_asking(text))
                    else:
                        await guardrail.post_call(make_call(), Reply(_answer(text)))
                    refused = None
                except Failure as failure:
                    refused = failure
            await stop(guardrail, gateway)
            if not asked:
                pytest.skip("it asks no service over HTTP")
            assert refused is not None, f"{text!r} was allowed"
            assert_unseen(self.secret_values(), refused.body(), *lines)


class _Unreadable:
    """A content that cannot be read; notes that somebody tried."""

    part = "prompt"

    def __init__(self) -> None:
        self.read = False

    def _fail(self) -> NoReturn:
        self.read = True
        raise RuntimeError("the texts cannot be read")

    @property
    def texts(self) -> tuple[str, ...]:
        self._fail()

    @property
    def text(self) -> str:
        self._fail()

    def map(self, fn: object) -> tuple[str, ...]:
        self._fail()


def _break(gateway: FakeGateway, fault: str) -> list[str]:
    """Let every request fail. Returns the URLs that were asked, filled as they are."""
    asked: list[str] = []
    answers: dict[str, Answer | Exception] = {
        "refused connection": ConnectionRefusedError("connection refused"),
        "time-out": TimeoutError("timed out"),
        "500": Answer(500, b'{"error": "internal"}'),
        "401": Answer(401, b'{"error": "unauthorized"}'),
        "not JSON": Answer(200, b"<html></html>", {"content-type": "text/html"}),
        "empty object": Answer(200, b"{}"),
    }

    def handler(sent: Any) -> Answer:
        asked.append(sent.url)
        answer = answers[fault]
        if isinstance(answer, Exception):
            raise answer
        return answer

    broken: Handler = handler
    gateway.handler = broken
    return asked


def _asking(text: str, form: str = "string") -> Call:
    """A call with the text in its last message."""
    message: dict[str, Any] = {"role": "user", "content": text}
    if form == "anthropic":
        message["content"] = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
        return make_call({"model": "m", "max_tokens": 10, "messages": [message]}, dialect="anthropic-messages")
    if form == "parts":
        image = {"type": "image_url", "image_url": {"url": "https://example.invalid/i.png"}}
        message["content"] = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}, image]
    if form == "tool":
        message = {"role": "tool", "tool_call_id": "call_1", "content": text}
    return make_call({"model": "m", "messages": [message], "temperature": 0.5})


def _answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}], "model": "m"}


async def _streamed(guardrail: Guardrail, text: str, size: int, *, beside: str = "") -> tuple[str, Failure | None]:
    """What of a streamed text reaches the client, and the failure that ended it.

    `beside` is the text of a second choice, of which a piece follows each piece of the first.
    """
    closed = False

    async def upstream() -> AsyncIterator[Chunk]:
        nonlocal closed
        try:
            for at in range(0, len(text), size):
                for index, said in enumerate((text, beside)):
                    choice = {"index": index, "delta": {"content": said[at : at + size]}, "finish_reason": None}
                    if said:
                        yield Chunk(events=[{"id": "1", "object": "chat.completion.chunk", "choices": [choice]}])
        finally:
            closed = True

    call = make_call({"model": "m", "messages": [], "stream": True})
    said: list[str] = []
    reply = Reply(stream=upstream())
    changed = await guardrail.post_call(call, reply)
    stream = (changed or reply).stream
    assert stream is not None
    try:
        async for chunk in stream:
            for event in chunk.events:
                said += [choice["delta"].get("content") or "" for choice in event["choices"]]
    except Failure as failure:
        return "".join(said), failure
    finally:
        assert closed, "the upstream's stream was not closed"
    return "".join(said), None
