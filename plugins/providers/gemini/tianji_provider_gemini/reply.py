"""`GenerateContentResponse` as an OpenAI completion, whole or streamed.

Docs: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse
"""

from base64 import b64decode, b64encode
from typing import Any

from tianji import END, Call, Decoder, ProtocolError, Usage, chunk, encode_json, must_be_object, usage_to_openai

from .citations import annotations
from .errors import BadToolCall, envelope, read_failure
from .partial import merge
from .shapes import an_object, dicts

Body = dict[str, Any]

FILTERED = frozenset({
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
})  # fmt: skip
STUMBLES = frozenset({
    "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE",
})  # fmt: skip
"""The model broke off. With something said before it, that is an answer (`stop`); with nothing, a failure to retry."""
NUMBERED = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION"}
"""Some proxies ask for enums as numbers."""
MODALITIES = {"audio": ("AUDIO", 4), "image": ("IMAGE", 2)}


def read_usage(meta: Any) -> Usage | None:
    """Token counts; None where there are none (the early chunks of a stream may carry a traffic type only).

    `candidatesTokenCount` leaves thoughts out and `promptTokenCount` what built-in tools fetched; our totals include
    both, as the bill does.
    """
    if not isinstance(meta, dict) or _TOTALS.isdisjoint(meta):
        return None

    if meta.keys() <= _PLAIN:
        asked, said = meta.get("promptTokenCount"), meta.get("candidatesTokenCount", 0)
        if type(asked) is int and type(said) is int and not any(_media(meta, "promptTokensDetails")):
            return Usage(asked, said)

    def count(field: str) -> int:
        value = meta.get(field)
        return value if isinstance(value, int) else 0

    thoughts = count("thoughtsTokenCount")
    asked, said = count("promptTokenCount") + count("toolUsePromptTokenCount"), count("candidatesTokenCount") + thoughts
    if "promptTokenCount" not in meta:  # seen for files by URL: only the total tells what the prompt has cost
        asked = max(asked, count("totalTokenCount") - said)
    heard, seen = _media(meta, "promptTokensDetails", "toolUsePromptTokensDetails")
    spoken, drawn = _media(meta, "candidatesTokensDetails")
    return Usage(
        asked, said, count("cachedContentTokenCount"), 0, 0, thoughts, heard, spoken, seen, drawn
    )  # fmt: skip


_TOTALS = frozenset({"promptTokenCount", "candidatesTokenCount", "totalTokenCount"})
_PLAIN = _TOTALS | {"promptTokensDetails", "trafficType", "serviceTier"}
"""What most chunks state of usage: text in, text out."""


def _media(meta: Body, *fields: str) -> tuple[int, int]:
    """Audio and image tokens of some details. Every chunk of a stream has them, and nearly always they are text."""
    audio = image = 0
    for field in fields:
        for detail in dicts(meta.get(field)) if field in meta else ():
            if (kind := detail.get("modality")) == "TEXT":
                continue
            tokens = detail.get("tokenCount") or 0
            audio += tokens if kind in MODALITIES["audio"] else 0
            image += tokens if kind in MODALITIES["image"] else 0
    return audio, image


def logprobs(result: Any) -> Body | None:
    """OpenAI's `logprobs` object."""
    if not isinstance(result, dict) or not (tokens := dicts(result.get("chosenCandidates"))):
        return None
    tops = dicts(result.get("topCandidates"))
    content = []
    for index, chosen in enumerate(tokens):
        others = dicts(tops[index].get("candidates")) if index < len(tops) else []
        content.append({**_logprob(chosen), "top_logprobs": [_logprob(other) for other in others]})
    return {"content": content, "refusal": None}


def _logprob(token: Body) -> Body:
    text = str(token.get("token") or "")
    return {"token": text, "logprob": token.get("logProbability", 0.0), "bytes": list(text.encode())}


