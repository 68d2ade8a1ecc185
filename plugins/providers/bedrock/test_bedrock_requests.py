"""What is sent, every mapping by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tianji_provider_bedrock import Bedrock

from tianji import BadRequest, decode_json
from tianji.testing import make_call, make_deployment

BEDROCK = Bedrock(None, instance="bedrock", gateway=None)  # what is tested here asks the gateway nothing
USER: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "amazon.nova-pro-v1:0"
NOVA_2 = "us.amazon.nova-2-lite-v1:0"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}
SPEC = {"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {"x": {}}}}}}
CALLED: list[dict[str, Any]] = [
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
        (_part({"type": "image_url", "image_url": {"url": "https://h/c.png"}}), "messages[0].content[0].image_url.url"),
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
        (NOVA_2, {"temperature": 0.5, "max_tokens": 9, "reasoning_effort": "high"}, None,
         ("max_tokens", "temperature")),
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
    odd: dict[str, Any] = {"aws_region_name": "eu-west-1", "aws_\r\n": 1}
    body, dropped = request(**odd)
    assert (dropped, "additionalModelRequestFields" in body) == (("aws_region_name", "unknown"), False)
    _, dropped = request(deployment={"drop": frozenset({"seed"}), "defaults": {"seed": 1}})
    assert dropped == ("seed",)


def test_opaque_arn_is_known_by_its_base_model() -> None:
    arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/q"
    body = sent(arn, reasoning_effort="low", deployment={"info": {"base_model": NOVA_2}})
    assert "reasoningConfig" in body["additionalModelRequestFields"]
    assert request(arn, reasoning_effort="low")[1] == ("reasoning_effort",)


def test_schema_travels_as_text() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [{"type": "object"}]}}}
    body = sent(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    definition = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert decode_json(definition["schema"]) == {**schema, "additionalProperties": False}


@pytest.mark.parametrize(
    ("model", "fields", "goes_on"),
    [
        (CLAUDE, {}, True),
        (CLAUDE, {"reasoning_effort": "low"}, False),
        (CLAUDE, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, False),
        ("us.anthropic.claude-opus-4-6-v1", {}, False),
        (NOVA, {}, False),
    ],
)
def test_models_that_go_on_from_a_prefill(model: str, fields: dict[str, Any], goes_on: bool) -> None:
    call = make_call({"model": "group", "messages": USER, **fields})
    assert BEDROCK.prefills(call, make_deployment(model=model)) is goes_on


def test_a_prefill_goes_out_without_its_mark() -> None:
    body, dropped = request(messages=[*USER, {"role": "assistant", "content": "Hi", "prefix": True}])
    assert body["messages"][-1] == {"role": "assistant", "content": [{"text": "Hi"}]}
    assert dropped == ()
