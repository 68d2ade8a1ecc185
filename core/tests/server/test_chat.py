"""Chat through a real server and a real socket upstream: what goes out, what comes back, what it says of itself."""

from __future__ import annotations

import json

import pytest
from support import ANSWER, DONE, STREAM, USAGE, Pair, chunk, events, served

from tianji.testing.upstream import Upstream


async def test_an_answer_comes_back_with_the_clients_model_name_and_unknown_fields(pair: Pair) -> None:
    reply = await pair.gw.chat("fast", temperature=0.5, a_future_parameter=[1])
    assert reply.status_code == 200
    assert reply.json() == {**ANSWER, "model": "fast"}
    sent = pair.up.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == "Bearer sk-upstream"
    assert sent.json() == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0.5,
        "a_future_parameter": [1],
    }


async def test_the_clients_own_headers_and_key_do_not_go_upstream(pair: Pair) -> None:
    await pair.gw.client.post(
        "/v1/chat/completions",
        json={"model": "fast", "messages": []},
        headers=dict.fromkeys(("x-canary", "cookie", "x-forwarded-for", "openai-organization"), "c4n4ry"),
    )
    sent = pair.up.requests[0]
    assert "c4n4ry" not in str(sent.headers)
    assert pair.gw.key not in str(sent.headers)


async def test_what_the_answer_says_of_the_call(pair: Pair) -> None:
    reply = await pair.gw.chat("fast")
    headers = reply.headers
    assert headers["x-request-id"]
    assert headers["x-tianji-model-group"] == "fast"
    assert headers["x-tianji-model-name"] == "openai/gpt-4o-mini"
    # 9 tokens at 0.15 $ and 2 at 0.60 $ a million, in nano-dollars
    assert float(headers["x-tianji-response-cost"]) == pytest.approx((9 * 150 + 2 * 600) / 1e9, abs=1e-12)
    assert headers["x-tianji-key-spend"] == headers["x-tianji-response-cost"]
    assert headers["x-tianji-attempted-retries"] == headers["x-tianji-attempted-fallbacks"] == "0"
    assert "x-litellm-version" not in headers
    again = await pair.gw.chat("fast")
    assert float(again.headers["x-tianji-key-spend"]) == pytest.approx(2 * (9 * 150 + 2 * 600) / 1e9, abs=1e-12)


async def test_litellms_names_bring_litellms_headers() -> None:
    async with Upstream() as up:
        up.reply(json=ANSWER)
        spec = {"model_name": "m", "litellm_params": {"model": "openai/x", "api_base": f"{up.url}/v1", "api_key": "k"}}
        async with served(up, spec) as gw:
            headers = (await gw.chat("m")).headers
            assert headers["x-litellm-model-group"] == headers["x-tianji-model-group"] == "m"
            assert headers["x-litellm-version"]


async def test_upstream_rate_limit_headers_are_passed_on(pair: Pair) -> None:
    pair.up.reply(json=ANSWER, headers={"x-ratelimit-remaining-requests": "41", "set-cookie": "a=b", "x-secret": "1"})
    headers = (await pair.gw.chat("fast")).headers
    assert headers["x-ratelimit-remaining-requests"] == "41"
    assert "set-cookie" not in headers
    assert "x-secret" not in headers


async def test_a_price_that_is_not_known_is_flagged_and_is_not_zero() -> None:
    async with Upstream() as up:
        up.reply(json={**ANSWER, "model": "secret-model"})
        spec = {
            "model_name": "odd",
            "tianji_params": {"model": "openai/secret-model", "api_base": f"{up.url}/v1", "api_key": "k"},
        }
        async with served(up, spec) as gw:
            reply = await gw.chat("odd")
            assert reply.headers["x-tianji-price"] == "unknown"
            assert "x-tianji-response-cost" not in reply.headers
            assert gw.gateway.pipeline.ledger.unpriced == 1


async def test_server_timing_on_request(pair: Pair) -> None:
    body = {"model": "fast", "messages": []}
    reply = await pair.gw.client.post("/v1/chat/completions", json=body, headers={"x-tianji-timing": "1"})
    assert "provider;dur=" in reply.headers["server-timing"]
    assert "total;dur=" in reply.headers["server-timing"]
    assert "server-timing" not in (await pair.gw.chat("fast")).headers


