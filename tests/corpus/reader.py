"""What recorded bytes say, read without any of the gateway's code: one pair of functions for each wire format.

OpenAI: https://platform.openai.com/docs/api-reference/chat · Anthropic: https://platform.claude.com/docs/en/api/messages
Gemini: https://ai.google.dev/api/generate-content · Ollama: https://docs.ollama.com/api/chat
Converse: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
Mistral's content lists: https://docs.mistral.ai/capabilities/reasoning

Each takes decoded JSON, or the frames of a stream, and returns an `Answer` with OpenAI's finish reasons and totals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.corpus.wire import (
    Answer,
    Choice,
    Frame,
    Json,
    Tool,
    Usage,
    aws,
    box,
    items,
    json_values,
    message_of,
    number,
    sse,
    text,
)

STOP = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls",
    "refusal": "content_filter", "model_context_window_exceeded": "length", "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}  # fmt: skip
"""Anthropic's and Converse's stop reasons."""
GEMINI_NUMBERS: dict[object, str] = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION"}
GEMINI_BROKEN = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE", "TOO_MANY_TOOL_CALLS")
LEGACY = "legacy"


def _reported(data: Json) -> str | None:
    """An error in the place of an answer, or in an event (there also beside a choice)."""
    if data.get("error"):
        return message_of(data)
    if data.get("object") == "error" or data.get("type") == "error":
        return message_of(data)
    return None


# -- OpenAI ------------------------------------------------------------------------------------------------------------


def openai_usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict) or ("prompt_tokens" not in usage and "total_tokens" not in usage):
        return None
    prompt, completion = box(usage.get("prompt_tokens_details")), box(usage.get("completion_tokens_details"))
    cached = (prompt.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("cached_tokens"))
    reasoning = (completion.get("reasoning_tokens"), usage.get("reasoning_tokens"))
    return Usage(
        number(usage.get("prompt_tokens", usage.get("total_tokens"))),
        number(usage.get("completion_tokens")),
        next((number(one) for one in cached if one is not None), 0),
        next((number(one) for one in reasoning if one is not None), 0),
    )


def _content(content: Any) -> tuple[str, str]:
    """Text and thoughts of a content: a string, or a list of parts."""
    if not isinstance(content, list):
        return text(content), ""
    said, thought = "", ""
    for part in items(content):
        said += text(part.get("text"))
        inner = part.get("thinking")
        thought += text(inner) if isinstance(inner, str) else "".join(text(one.get("text")) for one in items(inner))
    return said, thought


def _take(choice: Choice, message: Json, calls: dict[Any, Tool]) -> None:
    said, thought = _content(message.get("content"))
    choice.text += said
    choice.reasoning += thought or text(message.get("reasoning_content")) or text(message.get("reasoning"))
    choice.images += len(items(message.get("images")))
    given = items(message.get("tool_calls"))
    if isinstance(function := message.get("function_call"), dict):
        given = [*given, {"index": LEGACY, "function": function}]
    for position, one in enumerate(given):
        function = box(one.get("function"))
        arguments = function.get("arguments")
        written = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments is not None else ""
        key = one.get("index", position)
        if key not in calls:
            calls[key] = Tool("", "")
            choice.tools.append(calls[key])
        calls[key].name += text(function.get("name"))
        calls[key].arguments += written


def chat(body: Json) -> Answer:
    answer = Answer(error=_reported(body), usage=openai_usage(body.get("usage")))
    for position, one in enumerate(items(body.get("choices"))):
        choice = answer.choice(number(one.get("index", position)))
        message = box(one.get("message"))
        if "tool_calls" in message:  # in a whole answer the position counts, whatever a server writes into `index`
            calls = [
                {key: value for key, value in call.items() if key != "index"} for call in message["tool_calls"] or ()
            ]
            message = {**message, "tool_calls": calls}
        _take(choice, message, {})
        choice.text += text(one.get("text"))
        choice.finish = one.get("finish_reason")
        if choice.finish == "error":
            answer.error = message_of(one.get("error"))
    return answer


def chat_stream(frames: Sequence[Frame]) -> Answer:
    answer = Answer()
    calls: dict[int, dict[Any, Tool]] = {}
    for frame in frames:
        if frame.data.strip() == "[DONE]":
            answer.done = True
            continue
        event = json.loads(frame.data)
        answer.events.append(event)
        said = _reported(event)
        if said is None and frame.name == "error":
            said = message_of(event)
        if said is not None:
            answer.error = said
            break
        for one in items(event.get("choices")):
            index = number(one.get("index"))
            choice = answer.choice(index)
            _take(choice, box(one.get("delta") or one.get("message")), calls.setdefault(index, {}))
            choice.text += text(one.get("text"))
            choice.finish = one.get("finish_reason") or choice.finish
            if choice.finish == "error" or one.get("error"):
                answer.error = message_of(one.get("error") or event.get("error"))
        answer.usage = openai_usage(event.get("usage")) or answer.usage
    return answer


def embeddings(body: Json) -> Answer:
    answer = Answer(error=_reported(body), usage=openai_usage(body.get("usage")))
    answer.vectors = [one.get("embedding") for one in items(body.get("data"))]
    return answer


# -- Anthropic ---------------------------------------------------------------------------------------------------------


def anthropic_usage(usage: Json) -> Usage:
    cached, written = number(usage.get("cache_read_input_tokens")), number(usage.get("cache_creation_input_tokens"))
    return Usage(
        number(usage.get("input_tokens")) + cached + written,
        number(usage.get("output_tokens")),
        cached,
        number(box(usage.get("output_tokens_details")).get("thinking_tokens")),
    )


def messages(body: Json) -> Answer:
    if body.get("type") == "error":
        return Answer(error=message_of(body))
    answer = Answer(usage=anthropic_usage(box(body.get("usage"))))
    choice = answer.choice()
    for block in items(body.get("content")):
        kind = block.get("type")
        if kind == "text":
            choice.text += text(block.get("text"))
        elif kind == "thinking":
            choice.reasoning += text(block.get("thinking"))
        elif kind == "tool_use":
            choice.tools.append(Tool(text(block.get("name")), json.dumps(block.get("input"))))
    choice.finish = STOP[body["stop_reason"]] if body.get("stop_reason") else None
    return answer


def messages_stream(frames: Sequence[Frame]) -> Answer:
    answer, usage = Answer(), {}
    choice = answer.choice()
    tools: dict[int, Tool] = {}
    for frame in frames:
        if frame.data.strip() == "[DONE]":
            continue  # not Anthropic's, but a gateway before it added one
        event = json.loads(frame.data)
        kind, delta, block = event.get("type"), box(event.get("delta")), box(event.get("content_block"))
        if kind == "error":
            answer.error = message_of(event)
            break
        if kind == "message_start":
            usage = dict(event["message"].get("usage") or {})
            whole = messages({**event["message"], "usage": {}}).choice()
            choice.text, choice.tools, choice.finish = whole.text, whole.tools, whole.finish
        elif kind == "content_block_start":
            choice.text += text(block.get("text"))
            choice.reasoning += text(block.get("thinking"))
            if block.get("type") == "tool_use":
                given = block.get("input")
                tools[event["index"]] = Tool(block["name"], json.dumps(given) if given else "")
                choice.tools.append(tools[event["index"]])
        elif kind == "content_block_delta":
            choice.text += text(delta.get("text"))
            choice.reasoning += text(delta.get("thinking"))
            if event["index"] in tools:
                tools[event["index"]].arguments += text(delta.get("partial_json"))
        elif kind == "message_delta":
            usage.update({key: value for key, value in box(event.get("usage")).items() if value is not None})
            choice.finish = STOP[delta["stop_reason"]] if delta.get("stop_reason") else choice.finish
    answer.usage = anthropic_usage(usage)
    return answer


# -- Gemini ------------------------------------------------------------------------------------------------------------


def gemini_usage(meta: Json) -> Usage | None:
    if not {"promptTokenCount", "candidatesTokenCount", "totalTokenCount"} & meta.keys():
        return None
    thoughts = number(meta.get("thoughtsTokenCount"))
    said = number(meta.get("candidatesTokenCount")) + thoughts
    prompt = number(meta.get("promptTokenCount")) + number(meta.get("toolUsePromptTokenCount"))
    if "promptTokenCount" not in meta:
        prompt = max(prompt, number(meta.get("totalTokenCount")) - said)
    return Usage(prompt, said, number(meta.get("cachedContentTokenCount")), thoughts)


def gemini(*bodies: Json) -> Answer:
    answer = Answer()
    reasons: dict[int, str] = {}
    for body in bodies:
        if body.get("error"):
            answer.error = message_of(body)
            break
        answer.usage = gemini_usage(box(body.get("usageMetadata"))) or answer.usage
        if box(body.get("promptFeedback")).get("blockReason"):
            answer.choice().finish = "content_filter"
        for position, candidate in enumerate(items(body.get("candidates"))):
            index = number(candidate.get("index", position))
            choice = answer.choice(index)
            reason = candidate.get("finishReason") or reasons.get(index, "")
            reasons[index] = GEMINI_NUMBERS.get(reason, reason)  # some clients ask for enums as numbers
            for part in items(box(candidate.get("content")).get("parts")):
                _gemini_part(choice, part)
    for index, reason in reasons.items():
        choice = answer.choice(index)
        if reason in GEMINI_BROKEN and not (choice.text or choice.tools or choice.images):
            answer.error = text(candidate.get("finishMessage"))
        elif reason in ("STOP", *GEMINI_BROKEN):
            choice.finish = "tool_calls" if choice.tools else "stop"
        elif reason:
            choice.finish = "length" if reason == "MAX_TOKENS" else "content_filter"
    return answer


def _gemini_part(choice: Choice, part: Json) -> None:
    if isinstance(call := part.get("functionCall"), dict):
        if call.get("name"):
            choice.tools.append(Tool(call["name"], json.dumps(call.get("args") or {})))
        told = box(choice.tools[-1].parsed)  # without a name it is a piece of the call before it
        for piece in items(call.get("partialArgs")):
            key = piece["jsonPath"].removeprefix("$.")
            told[key] = told.get(key, "") + piece["stringValue"]
        choice.tools[-1].arguments = json.dumps(told)
    elif part.get("thought"):
        choice.reasoning += text(part.get("text"))
    elif "text" in part:
        choice.text += part["text"]
        if choice.pieces is not None:
            choice.pieces.append(part["text"])
    elif "inlineData" in part:
        choice.images += str(part["inlineData"].get("mimeType")).startswith("image/")
    elif "executableCode" in part or "codeExecutionResult" in part:
        choice.pieces = [choice.text] if choice.pieces is None else choice.pieces
        choice.pieces.append(text(box(part.get("executableCode")).get("code")))
        choice.pieces.append(text(box(part.get("codeExecutionResult")).get("output")))


def gemini_whole(body: Json) -> Answer:
    """An answer that arrived whole is finished, also where it does not say so (images by some models)."""
    return gemini({**body, "candidates": [{"finishReason": "STOP", **one} for one in items(body.get("candidates"))]})


def gemini_stream(frames: Sequence[Frame]) -> Answer:
    return gemini(*(json.loads(frame.data) for frame in frames if frame.data.strip() not in ("", "[DONE]")))


def gemini_embeddings(body: Json) -> Answer:
    return Answer(
        error=_reported(body),
        vectors=[one["values"] for one in items(body.get("embeddings"))],
        usage=gemini_usage(box(body.get("usageMetadata"))),
    )


# -- Bedrock Converse --------------------------------------------------------------------------------------------------


def _converse_usage(usage: Json) -> Usage:
    cached, written = number(usage.get("cacheReadInputTokens")), number(usage.get("cacheWriteInputTokens"))
    return Usage(number(usage.get("inputTokens")) + cached + written, number(usage.get("outputTokens")), cached, 0)


def converse(body: Json) -> Answer:
    answer = Answer(usage=_converse_usage(box(body.get("usage"))))
    choice = answer.choice()
    for block in items(box(box(body.get("output")).get("message")).get("content")):
        choice.text += text(block.get("text"))
        for cited in items(box(block.get("citationsContent")).get("content")):
            choice.text += text(cited.get("text"))
        choice.reasoning += text(box(box(block.get("reasoningContent")).get("reasoningText")).get("text"))
        if isinstance(tool := block.get("toolUse"), dict) and tool.get("type") != "server_tool_use":
            choice.tools.append(Tool(tool["name"], json.dumps(tool.get("input"))))
    choice.finish = STOP[body["stopReason"]]
    return answer


def converse_stream(frames: Sequence[Frame]) -> Answer:
    answer = Answer()
    choice = answer.choice()
    tools: dict[int, Tool] = {}
    for frame in frames:
        event = json.loads(frame.data)
        if frame.name.lower().endswith("exception"):
            answer.error = message_of(event)
            break
        index, delta = number(event.get("contentBlockIndex")), box(event.get("delta"))
        if frame.name == "contentBlockStart" and isinstance(tool := box(event.get("start")).get("toolUse"), dict):
            tools[index] = Tool(tool["name"], "")
            if tool.get("type") != "server_tool_use":
                choice.tools.append(tools[index])
        elif frame.name == "contentBlockDelta":
            choice.text += text(delta.get("text"))
            choice.reasoning += text(box(delta.get("reasoningContent")).get("text"))
            if index in tools:
                tools[index].arguments += text(box(delta.get("toolUse")).get("input"))
        elif frame.name == "messageStop":
            choice.finish = STOP[event["stopReason"]]
        elif frame.name == "metadata":
            answer.usage = _converse_usage(box(event.get("usage")))
    return answer


# -- Ollama ------------------------------------------------------------------------------------------------------------


def ollama(*bodies: Json) -> Answer:
    answer = Answer()
    choice = answer.choice()
    for body in bodies:
        if body.get("error"):
            answer.error = message_of(body)
            break
        message = box(body.get("message"))
        choice.text += text(message.get("content"))
        choice.reasoning += text(message.get("thinking"))
        for tool in items(message.get("tool_calls")):
            choice.tools.append(Tool(tool["function"]["name"], json.dumps(tool["function"].get("arguments"))))
        if body.get("done"):
            limit = body.get("done_reason") == "length"
            choice.finish = "length" if limit else "tool_calls" if choice.tools else "stop"
            if "prompt_eval_count" in body or "eval_count" in body:
                answer.usage = Usage(number(body.get("prompt_eval_count")), number(body.get("eval_count")), 0, 0)
    return answer


def ollama_stream(frames: Sequence[Frame]) -> Answer:
    return ollama(*(json.loads(frame.data) for frame in frames))


def ollama_embeddings(body: Json) -> Answer:
    return Answer(vectors=body.get("embeddings"), usage=Usage(number(body.get("prompt_eval_count")), 0, 0, 0))


# -- all of them -------------------------------------------------------------------------------------------------------

WHOLE: dict[str, Callable[[Json], Answer]] = {
    "openai": chat, "embeddings": embeddings, "anthropic": messages, "gemini": gemini_whole, "converse": converse,
    "gemini-embeddings": gemini_embeddings, "ollama": ollama, "ollama-embeddings": ollama_embeddings,
}  # fmt: skip
STREAMED: dict[str, Callable[[Sequence[Frame]], Answer]] = {
    "openai": chat_stream, "anthropic": messages_stream, "gemini": gemini_stream, "converse": converse_stream,
    "ollama": ollama_stream,
}  # fmt: skip


def frames_of(form: str, raw: bytes) -> list[Frame]:
    """A stream's frames, in the framing of its format. Gemini without `alt=sse` sends a JSON array."""
    if form == "converse":
        return aws(raw)
    return json_values(raw) if form == "ollama" or raw.lstrip()[:1] == b"[" else sse(raw)


def read(form: str, raw: bytes, *, stream: bool) -> Answer:
    """What an answer with status 200 says. Raises `ValueError` for bytes that are not in the format at all."""
    if stream and not (form != "ollama" and raw.lstrip()[:1] == b"{"):
        return STREAMED[form](frames_of(form, raw))
    value = json.loads(raw)
    return WHOLE[form](value[0] if isinstance(value, list) else value)
