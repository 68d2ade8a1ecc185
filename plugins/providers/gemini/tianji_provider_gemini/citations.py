"""Grounding and citation metadata as OpenAI's `url_citation` annotations.

Docs: https://ai.google.dev/gemini-api/docs/google-search and https://ai.google.dev/api/generate-content#citationmetadata
"""

from typing import Any

from .shapes import an_object, dicts

Body = dict[str, Any]


def annotations(text: str, fields: Body) -> list[Body]:
    """The sources that an answer names, with their places in its text; without any when it names none."""
    grounding, cited = an_object(fields.get("grounding_metadata")), an_object(fields.get("citation_metadata"))
    found: list[Body] = []
    if not grounding and not cited:
        return found
    raw = text.encode()
    chunks = grounding.get("groundingChunks")
    chunks = chunks if isinstance(chunks, list) else []
    for support in dicts(grounding.get("groundingSupports")):
        start, end = place(text, raw, an_object(support.get("segment")))
        for number in support.get("groundingChunkIndices") or ():
            if isinstance(number, int) and 0 <= number < len(chunks) and (source := _source(an_object(chunks[number]))):
                found.append(_annotation(start, end, source))
    for citation in dicts(cited.get("citations") or cited.get("citationSources")):
        if citation.get("uri"):
            start, end = place(text, raw, citation)
            found.append(_annotation(start, end, citation))
    return found


def place(text: str, raw: bytes, segment: Body) -> tuple[int, int]:
    """Where a segment is, in characters. Gemini counts bytes, and only of its own words.

    Where the bytes are not the quoted ones (code that we fenced in stands before them), the quotation is looked for;
    a quotation that is nowhere stands for the whole answer.
    """
    first, last = segment.get("startIndex") or 0, segment.get("endIndex") or 0
    quoted = segment.get("text")
    if quoted is None or raw[first:last] == quoted.encode():
        start = len(raw[:first].decode("utf-8", "ignore"))
        return start, start + len(raw[first:last].decode("utf-8", "ignore"))
    start = text.find(quoted)
    return (start, start + len(quoted)) if start >= 0 else (0, len(text))


def _source(chunk: Body) -> Body | None:
    """The document behind a chunk: of the web, a map, or a file store (which may have no address)."""
    return next((box for box in chunk.values() if isinstance(box, dict) and (box.get("uri") or box.get("title"))), None)


def _annotation(start: int, end: int, source: Body) -> Body:
    citation = {
        "start_index": start,
        "end_index": end,
        "url": source.get("uri") or "",
        "title": source.get("title") or "",
    }
    return {"type": "url_citation", "url_citation": citation}
