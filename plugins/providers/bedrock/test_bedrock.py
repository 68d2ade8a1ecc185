"""The conformance suite, addresses, and what is made of answers and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tianji_provider_bedrock import Bedrock, surroundings
from tianji_provider_bedrock.errors import Malformed
from tianji_provider_bedrock.names import originals, safe_id, safe_name

from tianji import (
    END,
    BadCredentials,
    BadRequest,
    ContentPolicy,
    ContextWindow,
    Event,
    Failure,
    PermissionDenied,
    ProtocolError,
    Rejected,
    Throttled,
    Timeout,
    Unavailable,
    UpstreamNotFound,
)
from tianji.testing import ProviderSuite, make_call, make_deployment, summarise


class TestBedrock(ProviderSuite):
    plugin = Bedrock
    wire = "wire"


BEDROCK = Bedrock(None, instance="bedrock", gateway=None)  # what is tested here asks the gateway nothing
CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "amazon.nova-pro-v1:0"
USER = [{"role": "user", "content": "Hi"}]


def answer(*content: dict[str, Any], stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {"output": {"message": {"role": "assistant", "content": list(content)}}, "stopReason": stop, **more}


def decoded(data: dict[str, Any], **body: Any) -> dict[str, Any]:
    """The first choice of a whole answer."""
    choice: dict[str, Any] = BEDROCK.decode(make_call({"model": "m", "messages": USER, **body}), data)["choices"][0]
    return choice


def streamed(*events: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    decoder = BEDROCK.decoder(make_call())
    next(decoder)
    chunks: list[dict[str, Any]] = []
    for event in [*(Event(name, data) for name, data in events), END]:
        chunks += decoder.send(event)
    return chunks


def delta(index: int, **content: Any) -> tuple[str, dict[str, Any]]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": content}


def stop(reason: str = "end_turn") -> tuple[str, dict[str, Any]]:
    return "messageStop", {"stopReason": reason}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment that says nothing of a region, and is read anew."""
    for name in ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    surroundings.cache_clear()
    yield monkeypatch
    surroundings.cache_clear()


