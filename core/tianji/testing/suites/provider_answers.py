"""The part of `ProviderSuite` that is about `decode`, `decoder` and `failure`: what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tianji import dialects
from tianji.errors import (
    BadCredentials,
    Failure,
    PermissionDenied,
    Rejected,
    Throttled,
    Unavailable,
    UpstreamNotFound,
)
from tianji.model import Deployment, Event, Op, encode_json
from tianji.plugin import Provider
from tianji.providers import HTTPProvider
from tianji.providers.http import END
from tianji.testing import corruption
from tianji.testing.goldens import (
    Golden,
    answer_of,
    compare_failure,
    compare_reply,
    decode_body,
    events_of,
    is_forwarded,
    read_stream,
    run_decoder,
    states_usage,
    usage_found,
    whole_answer,
)
from tianji.testing.purity import nothing_impure
from tianji.testing.suites.base import Suite

RIGHT_CLASS: dict[int, tuple[type[Failure], ...]] = {
    400: (Rejected,),
    401: (BadCredentials,),
    403: (PermissionDenied, BadCredentials),
    404: (UpstreamNotFound,),
    422: (Rejected,),
    429: (Throttled,),
    500: (Unavailable,),
    503: (Unavailable,),
}
ODD_BODIES: tuple[Any, ...] = (
    "", "upstream connect error", "<html><body><h1>503</h1></body></html>", None, 0, [], [None], {}, {"error": None},
    {"error": "busy"}, {"error": {}}, {"error": []}, {"error": {"message": None, "code": None}}, {"message": "busy"},
    {"detail": [{"loc": ["body"], "msg": "busy"}]}, {"error": {"message": {"nested": 1}, "code": 7, "param": 3}},
    [{"error": {"code": 1, "message": "busy", "status": "X"}}],
)  # fmt: skip
MOST_CASES = 600
"""Of the damaged events of one golden stream; keeps a long recording from taking minutes."""


class AnswerTests(Suite):
    """Mixed into `ProviderSuite`; not for use by itself."""

    plugin: type[Provider]

    def http_provider(self) -> HTTPProvider:
        raise NotImplementedError

    @classmethod
    def goldens(cls) -> list[Golden]:
        raise NotImplementedError

    def deployment_of(self, golden: Golden) -> Deployment:
        raise NotImplementedError

    def _framing(self, provider: HTTPProvider, golden: Golden) -> str:
        """How the golden's stream is framed; a provider may decide it with the request."""
        return provider.encode(golden.make_call(), self.deployment_of(golden)).framing or provider.framing

    def _events(self, provider: HTTPProvider, golden: Golden) -> list[Event]:
        return events_of(self._framing(provider, golden), golden.upstream.pieces())

    def _read(self, provider: HTTPProvider, golden: Golden) -> dict[str, Any] | list[Any]:
        return answer_of(provider, golden, self._framing(provider, golden) if golden.streams else None)

    # -- goldens -------------------------------------------------------------------------------------------------------

    def test_reply_matches_golden(self, golden: Golden) -> None:
        """`decode`, `decoder` or `failure` makes something else of the upstream's answer than the golden file says.

        The failing part is named in the message (`reply.chunks`, `reply.usage`, …). If the file is wrong, mend the file
        and its `source`.
        """
        provider = self.http_provider()
        try:
            answer = self._read(provider, golden)
        except Failure as failure:
            if golden.reply.failure is None:
                raise
            compare_failure(golden.reply.failure, failure)
            return
        assert golden.reply.failure is None, f"expected {golden.reply.failure}, got an answer: {answer}"
        compare_reply(golden, answer)

    def test_every_split_decodes_alike(self, stream: Golden) -> None:
        """A stream decodes differently when its bytes arrive in other pieces.

        Networks cut where they like, also inside a character. Keep no state outside the generator, and decode nothing
        yourself that framing has not completed.
        """
        provider, data = self.http_provider(), b"".join(stream.upstream.pieces())
        if is_forwarded(provider, stream.make_call()):
            pytest.skip("forwarded in the client's own dialect: the kernel's part")
        framing = self._framing(provider, stream)
        expected = _outcome(provider, stream, stream.upstream.pieces(), framing)
        for size in (1, 7, 64) if len(data) <= 16_384 else (7, 64):
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            assert _outcome(provider, stream, pieces, framing) == expected, f"read in pieces of {size} bytes"
        at = 0
        for piece in stream.upstream.pieces():
            at += len(piece)
            for cut in (at - 1, at, at + 1):
                assert _outcome(provider, stream, [data[:cut], data[cut:]], framing) == expected, f"cut at byte {cut}"

    def test_streams_do_not_disturb_each_other(self, stream: Golden) -> None:
        """Two streams at the same time mix, so one client would see another's answer.

        One provider instance serves all calls. Keep a stream's state in local variables of `decoder`, not on `self`.
        """
        provider = self.http_provider()
        if is_forwarded(provider, stream.make_call()) or stream.reply.failure is not None:
            pytest.skip("nothing is decoded")
        events = [*self._events(provider, stream), END]
        alone = run_decoder(provider, stream.make_call(), events[:-1])
        decoders = [provider.decoder(stream.make_call()) for _ in range(2)]
        seen: list[list[Any]] = [list(next(decoder)) for decoder in decoders]
        for event in events:
            for decoder, chunks in zip(decoders, seen, strict=True):
                try:
                    chunks.extend(decoder.send(event))
                except StopIteration:
                    assert event is END
        assert seen == [alone, alone]

    def test_answers_are_decoded_purely(self, golden: Golden) -> None:
        """`decode`, `decoder` or `failure` reads a clock, randomness, the environment or a socket.

        `created` 0 is filled in by the kernel; ids that the upstream lacks are made from the call's id and a position.
        """
        first = self._answer(golden)
        with nothing_impure(*{cls.__module__ for cls in self.plugin.__mro__ if _foreign(cls)}, what="decoding"):
            again = self._answer(golden)
        assert again == first

    def _answer(self, golden: Golden) -> Any:
        try:
            return self._read(self.http_provider(), golden)
        except Failure as failure:
            return type(failure), failure.body()

    # -- meaning -------------------------------------------------------------------------------------------------------

    def test_usage_is_reported(self, golden: Golden) -> None:
        """The upstream says how many tokens were used and the answer does not, so the call could not be priced.

        Build `usage` with `usage_to_openai`; in a stream, put it into the chunk for the event that states it.
        """
        provider, call = self.http_provider(), golden.make_call()
        pieces = golden.upstream.pieces()
        if golden.reply.failure is not None or golden.call.op not in (Op.CHAT, Op.COMPLETIONS, Op.EMBEDDINGS):
            return
        if golden.streams:
            stated = states_usage([event.data for event in self._events(provider, golden)])
        else:
            stated = states_usage(decode_body(b"".join(pieces)))
        if not stated:
            return
        if call.dialect.startswith("openai-"):
            assert usage_found(self._read(provider, golden)), "the answer has no usage that the kernel can read"
        if call.dialect in provider.native and not provider.rewrites(call) and golden.streams:
            monitor = dialects.get(call.dialect).monitor(call)
            for piece in pieces:
                monitor.feed(piece)
            assert monitor.usage is not None, "the stream is forwarded, and the kernel finds no usage in it"
            assert monitor.usage.total_tokens > 0

    def test_answers_are_well_formed(self, golden: Golden) -> None:
        """An answer is not what an OpenAI client understands: no choices, no finish reason, a tool call without index.

        `tianji.completion(...)` and `tianji.chunk(...)` build the right shapes.
        """
        if golden.reply.failure is not None or golden.call.dialect != "openai-chat":
            return
        answer = self._read(self.http_provider(), golden)
        reasons = []
        for body in answer if isinstance(answer, list) else [answer]:
            assert isinstance(body.get("choices"), list), f"no `choices` in {body}"
            for choice in body["choices"]:
                reasons.append(choice.get("finish_reason"))
                part = choice.get("delta" if golden.streams else "message")
                assert isinstance(part, dict), f"a choice without {'delta' if golden.streams else 'message'}: {choice}"
                assert isinstance(part.get("content"), (str, list, type(None)))
                for tool in part.get("tool_calls") or ():
                    assert type(tool.get("index")) is int or not golden.streams, "a streamed tool call has an index"
                    assert isinstance(tool["function"].get("arguments", ""), str), "arguments are JSON as a string"
        assert any(isinstance(reason, str) for reason in reasons), "no choice says why it ended (finish_reason)"

    def test_what_is_forwarded_needs_no_decoding(self, golden: Golden) -> None:
        """The class declares the client's dialect in `native`, so `decode` and `decoder` will never run for it.

        The kernel forwards answers in a native dialect as they came. A provider with a wire format of its own says
        `native = frozenset()`; one whose answers need a touch returns True from `rewrites`.
        """
        provider, call = self.http_provider(), golden.make_call()
        if call.dialect not in provider.native or provider.rewrites(call) or golden.reply.failure is not None:
            return
        if golden.streams:
            came: Any = [event.data for event in self._events(provider, golden) if isinstance(event.data, dict)]
        else:
            came = whole_answer(b"".join(golden.upstream.pieces()))
        if call.dialect.startswith("openai-"):
            assert self._read(provider, golden) == came, f"decoding changes the answer, and {call.dialect} is native"

    # -- damage --------------------------------------------------------------------------------------------------------

    def test_decoder_survives_garbage(self) -> None:
        """An event that the decoder does not know, or that lacks a field, ends the stream with a bug of ours.

        Vendors add events and leave fields out. Answer `[]` to what you do not know; use `.get`; raise a Failure
        (`ProtocolError`) only where the answer cannot go on.
        """
        provider, broken = self.http_provider(), []
        for golden in (golden for golden in self.goldens() if golden.streams):
            if is_forwarded(provider, golden.make_call()):
                continue
            for label, events in _damaged_streams(self._events(provider, golden)):
                problem = _survives(run_decoder, provider, golden.make_call(), events)
                if problem is not None:
                    broken.append(f"{golden.name}, {label}: {problem}")
        assert not broken, "\n".join(
            [f"{len(broken)} kinds of damage raise something else than a Failure:", *broken[:8]]
        )

    def test_decode_survives_garbage(self) -> None:
        """A whole answer that lacks a field raises something else than a Failure.

        Use `must_be_object(data)` and `.get`; raise `ProtocolError` where there is no answer without the field.
        """
        provider, broken = self.http_provider(), []
        for golden in self.goldens():
            if golden.streams or golden.upstream.status >= 400 or is_forwarded(provider, golden.make_call()):
                continue
            whole = decode_body(b"".join(golden.upstream.pieces()))
            cases = [*corruption.damaged(whole), *((f"{data!r} instead", data) for data in corruption.NOT_OBJECTS)]
            for label, data in cases:
                problem = _survives(_decode_whole, provider, golden, encode_json(data))
                if problem is not None:
                    broken.append(f"{golden.name}, {label}: {problem}")
        assert not broken, "\n".join(
            [f"{len(broken)} kinds of damage raise something else than a Failure:", *broken[:8]]
        )

    # -- failures ------------------------------------------------------------------------------------------------------

    def test_failures_have_the_right_class(self) -> None:
        """An error answer becomes a failure of the wrong class, or none: retries and cooldowns would go wrong.

        Errors come in every shape, also as a proxy's HTML page or with no body. Let `failure` end in
        `super().failure(status, data)` or `classify(...)` for all that it does not know.
        """
        provider = self.http_provider()
        own = [decode_body(b"".join(golden.upstream.pieces())) for golden in self.goldens() if _is_error(golden)]
        for status, kinds in RIGHT_CLASS.items():
            for data in ODD_BODIES:
                failure = provider.failure(status, data)
                assert isinstance(failure, kinds), f"{status} with {data!r} became {failure!r}"
                assert failure.status == status or status in (403, 422), f"{status} became {failure.status}"
                assert isinstance(failure.message, str)
                assert failure.message.strip(), f"{status} with {data!r} has no message"
                assert "<html" not in failure.message.lower(), "a client can do nothing with a proxy's HTML page"
                encode_json(failure.body())
            for data in own:
                for label, broken in corruption.damaged(data):
                    assert isinstance(provider.failure(status, broken), Failure), f"{status}, {label}"


