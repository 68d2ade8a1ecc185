"""The conformance suite, and every mapping by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tianji_provider_bedrock import Bedrock
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
    decode_json,
)
from tianji.testing import ProviderSuite, make_call, make_deployment, summarise


class TestBedrock(ProviderSuite):
    plugin = Bedrock
    wire = "wire"


BEDROCK = Bedrock(None, instance="bedrock", gateway=None)  # what is tested here asks the gateway nothing
USER = [{"role": "user", "content": "Hi"}]
CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "amazon.nova-pro-v1:0"
NOVA_2 = "us.amazon.nova-2-lite-v1:0"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}
SPEC = {"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {"x": {}}}}}}
CALLED = [
    *USER,
    {
        "role": "assistant",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "a", "content": "done"},
]


def wire_of(
    model: str = CLAUDE, *, deployment: dict[str, Any] | None = None, **body: Any
) -> tuple[Any, tuple[str, ...]]:
    """The request for a chat body, and the names of what it leaves out."""
    call = make_call({"model": "group", "messages": USER, **body})
    fields = {"settings": Bedrock.Settings(), **(deployment or {})}
    return BEDROCK.encode(call, make_deployment(model=model, id=repr((model, deployment)), **fields)), call.dropped


def request(model: str = CLAUDE, **body: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The request's body and the names of what it leaves out."""
    wire, dropped = wire_of(model, **body)
    assert isinstance(wire.body, dict)
    return wire.body, dropped


def sent(model: str = CLAUDE, **body: Any) -> dict[str, Any]:
    return request(model, **body)[0]


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
        ("a/../b?c#d", {}, "https://bedrock-runtime.us-east-1.amazonaws.com/model/a%2F..%2Fb%3Fc%23d/converse"),
    ],
)  # fmt: skip
def test_address(monkeypatch: pytest.MonkeyPatch, model: str, settings: dict[str, str], url: str) -> None:
    for name in ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    provider = Bedrock(None, instance="bedrock", gateway=None)
    deployment = make_deployment(model=model, settings=Bedrock.Settings(**settings))
    assert provider.encode(make_call(), deployment).url == url


def test_region_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION_NAME", raising=False)
    monkeypatch.setenv("AWS_REGION", "sa-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    provider = Bedrock(None, instance="bedrock", gateway=None)
    assert provider.region(make_deployment(model=NOVA, settings=Bedrock.Settings())) == "sa-east-1"


@pytest.mark.parametrize("model", ["invoke/" + CLAUDE, "agent/X/Y", "us-east-1/async_invoke/m", "mantle/m", "..", "."])
def test_what_is_not_converse_is_refused(model: str) -> None:
    with pytest.raises(BadRequest) as caught:
        wire_of(model)
    assert caught.value.param == "model"


# -- messages ----------------------------------------------------------------------------------------------------------


def test_turns() -> None:
    messages = [
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": ["One", " ", {"type": "text", "text": ""}]},
        {"role": "system", "content": "Now in French."},
        {"role": "assistant", "content": "Oui. \n"},
    ]
    assert sent(messages=messages)["messages"] == [
        {"role": "user", "content": [{"text": "(begin)"}]},
        {"role": "assistant", "content": [{"text": "Hello"}]},
        {"role": "user", "content": [{"text": "One"}, {"text": "<system>\nNow in French.\n</system>"}]},
        {"role": "assistant", "content": [{"text": "Oui."}]},
    ]


def test_lone_system_prompt_is_sent_as_the_users() -> None:
    assert sent(messages=[{"role": "developer", "content": "x"}]) == {
        "messages": [{"role": "user", "content": [{"text": "x"}]}]
    }


def test_document_without_text_gets_some() -> None:
    part = {"type": "file", "file": {"file_data": "QUJD", "filename": "../../a_b.PDF"}, "citations": {"enabled": True}}
    content = sent(messages=[{"role": "user", "content": [part]}])["messages"][0]["content"]
    document = {"format": "pdf", "source": {"bytes": "QUJD"}, "name": "a b", "citations": {"enabled": True}}
    assert content == [{"text": "Attached:"}, {"document": document}]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ({"type": "image_url", "image_url": "data:image/png;base64,AA=="},
         {"image": {"format": "png", "source": {"bytes": "AA=="}}}),
        ({"type": "image_url", "image_url": {"url": "data:;base64,AA==", "format": "image/webp"}},
         {"image": {"format": "webp", "source": {"bytes": "AA=="}}}),
        ({"type": "file", "file": {"file_data": "data:video/quicktime;base64,AA=="}},
         {"video": {"format": "mov", "source": {"bytes": "AA=="}}}),
        ({"type": "file", "file": {"file_id": "s3://b/k.docx"}},
         {"document": {"format": "docx", "source": {"s3Location": {"uri": "s3://b/k.docx"}}, "name": "document"}}),
        ({"type": "video_url", "video_url": {"url": "s3://b/k", "format": "video/3gpp"}},
         {"video": {"format": "three_gp", "source": {"s3Location": {"uri": "s3://b/k"}}}}),
        ({"searchResult": {"source": "s", "title": "t", "content": [{"text": "x"}]}},
         {"searchResult": {"source": "s", "title": "t", "content": [{"text": "x"}]}}),
    ],
)  # fmt: skip
def test_parts(part: dict[str, Any], block: dict[str, Any]) -> None:
    content = sent(messages=[{"role": "user", "content": ["x", part]}])["messages"][0]["content"]
    assert content == [{"text": "x"}, block]


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_documents_have_legal_names_of_their_own(names: list[str]) -> None:
    parts = [{"type": "file", "file": {"filename": name, "file_data": "data:text/plain;base64,QQ=="}} for name in names]
    content = sent(messages=[{"role": "user", "content": ["x", *parts]}])["messages"][0]["content"][1:]
    made = [block["document"]["name"] for block in content]
    assert len(set(made)) == len(names)
    for name in made:
        assert 0 < len(name) <= 200
        assert "  " not in name
        assert all(char.isascii() and (char.isalnum() or char in " -()[]") for char in name)


