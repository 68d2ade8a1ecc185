"""The conformance suite, and Mistral's quirks."""

from typing import Any

import pytest
from tianji_provider_mistral import Mistral

from tianji import ContextWindow, Failure, Throttled, Unavailable
from tianji.testing import ProviderSuite, make_call, make_deployment, read_stream


class TestMistral(ProviderSuite):
    plugin = Mistral
    wire = "wire"

    def body(self, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
        call = make_call({"model": "m", "messages": list(messages), **fields})
        made: dict[str, Any] = self.make_plugin().request_body(call, self.make_deployment())
        return made

    def test_answers_are_rewritten(self) -> None:
        assert self.make_plugin().rewrites(make_call()), "a list as content must not reach the client as it came"

    def test_messages_hold_only_what_is_known(self) -> None:
        sent = self.body(
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hi", "name": "ada"},
            {"role": "assistant", "content": "Yes?", "refusal": None, "reasoning_content": "Hm.", "tool_calls": None},
            {"role": "assistant", "content": "1, 2,", "prefix": True},
        )["messages"]
        assert sent == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "assistant", "content": "1, 2,", "prefix": True},
        ]

    def test_parts(self) -> None:
        text = {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}}
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        audio = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
        assert self.body({"role": "user", "content": [text, image, audio]})["messages"][0]["content"] == [
            {"type": "text", "text": "Look"},
            image,
            {"type": "input_audio", "input_audio": "UklGRg=="},
        ]

    def test_tool_ids_of_others_are_replaced_alike(self) -> None:
        tool = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
        sent = self.body(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", **tool}, {"id": "Ab3Cd5Ef7", **tool}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "1", "name": "f"},
            {"role": "tool", "tool_call_id": "Ab3Cd5Ef7", "content": "2"},
        )["messages"]
        made, kept = (one["id"] for one in sent[0]["tool_calls"])
        assert len(made) == 9
        assert made.isalnum()
        assert kept == "Ab3Cd5Ef7"
        assert [one["tool_call_id"] for one in sent[1:]] == [made, kept]
        assert sent[1]["name"] == "f"

    @pytest.mark.parametrize(("asked", "sent"), [("required", "any"), ("auto", "auto"), ("none", "none")])
    def test_tool_choice(self, asked: str, sent: str) -> None:
        assert self.body(tool_choice=asked)["tool_choice"] == sent

    def test_stream_options_are_left_out_in_silence(self) -> None:
        call = make_call({"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}})
        assert "stream_options" not in self.make_plugin().request_body(call, self.make_deployment())
        assert call.dropped == ()

    @pytest.mark.parametrize(
        "data",
        [
            {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": "secret"}]},
            {"object": "error", "code": None, "message": {"detail": [
                {"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": "secret"}]}},
        ],
    )  # fmt: skip
    def test_validation_errors_read_well(self, data: dict[str, Any]) -> None:
        failure = self.make_plugin().failure(422, data)
        assert failure.message == "messages: Field required"
        assert failure.param == "messages"
        assert failure.status == 422

    @pytest.mark.parametrize(
        ("status", "message", "kind"),
        [
            (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length", ContextWindow),
            (429, "Rate limit exceeded", Throttled),
        ],
    )
    def test_flat_errors(self, status: int, message: str, kind: type[Failure]) -> None:
        data = {"object": "error", "message": message, "type": "x", "param": None, "code": "1300"}
        failure = self.make_plugin().failure(status, data)
        assert type(failure) is kind
        assert failure.message == message

    def test_an_error_in_a_stream_ends_it(self) -> None:
        raw = b'data: {"object":"error","message":"Service unavailable.","type":"internal","code":"1000"}\n\n'
        with pytest.raises(Unavailable, match="Service unavailable"):
            read_stream(self.make_plugin(), make_call({"model": "m", "messages": [], "stream": True}), raw)

    def test_an_answer_that_ends_in_error_is_a_failure(self) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hal"}, "finish_reason": "error"}
        with pytest.raises(Unavailable):
            self.make_plugin().decode(make_call(), {"choices": [choice]})

    def test_model_length_is_length(self) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hal"}, "finish_reason": "model_length"}
        decoded = self.make_plugin().decode(make_call(), {"choices": [choice]})
        assert decoded["choices"][0]["finish_reason"] == "length"

    @pytest.mark.parametrize(
        ("model", "fields", "goes_on"),
        [
            ("mistral-small-latest", {}, True),
            ("magistral-medium-latest", {}, False),
            ("mistral-small-latest", {"reasoning_effort": "high"}, False),
            ("mistral-small-latest", {"prompt_mode": "reasoning"}, False),
        ],
    )
    def test_models_that_go_on_from_a_prefix(self, model: str, fields: dict[str, Any], goes_on: bool) -> None:
        call = make_call({"model": "m", "messages": [], **fields})
        assert self.make_plugin().prefills(call, make_deployment(provider="mistral", model=model)) is goes_on
