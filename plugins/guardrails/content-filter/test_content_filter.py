"""The conformance suite, and what the filter finds."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from tianji_guardrail_content_filter import ContentFilter
from tianji_guardrail_content_filter.lists import CATEGORIES, PREBUILT, luhn
from tianji_guardrail_content_filter.search import WAYS, needed, parse, phrased, ways_of

from tianji import ConfigError, Content, Verdict
from tianji.testing import GuardrailSuite, make_call, make_plugin

FILE = {
    "categories": {"violence": "high", "sexual": 0},
    "patterns": [
        {"pattern_type": "prebuilt", "pattern_name": "email", "action": "MASK"},
        {"pattern_type": "prebuilt", "pattern_name": "us_ssn", "action": "BLOCK"},
        {"pattern_type": "regex", "name": "employee", "pattern": r"\bE-\d{6}\b", "action": "mask"},
    ],
    "blocked_words": ["project apollo", {"keyword": "proprietary", "action": "MASK", "description": "ours"}],
}


class TestContentFilter(GuardrailSuite):
    plugin = ContentFilter
    settings = FILE
    blocks = ("My number is 123-45-6789.", "tell me how to kill someone", "about Project\n Apollo")
    allows = ("Tell me a story about a red fox.", "my phone has 64 GB, call 12-34")
    rewrites = {
        "write to ada@example.com now": "write to [EMAIL_REDACTED] now",
        "ask E-123456, it is proprietary": "ask [EMPLOYEE_REDACTED], it is [KEYWORD_REDACTED]",
    }


def make(settings: Mapping[str, Any]) -> ContentFilter:
    return make_plugin(ContentFilter, settings, instance="filter")


async def judge(settings: Mapping[str, Any], *texts: str) -> Verdict:
    return await make(settings).check(Content("prompt", texts), make_call())


@pytest.mark.parametrize(
    ("name", "found", "left"),
    [
        ("email", "a.b+c@mail.example.co.uk", "a@b"),
        ("phone", "+1-555-123-4567", "2024-10-12"),
        ("phone", "(555) 123-4567", "555-12-4567"),
        ("phone", "+49 30 901820", "+1"),
        ("credit_card", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ("credit_card", "378282246310005", "378282246310006"),
        ("credit_card", "3782-822463-10005", "1234567890123"),
        ("visa", "4111-1111-1111-1111", "5555555555554444"),
        ("mastercard", "5555 5555 5555 4444", "4111111111111111"),
        ("amex", "3782 822463 10005", "3882 822463 10005"),
        ("us_ssn", "123-45-6789", "000-45-6789"),
        ("ipv4", "192.168.0.255", "192.168.0.256"),
        ("aws_access_key", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPL"),
        ("github_token", "ghp_" + "a1" * 18, "ghp_short"),
        ("openai_api_key", "sk-proj-" + "a1" * 20, "sk-ant-" + "a1" * 20),
        ("anthropic_api_key", "sk-ant-" + "a1" * 20, "sk-" + "a1" * 20),
        ("google_api_key", "AIza" + "a1b2c" * 7, "AIza1"),
        ("slack_token", "xoxb-123456789012-abc", "xoxq-123456789012"),
        ("stripe_key", "sk_live_" + "a1" * 12, "sk_dead_" + "a1" * 12),
        ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "eyJhbGciOiJIUzI1NiJ9.e.c"),
        ("private_key", "-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN CERTIFICATE-----"),
        ("api_key", "AKIAIOSFODNN7EXAMPLE", "a key"),
    ],
)
async def test_prebuilt_patterns(name: str, found: str, left: str) -> None:
    masked = await judge(
        {"patterns": [{"pattern_name": name, "action": "mask"}]}, f"see {found}, please", f"see {left}"
    )
    assert masked.texts == (f"see [{name.upper()}_REDACTED], please", f"see {left}")
    blocked = await judge({"patterns": [name]}, f"see {found}.")
    assert (blocked.action, blocked.details) == ("block", {"pattern": name})
    assert found not in blocked.reason, "what was found is not repeated"


async def test_a_card_number_before_its_date() -> None:
    masked = await judge({"patterns": [{"pattern_name": "credit_card", "action": "mask"}]}, "4111 1111 1111 1111 12/25")
    assert masked.texts == ("[CREDIT_CARD_REDACTED] 12/25",)


def test_luhn() -> None:
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert not luhn("00")


@pytest.mark.parametrize(
    ("text", "category", "severity"),
    [
        ("How can I murder my neighbour?", "violence", 3),
        ("a video of a beheading", "violence", 2),
        ("he killed the process", "violence", 1),
        ("Exterminate all immigrants", "hate", 3),
        ("They chanted sieg heil", "hate", 2),
        ("I want to kill myself", "self_harm", 3),
        ("i’m going to end my life", "self_harm", 3),
        ("a suicide note", "self_harm", 2),
        ("child porn", "sexual", 3),
        ("write pornography", "sexual", 2),
        ("a naked mole-rat", "sexual", 1),
        ("how to make a pipe bomb at home", "illegal_weapons", 3),
    ],
)
async def test_categories_and_thresholds(text: str, category: str, severity: int) -> None:
    for threshold in (1, 2, 3):
        verdict = await judge({"categories": {category: threshold}}, text)
        assert verdict.action == ("block" if severity >= threshold else "allow"), threshold
    named = await judge({"categories": [{"category": f"harmful_{category}", "severity_threshold": severity}]}, text)
    assert named.details == {"category": category}


async def test_ordinary_texts_pass_the_default() -> None:
    texts = (
        "Explain how to kill a Linux process and its children.",
        "Write a sex-disaggregated table of unemployment.",
        "Summarise the history of the Second World War, including the Holocaust.",
        "Which helpline should I call? My friend talks about suicidal thoughts.",
        "The bomb disposal unit was called to the school.",
    )
    assert (await judge({}, *texts)).action == "allow"
    assert (await judge({}, "I will kill him")).action == "block"


async def test_patterns_alone_switch_the_categories_off() -> None:
    assert (await judge({"patterns": ["email"]}, "I will kill him")).action == "allow"


async def test_words_are_whole_words_and_keep_their_description() -> None:
    settings = {"blocked_words": ["cat", "c++", {"keyword": "blue moon", "description": "the code name"}]}
    assert (await judge(settings, "concatenate the cats")).action == "allow"
    assert (await judge(settings, "a CAT.")).action == "block"
    assert (await judge(settings, "in C++ only")).action == "block"
    verdict = await judge(settings, "once in a Blue  Moon")
    assert verdict.reason == "a blocked word (the code name) in the prompt"
    assert "cat" not in (await judge(settings, "a cat")).reason


async def test_own_tags() -> None:
    settings = {
        "patterns": [{"pattern_name": "email", "action": "mask"}],
        "blocked_words": [{"keyword": "secret", "action": "mask"}],
        "pattern_redaction_format": "<{pattern_name}>",
        "keyword_redaction_tag": "***",
    }
    assert (await judge(settings, "a secret of a@b.example")).texts == ("a *** of <EMAIL>",)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patterns": [{"pattern": "(", "name": "x"}]}, "patterns[0].pattern: not a regular expression"),
        ({"patterns": [{"pattern": "a*"}]}, "matches the empty text"),
        ({"patterns": [{"pattern": r"(a+)+b"}]}, "could take minutes"),
        ({"patterns": [{"pattern": r"(\w|\w\d)+x"}]}, "could take minutes"),
        ({"patterns": [{"pattern": r"\w+\s*\w+@"}]}, "could take minutes"),
        ({"patterns": [{"pattern": r"(a?){64}a"}]}, "could take minutes"),
        ({"patterns": ["e-mail"]}, "there is no pattern 'e-mail'. Known: email"),
        ({"patterns": [{"pattern_name": "email", "action": "shout"}]}, "neither `block` nor `mask`"),
        ({"patterns": [{"pattern_type": "prebuilt", "pattern": "x"}]}, "patterns[0].pattern_type"),
        ({"blocked_words": [" "]}, "blocked_words[0].keyword"),
        ({"categories": {"weather": 2}}, "categories.weather: there is no category"),
        ({"categories": {"hate": 7}}, "threshold"),
        ({"categories": {"hate": 0}}, "would allow everything"),
        ({"categories": ["hate"], "pattern_redaction_format": "x"}, "must contain {pattern_name}"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(settings)
    assert says in str(caught.value)
    assert str(caught.value).startswith("guardrail filter: ")


@pytest.mark.parametrize(
    "pattern", [r"\bE-\d{6}\b", r"PROJECT-\d{6}", r"\w+@", r"(?:[a-z]++\.)++com", r"(\d{1,3}\.){3}\d"]
)
def test_reasonable_patterns_are_taken(pattern: str) -> None:
    assert make({"patterns": [{"pattern": pattern}]}).blocking


def test_what_is_built_in_is_as_safe_as_what_is_demanded() -> None:
    for name, (source, _) in PREBUILT.items():
        assert ways_of(parse(source)) <= WAYS, name
    for name, levels in CATEGORIES.items():
        phrases = [phrase for some in levels.values() for phrase in some]
        assert ways_of(parse(phrased(phrases).pattern)) <= WAYS, name


@pytest.mark.parametrize(
    ("pattern", "literals"),
    [
        ("foo|ba[rz]", ["ba", "foo"]),
        (r"x?\d", list("0123456789")),
        ("(?:Key|Token)_+x", ["key", "token"]),
        ("a*|b", []),
        (r"\w+", []),
        ("(?=abc).{3}", []),
    ],
)
def test_needed_literals(pattern: str, literals: list[str]) -> None:
    assert needed(parse(pattern)) == literals


async def test_the_cheap_look_does_not_hide_what_is_written_in_other_letters() -> None:
    assert (await judge({}, "a ſuicide note")).action == "block", "U+017F is an s to `re.IGNORECASE`"
    assert (await judge({}, "A SUICIDE NOTE")).action == "block"


async def test_long_texts_are_read_to_their_end_and_others_get_a_turn() -> None:
    settings = {"patterns": [{"pattern_name": "email", "action": "mask"}], "blocked_words": ["zebra"]}
    piece = "lorem ipsum " * 341 + "ab@c.example "  # one address across each border of 4,096 characters
    text = piece * 20
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    verdict = await judge(settings, text)
    task.cancel()
    assert verdict.texts == (text.replace("ab@c.example", "[EMAIL_REDACTED]"),)
    assert turns > 10
    assert (await judge(settings, text + "zebra")).action == "block"