def test_broken_arguments_and_long_ids_go_out_legally() -> None:
    call = {"id": "x" * 90, "function": {"name": "f", "arguments": "{broken"}}
    messages = [
        *USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x" * 90, "content": ""},
    ]
    turns = sent(messages=messages, tools=[TOOL])["messages"]
    use, result = turns[1]["content"][0]["toolUse"], turns[2]["content"][0]["toolResult"]
    assert use["input"] == {"raw_arguments": "{broken"}
    assert use["toolUseId"] == result["toolUseId"]
    assert len(use["toolUseId"]) <= 64
    assert result["content"] == [{"text": ""}]


def test_status_of_a_result_is_for_those_who_know_it() -> None:
    messages = [*CALLED[:2], {**CALLED[2], "is_error": True}]
    status = [
        "status" in sent(model, messages=messages)["messages"][2]["content"][0]["toolResult"]
        for model in (CLAUDE, NOVA, "meta.llama3-3-70b-instruct-v1:0")
    ]
    assert status == [True, True, False]


def test_functions_as_they_were_before_tools() -> None:
    messages = [
        *USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "done"},
    ]
    body = sent(messages=messages, functions=[TOOL["function"]], function_call={"name": "f"})
    assert body["messages"][1]["content"] == [{"toolUse": {"toolUseId": "call_1", "name": "f", "input": {}}}]
    assert body["messages"][2]["content"] == [{"toolResult": {"toolUseId": "call_1", "content": [{"text": "done"}]}}]
    assert body["toolConfig"] == {"tools": [SPEC], "toolChoice": {"tool": {"name": "f"}}}


@pytest.mark.parametrize(
    ("model", "points", "dropped"),
    [
        (CLAUDE, [{"cachePoint": {"type": "default", "ttl": "1h"}}], ()),
        (NOVA, [{"cachePoint": {"type": "default"}}], ()),
        ("meta.llama3-3-70b-instruct-v1:0", [], ("cache_control",)),
    ],
)
def test_cache_points_are_for_models_with_a_cache(model: str, points: list[Any], dropped: tuple[str, ...]) -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    messages = [*CALLED[:2], {**CALLED[2], "content": [{"type": "text", "text": "done", **mark}]}]
    body, lost = request(model, messages=messages, tools=[TOOL])
    assert body["messages"][2]["content"][1:] == points
    assert body["messages"][2]["content"][0]["toolResult"]["content"] == [{"text": "done"}]
    assert lost == dropped


