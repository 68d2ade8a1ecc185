"""Content filter: blocks or masks by local regular expressions. No network, no model.

A first line of defence: it finds what is written plainly and knows nothing of meaning. The settings are those of
LiteLLM's content filter, and TianjiLLM's `categories` with a threshold each.

Docs: https://docs.litellm.ai/docs/proxy/guardrails/litellm_content_filter
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

import msgspec

from tianji import Call, ConfigError, Content, Guardrail, PluginSettings, Verdict

STEP = 4096
OVERLAP = 512
"""Characters scanned before the event loop gets a turn, and the longest match that may reach over that border."""
WAYS = 20_000
"""Ways in which an operator's pattern may try to match at one place. More could hold the gateway up for seconds."""
LEVELS = {"low": 1, "medium": 2, "high": 3}

_WHOM = r"(?:you|him|her|them|myself|everyone|everybody|someone|somebody|people|a person|my \w{1,20}+)"
_GROUPS = (
    r"(?:jews|muslims|christians|hindus|black people|blacks|white people|asians|arabs|africans|mexicans|immigrants"
    r"|refugees|gays|lesbians|homosexuals|trans people|women|roma|gypsies|disabled people|foreigners)"
)
CATEGORIES: dict[str, dict[int, tuple[str, ...]]] = {
    "violence": {
        3: (
            rf"how (?:to|do i|can i) (?:kill|murder|strangle|stab|poison|torture|kidnap) {_WHOM}",
            rf"(?:i will|i'll|i am going to|i'm going to|gonna) (?:kill|murder|strangle|stab|shoot|behead) {_WHOM}",
            r"shoot up (?:a|the|my) (?:school|church|mosque|synagogue|office|mall|concert)",
            r"(?:plan|commit|carry out) a (?:mass shooting|massacre|school shooting|terror attack)",
        ),
        2: (
            r"behead(?:ed|ing|ings)?",
            r"dismember(?:ed|ing|ment)?",
            rf"(?:torture|slaughter|butcher|massacre)d? {_WHOM}",
            r"mass shooting",
            r"murder-suicide",
        ),
        1: (r"kill(?:s|ed|ing)?", r"murder(?:s|ed|ing|er)?", r"stab(?:s|bed|bing)?", r"assassinat(?:e|ed|ion)"),
    },
    "hate": {
        3: (
            rf"(?:kill|exterminate|gas|lynch|deport|eradicate) (?:all |the )(?:the )?{_GROUPS}",
            rf"{_GROUPS} are (?:all )?(?:vermin|subhuman|animals|parasites|cockroaches|filth)",
            rf"{_GROUPS} (?:do not|don't) deserve (?:to live|rights)",
        ),
        2: (r"white power", r"sieg heil", r"heil hitler", r"race war", r"master race", rf"i hate (?:all )?{_GROUPS}"),
        1: (r"ethnic cleansing", r"racial superiority", r"inferior race"),
    },
    "self_harm": {
        3: (
            r"how (?:to|do i|can i|should i) (?:kill myself|commit suicide|end my (?:own )?life|hang myself|overdose)",
            r"(?:best|easiest|painless|quickest) (?:way|method)s? to (?:die|kill (?:my|your)self|commit suicide)",
            r"(?:i want to|i'm going to|i am going to|i will) (?:kill myself|end my life|commit suicide)",
        ),
        2: (
            r"(?:commit|committing|committed) suicide",
            r"suicide (?:note|method|methods|pact|plan)",
            r"(?:cut|cutting|burn|burning|hurt|hurting|starve|starving) myself",
            r"self[- ]harm(?:ing)?",
        ),
        1: (r"suicid(?:e|al)", r"thinspo", r"pro-ana"),
    },
    "sexual": {
        3: (
            r"(?:child|kiddie|underage|preteen|minor) (?:porn|pornography|nudes|erotica)",
            r"sex(?:ual)? (?:acts? )?(?:content )?(?:with|of|involving) (?:a )?(?:child|children|minors?|kids?)",
            r"rape (?:porn|fantasy|fantasies)",
        ),
        2: (
            r"porn(?:o|ography|ographic)?",
            r"hardcore sex",
            r"(?:anal|oral|explicit) sex",
            r"blow ?job",
            r"hand ?job",
            r"gang ?bang",
            r"masturbat(?:e|es|ed|ing|ion)",
            r"nude (?:pics|pictures|photos)",
            r"erotic (?:story|roleplay|fiction)",
        ),
        1: (r"sex(?:y|ual)?", r"nude(?:s|ity)?", r"naked", r"erotic(?:a)?"),
    },
    "illegal_weapons": {
        3: (
            r"(?:make|build|assemble|cook) (?:a |an |some )?"
            r"(?:pipe bomb|nail bomb|bomb|explosives?|nerve agent|ghost gun|molotov(?: cocktail)?|sarin|ricin)",
            r"(?:buy|get|order) (?:a |an )?(?:untraceable|unregistered|illegal) (?:gun|firearm|weapon)",
        ),
        2: (r"pipe bomb", r"nerve agent", r"ghost gun", r"molotov cocktail", r"dirty bomb"),
        1: (r"explosives?", r"detonators?", r"silencers?"),
    },
}
"""Phrases by category and severity. `illegal_weapons` is on only where it is asked for."""
DEFAULT_CATEGORIES = ("violence", "hate", "self_harm", "sexual")


