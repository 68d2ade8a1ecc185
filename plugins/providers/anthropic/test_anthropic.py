"""The conformance suite, and what is particular to Anthropic: keys, headers, kept bytes, models of different ages."""

from __future__ import annotations

from typing import Any

import pytest
from tianji_provider_anthropic import Anthropic

from tianji import BadRequest, Call, Secret, Wire, decode_json, encode_json
from tianji.testing import ProviderSuite, make_call, make_deployment, read_stream, summarise


class TestAnthropic(ProviderSuite):
    plugin = Anthropic
    wire = "wire"


HELLO = [{"role": "user", "content": "Hello"}]


def provider(**settings: Any) -> Anthropic:
    return Anthropic(Anthropic.Settings(**settings), instance="anthropic", gateway=None)


def encode(
    call: Call, *, model: str = "claude-sonnet-4-5", settings: dict[str, Any] | None = None, **fields: Any
) -> Wire:
    made = Anthropic.Settings(**(settings or {}))
    return provider().encode(call, make_deployment(provider="anthropic", model=model, settings=made, **fields))


def chat(model: str = "claude-sonnet-4-5", **body: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The Messages body for a chat request, and what was dropped."""
    call = make_call({"model": "group", "messages": HELLO, **body})
    wire = encode(call, model=model)
    assert isinstance(wire.body, dict)
    return wire.body, call.dropped


def native(raw: bytes, **headers: str) -> Call:
    call = make_call(decode_json(raw), dialect="anthropic-messages", headers=headers)
    call.raw = raw
    return call


# -- addresses, keys, headers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api_base", "url"),
    [
        (None, "https://api.anthropic.com/v1/messages"),
        ("https://x.example/", "https://x.example/v1/messages"),
        ("https://x.example/v1", "https://x.example/v1/messages"),
        ("https://x.example/a/v1/", "https://x.example/a/v1/messages"),
        ("https://x.example/v1/messages", "https://x.example/v1/messages"),
    ],
)
def test_api_base_is_understood_with_and_without_version(api_base: str | None, url: str) -> None:
    assert encode(make_call({"model": "m", "messages": HELLO}), api_base=api_base).url == url


def test_subscription_keys_go_into_another_header() -> None:
    call = make_call({"model": "m", "messages": HELLO})
    headers = encode(call, api_key=Secret("sk-ant-oat01-test"), settings={"anthropic_beta": "b-1"}).headers
    assert headers["authorization"] == "Bearer sk-ant-oat01-test"
    assert headers["anthropic-beta"] == "b-1,oauth-2025-04-20"
    assert "x-api-key" not in headers


def test_client_headers_are_added_and_do_not_stick_to_the_deployment() -> None:
    plugin = provider()
    deployment = make_deployment(model="m", settings=Anthropic.Settings(anthropic_beta="b-1"))
    asking = native(
        b'{"model":"g","max_tokens":1,"messages":[]}',
        **{"anthropic-beta": "b-2, b-1", "anthropic-version": "2024-01-01"},
    )
    first = plugin.encode(asking, deployment).headers
    assert first["anthropic-beta"] == "b-1,b-2"
    assert first["anthropic-version"] == "2024-01-01"
    silent = plugin.encode(native(b'{"model":"g","max_tokens":1,"messages":[]}'), deployment).headers
    assert silent["anthropic-beta"] == "b-1"
    assert silent["anthropic-version"] == "2023-06-01"


def test_a_chat_client_cannot_choose_the_version() -> None:
    call = make_call({"model": "m", "messages": HELLO}, headers={"anthropic-version": "1999-01-01"})
    assert encode(call).headers["anthropic-version"] == "2023-06-01"


# -- the native dialect ------------------------------------------------------------------------------------------------


def test_only_the_model_changes_in_the_bytes() -> None:
    content = b'"\\"model\\": \\"g\\" \xc3\xa9"'
    raw = b'{ "messages": [{"role":"user","content":%b}],\n "model" :  "g", "max_tokens": 1.0e1 }' % content
    assert encode(native(raw), model="claude-x").body == raw.replace(b'"model" :  "g"', b'"model" :  "claude-x"')


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"secret","messages":[],"model":"g","max_tokens":1}',
        b'{"mo\\u0064el":"secret","messages":[],"model":"g","max_tokens":1}',
        b'{"model":"g","messages":[],"max_tokens":1,"tools":[{"type":"advisor_20260301","name":"a","model":"other"}]}',
    ],
)
def test_bytes_that_could_name_two_models_are_encoded_anew(raw: bytes) -> None:
    body = encode(native(raw), model="claude-x").body
    assert isinstance(body, dict)
    assert body == {**decode_json(raw), "model": "claude-x"}


def test_defaults_drops_and_extras_apply_to_native_calls() -> None:
    call = native(b'{"model":"g","messages":[],"max_tokens":1,"top_k":3}')
    body = encode(
        call,
        defaults={"temperature": 0.5, "max_tokens": 9, "reasoning_effort": "low"},
        drop=frozenset({"top_k"}),
        extra_body={"inference_geo": "eu"},
    ).body
    expected = {
        "temperature": 0.5,
        "messages": [],
        "max_tokens": 1,
        "inference_geo": "eu",
        "model": "claude-sonnet-4-5",
    }
    assert body == expected
    assert call.dropped == ("top_k",)


def test_thinking_of_other_providers_is_left_out() -> None:
    ours = {"type": "thinking", "thinking": "a", "signature": "c2ln"}
    theirs = {"type": "thinking", "thinking": "b", "signature": ""}
    text = {"type": "text", "text": "4"}
    request = {"model": "g", "max_tokens": 1, "messages": [{"role": "assistant", "content": [ours, theirs, text]}]}
    body = encode(native(encode_json(request))).body
    assert isinstance(body, dict)
    assert body["messages"][0]["content"] == [ours, text]


# -- chat --------------------------------------------------------------------------------------------------------------


def test_the_limit_comes_from_the_deployment_before_the_default() -> None:
    call = make_call({"model": "m", "messages": HELLO})
    body = encode(call, max_output_tokens=777).body
    assert isinstance(body, dict)
    assert body["max_tokens"] == 777
    assert chat()[0]["max_tokens"] == 4096


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "output", "limit", "dropped"),
    [
        ("claude-sonnet-4-5-20250929", "low", {"type": "enabled", "budget_tokens": 1024}, None, 5120, ()),
        ("claude-3-7-sonnet-20250219", "high", {"type": "enabled", "budget_tokens": 4096}, None, 8192, ()),
        ("claude-3-haiku-20240307", "high", None, None, 4096, ("reasoning_effort",)),
        ("claude-opus-4-20250514", "medium", {"type": "enabled", "budget_tokens": 2048}, None, 6144, ()),
        ("claude-opus-4-6", "xhigh", {"type": "adaptive", "display": "summarized"}, {"effort": "high"}, 16384, ()),
        ("claude-sonnet-5", "xhigh", {"type": "adaptive", "display": "summarized"}, {"effort": "xhigh"}, 16384, ()),
        ("claude-sonnet-4-5", "none", None, None, 4096, ()),
        ("claude-sonnet-4-5", "unheard-of", None, None, 4096, ("reasoning_effort",)),
    ],
)
def test_effort_by_generation(
    model: str, effort: str, thinking: Any, output: Any, limit: int, dropped: tuple[str, ...]
) -> None:
    body, left_out = chat(model, reasoning_effort=effort)
    assert body.get("thinking") == thinking
    assert body.get("output_config") == output
    assert body["max_tokens"] == limit
    assert left_out == dropped


def test_thinking_yields_where_the_api_forbids_it() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body, dropped = chat(reasoning_effort="low", tools=tools, tool_choice="required")
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [*HELLO, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "1"}]
    body, dropped = chat(reasoning_effort="low", tools=tools, messages=turns)
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)


def test_thinking_as_given_is_passed_on() -> None:
    body, _ = chat(thinking={"type": "enabled", "budget_tokens": 5000}, max_tokens=100)
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 5000}
    assert body["max_tokens"] == 5100


@pytest.mark.parametrize(
    ("model", "sent", "kept", "dropped"),
    [
        ("claude-3-haiku-20240307", {"top_p": 0.9, "top_k": 4}, {"top_p": 0.9, "top_k": 4}, ()),
        ("claude-sonnet-4-5", {"temperature": 0.1, "top_p": 0.9}, {"temperature": 0.1}, ("top_p",)),
        ("claude-opus-4-8", {"temperature": 0.1, "top_p": 0.9, "top_k": 4}, {}, ("temperature", "top_p", "top_k")),
        ("claude-opus-4-8", {"temperature": 1}, {}, ()),
        ("claude-sonnet-4-5", {"temperature": 1.7}, {"temperature": 1}, ("temperature",)),
    ],
)  # fmt: skip
def test_sampling_by_generation(model: str, sent: Any, kept: Any, dropped: tuple[str, ...]) -> None:
    body, left_out = chat(model, **sent)
    assert {key: body[key] for key in ("temperature", "top_p", "top_k") if key in body} == kept
    assert left_out == dropped


def test_openai_fields_are_named_and_unknown_ones_pass() -> None:
    body, dropped = chat(logit_bias={"1": 1}, presence_penalty=0, store=True, mcp_servers=[{"name": "s"}], new_field=1)
    assert dropped == ("logit_bias", "store")
    assert body["mcp_servers"] == [{"name": "s"}]
    assert body["new_field"] == 1


def test_conversation_rules() -> None:
    body, _ = chat(
        messages=[
            {"role": "assistant", "content": "Welcome."},
            {"role": "user", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "system", "content": "Be formal."},
            {"role": "assistant", "content": "The answer is \n"},
        ]
    )
    texts = [(turn["role"], [block["text"] for block in turn["content"]]) for turn in body["messages"]]
    assert texts == [
        ("user", ["(begin)"]),
        ("assistant", ["Welcome."]),
        ("user", ["a", "b", "<system>\nBe formal.\n</system>"]),
        ("assistant", ["The answer is"]),
    ]
    assert "system" not in body


def test_a_lone_system_message_becomes_the_user_turn() -> None:
    body, _ = chat(messages=[{"role": "system", "content": "Say hello."}])
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
    assert "system" not in body


def test_a_file_that_is_not_base64_is_refused() -> None:
    part = {"type": "file", "file": {"file_data": "data:text/plain;base64,A"}}
    with pytest.raises(BadRequest):
        chat(messages=[{"role": "user", "content": [part]}])


def test_legacy_function_turns_find_each_other() -> None:
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ]
    body, _ = chat(messages=turns)
    asked, answered = body["messages"][1]["content"][0], body["messages"][2]["content"][0]
    assert (asked["type"], answered["type"]) == ("tool_use", "tool_result")
    assert asked["id"] == answered["tool_use_id"]


def test_a_message_that_is_whole_from_the_start() -> None:
    """Between the tool calls of a running program Anthropic streams a finished message without any delta."""
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}],
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }  # fmt: skip
    events = ({"type": "message_start", "message": message}, {"type": "message_stop"})
    data = b"".join(b"event: %b\ndata: %b\n\n" % (str(one["type"]).encode(), encode_json(one)) for one in events)
    found = summarise(read_stream(provider(), make_call(), data))
    assert found["tool_calls"] == [{"id": "toolu_1", "name": "f", "arguments": {"a": 1}}]
    assert found["finish_reason"] == "tool_calls"
    assert found["usage"]["total_tokens"] == 5


CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA", "filename": "f"}},
                {"type": "input_audio", "input_audio": {}},
            ],
        },
        {
            "role": "assistant",
            "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
            "function_call": {"name": "f", "arguments": "{}"},
        },
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "web_search_options": {"user_location": {"approximate": {"city": "Oslo"}}},
    "reasoning_effort": "low",
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low"},
    "metadata": {"user_id": "u"},
    "stop": ["x"],
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 100,
}


def damaged(value: Any) -> list[Any]:
    """Copies of a JSON value with each of its parts in turn replaced by something of another type."""
    copies: list[Any] = []
    odds: tuple[Any, ...] = (None, 1, "x", [], [None], {}, True)
    paths: list[list[Any]] = [[]]
    while paths:
        path = paths.pop()
        holder = value
        for step in path:
            holder = holder[step]
        for key in holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ():
            paths.append([*path, key])
            for odd in odds:
                copy = decode_json(encode_json(value))
                inner = copy
                for step in path:
                    inner = inner[step]
                inner[key] = odd
                copies.append(copy)
    return copies


def test_damaged_chat_requests_are_encoded_or_refused() -> None:
    encoded = 0
    for body in damaged(CHAT):
        if not isinstance(body["messages"], list):
            continue  # the dialect has refused it
        try:
            encode_json(encode(make_call(body)).body)
            encoded += 1
        except BadRequest:
            continue
    assert encoded > 400


@pytest.mark.parametrize(
    ("model", "fields", "goes_on"),
    [
        ("claude-sonnet-4-5-20250929", {}, True),
        ("claude-3-5-haiku-latest", {"thinking": {"type": "disabled"}}, True),
        ("claude-sonnet-4-5", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, False),
        ("claude-sonnet-4-5", {"reasoning_effort": "low"}, False),
        ("claude-sonnet-4-5", {"reasoning_effort": "none"}, True),
        ("claude-opus-4-6", {}, False),
        ("claude-sonnet-5", {}, False),
        ("an-alias", {}, False),
    ],
)
def test_models_that_go_on_from_a_prefill(model: str, fields: dict[str, Any], goes_on: bool) -> None:
    call = make_call({"model": "group", "messages": HELLO, **fields})
    assert provider().prefills(call, make_deployment(provider="anthropic", model=model)) is goes_on


def test_a_prefill_goes_out_without_its_mark() -> None:
    body, dropped = chat(messages=[*HELLO, {"role": "assistant", "content": "Hi", "prefix": True}])
    assert body["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}
    assert dropped == ()