class Choice:
    """One candidate as it is read; the answer's other candidates share its numbering of calls through `answer`."""

    def __init__(self, answer: "Answer", index: int) -> None:
        self.answer = answer
        self.index = index
        self.text: list[str] = []
        self.calls = 0
        self.images = 0
        self.reason: str | None = None
        self.fields: Body = {}
        self._partial: Body | None = None

    def read(self, candidate: Body) -> Body:
        """What this piece of the candidate adds, as a delta. What belongs at the end is kept for `closing`."""
        if candidate.keys() <= ORDINARY and (text := _only_text(candidate.get("content"))):
            self.text.append(text)
            return {"content": text}
        delta: Body = {}
        for part in dicts(an_object(candidate.get("content")).get("parts")):
            self._part(part, delta)
        for theirs, ours in KEPT.items():
            if value := candidate.get(theirs):
                self.fields[ours] = value
        if reason := candidate.get("finishReason"):
            self.reason = NUMBERED.get(reason, str(reason)) if isinstance(reason, int) else str(reason)
        return delta

    def _part(self, part: Body, delta: Body) -> None:
        if isinstance(call := part.get("functionCall"), dict):
            self._call(call, part.get("thoughtSignature"), delta)
        elif isinstance(text := part.get("text"), str):
            if part.get("thought"):
                if text:
                    delta["reasoning_content"] = delta.get("reasoning_content", "") + text
                return
            self._say(text, delta)
            if signature := part.get("thoughtSignature"):
                delta.setdefault("provider_specific_fields", {}).setdefault("thought_signatures", []).append(signature)
        elif part.get("thought"):
            return  # a draft, of an image for example
        elif isinstance(data := part.get("inlineData"), dict):
            self._media(data, part.get("thoughtSignature"), delta)
        elif isinstance(code := part.get("executableCode"), dict):
            self._fence(str(code.get("language") or "").lower(), code.get("code"), delta)
        elif isinstance(result := part.get("codeExecutionResult"), dict):
            self._fence("", result.get("output"), delta)
        # `toolCall` and `toolResponse` (a search of Google's own) have no place in chat; their outcome is in the text.

    def _say(self, text: str, delta: Body) -> None:
        if text:
            self.text.append(text)
            delta["content"] = delta.get("content", "") + text

    def _fence(self, language: str, code: Any, delta: Body) -> None:
        if isinstance(code, str) and code:
            start = "\n" if self.text and not self.text[-1].endswith("\n") else ""
            end = "" if code.endswith("\n") else "\n"
            self._say(f"{start}```{language}\n{code}{end}```\n", delta)

    def _media(self, data: Body, signature: Any, delta: Body) -> None:
        mime = str(data.get("mimeType") or "application/octet-stream")
        payload = str(data.get("data") or "")
        if mime.startswith("audio/"):
            if before := delta.get("audio"):
                payload = b64encode(b64decode(before["data"]) + b64decode(payload)).decode("ascii")
            delta["audio"] = {"id": f"audio_{self.answer.id}", "data": payload, "format": mime}
            return
        image: Body = {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{payload}"}, "index": self.images}
        if signature:
            image["provider_specific_fields"] = {"thought_signature": signature}
        self.images += 1
        delta.setdefault("images", []).append(image)

    def _call(self, call: Body, signature: Any, delta: Body) -> None:
        if call.get("name"):
            args = call.get("args")
            self._partial = {
                "name": call["name"],
                "id": call.get("id"),
                "signature": signature,
                "args": dict(args) if isinstance(args, dict) else {},
            }
        open_call = self._partial
        if open_call is None:
            return  # the empty call that closes a streamed one, repeated
        merge(open_call["args"], call.get("partialArgs"))
        if call.get("willContinue"):
            return
        self._partial = None
        # The id is Gemini's, or made from the answer's, so that reading the same answer twice gives the same one.
        id = open_call["id"] or f"call_{self.answer.id or self.answer.fallback_id}_{self.answer.calls}"
        said: Body = {
            "index": self.calls,
            "id": id,
            "type": "function",
            "function": {"name": open_call["name"], "arguments": encode_json(open_call["args"]).decode()},
        }
        if open_call["signature"]:
            said["provider_specific_fields"] = {"thought_signature": open_call["signature"]}
        self.calls += 1
        self.answer.calls += 1
        delta.setdefault("tool_calls", []).append(said)

    def closing(self) -> Body:
        """The last delta: citations, and what has no place in OpenAI's format under `provider_specific_fields`."""
        delta: Body = {}
        if cited := annotations("".join(self.text), self.fields):
            delta["annotations"] = cited
        fields = dict(self.fields)
        if self.reason not in (None, "STOP", "MAX_TOKENS"):
            fields["native_finish_reason"] = self.reason
        if fields:
            delta["provider_specific_fields"] = fields
        return delta

    def finish(self) -> str:
        """The finish reason. Raises `BadToolCall` where the model stumbled before it said anything."""
        if self._partial is not None:
            raise ProtocolError("Gemini ended its answer in the middle of a function call.")
        if self.reason in STUMBLES and not (self.text or self.calls or self.images):
            detail = self.fields.get("finish_message") or "The model's function call could not be read."
            raise BadToolCall(f"{self.reason}: {detail}"[:1000], code=str(self.reason).lower())
        if self.reason in FILTERED:
            return "content_filter"
        if self.reason == "MAX_TOKENS":
            return "length"
        return "tool_calls" if self.calls else "stop"

    @property
    def searches(self) -> int:
        """Web searches that were made for this candidate."""
        queries = an_object(self.fields.get("grounding_metadata")).get("webSearchQueries")
        return len(queries) if isinstance(queries, list) else 0


ORDINARY = frozenset({"content", "index"})
"""Members of a candidate in the middle of a stream."""


def _only_text(content: Any) -> str | None:
    """The text of a content that holds nothing but one text; None for any other."""
    parts = content.get("parts") if type(content) is dict else None
    if type(parts) is list and len(parts) == 1 and type(part := parts[0]) is dict and len(part) == 1:
        text = part.get("text")
        return text if type(text) is str else None
    return None


KEPT = {
    "groundingMetadata": "grounding_metadata",
    "urlContextMetadata": "url_context_metadata",
    "citationMetadata": "citation_metadata",
    "safetyRatings": "safety_ratings",
    "finishMessage": "finish_message",
}
"""Members of a candidate that are handed on as they are; the last one of a stream counts."""


class Answer:
    """A whole answer, or all of a stream's pieces one after the other."""

    def __init__(self, call: Call) -> None:
        self.fallback_id = call.id
        self.id = ""
        self.model = ""
        self.calls = 0
        self.choices: dict[int, Choice] = {}
        self.usage: Usage | None = None
        self.blocked: Body | None = None

    def read(self, data: Any) -> list[tuple[Choice, Body, Body]]:
        """One response: for each candidate in it the choice, its delta and further members of the chunk's choice."""
        body = must_be_object(data)
        if body.get("error") and not body.get("candidates"):
            code = envelope(body).get("code")
            raise read_failure(code if isinstance(code, int) and 400 <= code < 600 else 500, body)
        self.id = self.id or str(body.get("responseId") or "")
        self.model = self.model or str(body.get("modelVersion") or "")
        self.usage = read_usage(body.get("usageMetadata")) or self.usage
        if (feedback := an_object(body.get("promptFeedback"))).get("blockReason"):
            self.blocked = feedback
        pieces = []
        for position, candidate in enumerate(dicts(body.get("candidates"))):
            index = candidate.get("index")
            index = index if isinstance(index, int) else position
            choice = self.choices.get(index)
            if choice is None:
                choice = self.choices[index] = Choice(self, index)
            delta = choice.read(candidate)
            result = logprobs(candidate["logprobsResult"]) if "logprobsResult" in candidate else None
            pieces.append((choice, delta, {"logprobs": result} if result else {}))
        return pieces

    def refusal(self) -> Body:
        """The message for a prompt that was blocked before any candidate was made."""
        feedback = self.blocked or {}
        reason = feedback.get("blockReason")
        said = feedback.get("blockReasonMessage") or f"Gemini blocked the prompt: {reason}."
        return {"refusal": said, "provider_specific_fields": {"prompt_feedback": feedback}}

    def counted(self) -> Usage | None:
        """The usage, with the web searches of all candidates."""
        searches = sum(choice.searches for choice in self.choices.values())
        if self.usage is None or not searches:
            return self.usage
        counts = {field: getattr(self.usage, field) for field in Usage.__struct_fields__}
        return Usage(**{**counts, "web_searches": searches})


def chat_reply(call: Call, data: Any) -> Body:
    """A whole answer. Raises a Failure for an error in its place, and for an answer that holds nothing."""
    answer = Answer(call)
    choices = []
    for choice, delta, extra in answer.read(data):
        closing = choice.closing()
        fields = {**delta.pop("provider_specific_fields", {}), **closing.pop("provider_specific_fields", {})}
        message: Body = {"role": "assistant", "content": delta.pop("content", None), **delta, **closing}
        if message["content"] is None and not (choice.calls or choice.images or "audio" in message):
            message["content"] = ""
        for tool in message.get("tool_calls") or ():
            del tool["index"]
        if "audio" in message:
            message["audio"] = {"expires_at": 0, "transcript": "", **message["audio"]}
        if fields:
            message["provider_specific_fields"] = fields
        choices.append({"index": choice.index, "message": message, "finish_reason": choice.finish(), **extra})
    if not choices:
        if answer.blocked is None:
            raise ProtocolError("Gemini answered without a candidate.")
        message = {"role": "assistant", "content": None, **answer.refusal()}
        choices.append({"index": 0, "message": message, "finish_reason": "content_filter"})
    body: Body = {
        "id": answer.id or f"chatcmpl-{call.id}",
        "object": "chat.completion",
        "created": 0,
        "model": answer.model or call.model,
        "choices": choices,
    }
    if usage := answer.counted():
        body["usage"] = usage_to_openai(usage)
    return body


def chat_stream(call: Call) -> Decoder:
    """A stream's chunks. Finish reasons wait for the end: Gemini may say `STOP` and go on (code execution does)."""
    answer = Answer(call)
    chunks: list[Body] = []
    while True:
        event = yield chunks
        if event == END:
            chunks = _close(answer)
        elif isinstance(event.data, (dict, list)):
            chunks = []
            for data in event.data if isinstance(event.data, list) else [event.data]:
                chunks += _push(answer, data)
        elif event.data in ("", "[DONE]", None):
            chunks = []  # not Gemini's, but proxies add it
        else:
            raise ProtocolError("Gemini sent a stream event that is not JSON.")


def _push(answer: Answer, data: Any) -> list[Body]:
    pieces = answer.read(data)
    chunks = [
        chunk(delta, id=answer.id, model=answer.model, index=choice.index, **extra)
        for choice, delta, extra in pieces
        if delta or extra
    ]
    if chunks and answer.usage is not None:
        # So far, in each: what a stream that is cut off has cost is then known.
        chunks[-1]["usage"] = usage_to_openai(answer.usage)
    return chunks


def _close(answer: Answer) -> list[Body]:
    """The closing chunks: none where Gemini never said that it was done, which the kernel takes for a broken stream."""
    chunks = []
    for index, choice in sorted(answer.choices.items()):
        if choice.reason is not None:
            chunks.append(chunk(choice.closing(), choice.finish(), id=answer.id, model=answer.model, index=index))
    if answer.blocked is not None and not answer.choices:
        chunks.append(chunk(answer.refusal(), "content_filter", id=answer.id, model=answer.model))
    if chunks and (usage := answer.counted()) is not None:
        chunks[-1]["usage"] = usage_to_openai(usage)
    return chunks