# -- where to ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings", "url"),
    [
        (NOVA, {}, "https://bedrock-runtime.us-east-1.amazonaws.com/model/amazon.nova-pro-v1%3A0/converse"),
        ("converse/" + NOVA, {"aws_region_name": "cn-north-1"},
         "https://bedrock-runtime.cn-north-1.amazonaws.com.cn/model/amazon.nova-pro-v1%3A0/converse"),
        ("eu-west-3/x.y", {}, "https://bedrock-runtime.eu-west-3.amazonaws.com/model/x.y/converse"),
        ("us-gov-west-1/converse/x.y", {}, "https://bedrock-runtime.us-gov-west-1.amazonaws.com/model/x.y/converse"),
        ("arn:aws:bedrock:ap-south-1:1:provisioned-model/a", {},
         "https://bedrock-runtime.ap-south-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aap-south-1%3A1%3A"
         "provisioned-model%2Fa/converse"),
        ("arn:aws:bedrock:ap-south-1:1:provisioned-model/a", {"aws_region_name": "eu-west-1"},
         "https://bedrock-runtime.eu-west-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aap-south-1%3A1%3A"
         "provisioned-model%2Fa/converse"),
        (NOVA, {"model_id": "arn:aws:bedrock:eu-north-1:1:application-inference-profile/q"},
         "https://bedrock-runtime.eu-north-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aeu-north-1%3A1%3A"
         "application-inference-profile%2Fq/converse"),
        (NOVA, {"aws_bedrock_runtime_endpoint": "https://vpce.example.com/"},
         "https://vpce.example.com/model/amazon.nova-pro-v1%3A0/converse"),
        ("nova-2/arn:aws:bedrock:us-west-2:1:custom-model-deployment/a", {},
         "https://bedrock-runtime.us-west-2.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aus-west-2%3A1%3A"
         "custom-model-deployment%2Fa/converse"),
        ("arn:aws:bedrock:evil.example/#:1:x", {},
         "https://bedrock-runtime.us-east-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aevil.example%2F%23%3A1%3Ax/converse"),
        ("evil.example/x", {}, "https://bedrock-runtime.us-east-1.amazonaws.com/model/evil.example%2Fx/converse"),
        ("a/../b?c#d", {}, "https://bedrock-runtime.us-east-1.amazonaws.com/model/a%2F..%2Fb%3Fc%23d/converse"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("fresh")
def test_address(model: str, settings: dict[str, Any], url: str) -> None:
    provider = Bedrock(None, instance="bedrock", gateway=None)
    deployment = make_deployment(model=model, settings=Bedrock.Settings(**settings))
    assert provider.encode(make_call(), deployment).url == url


def test_region_of_the_environment(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("AWS_REGION", "sa-east-1")
    fresh.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    provider = Bedrock(None, instance="bedrock", gateway=None)
    assert provider.region(make_deployment(model=NOVA, settings=Bedrock.Settings())) == "sa-east-1"


@pytest.mark.parametrize("model", ["invoke/" + CLAUDE, "agent/X/Y", "us-east-1/async_invoke/m", "mantle/m", "..", "."])
def test_what_is_not_converse_is_refused(model: str) -> None:
    with pytest.raises(BadRequest) as caught:
        BEDROCK.encode(make_call(), make_deployment(model=model, settings=Bedrock.Settings()))
    assert caught.value.param == "model"


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("content_filtered", "content_filter"),
     ("model_context_window_exceeded", "length"), ("guardrail_intervened", "content_filter"), ("tool_use", "stop"),
     ("malformed_tool_use", "stop"), ("something_new", "stop")],
)  # fmt: skip
def test_finish_reasons(reason: str, finish: str) -> None:
    assert decoded(answer({"text": "x"}, stop=reason))["finish_reason"] == finish
    assert summarise(streamed(delta(0, text="x"), stop(reason)))["finish_reason"] == finish


def test_call_that_ends_as_a_turn_is_still_a_call() -> None:
    use = {"toolUse": {"toolUseId": "a", "name": "f", "input": {}}}
    assert decoded(answer(use))["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("reason", ["malformed_tool_use", "malformed_model_output"])
def test_stumbling_is_a_failure_that_spares_the_deployment(reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        decoded(answer(stop=reason))
    with pytest.raises(Malformed):
        streamed(stop(reason))
    assert (caught.value.retryable, caught.value.cools_down) == (True, False)


@given(st.lists(st.text(min_size=1, max_size=90), unique=True, max_size=6))
def test_names_are_legal_and_come_back(names: list[str]) -> None:
    chat = {"tools": [{"type": "function", "function": {"name": name}} for name in names]}
    back = originals(chat)
    made = [safe_name(name) for name in names]
    assert [back.get(name, name) for name in made] == names
    for name in [*made, *map(safe_id, names)]:
        assert 0 < len(name) <= 64
        assert name.isascii()


def test_names_of_tools_come_back() -> None:
    tools = [{"type": "function", "function": {"name": "a/b"}}]
    use = {"toolUse": {"toolUseId": "t", "name": safe_name("a/b"), "input": {"x": 1}}}
    assert decoded(answer(use, stop="tool_use"), tools=tools)["message"]["tool_calls"][0]["function"] == {
        "name": "a/b",
        "arguments": '{"x":1}',
    }


def test_citations_of_a_whole_answer() -> None:
    cited = {"title": "T", "source": "https://h/x", "location": {"searchResultLocation": {"start": 0, "end": 1}}}
    message = decoded(
        answer({"text": "So: "}, {"citationsContent": {"content": [{"text": "yes"}], "citations": [cited]}})
    )["message"]
    assert message["content"] == "So: yes"
    assert message["citations"] == [cited]
    found = {"url": "https://h/x", "title": "T", "start_index": 4, "end_index": 7}
    assert message["annotations"] == [{"type": "url_citation", "url_citation": found}]


def test_images_of_the_models_own() -> None:
    drawn = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}, "index": 0}
    message = decoded(answer({"image": {"format": "png", "source": {"bytes": "AAAA"}}}))["message"]
    assert (message["content"], message["images"]) == (None, [drawn])
    start = ("contentBlockStart", {"contentBlockIndex": 0, "start": {"image": {"format": "png"}}})
    chunks = streamed(start, delta(0, image={"source": {"bytes": "AAAA"}}),
                      ("contentBlockStop", {"contentBlockIndex": 0}), stop())  # fmt: skip
    assert chunks[0]["choices"][0]["delta"] == {"images": [drawn]}


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"inputTokens": 5, "outputTokens": 2, "totalTokens": 107, "cacheReadInputTokens": 100}, 105),
        ({"inputTokens": 5, "outputTokens": 2, "totalTokens": 107, "cacheWriteInputTokenCount": 100}, 105),
        ({"inputTokens": 105, "outputTokens": 2, "totalTokens": 107, "cacheReadInputTokens": 100}, 105),
    ],
)
def test_tokens_of_the_cache_are_counted_once(usage: dict[str, int], tokens: int) -> None:
    assert BEDROCK.decode(make_call(), answer({"text": "x"}, usage=usage))["usage"]["prompt_tokens"] == tokens


