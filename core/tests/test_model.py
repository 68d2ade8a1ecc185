"""The data types: secrets stay secret, bytes are kept, undo runs backwards, frozen things are frozen."""

from __future__ import annotations

import json
import os
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji.errors import Throttled
from tianji.model import (
    DONE,
    Chunk,
    Cost,
    Ingress,
    Reply,
    Secret,
    Usage,
    encode_json,
    failure_record,
    new_id,
    sse_encode,
    sse_payloads,
)
from tianji.testing import make_attempt, make_call, make_deployment, make_principal, make_record

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=4)


class TestSecret:
    @given(st.text(min_size=4))
    def test_is_never_shown(self, text: str) -> None:
        secret = Secret(text)
        assert secret.reveal() == text
        for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", "%s" % secret, repr([secret])):  # noqa: UP031
            assert text not in shown or text in "[***]"
        with pytest.raises(TypeError):
            pickle.dumps(secret)
        with pytest.raises(TypeError):
            encode_json({"key": secret})
        with pytest.raises(TypeError):
            json.dumps(secret)

    def test_in_a_deployment(self) -> None:
        assert "sk-canary" not in repr(make_deployment(api_key="sk-canary"))

    def test_compares_and_is_empty(self) -> None:
        assert Secret("a") == Secret("a")
        assert Secret("a") != "a"
        assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
        assert not Secret("")


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (make_principal(), "role"), (make_deployment(), "api_base"), (make_attempt(), "outcome"),
        (make_record(), "status"), (Usage(), "input_tokens"), (Cost(1), "nano"),
        (Ingress("GET", "/", {}, ""), "path"),
    ],
)  # fmt: skip
def test_what_leaves_the_request_path_is_frozen(made: Any, field: str) -> None:
    with pytest.raises(AttributeError):
        setattr(made, field, "changed")


def test_a_principal_has_no_default() -> None:
    with pytest.raises(TypeError):
        make_principal().__class__()  # type: ignore[call-arg]


def test_ids_are_unique_also_after_a_fork() -> None:
    ids = {new_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert theirs[:16] != new_id()[:16]


def test_costs_are_whole_numbers_and_unknown_is_not_zero() -> None:
    assert Cost(1_500_000_000).usd == 1.5
    assert Cost(0).usd == 0
    assert Cost(None).usd is None


class TestReply:
    def test_bytes_are_kept_and_decoded_on_demand(self) -> None:
        raw = b'{"a": 1.0,\n "b":[ ]}'
        reply = Reply(raw=raw)
        assert reply.body == {"a": 1.0, "b": []}
        assert reply.raw is raw

    def test_a_new_body_makes_new_bytes(self) -> None:
        reply = Reply(raw=b'{"a":1}')
        reply.body = {"b": 2}
        assert reply.raw == b'{"b":2}'
        reply.take(b'{"c":3}', None)
        assert reply.body == {"c": 3}

    def test_headers_are_its_own(self) -> None:
        Reply({}).headers["x"] = "1"
        assert Reply({}).headers == {}


class TestChunk:
    @given(st.lists(objects, max_size=4))
    def test_events_survive_the_way_through_bytes(self, events: list[dict[str, Any]]) -> None:
        assert Chunk(sse_encode(events)).events == events

    @given(st.lists(objects, min_size=1, max_size=3))
    def test_named_frames_carry_their_type(self, events: list[dict[str, Any]]) -> None:
        named = [{**event, "type": "message_start"} for event in events]
        raw = Chunk(events=named, named=True).raw
        assert raw.count(b"event: message_start\ndata: ") == len(named)
        assert list(map(msgspec.json.decode, sse_payloads(raw))) == named

    def test_done_is_no_event_and_is_kept(self) -> None:
        chunk = Chunk(b'data: {"a":1}\n\n' + DONE)
        assert chunk.events == [{"a": 1}]
        assert chunk.with_events([{"a": 2}]).raw == b'data: {"a":2}\n\n' + DONE
        assert Chunk(b'data: {"a":1}\n\n').with_events([]).raw == b""

    def test_carriage_returns_and_comments(self) -> None:
        raw = b': hello\r\n\r\ndata: {"a":\r\ndata: 1}\r\n\r\nevent: x\ndata:{"b":2}\n\n'
        assert Chunk(raw).events == [{"a": 1}, {"b": 2}]


class TestCall:
    async def test_undo_is_last_in_first_out_and_taken_once(self) -> None:
        call, seen = make_call(), list[int]()
        for number in range(3):

            async def undo(number: int = number) -> None:
                seen.append(number)

            call.defer(undo)
        for step in call.take_undo():
            await step()
        assert seen == [2, 1, 0]
        assert call.take_undo() == ()

    def test_a_rewritten_body_forgets_bytes_and_translation(self) -> None:
        call = make_call()
        call.raw, call.chat = b"{}", call
        call.body = {"model": "other"}
        assert [call.raw, call.chat] == [None, None]

    def test_a_derived_call_shares_everything_but_what_it_says(self) -> None:
        call = make_call({"model": "m"}, dialect="anthropic-messages")
        call.raw = b"{}"
        child = call.derive(body={"messages": []}, dialect="openai-chat", op=call.op)
        assert (child.dialect, child.origin, child.raw) == ("openai-chat", "anthropic-messages", None)
        assert (child.id, child.deadline, child.principal) == (call.id, call.deadline, call.principal)
        child.state["x"] = 1
        child.attempts.append(make_attempt())
        assert call.state == {"x": 1}
        assert len(call.attempts) == 1
        assert call.body == {"model": "m"}

    def test_dropped_fields_are_named_once(self) -> None:
        call = make_call()
        call.drop("a", "b")
        call.drop("b", "c")
        assert call.dropped == ("a", "b", "c")

    def test_time_left_is_never_negative(self) -> None:
        call = make_call()
        call.deadline = 0.0
        assert call.remaining() == 0.0


def test_headers_are_found_by_lower_case_name() -> None:
    ingress = Ingress("GET", "/", {b"x-a": b"caf\xe9"}, "")
    assert ingress.header("x-a") == "café"
    assert ingress.header("x-b") is None


def test_a_failure_in_a_record_names_its_class() -> None:
    assert failure_record(Throttled("slow"))["class"] == "Throttled"
    assert failure_record(Throttled("slow"))["status"] == 429


def test_a_record_knows_a_cache_hit() -> None:
    assert make_record(source="cache").cache_hit
    assert not make_record().cache_hit
