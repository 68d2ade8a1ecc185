"""Searching: patterns as regular expressions, how costly they are, and looking for them in steps.

A pattern is read before it is used, by the parser of `re`, whose syntax is that of
https://docs.python.org/3/library/re.html#regular-expression-syntax.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import msgspec

STEP = 4096
OVERLAP = 512
"""Characters scanned before the event loop gets a turn, and the longest match that may reach over that border."""
WAYS = 20_000
"""Ways in which an operator's pattern may try to match at one place. More could hold the gateway up for seconds."""


class Rule(msgspec.Struct, frozen=True):
    """One compiled thing to look for."""

    regex: re.Pattern[str]
    action: str
    tag: str
    reason: str
    details: dict[str, Any]
    holds: Callable[[str], bool] | None = None
    needs: tuple[str, ...] = ()
    """Every match in an ASCII text contains one of these, in lower case: a look that is far cheaper than the search."""


def phrased(phrases: Iterable[str]) -> re.Pattern[str]:
    """Any of the phrases, as whole words, in any case, with any white space between their words."""
    together = "|".join(re.sub(" (?!\\?)", r"\\s{1,8}+", phrase).replace("'", "['’]") for phrase in phrases)
    return re.compile(rf"\b(?:{together})\b", re.IGNORECASE)


def words(keywords: Iterable[str]) -> re.Pattern[str]:
    """Any of the keywords, literally, longest first; not inside a longer word."""
    parts = []
    for keyword in sorted({keyword.strip() for keyword in keywords}, key=len, reverse=True):
        body = r"\s{1,8}+".join(re.escape(word) for word in keyword.split())
        before = r"(?<!\w)" if re.match(r"\w", keyword) else ""
        parts.append(f"{before}{body}" + (r"(?!\w)" if re.search(r"\w\Z", keyword) else ""))
    return re.compile("|".join(parts), re.IGNORECASE)


async def find(rule: Rule, text: str, *, first: bool = False) -> list[tuple[int, int]]:
    """Where the rule's pattern is in the text. Long texts are looked at in steps, with other work between them."""
    spans: list[tuple[int, int]] = []
    at, size = 0, len(text)
    if rule.needs and text.isascii():
        lower = text.lower()
        if not any(literal in lower for literal in rule.needs):
            return spans
    while at < size:
        stop = min(size, at + STEP + OVERLAP)
        border = size if stop == size else at + STEP
        for match in rule.regex.finditer(text, at, stop):
            start, end = match.span()
            if start >= border:
                break
            at = max(at, end)
            if end > start and (rule.holds is None or rule.holds(match[0])):
                spans.append((start, end))
                if first:
                    return spans
        at = max(at, border)
        if at < size:
            await asyncio.sleep(0)
    return spans


# -- reading patterns --------------------------------------------------------------------------------------------------


def parse(source: str) -> Any:
    """A pattern's syntax tree, from the parser of `re` itself: the one thing that is sure to read it as `re` does."""
    return import_module("re._parser").parse(source)


def ways_of(tree: Any) -> int:
    """An upper bound of the ways in which a pattern can try to match at one place of `STEP` characters.

    Repetitions multiply their counts, and a repetition raises what is inside it to a power. Possessive and atomic
    parts never go back, so they count once.
    """
    total = 1
    for op, argument in tree:
        match op.name:
            case "MAX_REPEAT" | "MIN_REPEAT":
                low, high, inner = argument
                high = min(int(high), STEP)
                inside = ways_of(inner)
                total *= max(1, high - low + 1) * (inside ** min(high, 64) if inside > 1 else 1)
            case "POSSESSIVE_REPEAT":
                total = max(total, ways_of(argument[2]))
            case "ATOMIC_GROUP":
                total = max(total, ways_of(argument))
            case "SUBPATTERN":
                total *= ways_of(argument[3])
            case "BRANCH":
                total *= sum(ways_of(branch) for branch in argument[1])
            case "ASSERT" | "ASSERT_NOT":
                total = max(total, ways_of(argument[1]))
            case "GROUPREF_EXISTS":
                total *= ways_of(argument[1]) + (ways_of(argument[2]) if argument[2] else 1)
        total = min(total, 10**9)
    return total


def needed(tree: Any) -> list[str]:
    """Texts in lower case, one of which is in every ASCII match of a pattern; empty where nothing can be said."""
    best: list[str] = []
    run = ""
    for op, argument in [*tree, (None, None)]:
        name = "" if op is None else op.name
        if name == "LITERAL":
            run += chr(argument).lower()
            continue
        found, run = [run] if run else [], ""
        for candidate in (found, _inside(name, argument)):
            if candidate and min(map(len, candidate)) > min(map(len, best), default=0) and len(candidate) < 50:
                best = candidate
    return best


def _inside(name: str, argument: Any) -> list[str]:
    match name:
        case "SUBPATTERN":
            return needed(argument[3])
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return needed(argument[2]) if argument[0] else []
        case "ATOMIC_GROUP":
            return needed(argument)
        case "BRANCH":
            branches = [needed(branch) for branch in argument[1]]
            return sorted({text for some in branches for text in some}) if all(branches) else []
        case "IN" if all(op.name == "LITERAL" for op, _ in argument):
            return sorted({chr(code).lower() for _, code in argument})
        case "IN" if str(argument) == "[(CATEGORY, CATEGORY_DIGIT)]":
            return list("0123456789")
        case _:
            return []
