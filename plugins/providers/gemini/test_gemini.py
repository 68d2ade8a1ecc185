"""The conformance suite, and every mapping by itself."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tianji_provider_gemini import Gemini
from tianji_provider_gemini.errors import BadToolCall

from tianji import END, BadRequest, Event, Failure, ProtocolError
from tianji.testing import ProviderSuite, make_call, make_deployment, summarise


class TestGemini(ProviderSuite):
    plugin = Gemini
    wire = "wire"


GEMINI = Gemini(None, instance="gemini", gateway=None)  # what is tested asks the gateway nothing
USER = [{"role": "user", "content": "Hi"}]


def sent(model: str = "gemini-2.5-flash", *, deployment: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
    """The request body that is made for a chat body."""
    return request(model, deployment=deployment, **body)[0]


def request(
    model: str = "gemini-2.5-flash", *, deployment: dict[str, Any] | None = None, **body: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    call = make_call({"model": "group", "messages": USER, **body})
    wire = GEMINI.encode(call, make_deployment(model=model, **(deployment or {})))
    assert isinstance(wire.body, dict)
    return wire.body, call.dropped


def answer(*parts: dict[str, Any], **candidate: Any) -> dict[str, Any]:
    """A whole response with one candidate."""
    content = {"candidates": [{"content": {"parts": list(parts)}, "finishReason": "STOP", **candidate}]}
    return {**content, "responseId": "r1", "modelVersion": "m"}


def decoded(data: dict[str, Any]) -> dict[str, Any]:
    """The first choice of a whole answer."""
    choice: dict[str, Any] = GEMINI.decode(make_call(), data)["choices"][0]
    return choice


def streamed(*events: Any) -> list[dict[str, Any]]:
    decoder = GEMINI.decoder(make_call())
    next(decoder)
    chunks: list[dict[str, Any]] = []
    for event in [*(Event("message", data) for data in events), END]:
        chunks += decoder.send(event)
    return chunks


# -- where to ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["http://h:1", "http://h:1/", "http://h:1/v1beta", "http://h:1/v1beta/"])
def test_api_base_with_and_without_a_version(base: str) -> None:
    wire = GEMINI.encode(make_call(), make_deployment(model="gemini-2.5-flash", api_base=base, id=base))
    assert wire.url == "http://h:1/v1beta/models/gemini-2.5-flash:generateContent"


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("models/gemini-2.5-pro", "models/gemini-2.5-pro"),
        ("tunedModels/mine-1", "tunedModels/mine-1"),
        ("../../admin?x=1#y", "models/..%2F..%2Fadmin%3Fx%3D1%23y"),
    ],
)
def test_models_stay_in_their_path_segment(model: str, path: str) -> None:
    wire = GEMINI.encode(make_call(), make_deployment(model=model))
    assert wire.url == f"https://generativelanguage.googleapis.com/v1beta/{path}:generateContent"


# -- requests ----------------------------------------------------------------------------------------------------------


def test_same_roles_are_merged_and_system_prompts_collected() -> None:
    roles = ["system", "user", "user", "assistant", "assistant", "developer", "user"]
    body = sent(messages=[{"role": role, "content": str(index)} for index, role in enumerate(roles)])
    assert body["systemInstruction"] == {"parts": [{"text": "0"}, {"text": "5"}]}
    assert [(content["role"], len(content["parts"])) for content in body["contents"]] == [
        ("user", 2),
        ("model", 2),
        ("user", 1),
    ]


def test_lone_system_prompt_is_sent_as_the_users() -> None:
    assert sent(messages=[{"role": "system", "content": "x"}]) == {
        "contents": [{"role": "user", "parts": [{"text": "x"}]}]
    }


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0, "includeThoughts": False}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128, "includeThoughts": False}),
        ("gemini-2.5-flash-lite", "minimal", {"thinkingBudget": 512, "includeThoughts": True}),
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 2048, "includeThoughts": True}),
        ("gemini-2.5-flash", "high", {"thinkingBudget": 4096, "includeThoughts": True}),
        ("gemini-3-flash-preview", "none", {"thinkingLevel": "minimal", "includeThoughts": False}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-4-flash", "medium", {"thinkingLevel": "medium", "includeThoughts": True}),
        ("gemini-pro-latest", "xhigh", {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-2.5-flash", "auto", {"includeThoughts": True}),
    ],
)
def test_reasoning_effort(model: str, effort: str, config: dict[str, Any]) -> None:
    assert sent(model, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": config}


def test_thinking_as_anthropic_says_it() -> None:
    wanted = {"type": "enabled", "budget_tokens": 2000}
    expected = {"thinkingConfig": {"thinkingBudget": 2000, "includeThoughts": True}}
    assert sent(thinking=wanted)["generationConfig"] == expected
    assert sent(thinking={"type": "disabled"})["generationConfig"]["thinkingConfig"]["thinkingBudget"] == 0


@pytest.mark.parametrize(
    ("choice", "mode"),
    [
        ("none", {"mode": "NONE"}),
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "f"}}, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "f"}}]}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["f"]},
        ),
    ],
)
def test_tool_choice(choice: Any, mode: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert sent(tools=tools, tool_choice=choice)["toolConfig"] == {"functionCallingConfig": mode}
    assert "toolConfig" not in sent(tool_choice=choice)


def test_built_in_tools_stand_beside_functions() -> None:
    function = {"type": "function", "function": {"name": "f", "strict": True}}
    tools = [{"type": "web_search_20250305", "max_uses": 3}, {"urlContext": {}}, function, {"type": "mystery"}]
    body, dropped = request(tools=tools, web_search_options={"search_context_size": "low"})
    assert body["tools"] == [{"functionDeclarations": [{"name": "f"}]}, {"googleSearch": {}}, {"urlContext": {}}]
    assert dropped == (
        "tools.max_uses",
        "tools.function.strict",
        "tools.mystery",
        "web_search_options.search_context_size",
    )


def test_functions_as_they_were_before_tools() -> None:
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "done"},
    ]
    body = sent(messages=messages, functions=[{"name": "f"}], function_call={"name": "f"})
    assert body["contents"][1]["parts"] == [{"functionCall": {"name": "f", "args": {}}}]
    assert body["contents"][2]["parts"] == [{"functionResponse": {"name": "f", "response": {"result": "done"}}}]
    assert body["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == ["f"]


def test_ids_and_stand_in_signatures_are_for_gemini_3_only() -> None:
    called = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    messages = [*USER, {"role": "assistant", "tool_calls": [called, {**called, "id": "b"}]}]
    old, new = (sent(model, messages=messages)["contents"][1]["parts"] for model in ("gemini-2.5-pro", "gemini-3-pro"))
    assert old == [{"functionCall": {"name": "f", "args": {"x": 1}}}] * 2
    assert [part["functionCall"]["id"] for part in new] == ["a", "b"]
    assert [part.get("thoughtSignature") for part in new] == ["skip_thought_signature_validator", None]


def test_signature_from_googles_own_compatible_endpoint_is_understood() -> None:
    extra = {"google": {"thought_signature": "c2ln"}}
    called = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}, "extra_content": extra}
    parts = sent("gemini-3-pro", messages=[*USER, {"role": "assistant", "tool_calls": [called]}])["contents"][1][
        "parts"
    ]
    assert parts[0]["thoughtSignature"] == "c2ln"


def test_image_in_a_tool_result_stands_beside_it_on_older_models() -> None:
    called = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    content = [{"type": "image_url", "image_url": "data:image/png;base64,AA=="}]
    messages = [*USER, {"role": "assistant", "tool_calls": [called]},
                {"role": "tool", "tool_call_id": "a", "content": content}]  # fmt: skip
    parts = sent(messages=messages)["contents"][2]["parts"]
    assert [*parts[0], *parts[1]] == ["functionResponse", "inlineData"]


def test_native_fields_pass_and_win() -> None:
    body = sent(
        deployment={
            "defaults": {"temperature": 0.1, "top_p": 0.5},
            "extra_body": {"generationConfig": {"maxOutputTokens": 9}, "labels": {"team": "a"}},
        },
        temperature=0.7,
        generationConfig={"topP": 0.9},
        cachedContent="cachedContents/1",
        safety_settings=[{"category": "C", "threshold": "T"}],
        tool_config={"retrievalConfig": {"languageCode": "en"}},
        extra_body={"google": {"thinking_config": {"thinkingBudget": 5}}},
    )
    config = {"temperature": 0.7, "topP": 0.9, "maxOutputTokens": 9, "thinkingConfig": {"thinkingBudget": 5}}
    assert body.pop("contents")
    assert body == {
        "generationConfig": config,
        "cachedContent": "cachedContents/1",
        "safetySettings": [{"category": "C", "threshold": "T"}],
        "toolConfig": {"retrievalConfig": {"languageCode": "en"}},
        "labels": {"team": "a"},
    }


def test_what_cannot_be_carried_is_named_fit_for_a_header() -> None:
    odd: dict[str, Any] = {"a\r\nb": 1}
    _, dropped = request(user="u", verbosity="low", store=False, parallel_tool_calls=True, **odd)
    assert dropped == ("user", "verbosity", "unknown")
    _, dropped = request(deployment={"drop": frozenset({"seed"})}, seed=1)
    assert dropped == ("seed",)


def test_speech() -> None:
    body, dropped = request(modalities=["audio"], audio={"voice": "Kore", "format": "wav"})
    assert body["generationConfig"] == {
        "responseModalities": ["AUDIO"],
        "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
    }
    assert dropped == ("audio.format",)


def _part(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


def _called(**function: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", **function}}]}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (_part({"type": "hologram"}), "messages[0].content[0].type"),
        (_part({"type": "file", "file": {"file_id": "file-of-openai"}}), "messages[0].content[0].file.file_id"),
        (_part({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url.url"),
        (_called(arguments="{broken"), "messages[0].tool_calls[0].function.arguments"),
        (_called(arguments="[1]"), "messages[0].tool_calls[0].function.arguments"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": ""}]}, "messages[0].tool_call_id"),
        ({"reasoning_effort": "colossal"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ],
)
def test_what_no_mapping_can_save_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(**body)
    assert caught.value.param == param


@pytest.mark.parametrize("given", [[1, 2], [[1], [2]], [], 7])
def test_tokens_cannot_be_embedded(given: Any) -> None:
    call = make_call({"model": "m", "input": given}, dialect="openai-embeddings")
    with pytest.raises(BadRequest) as caught:
        GEMINI.encode(call, make_deployment())
    assert caught.value.param == "input"


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), (2, "length"), ("SAFETY", "content_filter"), ("OTHER", "stop"),
     ("RECITATION", "content_filter"), ("IMAGE_SAFETY", "content_filter"), ("UNEXPECTED_TOOL_CALL", "stop")],
)  # fmt: skip
def test_finish_reasons(reason: Any, finish: str) -> None:
    assert decoded(answer({"text": "x"}, finishReason=reason))["finish_reason"] == finish
    assert summarise(streamed(answer({"text": "x"}, finishReason=reason)))["finish_reason"] == finish


def test_stumbling_over_a_function_is_a_failure_that_spares_the_deployment() -> None:
    nothing = answer(finishReason="MALFORMED_FUNCTION_CALL", finishMessage="Malformed function call: f(")
    with pytest.raises(BadToolCall, match=r"f\(") as whole:
        decoded(nothing)
    with pytest.raises(BadToolCall):
        streamed(nothing)
    assert (whole.value.retryable, whole.value.cools_down, whole.value.status) == (True, False, 502)


def test_no_candidate_at_all_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        decoded({"usageMetadata": {"promptTokenCount": 1}})


def test_error_in_place_of_an_answer() -> None:
    with pytest.raises(Failure) as caught:
        decoded({"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}})
    assert caught.value.status == 429


def test_stream_without_a_finish_reason_is_left_unfinished() -> None:
    assert summarise(streamed(answer({"text": "x"}, finishReason=None)))["finish_reason"] is None


def test_finish_said_twice_is_passed_on_once() -> None:
    chunks = streamed(answer({"text": "4"}), answer({"text": "2"}))
    finished = [chunk for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert (summarise(chunks)["text"], finished) == ("42", chunks[-1:])


def test_code_is_fenced_alike_whole_and_streamed() -> None:
    parts: list[dict[str, Any]] = [
        {"text": "Run:"},
        {"executableCode": {"language": "PYTHON", "code": "print(6)"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "6\n"}},
        {"text": "Six."},
    ]
    expected = "Run:\n```python\nprint(6)\n```\n```\n6\n```\nSix."
    assert decoded(answer(*parts))["message"]["content"] == expected
    assert summarise(streamed(*(answer(part) for part in parts)))["text"] == expected


def test_prompt_that_is_counted_in_the_total_only() -> None:
    meta = {"candidatesTokenCount": 1, "thoughtsTokenCount": 117, "totalTokenCount": 693}
    usage = GEMINI.decode(make_call(), {**answer({"text": "x"}), "usageMetadata": meta})["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (575, 118, 693)


def test_audio_and_several_candidates() -> None:
    audio = {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AAE="}}
    data = answer(audio, audio)
    data["candidates"].append({"index": 1, "content": {"parts": [{"text": "b"}]}, "finishReason": "STOP"})
    choices = GEMINI.decode(make_call(), data)["choices"]
    assert choices[0]["message"]["audio"]["data"] == "AAEAAQ=="
    assert (choices[1]["index"], choices[1]["message"]["content"]) == (1, "b")


def test_function_call_in_pieces() -> None:
    pieces: list[dict[str, Any]] = [
        {"name": "f", "willContinue": True},
        {"partialArgs": [{"jsonPath": "$.a.b[1]", "stringValue": "x", "willContinue": True}], "willContinue": True},
        {"partialArgs": [{"jsonPath": "$.a.b[1]", "stringValue": "y"}, {"jsonPath": "$['n o']", "numberValue": 2}],
         "willContinue": True},
        {},
    ]  # fmt: skip
    calls = summarise(streamed(*(answer({"functionCall": piece}) for piece in pieces)))["tool_calls"]
    assert [call["arguments"] for call in calls] == [{"a": {"b": [None, "xy"]}, "n o": 2}]
    with pytest.raises(ProtocolError, match="middle of a function call"):
        streamed(answer({"functionCall": pieces[0]}))


@given(
    st.lists(st.tuples(st.text(), st.dictionaries(st.text(), st.integers() | st.text()), st.booleans()), max_size=4),
    st.text(),
    st.sampled_from(["gemini-2.5-flash", "gemini-3-pro"]),
)
def test_an_answer_survives_the_way_back(calls: list[tuple[str, dict[str, Any], bool]], text: str, model: str) -> None:
    """What Gemini said is what it is sent in the next turn: text, calls, arguments, signatures in their places."""
    parts: list[dict[str, Any]] = [{"text": text, "thoughtSignature": "dGV4dA=="}] if text else []
    for index, (name, args, signed) in enumerate(calls):
        signature = {"thoughtSignature": f"s{index}"} if signed or not index else {}
        parts.append({"functionCall": {"name": f"f{name}", "args": args}, **signature})
    message = decoded(answer(*parts))["message"]
    back = sent(model, messages=[*USER, message])["contents"][1:]
    for part in back[0]["parts"] if back else ():
        part.get("functionCall", {}).pop("id", None)
    assert (back[0]["parts"] if back else []) == parts
