"""The conformance suite, and what an unknown server needs."""

import pytest
from tianji_provider_openai_like import OpenAILike

from tianji import BadRequest
from tianji.testing import ProviderSuite, make_call


class TestOpenAILike(ProviderSuite):
    plugin = OpenAILike
    wire = "wire"
    api_base = "http://127.0.0.1:8000/v1"

    def test_no_address_is_a_typed_error(self) -> None:
        with pytest.raises(BadRequest, match="api_base") as caught:
            self.make_plugin().encode(make_call(), self.make_deployment(api_base=None))
        assert caught.value.status == 400
        assert "deployment-1" in caught.value.message

    def test_no_key_no_header(self) -> None:
        wire = self.make_plugin().encode(make_call(), self.make_deployment(api_key=None))
        assert "authorization" not in wire.headers

    @pytest.mark.parametrize("asked", [{}, {"stream_options": {"include_usage": True}}])
    def test_stream_options_can_be_turned_off(self, asked: dict[str, object]) -> None:
        call = make_call({"model": "m", "messages": [], "stream": True, **asked})
        off = self.make_deployment(settings=OpenAILike.Settings(stream_usage=False))
        assert "stream_options" not in self.make_plugin().request_body(call, off)
        assert self.make_plugin().request_body(call, self.make_deployment())["stream_options"] == {
            "include_usage": True
        }
        assert call.dropped == (), "the gateway states the usage itself, so nothing is lost"