def test_stream_without_a_stop_reason_is_left_unfinished() -> None:
    usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
    found = summarise(streamed(delta(0, text="x"), ("metadata", {"usage": usage})))
    assert found["finish_reason"] is None
    assert found["usage"]["total_tokens"] == 3


def test_block_that_nobody_closed_is_told_at_the_end() -> None:
    chunks = streamed(delta(0, reasoningContent={"text": "Hm"}), delta(0, reasoningContent={"signature": "s"}), stop())
    assert chunks[1]["choices"][0]["delta"]["thinking_blocks"][0]["signature"] == "s"


@pytest.mark.parametrize("data", [{}, {"message": "odd"}, {"output": {}}, {"output": {"message": {"content": None}}}])
def test_answer_without_a_message_is_a_protocol_error(data: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        BEDROCK.decode(make_call(), data)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "data", "kind", "said"),
    [
        (503, {"message": "Too many connections, please wait before trying again."}, Throttled, 429),
        (503, {"message": "Bedrock is unable to process your request."}, Unavailable, 503),
        (429, {"message": "Model is not ready for inference."}, Throttled, 429),
        (408, {"message": "Model has timed out in processing the request."}, Timeout, 408),
        (400, {"message": "prompt is too long: 250000 tokens > 200000 maximum"}, ContextWindow, 400),
        (400, {"message": "Output blocked by content filtering policy"}, ContentPolicy, 400),
        (400, {"message": "messages.1: Invalid `signature` in `thinking` block"}, Rejected, 400),
        (400, {"message": "The provided model identifier is invalid."}, UpstreamNotFound, 404),
        (400, {"message": "Signature expired: 2024 is now earlier than 2025"}, BadCredentials, 401),
        (403, {"message": "You don't have access to the model with the specified model ID."}, PermissionDenied, 403),
        (403, {"Message": "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:InvokeModel"},
         PermissionDenied, 403),
        (403, {"message": "The request signature we calculated does not match."}, BadCredentials, 401),
        (403, {"Message": "Authentication failed: Please make sure your API Key is valid."}, BadCredentials, 401),
        (404, {"message": "This model version has reached the end of its life."}, UpstreamNotFound, 404),
        (424, {"message": "The model failed.", "originalStatusCode": 400}, Rejected, 400),
        (424, {"message": "The model failed."}, Unavailable, 503),
    ],
)  # fmt: skip
def test_failures(status: int, data: Any, kind: type[Failure], said: int) -> None:
    failure = BEDROCK.failure(status, data)
    assert type(failure) is kind
    assert failure.status == said
    assert failure.message == next(iter(data.values()))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", Throttled), ("validationException", Rejected), ("modelTimeoutException", Timeout),
        ("modelStreamErrorException", Unavailable), ("internalServerException", Unavailable),
        ("serviceUnavailableException", Unavailable), ("InternalFailure", Unavailable), ("exception", Unavailable),
        ("ExpiredTokenException", PermissionDenied),
    ],
)  # fmt: skip
def test_exceptions_in_a_stream(name: str, kind: type[Failure]) -> None:
    with pytest.raises(Failure, match="why") as caught:
        streamed(delta(0, text="x"), (name, {"message": "why"}))
    assert type(caught.value) is kind
