"""What both kinds of answer have in common: tokens, finish reasons, citations, tool calls.

Docs: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html,
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Citation.html
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Any

from tianji import Usage

from .errors import Malformed
from .shapes import Body, an_object, dicts, text

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
PLAIN = frozenset({"end_turn", "max_tokens", "tool_use"})
"""Reasons that lose nothing in OpenAI's words; the others are kept in `provider_specific_fields.stopReason`."""
KEPT = ("trace", "metrics", "performanceConfig", "serviceTier", "additionalModelResponseFields")
"""Members of an answer that OpenAI's format has no place for."""


def read_usage(data: Any, additional: Any = None) -> Usage | None:
    """Token counts; None where there are none.

    `inputTokens` leaves out what was read from and written to a cache; our total includes both, as the bill does.
    """
    if not isinstance(data, dict) or not {"inputTokens", "outputTokens", "totalTokens"} & data.keys():
        return None

    def count(*fields: str) -> int:
        return next((data[field] for field in fields if type(data.get(field)) is int and data[field] > 0), 0)

    asked, said = count("inputTokens"), count("outputTokens")
    read = count("cacheReadInputTokens", "cacheReadInputTokenCount")
    written = count("cacheWriteInputTokens", "cacheWriteInputTokenCount")
    if asked + said != count("totalTokens") or asked < read + written:
        asked += read + written  # were they in `inputTokens` already, the total would show it
    hour = sum(
        detail["inputTokens"]
        for detail in dicts(data.get("cacheDetails"))
        if detail.get("ttl") == "1h" and type(detail.get("inputTokens")) is int
    )
    details = an_object(an_object(an_object(additional).get("usage")).get("output_tokens_details"))
    thought = details.get("thinking_tokens")
    return Usage(
        input_tokens=asked,
        output_tokens=said,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(hour, written),
        reasoning_tokens=thought if type(thought) is int and thought > 0 else 0,
    )


def finish_reason(reason: Any, *, calls: int, said: bool) -> str:
    """OpenAI's word for a `stopReason`. Raises `Malformed` where the model stumbled before it said anything."""
    reason = text(reason)
    if reason.startswith("malformed_") and not (calls or said):
        what = "tool call" if reason == "malformed_tool_use" else "answer"
        raise Malformed(f"The model's {what} could not be read ({reason}).", code=reason)
    finish = FINISH.get(reason, "stop")
    if finish in ("stop", "tool_calls"):
        return "tool_calls" if calls else "stop"
    return finish


def annotations(citations: list[Body], start: int, end: int) -> list[Body]:
    """OpenAI's `url_citation`s for those citations that have a web address."""
    made = []
    for citation in citations:
        web = an_object(an_object(citation.get("location")).get("web"))
        url = text(web.get("url")) or text(citation.get("source"))
        if url.startswith(("http://", "https://")):
            title = text(citation.get("title")) or text(web.get("domain"))
            found = {"url": url, "title": title, "start_index": start, "end_index": end}
            made.append({"type": "url_citation", "url_citation": found})
    return made


def image(format: Any, data: str, index: int) -> Body:
    """An image of the model's, as it is told among `message.images`."""
    url = f"data:image/{text(format) or 'png'};base64,{data}"
    return {"type": "image_url", "image_url": {"url": url}, "index": index}


def joined(pieces: list[str]) -> str:
    """Pieces of base64 as one; each piece was padded by itself."""
    if len(pieces) == 1:
        return pieces[0]
    try:
        return b64encode(b"".join(b64decode(piece) for piece in pieces)).decode("ascii")
    except Base64Error:
        return "".join(pieces)


def thinking(said: str, signature: str, redacted: str) -> Body | None:
    """A block of thinking to send back with the next turn; None for one that nobody would accept, as it is unsigned."""
    if redacted:
        return {"type": "redacted_thinking", "data": redacted}
    return {"type": "thinking", "thinking": said, "signature": signature} if signature else None