def luhn(text: str) -> bool:
    """Whether the digits of a text end in the check digit of ISO/IEC 7812."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return 12 < len(digits) < 20 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _phone(text: str) -> bool:
    return 7 <= sum(char.isdigit() for char in text) <= 15


_SPACED = r"(?<![\d-])(?:{0}\d{{2}}(?:[ -]?\d{{4}}){{3}})(?![\d-])"
_PREBUILT: dict[str, tuple[str, Callable[[str], bool] | None]] = {
    "email": (r"(?<![\w.%+-])[\w.%+-]{1,64}+@[A-Za-z0-9-]{1,63}+(?:\.[A-Za-z0-9-]{1,63}+){1,8}+", None),
    "phone": (r"(?<![\w.-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{3}\)|\d{3})[ .-]?\d{3}[ .-]\d{4}(?![\w-])|"
              r"(?<![\w.])\+\d{1,3}(?:[ .-]?+\d{2,4}+){2,5}+(?![\w-])", _phone),
    "credit_card": (r"(?<!\d)(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4}|\d{4}[ -]\d{6}[ -]\d{5}|\d{13,19}+)(?!\d)", luhn),
    "visa": (_SPACED.format(r"4\d"), luhn),
    "mastercard": (_SPACED.format(r"(?:5[1-5]|2[2-7])"), luhn),
    "amex": (r"(?<![\d-])3[47]\d{2}[ -]?\d{6}[ -]?\d{5}(?![\d-])", luhn),
    "us_ssn": (r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])", None),
    "ipv4": (r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\w|\.\d)", None),
    "aws_access_key": (r"(?<![A-Z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])", None),
    "github_token": (r"\b(?:ghp_|gho_|ghu_|ghs_|ghr_|github_pat_)[A-Za-z0-9_]{22,255}+", None),
    "openai_api_key": (r"(?<![\w-])sk-(?!ant-)[A-Za-z0-9_-]{20,200}+", None),
    "anthropic_api_key": (r"(?<![\w-])sk-ant-[A-Za-z0-9_-]{20,200}+", None),
    "google_api_key": (r"(?<![\w-])AIza[A-Za-z0-9_-]{35}(?![\w-])", None),
    "slack_token": (r"(?<![\w-])xox[abeoprs]-[A-Za-z0-9-]{10,250}+", None),
    "stripe_key": (r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,250}+", None),
    "jwt": (r"(?<![\w-])eyJ[\w-]{10,500}+\.eyJ[\w-]{10,2000}+\.[\w-]{10,1000}+", None),
    "private_key": (r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY-----", None),
}  # fmt: skip
_KEYS = ("aws_access_key", "github_token", "openai_api_key", "anthropic_api_key", "google_api_key", "slack_token",
         "stripe_key")  # fmt: skip
PREBUILT = _PREBUILT | {"api_key": ("|".join(f"(?:{_PREBUILT[name][0]})" for name in _KEYS), None)}
"""Named patterns, and what must hold of a match. `api_key` is all the vendors' keys in one."""


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
