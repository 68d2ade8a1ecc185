"""Content filter: blocks or masks by local regular expressions. No network, no model.

A first line of defence: it finds what is written plainly and knows nothing of meaning. The settings are those of
LiteLLM's content filter, and TianjiLLM's `categories` with a threshold each.

Docs: https://docs.litellm.ai/docs/proxy/guardrails/litellm_content_filter
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tianji import Call, ConfigError, Content, Guardrail, PluginSettings, Verdict

from .lists import CATEGORIES, DEFAULT_CATEGORIES, PREBUILT
from .search import WAYS, Rule, find, needed, parse, phrased, ways_of, words

LEVELS = {"low": 1, "medium": 2, "high": 3}


class PatternRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `patterns`: a prebuilt pattern by name, or an own one."""

    pattern_type: str = ""
    pattern_name: str = ""
    name: str = ""
    pattern: str = ""
    action: str = "block"
    description: str = ""


class WordRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `blocked_words`."""

    keyword: str
    action: str = "block"
    description: str = ""


class CategoryRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `categories`."""

    category: str
    enabled: bool = True
    action: str = "block"
    severity_threshold: int | str = 2


class ContentFilter(Guardrail):
    name = "content-filter"

    class Settings(PluginSettings, frozen=True):
        patterns: tuple[str | PatternRule, ...] = ()
        """What to look for: names of prebuilt patterns, or `{pattern_name, action}`, or `{name, pattern, action}` with
        an own regular expression. `action` is `block` (the default) or `mask`."""
        blocked_words: tuple[str | WordRule, ...] = ()
        """Words and phrases: texts, or `{keyword, action, description}`. Upper and lower case are the same."""
        categories: dict[str, int | str] | tuple[str | CategoryRule, ...] | None = None
        """Categories with the severity from which on they act: `{violence: 2, hate: 0}` or a list of `{category,
        enabled, action, severity_threshold}`. 1 or `low`, 2 or `medium`, 3 or `high`; 0 is off. Without any
        setting `violence`, `hate`, `self_harm` and `sexual` act from 2 on."""
        pattern_redaction_format: str = "[{pattern_name}_REDACTED]"
        """What a masked pattern becomes; `{pattern_name}` is its name in capitals."""
        keyword_redaction_tag: str = "[KEYWORD_REDACTED]"
        """What a masked word becomes."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        if "{pattern_name}" not in self.settings.pattern_redaction_format:
            raise self._wrong("pattern_redaction_format", "must contain {pattern_name}")
        rules = [*self._patterns(), *self._words(), *self._categories()]
        if not rules:
            raise self._wrong("categories", "nothing is left to look for: the filter would allow everything")
        rules = [msgspec.structs.replace(rule, needs=tuple(needed(parse(rule.regex.pattern)))) for rule in rules]
        self.blocking = tuple(rule for rule in rules if rule.action == "block")
        self.masking = tuple(rule for rule in rules if rule.action == "mask")

    async def check(self, content: Content, call: Call) -> Verdict:
        for text in content.texts:
            for rule in self.blocking:
                if await find(rule, text, first=True):
                    return Verdict.block(f"{rule.reason} in the {content.part}", **rule.details)
        if not self.masking:
            return Verdict.allow()
        texts = [await self._masked(text) for text in content.texts]
        return Verdict.allow() if tuple(texts) == content.texts else Verdict.rewrite(texts)

    async def _masked(self, text: str) -> str:
        for rule in self.masking:
            at, parts = 0, []
            for start, end in await find(rule, text):
                parts += [text[at:start], rule.tag]
                at = end
            if parts:
                text = "".join(parts) + text[at:]
        return text

    # -- compiling -----------------------------------------------------------------------------------------------------

    def _wrong(self, path: str, message: str, mend: str = "") -> ConfigError:
        return ConfigError(message, path=f"guardrail {self.instance}: {path}", mend=mend)

    def _action(self, action: str, path: str) -> str:
        if action.lower() not in ("block", "mask"):
            raise self._wrong(f"{path}.action", f"{action[:50]!r} is neither `block` nor `mask`")
        return action.lower()

    def _patterns(self) -> Iterator[Rule]:
        for index, entry in enumerate(self.settings.patterns):
            path = f"patterns[{index}]"
            rule = PatternRule(pattern_name=entry) if isinstance(entry, str) else entry
            own = bool(rule.pattern)
            if rule.pattern_type not in ("", "regex" if own else "prebuilt"):
                raise self._wrong(f"{path}.pattern_type", "`regex` goes with `pattern`, `prebuilt` with `pattern_name`")
            name = rule.name or rule.pattern_name
            holds = None
            if own:
                regex = self._compiled(rule.pattern, path)
                name = name or f"pattern_{index}"
            elif name in PREBUILT:
                source, holds = PREBUILT[name]
                regex = re.compile(source)
            else:
                known = ", ".join(PREBUILT)
                raise self._wrong(f"{path}.pattern_name", f"there is no pattern {name[:50]!r}", f"Known: {known}")
            tag = self.settings.pattern_redaction_format.replace("{pattern_name}", name.upper())
            yield Rule(regex, self._action(rule.action, path), tag, f"{name} found", {"pattern": name}, holds)

    def _compiled(self, source: str, path: str) -> re.Pattern[str]:
        """An operator's pattern; `ConfigError` for one that is broken, finds nothing, or could take for ever."""
        try:
            regex = re.compile(source)
            ways = ways_of(parse(source))
        except (re.error, RecursionError, OverflowError) as error:
            raise self._wrong(f"{path}.pattern", f"not a regular expression: {error}") from None
        if regex.match("") is not None:
            raise self._wrong(f"{path}.pattern", "matches the empty text, so it would be found everywhere")
        if ways > WAYS:
            problem = "could take minutes on a text made for it (repetitions in a row or inside one another)"
            mend = "Give repetitions a small upper bound (`{1,20}`), or make them possessive (`++`, `{1,20}+`)"
            raise self._wrong(f"{path}.pattern", problem, mend)
        return regex

    def _words(self) -> Iterator[Rule]:
        """One rule for all words of an action, and one for each word that has a description of its own."""
        together: dict[str, list[str]] = {}
        for index, entry in enumerate(self.settings.blocked_words):
            word = WordRule(keyword=entry) if isinstance(entry, str) else entry
            if not word.keyword.strip():
                raise self._wrong(f"blocked_words[{index}].keyword", "is empty")
            action = self._action(word.action, f"blocked_words[{index}]")
            if word.description and action == "block":
                reason = f"a blocked word ({word.description})"
                yield Rule(words([word.keyword]), action, "", reason, {"blocked_word": True})
            else:
                together.setdefault(action, []).append(word.keyword)
        for action, found in together.items():
            tag = self.settings.keyword_redaction_tag
            yield Rule(words(found), action, tag, "a blocked word", {"blocked_word": True})

    def _categories(self) -> Iterator[Rule]:
        for path, entry in self._category_rules():
            name = entry.category.lower().removeprefix("harmful_").replace("-", "_")
            if name not in CATEGORIES:
                known = ", ".join(CATEGORIES)
                raise self._wrong(path, f"there is no category {entry.category[:50]!r}", f"Known: {known}")
            threshold = entry.severity_threshold
            level = LEVELS.get(str(threshold).lower(), threshold)
            if level not in (0, 1, 2, 3, "0", "1", "2", "3"):
                raise self._wrong(path, "the threshold is none of 0, 1, 2, 3, `low`, `medium` and `high`")
            if not entry.enabled or int(level) == 0:
                continue
            phrases = [one for severity, some in CATEGORIES[name].items() if severity >= int(level) for one in some]
            regex = phrased(phrases)
            tag = self.settings.pattern_redaction_format.replace("{pattern_name}", name.upper())
            yield Rule(regex, self._action(entry.action, path), tag, f"{name} content", {"category": name})

    def _category_rules(self) -> Iterator[tuple[str, CategoryRule]]:
        given = self.settings.categories
        if given is None:
            if not (self.settings.patterns or self.settings.blocked_words):
                yield from (("categories", CategoryRule(category=name)) for name in DEFAULT_CATEGORIES)
        elif isinstance(given, dict):
            for name, level in given.items():
                yield f"categories.{name}", CategoryRule(category=name, severity_threshold=level)
        else:
            for index, entry in enumerate(given):
                rule = CategoryRule(category=entry) if isinstance(entry, str) else entry
                yield f"categories[{index}]", rule