def _part(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (_part({"type": "hologram"}), "messages[0].content[0].type"),
        (_part({"type": "image_url", "image_url": {"url": "https://h/cat.png"}}), "messages[0].content[0].image_url.url"),
        (_part({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url.url"),
        (_part({"type": "image_url", "image_url": "data:image/tiff;base64,AA=="}),
         "messages[0].content[0].image_url.url"),
        (_part({"type": "file", "file": {"file_id": "file-of-openai"}}), "messages[0].content[0].file.file_id"),
        (_part({"type": "input_audio", "input_audio": {"data": "AA", "format": "midi"}}),
         "messages[0].content[0].input_audio.format"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function"),
        ({"reasoning_effort": "colossal"}, "reasoning_effort"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
    ],
)  # fmt: skip
def test_what_no_mapping_can_save_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(**body)
    assert caught.value.param == param


# -- tools -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        (None, {"tools": [SPEC]}),
        ("auto", {"tools": [SPEC], "toolChoice": {"auto": {}}}),
        ("required", {"tools": [SPEC], "toolChoice": {"any": {}}}),
        ({"type": "function", "function": {"name": "f"}}, {"tools": [SPEC], "toolChoice": {"tool": {"name": "f"}}}),
        ({"type": "tool", "name": "f"}, {"tools": [SPEC], "toolChoice": {"tool": {"name": "f"}}}),
        ("none", None),
    ],
)
def test_tool_choice(choice: Any, config: Any) -> None:
    assert sent(tools=[TOOL], tool_choice=choice).get("toolConfig") == config
    assert "toolConfig" not in sent(tool_choice=choice)


def test_no_tools_where_the_history_needs_them() -> None:
    body, dropped = request(messages=CALLED, tools=[TOOL], tool_choice="none")
    assert (body["toolConfig"], dropped) == ({"tools": [SPEC]}, ("tool_choice",))
    body, dropped = request(messages=CALLED)
    assert body["toolConfig"]["tools"][0]["toolSpec"]["name"] == "f"
    assert dropped == ()


def test_one_call_at_a_time_is_claudes_own_word() -> None:
    body, dropped = request(tools=[TOOL], tool_choice="auto", parallel_tool_calls=False)
    assert body["toolConfig"] == {"tools": [SPEC]}
    assert body["additionalModelRequestFields"] == {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    assert dropped == ()
    assert request(NOVA, tools=[TOOL], parallel_tool_calls=False)[1] == ("parallel_tool_calls",)


def test_schemas() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "object"}}, "additionalProperties": False, "title": "T"}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}

    def spec(model: str) -> dict[str, Any]:
        made: dict[str, Any] = sent(model, tools=[tool])["toolConfig"]["tools"][0]["toolSpec"]
        return made

    assert spec(NOVA) == {
        "name": "f", "inputSchema": {"json": {"type": "object", "properties": {"x": {"type": "object"}}}}
    }  # fmt: skip
    assert spec(CLAUDE)["strict"] is True
    assert spec(CLAUDE)["inputSchema"]["json"]["properties"]["x"] == {"type": "object", "additionalProperties": False}