def _is_error(golden: Golden) -> bool:
    return golden.upstream.status >= 400 and golden.upstream.body is not msgspec.UNSET


def _foreign(cls: type[Any]) -> bool:
    return not cls.__module__.startswith("tianji.") and cls is not object


def _outcome(provider: HTTPProvider, golden: Golden, pieces: list[bytes], framing: str) -> Any:
    """The chunks, or the failure that the stream ends in."""
    try:
        return read_stream(provider, golden.make_call(), pieces, framing=framing)
    except Failure as failure:
        return type(failure), failure.message


def _damaged_streams(events: list[Event]) -> list[tuple[str, list[Event]]]:
    """Streams with one event that is garbage, or a damaged copy of a genuine one where that stood."""
    cases = [(f"garbage {junk.name} {junk.data!r}", [junk]) for junk in corruption.GARBAGE]
    middle = len(events) // 2
    for junk in corruption.GARBAGE:
        cases.append((f"garbage {junk.name} {junk.data!r} in the middle", [*events[:middle], junk, *events[middle:]]))
    seen: set[str] = set()
    for index, event in enumerate(events):
        if (shape := event.name + corruption.shape(event.data)) not in seen:
            seen.add(shape)
            for what, data in corruption.damaged(event.data):
                damaged = [*events[:index], Event(event.name, data), *events[index + 1 :]]
                cases.append((f"event {index} ({event.name}), {what}", damaged))
    return [("no event at all", []), *cases[:MOST_CASES]]


def _decode_whole(provider: HTTPProvider, golden: Golden, raw: bytes) -> None:
    body = provider.decode(golden.make_call(), whole_answer(raw))
    assert isinstance(body, dict), f"decode returned {type(body).__name__}"


def _report(broken: list[str]) -> str:
    return "\n".join([f"{len(broken)} kinds of damage raise something else than a Failure:", *broken[:8]])


def _survives(run: Callable[..., Any], *args: Any) -> str | None:
    """What went wrong, if it was anything but a Failure."""
    try:
        run(*args)
    except Failure:
        return None
    except Exception as error:  # noqa: BLE001 - that is the question
        return f"{type(error).__name__}: {error}"
    return None
