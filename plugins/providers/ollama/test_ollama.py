"""The conformance suite, and what the translation does at its edges."""

from typing import Any

import pytest
from tianji_provider_ollama import Ollama

from tianji import BadRequest, ProtocolError, Unavailable
from tianji.testing import ProviderSuite, make_call, read_stream, summarise


class TestOllama(ProviderSuite):
    plugin = Ollama
    wire = "wire"

    def body(self, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
        call = make_call({"model": "m", "messages": list(messages), **fields})
        body = self.make_plugin().encode(call, self.make_deployment()).body
        assert isinstance(body, dict)
        return body

    @pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/api"])
    def test_an_openai_like_address_is_understood(self, suffix: str) -> None:
        wire = self.make_plugin().encode(make_call(), self.make_deployment(api_base=f"http://127.0.0.1:1{suffix}"))
        assert wire.url == "http://127.0.0.1:1/api/chat"

    def test_no_key_no_header(self) -> None:
        assert "authorization" not in self.make_plugin().encode(make_call(), self.make_deployment(api_key=None)).headers

    @pytest.mark.parametrize(
        ("asked", "think"),
        [
            ({"reasoning_effort": "none"}, False),
            ({"reasoning_effort": "minimal"}, "low"),
            ({"reasoning_effort": "medium"}, "medium"),
            ({"reasoning_effort": "xhigh"}, "max"),
            ({"reasoning_effort": "high", "think": True}, True),
            ({}, None),
        ],
    )
    def test_thinking(self, asked: dict[str, Any], think: Any) -> None:
        assert self.body(**asked).get("think") == think

    @pytest.mark.parametrize(
        ("asked", "wanted"),
        [
            ({"response_format": {"type": "json_object"}}, "json"),
            (
                {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}},
                {"type": "array"},
            ),
            ({"response_format": {"type": "text"}}, None),
            ({"format": "json"}, "json"),
        ],
    )
    def test_formats(self, asked: dict[str, Any], wanted: Any) -> None:
        assert self.body(**asked).get("format") == wanted

    def test_native_options_win(self) -> None:
        options = {"num_predict": 7, "num_gpu": 1}
        assert self.body(max_tokens=5, temperature=0.5, options=options)["options"] == {"temperature": 0.5, **options}

    def test_no_tools_when_none_may_be_called(self) -> None:
        tool = {"type": "function", "function": {"name": "f"}}
        assert "tools" not in self.body(tools=[tool], tool_choice="none")
        assert self.body(tools=[tool], tool_choice="auto")["tools"] == [tool]

    def test_an_address_of_an_image_is_refused(self) -> None:
        part = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
        with pytest.raises(BadRequest, match="base64") as caught:
            self.body({"role": "user", "content": [{"type": "text", "text": "What?"}, part]})
        assert caught.value.param == "messages[0].content[1]"

    def test_audio_travels_with_the_images(self) -> None:
        part = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
        assert self.body({"role": "user", "content": [part]})["messages"] == [
            {"role": "user", "content": "", "images": ["UklGRg=="]}
        ]

    @pytest.mark.parametrize(
        ("text", "arguments"), [("{bad", {"arguments": "{bad"}), ("[1]", {"arguments": [1]}), (" ", {}), (None, {})]
    )
    def test_arguments_that_are_no_object(self, text: str | None, arguments: dict[str, Any]) -> None:
        tool = {"id": "1", "type": "function", "function": {"name": "f", "arguments": text}}
        sent = self.body({"role": "assistant", "content": None, "tool_calls": [tool]})["messages"][0]
        assert sent["tool_calls"] == [{"id": "1", "function": {"name": "f", "arguments": arguments}}]

    def test_a_deployments_drops_are_named(self) -> None:
        call = make_call({"model": "m", "messages": [], "temperature": 1})
        wire = self.make_plugin().encode(
            call, self.make_deployment(drop=frozenset({"temperature"}), extra_body={"x": 1})
        )
        assert wire.body == {"model": "upstream-model", "messages": [], "stream": False, "x": 1}
        assert call.dropped == ("temperature",)

    def test_an_error_with_status_200(self) -> None:
        with pytest.raises(Unavailable, match="out of memory"):
            self.make_plugin().decode(make_call(), {"error": "out of memory"})

    @pytest.mark.parametrize("data", [{}, {"message": None}, {"message": "Hi"}])
    def test_an_answer_without_a_message(self, data: dict[str, Any]) -> None:
        with pytest.raises(ProtocolError):
            self.make_plugin().decode(make_call(), data)

    def test_the_last_line_may_say_something(self) -> None:
        raw = b'{"model":"m","message":{"role":"assistant","content":"Hi"},"done":true,"done_reason":"length"}\n'
        chunks = read_stream(self.make_plugin(), make_call({"model": "m", "messages": [], "stream": True}), raw)
        assert summarise(chunks)["text"] == "Hi"
        assert summarise(chunks)["finish_reason"] == "length"