@given(st.lists(st.text(min_size=1, max_size=90), unique=True, max_size=6))
def test_names_are_legal_and_come_back(names: list[str]) -> None:
    chat = {"tools": [{"type": "function", "function": {"name": name}} for name in names]}
    back = originals(chat)
    made = [safe_name(name) for name in names]
    assert [back.get(name, name) for name in made] == names
    for name in [*made, *map(safe_id, names)]:
        assert 0 < len(name) <= 64
        assert name.isascii()


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "effort", "fields"),
    [
        (CLAUDE, "low", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (CLAUDE, "none", None),
        ("anthropic.claude-opus-4-6-v1", "xhigh",
         {"output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}}),
        ("us.anthropic.claude-opus-5", "max",
         {"output_config": {"effort": "max"}, "thinking": {"type": "adaptive", "display": "summarized"}}),
        (NOVA_2, "minimal", {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}),
        ("openai.gpt-oss-120b-1:0", "xhigh", {"reasoning_effort": "high"}),
        ("us.openai.gpt-5.6-sol", "xhigh", {"reasoning": {"effort": "xhigh"}}),
        ("moonshot.kimi-k2-thinking", "medium", {"reasoning_effort": "medium"}),
        ("anthropic.claude-3-haiku-20240307-v1:0", "high", None),
        ("meta.llama3-3-70b-instruct-v1:0", "high", None),
    ],
)  # fmt: skip
def test_reasoning_effort(model: str, effort: str, fields: Any) -> None:
    body, dropped = request(model, reasoning_effort=effort)
    assert body.get("additionalModelRequestFields") == fields
    assert dropped == (("reasoning_effort",) if fields is None and effort != "none" else ())


def test_thinking_as_anthropic_says_it() -> None:
    wanted = {"type": "enabled", "budget_tokens": 3000}
    body = sent(thinking=wanted, max_tokens=100)
    assert body["additionalModelRequestFields"] == {"thinking": wanted}
    assert body["inferenceConfig"] == {"maxTokens": 3100}
    other = sent(NOVA_2, thinking=wanted)["additionalModelRequestFields"]
    assert other == {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}
    assert request("x.y", thinking=wanted)[1] == ("thinking",)


def test_thinking_yields_to_a_forced_tool_and_to_a_history_without_it() -> None:
    assert request(reasoning_effort="high", tools=[TOOL], tool_choice="required")[1] == ("reasoning_effort",)
    assert request(reasoning_effort="high", tools=[TOOL], messages=CALLED)[1] == ("reasoning_effort",)


@pytest.mark.parametrize(
    ("model", "body", "config", "dropped"),
    [
        (NOVA, {"temperature": 1.5, "top_p": 0.5}, {"temperature": 1, "topP": 0.5}, ("temperature",)),
        (CLAUDE, {"temperature": 0.5, "top_p": 0.5}, {"temperature": 0.5}, ("top_p",)),
        ("anthropic.claude-3-5-haiku-20241022-v1:0", {"temperature": 0.5, "top_p": 0.5},
         {"temperature": 0.5, "topP": 0.5}, ()),
        ("anthropic.claude-opus-4-7", {"temperature": 0.5}, None, ("temperature",)),
        (NOVA_2, {"temperature": 0.5, "max_tokens": 9, "reasoning_effort": "high"}, None, ("max_tokens", "temperature")),
        (NOVA_2, {"max_tokens": 9, "reasoning_effort": "low"}, {"maxTokens": 9}, ()),
        (CLAUDE, {"stop": ["\n", "END"]}, {"stopSequences": ["END"]}, ("stop",)),
        (NOVA, {"stop": ["\n", ""]}, {"stopSequences": ["\n"]}, ("stop",)),
        (NOVA, {"max_tokens": 5, "max_completion_tokens": 7}, {"maxTokens": 7}, ()),
    ],
)  # fmt: skip
def test_inference_config(model: str, body: dict[str, Any], config: Any, dropped: tuple[str, ...]) -> None:
    made, lost = request(model, **body)
    assert made.get("inferenceConfig") == config
    assert lost == dropped


def test_fields_of_the_models_own() -> None:
    assert sent(NOVA, top_k=5)["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 5}}
    body = sent(anthropic_beta=["b"], additionalModelRequestFields={"top_k": 1}, extra_body={"more": 2})
    assert body["additionalModelRequestFields"] == {"anthropic_beta": ["b"], "top_k": 1, "more": 2}


def test_own_fields_go_over_what_was_made() -> None:
    body = sent(max_tokens=5, inferenceConfig={"topP": 0.9}, promptVariables={"a": {"text": "b"}}, temperature=None)
    assert body["inferenceConfig"] == {"maxTokens": 5, "topP": 0.9}
    assert body["promptVariables"] == {"a": {"text": "b"}}


def test_what_cannot_be_carried_is_named() -> None:
    _, dropped = request(user="u", n=2, logprobs=True, store=False, response_format={"type": "json_object"},
                         service_tier="scale", web_search_options={})  # fmt: skip
    assert sorted(dropped) == ["logprobs", "n", "response_format", "service_tier", "user", "web_search_options"]
    _, dropped = request(deployment={"drop": frozenset({"seed"}), "defaults": {"seed": 1}})
    assert dropped == ("seed",)


def test_opaque_arn_is_known_by_its_base_model() -> None:
    arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/q"
    body = sent(arn, reasoning_effort="low", deployment={"info": {"base_model": NOVA_2}})
    assert "reasoningConfig" in body["additionalModelRequestFields"]
    assert request(arn, reasoning_effort="low")[1] == ("reasoning_effort",)


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


def test_schema_travels_as_text() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [{"type": "object"}]}}}
    body = sent(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    definition = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert decode_json(definition["schema"]) == {**schema, "additionalProperties": False}