async def test_a_stream_is_forwarded_as_openai_sends_it(pair: Pair) -> None:
    pair.up.stream(STREAM)
    reply = await pair.gw.chat("fast", stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.text.endswith("data: [DONE]\n\n")
    assert reply.text.count("[DONE]") == 1
    got = events(reply.text)
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in got) == "One two three"
    assert {one["id"] for one in got} == {"chatcmpl-1"}
    assert {one["model"] for one in got} == {"fast"}
    assert all("usage" not in one for one in got)
    # The gateway asks for usage even where the client does not, and prices it.
    assert pair.up.requests[0].json()["stream_options"] == {"include_usage": True}
    entry = pair.gw.gateway.pipeline.ledger.entries[-1]
    assert (entry.kind, entry.nano, entry.usage.total_tokens) == ("settle", 9 * 150 + 3 * 600, 12)


async def test_the_usage_chunk_comes_iff_it_was_asked_for(pair: Pair) -> None:
    pair.up.stream(STREAM)
    reply = await pair.gw.chat("fast", stream=True, stream_options={"include_usage": True})
    last = events(reply.text)[-1]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 12
    assert reply.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_any_split_of_the_upstreams_bytes_gives_the_same_stream(pair: Pair, size: int) -> None:
    whole = b"".join(STREAM)
    pair.up.stream([whole])
    expected = (await pair.gw.chat("fast", stream=True)).text
    pair.up.stream([whole[i : i + size] for i in range(0, len(whole), size)])
    assert events((await pair.gw.chat("fast", stream=True)).text) == events(expected)


async def test_comments_and_nulls_of_the_provider(pair: Pair) -> None:
    noisy = [b": PROCESSING\n\n", chunk({"content": "x"}, usage=None), chunk({}, "stop", usage=None), USAGE, DONE]
    pair.up.stream(noisy)
    reply = await pair.gw.chat("fast", stream=True)
    assert ": PROCESSING" in reply.text
    assert "usage" not in reply.text


async def test_usage_in_the_finish_chunk_is_moved_to_its_place(pair: Pair) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    pair.up.stream([chunk({"content": "x"}), chunk({}, "stop", usage=usage), DONE])
    reply = await pair.gw.chat("fast", stream=True, stream_options={"include_usage": True})
    got = events(reply.text)
    assert ["usage" in one for one in got] == [False, False, True]
    assert got[-1]["choices"] == []
    assert got[-1]["usage"] == usage


async def test_a_stream_without_done_is_closed_properly(pair: Pair) -> None:
    pair.up.stream(STREAM[:-1])
    assert (await pair.gw.chat("fast", stream=True)).text.endswith("data: [DONE]\n\n")


async def test_the_engines_and_azure_paths_name_the_model(pair: Pair) -> None:
    for path in ("/engines/fast/chat/completions", "/openai/deployments/fast/chat/completions?api-version=1"):
        reply = await pair.gw.client.post(path, json={"messages": [{"role": "user", "content": "x"}]})
        assert reply.status_code == 200, reply.text
        assert json.loads(pair.up.requests[-1].body)["model"] == "gpt-4o-mini"


async def test_messages_to_an_openai_provider(pair: Pair) -> None:
    body = {"model": "fast", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}], "top_k": 3}
    reply = await pair.gw.client.post("/v1/messages", json=body, headers={"x-api-key": pair.gw.key})
    assert reply.status_code == 200
    assert reply.json()["content"] == [{"type": "text", "text": "Hello there"}]
    assert reply.json()["usage"]["input_tokens"] == 9
    assert "top_k" in reply.headers["x-tianji-dropped"]
    strict = await pair.gw.client.post("/v1/messages", json=body, headers={"x-tianji-strict": "1"})
    assert strict.status_code == 422
    assert strict.json()["type"] == "error"


async def test_completions_and_embeddings(pair: Pair) -> None:
    pair.up.reply(json={"object": "list", "data": [], "model": "e", "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    reply = await pair.gw.client.post("/v1/embeddings", json={"model": "fast", "input": ["a"]})
    assert reply.json()["model"] == "fast"
    assert pair.up.requests[-1].path == "/v1/embeddings"
    pair.up.reply(json={"id": "c", "object": "text_completion", "model": "m", "choices": [{"text": "x"}]})
    reply = await pair.gw.client.post("/v1/completions", json={"model": "fast", "prompt": "a"})
    assert reply.json()["choices"] == [{"text": "x"}]
    assert pair.up.requests[-1].path == "/v1/completions"
