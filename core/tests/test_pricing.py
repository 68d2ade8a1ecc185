"""Money: every cost is compared with a second computation in exact fractions of a dollar."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianji.errors import ConfigError
from tianji.model import Usage
from tianji.pricing import Price, PriceBook, bound, cost, custom

ROOT = Path(__file__).parents[2]
SONNET = {
    "litellm_provider": "anthropic",
    "mode": "chat",
    "input_cost_per_token": 3e-06,
    "output_cost_per_token": 1.5e-05,
    "cache_read_input_token_cost": 3e-07,
    "cache_creation_input_token_cost": 3.75e-06,
    "cache_creation_input_token_cost_above_1hr": 6e-06,
    "input_cost_per_token_above_200k_tokens": 6e-06,
    "output_cost_per_token_above_200k_tokens": 2.25e-05,
    "cache_read_input_token_cost_above_200k_tokens": 6e-07,
    "search_context_cost_per_query": {"search_context_size_medium": 0.01},
}


def book_of(entries: dict[str, Any], source: str = "prices.json") -> PriceBook:
    return PriceBook.parse(json.dumps(entries).encode(), source=source)


def price_of(**fields: Any) -> Price:
    price = custom(fields)
    assert price is not None
    return price


# -- the oracle: dollars as fractions, written from the rules and not from the code ---------------------------------


def half_up(dollars: Fraction) -> int:
    return floor(dollars * 10**9 + Fraction(1, 2))


def dollars(fields: dict[str, Any], usage: Usage) -> Fraction | None:
    """What the entry says the usage costs; None where it does not say."""
    seen = (usage.cache_read_tokens, usage.cache_write_tokens, usage.input_audio_tokens, usage.input_image_tokens)
    prompt = max(usage.input_tokens, sum(seen))

    def rate(name: str) -> Fraction | None:
        best = fields.get(name)
        for k in (100, 128, 200, 272, 512):
            if prompt > k * 1000:
                best = fields.get(f"{name}_above_{k}k_tokens", best)
        return None if best is None else Fraction(Decimal(repr(best)))

    def first(*rates: Fraction | None) -> Fraction | None:
        return next((r for r in rates if r is not None), None)

    given, made = rate("input_cost_per_token"), rate("output_cost_per_token")
    write = rate("cache_creation_input_token_cost")
    assumed_1h = first(write, given)
    if write is not None and given is not None and write > given:
        assumed_1h = given * 2
    five_minutes = usage.cache_write_tokens - usage.cache_write_1h_tokens
    lines = [
        (max(usage.input_tokens - sum(seen), 0), given),
        (usage.cache_read_tokens, first(rate("cache_read_input_token_cost"), given)),
        (five_minutes, first(write, given)),
        (usage.cache_write_1h_tokens, first(rate("cache_creation_input_token_cost_above_1hr"), assumed_1h)),
        (usage.input_audio_tokens, first(rate("input_cost_per_audio_token"), given)),
        (usage.input_image_tokens, first(rate("input_cost_per_image_token"), given)),
    ]
    spoken = (usage.reasoning_tokens, usage.output_audio_tokens, usage.output_image_tokens)
    names = ("output_cost_per_reasoning_token", "output_cost_per_audio_token", "output_cost_per_image_token")
    lines += [(max(usage.output_tokens - sum(spoken), 0), made)]
    lines += [(n, first(rate(name), made)) for n, name in zip(spoken, names, strict=True)]
    search = fields.get("search_context_cost_per_query")
    lines += [(usage.web_searches, None if search is None else Fraction(Decimal(repr(search))))]
    if any(n and r is None for n, r in lines):
        return None
    return sum((n * r for n, r in lines if r is not None), Fraction(0))


RATES = st.integers(0, 2_000_000).map(lambda n: n / 10**10)  # 0 to 200 dollars per million tokens, as floats
CLASSES = (
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
    "cache_creation_input_token_cost_above_1hr",
    "output_cost_per_reasoning_token",
    "input_cost_per_audio_token",
    "output_cost_per_audio_token",
    "input_cost_per_image_token",
    "output_cost_per_image_token",
    "search_context_cost_per_query",
    "input_cost_per_token_above_128k_tokens",
    "cache_read_input_token_cost_above_128k_tokens",
    "cache_creation_input_token_cost_above_1hr_above_128k_tokens",
    "output_cost_per_token_above_128k_tokens",
    "input_cost_per_token_above_272k_tokens",
)


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    fields = {"input_cost_per_token": draw(RATES), "output_cost_per_token": draw(RATES)}
    for name in CLASSES:
        if draw(st.booleans()):
            fields[name] = draw(RATES)
    return fields


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Totals that include their classes, as every provider's mapping is to make them."""

    def parts(total: int, n: int) -> list[int]:
        cuts = sorted(draw(st.lists(st.integers(0, total), min_size=n, max_size=n)))
        return [b - a for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]

    given, made = draw(st.integers(0, 600_000)), draw(st.integers(0, 200_000))
    read, written, heard, seen = parts(given, 4) if draw(st.booleans()) else [0] * 4
    thought, spoken, drawn = parts(made, 3) if draw(st.booleans()) else [0] * 3
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=draw(st.integers(0, written)),
        reasoning_tokens=thought,
        input_audio_tokens=heard,
        output_audio_tokens=spoken,
        input_image_tokens=seen,
        output_image_tokens=drawn,
        web_searches=draw(st.integers(0, 3)),
    )


@settings(deadline=None)
@given(fields=entries(), usage=usages())
def test_cost_is_exact_for_every_class_and_tier(fields: dict[str, Any], usage: Usage) -> None:
    expected = dollars(fields, usage)
    price = price_of(**fields)
    paid = cost(price, usage)
    if expected is None:
        assert paid.nano is None
        return
    assert paid.nano == half_up(expected)
    assert paid.price_version == price.version
    searches = Fraction(Decimal(repr(fields.get("search_context_cost_per_query", 0)))) * usage.web_searches
    assert paid.input_nano + paid.output_nano == half_up(expected - searches)
    assert paid.input_nano >= 0
    assert paid.output_nano >= 0


@settings(deadline=None)
@given(fields=entries(), usage=usages())
def test_bound_is_never_below_the_cost(fields: dict[str, Any], usage: Usage) -> None:
    price = price_of(**fields)
    most = bound(price, usage.input_tokens, usage.output_tokens)
    paid = cost(price, usage)
    assert most is not None
    if paid.nano is not None:
        searches = (price.search or 0) * usage.web_searches
        assert most + ceil(Fraction(searches, 10**6)) >= paid.nano


@settings(deadline=None)
@given(usage=usages(), seed=st.integers())
def test_sums_do_not_depend_on_the_order(usage: Usage, seed: int) -> None:
    prices = [price_of(**SONNET), price_of(input_cost_per_token=1.5e-07, output_cost_per_token=6e-07)]
    costs = [cost(price, usage).nano or 0 for price in prices * 20]
    shuffled = costs[:]
    random.Random(seed).shuffle(shuffled)
    assert sum(shuffled) == sum(costs)


# -- worked examples ---------------------------------------------------------------------------------------------------


def test_every_class_of_a_claude_call() -> None:
    usage = Usage(
        input_tokens=10_000,
        output_tokens=700,
        cache_read_tokens=4_000,
        cache_write_tokens=3_000,
        cache_write_1h_tokens=1_000,
        reasoning_tokens=200,
        web_searches=2,
    )
    paid = cost(price_of(**SONNET), usage)
    # 3000 plain at 3, 4000 read at 0.3, 2000 written at 3.75, 1000 for an hour at 6, 700 out at 15 $/Mtok; 2 searches.
    assert paid.input_nano == 9_000_000 + 1_200_000 + 7_500_000 + 6_000_000
    assert paid.output_nano == 10_500_000
    assert paid.nano == 34_200_000 + 20_000_000
    assert paid.usd == 0.0542


@pytest.mark.parametrize(("tokens", "dollars_per_million"), [(199_999, 3), (200_000, 3), (200_001, 6), (1_000_000, 6)])
def test_a_tier_begins_above_its_threshold_and_prices_the_whole_prompt(tokens: int, dollars_per_million: int) -> None:
    paid = cost(price_of(**SONNET), Usage(input_tokens=tokens, output_tokens=1_000))
    assert paid.input_nano == tokens * dollars_per_million * 1_000
    assert paid.output_nano == (15_000_000 if dollars_per_million == 3 else 22_500_000)


@pytest.mark.parametrize("total", [200_001, 0])
def test_cached_tokens_count_towards_the_threshold(total: int) -> None:
    usage = Usage(input_tokens=total, cache_read_tokens=200_001)
    assert cost(price_of(**SONNET), usage).nano == 200_001 * 600


@pytest.mark.parametrize(
    ("tokens", "field"),
    [
        ("cache_read_tokens", "cache_read_input_token_cost"),
        ("cache_write_tokens", "cache_creation_input_token_cost"),
        ("cache_write_1h_tokens", "cache_creation_input_token_cost_above_1hr"),
        ("input_audio_tokens", "input_cost_per_audio_token"),
        ("input_image_tokens", "input_cost_per_image_token"),
        ("reasoning_tokens", "output_cost_per_reasoning_token"),
        ("output_audio_tokens", "output_cost_per_audio_token"),
        ("output_image_tokens", "output_cost_per_image_token"),
    ],
)
def test_each_class_alone(tokens: str, field: str) -> None:
    price = price_of(input_cost_per_token=1e-6, output_cost_per_token=1e-6, **{field: 7e-6})
    usage = msgspec.convert({"input_tokens": 10, "output_tokens": 10, tokens: 3}, Usage)
    assert cost(price, usage).nano == 17_000 + 3 * 7_000


def test_a_class_that_a_tier_does_not_name_keeps_its_own_rate() -> None:
    usage = Usage(input_tokens=300_000, cache_write_tokens=300_000, cache_write_1h_tokens=100_000)
    assert cost(price_of(**SONNET), usage).nano == 200_000 * 3_750 + 100_000 * 6_000


def test_a_higher_tier_goes_on_from_the_one_below() -> None:
    price = price_of(
        input_cost_per_token=1e-6,
        output_cost_per_token=1e-6,
        input_cost_per_token_above_100k_tokens=2e-6,
        output_cost_per_token_above_200k_tokens=5e-6,
    )
    assert cost(price, Usage(input_tokens=200_001, output_tokens=1)).nano == 400_002_000 + 5_000


@pytest.mark.parametrize(("write", "hour"), [(None, "1e-6"), ("1.25e-6", "2e-6"), ("1e-6", "1e-6"), ("5e-7", "5e-7")])
def test_hourly_cache_writes_without_a_rate(write: str | None, hour: str) -> None:
    price = price_of(input_cost_per_token=1e-6, cache_creation_input_token_cost=write)
    usage = Usage(input_tokens=1_000, cache_write_tokens=1_000, cache_write_1h_tokens=1_000)
    assert cost(price, usage).nano == Fraction(hour) * 10**9 * 1_000


def test_classes_beyond_their_total_are_billed_and_the_rest_is_not_negative() -> None:
    price = price_of(input_cost_per_token=1e-6, output_cost_per_token=2e-6, cache_read_input_token_cost=5e-7)
    paid = cost(price, Usage(input_tokens=10, output_tokens=5, cache_read_tokens=100, reasoning_tokens=50))
    assert (paid.nano, paid.input_nano, paid.output_nano) == (150_000, 50_000, 100_000)
    broken = Usage(input_tokens=-5, output_tokens=-5, cache_read_tokens=-5, web_searches=-1)
    assert cost(price, broken).nano == 0


@pytest.mark.parametrize(
    ("rate", "tokens", "nano"), [("4e-10", 1, 0), ("5e-10", 1, 1), ("5e-10", 3, 2), ("1e-15", 1, 0)]
)
def test_rounding_is_half_up_and_once(rate: str, tokens: int, nano: int) -> None:
    price = price_of(input_cost_per_token=rate, output_cost_per_token=rate)
    assert cost(price, Usage(input_tokens=tokens)).nano == nano
    both = cost(price, Usage(input_tokens=tokens, output_tokens=tokens))
    assert both.nano == half_up(Fraction(rate) * 2 * tokens) == both.input_nano + both.output_nano


def test_a_rate_of_zero_is_a_price() -> None:
    free = price_of(input_cost_per_token=0, output_cost_per_token=0.0)
    assert cost(free, Usage(input_tokens=10, output_tokens=10)).nano == 0
    assert bound(free, 10, 10) == 0


def test_what_is_not_known_is_none_and_not_zero() -> None:
    usage = Usage(input_tokens=10, output_tokens=10)
    price = price_of(input_cost_per_token=1e-6)
    assert cost(None, usage).nano is None
    assert cost(None, None).usd is None
    assert cost(price, None).nano is None
    assert cost(price, usage).nano is None  # no output rate, and output tokens
    assert cost(price, usage).price_version == price.version
    assert cost(price, Usage(input_tokens=10)).nano == 10_000
    assert cost(price, Usage(input_tokens=10, web_searches=1)).nano is None
    assert bound(None, 1, 1) is None
    assert bound(price, 10, 10) is None
    assert bound(price, 10, 0) == 10_000
    assert custom({"model": "x", "rpm": 5, "input_cost_per_token": None}) is None


def test_bound_takes_the_dearest_rate_and_rounds_up() -> None:
    price = price_of(input_cost_per_token=1e-6, output_cost_per_token=2e-6, output_cost_per_audio_token=8e-6)
    assert bound(price, 100, 10) == 100_000 + 80_000
    assert bound(price_of(input_cost_per_token="1e-12", output_cost_per_token=0), 1, 0) == 1
    tiers = {"input_cost_per_token": 1e-6, "input_cost_per_token_above_200k_tokens": 2e-6, "output_cost_per_token": 0}
    assert bound(price_of(**tiers), 200_000, 0) == 200_000_000
    assert bound(price_of(**tiers), 200_001, 0) == 400_002_000
    hour = price_of(input_cost_per_token=1e-6, output_cost_per_token=0, cache_creation_input_token_cost=1.25e-6)
    assert bound(hour, 100, 0) == 200_000
    assert bound(price, -1, -1) == 0


def test_units_are_billed_where_tokens_are_not() -> None:
    whisper = price_of(input_cost_per_second="0.0001")
    assert cost(whisper, None, {"input_cost_per_second": 12.5}).nano == 1_250_000
    assert cost(whisper, Usage(input_tokens=9), {"input_cost_per_second": 2}).nano == 200_000
    assert cost(whisper, Usage(input_tokens=9)).nano is None
    assert cost(whisper, None, {"output_cost_per_image": 1}).nano is None
    assert bound(whisper, 1, 1) is None
    both = price_of(input_cost_per_token=1e-6, output_cost_per_token=1e-6, output_cost_per_image=0.04)
    images = {"output_cost_per_image": 2}
    assert cost(both, Usage(input_tokens=5, output_tokens=5), images).nano == 10_000
    assert cost(both, None, images).nano == 80_000_000
    assert cost(both, Usage(), {"output_cost_per_second": 2}).nano is None


def test_a_fee_per_request() -> None:
    rerank = price_of(input_cost_per_query=0.002)
    assert cost(rerank, Usage()).nano == 2_000_000
    assert cost(rerank, None).nano is None
    assert bound(rerank, 10, 0) == 2_000_000
    fee = price_of(input_cost_per_token=1e-6, output_cost_per_token=1e-6, input_cost_per_request=0.005)
    paid = cost(fee, Usage(input_tokens=1, output_tokens=1))
    assert (paid.nano, paid.input_nano, paid.output_nano) == (5_002_000, 1_000, 1_000)


def test_tiered_pricing_as_a_list_of_ranges() -> None:
    steps = [
        {"range": [0, 32000.0], "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
        {"range": [32000.0, 128000.0], "input_cost_per_token": 3e-6, "output_cost_per_token": 4e-6},
    ]
    price = price_of(tiered_pricing=steps)
    assert cost(price, Usage(input_tokens=32_000, output_tokens=1)).nano == 32_002_000
    assert cost(price, Usage(input_tokens=32_001, output_tokens=1)).nano == 96_007_000


# -- reading numbers and files -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.decimals(min_value=0, max_value=1, places=15))
def test_a_rate_is_what_was_written(rate: Decimal) -> None:
    expected = int(rate * 10**15)
    assert price_of(input_cost_per_token=str(rate)).input == expected
    written = json.loads(format(float(rate), ".15g"))
    if Decimal(repr(written)) == rate:
        assert price_of(input_cost_per_token=written).input == expected


def test_float_noise_below_a_femto_dollar_is_rounded() -> None:
    assert price_of(input_cost_per_token=2.9999999999999997e-06).input == 3_000_000_000


BAD = [-1e-6, "-1e-6", True, "", "free", "NaN", "Infinity", [], {}, 1.5, "2", 10**400, "1e-16", "1e-999999999"]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:12])
@pytest.mark.parametrize("field", ["output_cost_per_token", "input_cost_per_token_above_128k_tokens"])
def test_a_bad_rate_rejects_the_whole_file_and_names_the_place(field: str, bad: Any) -> None:
    entries = {"gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 1e-6, field: bad}, "good": SONNET}
    with pytest.raises(ConfigError) as caught:
        book_of(entries, source="mine.json")
    assert caught.value.path == f"mine.json['gpt-4o'].{field}"
    if bad != {}:
        with pytest.raises(ConfigError, match=field):
            custom({field: bad})


def test_yaml_nan_and_infinity_are_no_prices() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            custom({"input_cost_per_token": bad})


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"", "f"),
        (b"[]", "f"),
        (b'{"a": ', "f"),
        (b"\xff\xfe", "f"),
        (b"[" * 100_000, "f"),
        (b'{"a": 1}', "f['a']"),
        (b'{"a": {"litellm_provider": 1}}', "f['a'].litellm_provider"),
        (b'{"a": {"litellm_provider": "x", "mode": []}}', "f['a'].mode"),
        (b'{"a": {"litellm_provider": "x", "max_input_tokens": "many"}}', "f['a'].max_input_tokens"),
        (b'{"a": {"litellm_provider": "x", "max_output_tokens": -1}}', "f['a'].max_output_tokens"),
        (b'{"a": {"litellm_provider": "x", "input_cost_per_second": 1001}}', "f['a'].input_cost_per_second"),
        (b'{"a": {"litellm_provider": "x", "tiered_pricing": 1}}', "f['a'].tiered_pricing"),
        (b'{"a": {"litellm_provider": "x", "tiered_pricing": [{"range": 5}]}}', "f['a'].tiered_pricing[0].range"),
        (
            b'{"a": {"litellm_provider": "x", "search_context_cost_per_query": {"search_context_size_low": -1}}}',
            "f['a'].search_context_cost_per_query.search_context_size_low",
        ),
        (b'{"a": {"input_cost_per_token": 1e-6}}', "f['a']"),
    ],
)
def test_malformed_files_are_rejected_whole(data: bytes, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PriceBook.parse(data, source="f")
    assert caught.value.path == path


def test_entries_that_are_no_models_are_left_out() -> None:
    book = book_of({"sample_spec": {"max_tokens": "a description"}, "notes": {"rules": []}, "x/y": {"mode": "chat"}})
    assert len(book) == 1
    assert book.find("x", "y") is None  # known, and without a price


# -- looking up --------------------------------------------------------------------------------------------------------


def flat(rate: float, provider: str, **more: Any) -> dict[str, Any]:
    return {"litellm_provider": provider, "input_cost_per_token": rate, "output_cost_per_token": rate, **more}


BOOK = book_of(
    {
        "gpt-4o": flat(1e-6, "openai"),
        "gpt-4o-2024-05-13": flat(2e-6, "openai"),
        "ft:gpt-4o-2024-08-06": flat(3e-6, "openai"),
        "azure/gpt-4o": flat(4e-6, "azure"),
        "groq/openai/gpt-oss-20b": flat(5e-6, "groq"),
        "anthropic.claude-x-v1:0": flat(6e-6, "bedrock_converse"),
        "eu.anthropic.claude-x-v1:0": flat(7e-6, "bedrock"),
        "deepseek-chat": flat(8e-6, "deepseek"),
        "deepseek/deepseek-chat": flat(9e-6, "deepseek"),
        "claude-y": flat(1e-5, "vertex_ai-anthropic_models"),
        "ollama/*": flat(0, "ollama"),
    }
)


@pytest.mark.parametrize(
    ("provider", "model", "base", "micro"),
    [
        ("openai", "gpt-4o", None, 1),
        ("openai", "openai/gpt-4o", None, 1),
        ("openai", "gpt-4o-2024-05-13", None, 2),
        ("openai", "gpt-4o-2030-01-01", None, None),
        ("openai", "gpt-4o-2030-01-01", "gpt-4o", 1),
        ("openai", "ft:gpt-4o-2024-08-06:acme::abc", None, 3),
        ("azure", "gpt-4o", None, 4),
        ("azure", "my-deployment", None, None),
        ("azure", "my-deployment", "gpt-4o", 4),
        ("azure", "my-deployment", "azure/gpt-4o", 4),
        ("azure", "gpt-4o", "unheard-of", None),
        ("hosted_vllm", "mine", "openai/gpt-4o", 1),
        ("hosted_vllm", "mine", "gpt-4o", 1),
        ("hosted_vllm", "gpt-4o", None, None),
        ("groq", "openai/gpt-oss-20b", None, 5),
        ("openai", "gpt-oss-20b", None, None),
        ("bedrock", "anthropic.claude-x-v1:0", None, 6),
        ("bedrock", "us.anthropic.claude-x-v1:0", None, 6),
        ("bedrock", "global.anthropic.claude-x-v1:0", None, 6),
        ("bedrock", "converse/apac.anthropic.claude-x-v1:0", None, 6),
        ("bedrock", "eu.anthropic.claude-x-v1:0", None, 7),
        ("bedrock", "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-x-v1:0", None, 7),
        ("bedrock", "us-gov.anthropic.claude-x-v1:0", None, None),
        ("deepseek", "deepseek-chat", None, 9),
        ("vertex_ai", "claude-y", None, 10),
        ("ollama", "qwen3:8b", None, 0),
        ("ollama_chat", "anything", None, 0),
    ],
)
def test_find(provider: str, model: str, base: str | None, micro: int | None) -> None:
    price = BOOK.find(provider, model, base)
    assert (None if price is None else price.input) == (None if micro is None else micro * 10**9)


def test_the_key_with_the_provider_counts_wherever_it_stands() -> None:
    book = book_of({"p/m": flat(1e-6, "p"), "m": flat(2e-6, "p")})
    assert book.find("p", "m") == book.find("p", "p/m")
    assert book.info("p", "m")["input_cost_per_token"] == 1e-6


def test_models_and_info() -> None:
    assert BOOK.models("openai") == ("ft:gpt-4o-2024-08-06", "gpt-4o", "gpt-4o-2024-05-13")
    assert BOOK.models("bedrock") == ("anthropic.claude-x-v1:0", "eu.anthropic.claude-x-v1:0")
    assert BOOK.models("ollama") == BOOK.models("nobody") == ()
    book = book_of({"m": flat(1e-6, "p", mode="chat", max_input_tokens=8, supports_vision=True)})
    info = book.info("p", "m")
    assert (info["mode"], info["max_input_tokens"], info["supports_vision"]) == ("chat", 8, True)
    assert not book.info("p", "other")
    with pytest.raises(TypeError):
        info["mode"] = "x"  # type: ignore[index]


def test_versions_name_the_file_and_the_entry() -> None:
    price = BOOK.find("azure", "x", "gpt-4o")
    assert price is not None
    assert price.version == f"{BOOK.version}:azure/gpt-4o"
    assert len(BOOK.version) == 12
    assert price_of(input_cost_per_token=1).version == price_of(input_cost_per_token=1, rpm=9).version
    assert price_of(input_cost_per_token=1).version != price_of(input_cost_per_token="0.5").version


def test_a_merge_or_a_reload_leaves_the_old_book_as_it_was() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=1_000)
    held = BOOK.find("deepseek", "deepseek-chat")
    before = cost(held, usage)
    version, size = BOOK.version, len(BOOK)
    mine = book_of({"deepseek-chat": flat(1e-4, "deepseek"), "new": flat(1e-4, "openai")})
    merged = BOOK.merge(mine)
    changed = merged.find("deepseek", "deepseek-chat")
    assert cost(changed, usage).nano == 200_000_000
    assert merged.find("openai", "gpt-4o") == BOOK.find("openai", "gpt-4o")
    assert merged.version not in (BOOK.version, mine.version)
    assert (BOOK.version, len(BOOK)) == (version, size)
    assert BOOK.find("openai", "new") is None
    assert BOOK.find("deepseek", "deepseek-chat") is held
    assert cost(held, usage) == before
    with pytest.raises(ConfigError):
        book_of({"deepseek-chat": flat(-1, "deepseek")})
    assert cost(BOOK.find("deepseek", "deepseek-chat"), usage) == before


# -- the packaged book -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o"),
        ("openai", "gpt-4o-mini"),
        ("openai", "text-embedding-3-small"),
        ("azure", "gpt-4o"),
        ("anthropic", "claude-sonnet-4-5"),
        ("anthropic", "claude-haiku-4-5"),
        ("gemini", "gemini-2.5-flash"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("bedrock", "us.amazon.nova-pro-v1:0"),
        ("bedrock", "us.meta.llama3-3-70b-instruct-v1:0"),
        ("groq", "openai/gpt-oss-120b"),
        ("groq", "meta-llama/llama-prompt-guard-2-86m"),
        ("mistral", "mistral-large-latest"),
        ("deepseek", "deepseek-chat"),
        ("echo", "echo"),
    ],
)
def test_the_packaged_book_has_the_models_that_everybody_asks_for(provider: str, model: str) -> None:
    price = PriceBook.packaged().find(provider, model)
    assert price is not None
    assert cost(price, Usage(input_tokens=1_000)).nano
    assert PriceBook.packaged().info(provider, model)["mode"] in ("chat", "embedding")


def test_known_list_prices() -> None:
    book = PriceBook.packaged()
    assert cost(book.find("openai", "gpt-4o"), Usage(input_tokens=10**6, output_tokens=10**6)).nano == 12_500_000_000
    assert cost(book.find("openai", "text-embedding-3-small"), Usage(input_tokens=10**6)).nano == 20_000_000
    assert cost(book.find("echo", "any"), Usage(input_tokens=1, output_tokens=1)).nano == 3_000
    assert cost(book.find("ollama", "qwen3:8b"), Usage(input_tokens=9, output_tokens=9)).nano == 0
    assert book.find("openai", "no-such-model") is None


def test_every_packaged_entry_has_a_whole_price() -> None:
    book = PriceBook.packaged()
    assert book is PriceBook.packaged()
    providers = {"anthropic", "azure", "bedrock", "deepseek", "gemini", "groq", "mistral", "openai"}
    for provider in providers:
        assert book.models(provider)
        for model in book.models(provider):
            price = book.find(provider, model)
            assert price is not None, (provider, model)
            mode = book.info(provider, model)["mode"]
            usage = Usage(input_tokens=10**6, output_tokens=0 if mode == "embedding" else 10**6)
            assert cost(price, usage).nano is not None, (provider, model)
            most = bound(price, usage.input_tokens, usage.output_tokens)
            assert most is not None
            assert most >= (cost(price, usage).nano or 0)


def test_the_packaged_file_is_compact_and_sorted() -> None:
    data = (ROOT / "core/tianji/prices.json").read_bytes()
    assert len(data) < 300_000
    keys = list(json.loads(data))
    assert keys == sorted(keys)
    assert data.count(b"\n") == len(keys) + 2


def test_importing_reads_no_price_file() -> None:
    program = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import tianji.pricing
assert not [name for name in opened if "prices.json" in name], opened
tianji.pricing.PriceBook.packaged()
assert [name for name in opened if "prices.json" in name]
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_selection_script(tmp_path: Path) -> None:
    raw = {
        "sample_spec": {"mode": "one of"},
        "gpt-z": flat(2e-6, "openai", mode="chat", comment="prose", input_cost_per_token_batches=1e-6, source="u?q=1"),
        "gpt-old": flat(2e-6, "openai", mode="chat", deprecation_date="2025-12-31"),
        "dall-e": flat(2e-6, "openai", mode="image_generation"),
        "gemini/song": flat(0, "gemini", mode="chat", output_cost_per_image=0.04),
        "deepseek-z": flat(2e-6, "deepseek", mode="chat", cache_creation_input_token_cost=0.0),
        "amazon.z": flat(2e-6, "bedrock_converse", mode="chat"),
        "global.amazon.z": flat(2e-6, "bedrock_converse", mode="chat"),
        "eu.amazon.z": flat(3e-6, "bedrock_converse", mode="chat"),
        "bedrock/us-east-1/amazon.z": flat(3e-6, "bedrock", mode="chat"),
        "together_ai/x": flat(3e-6, "together_ai", mode="chat"),
    }
    source = tmp_path / "raw.json"
    source.write_text(json.dumps(raw))
    script = [sys.executable, str(ROOT / "tools/prices.py"), str(source)]
    out = subprocess.run(script, check=True, capture_output=True).stdout
    entries = json.loads(out)
    assert list(entries) == ["amazon.z", "deepseek-z", "echo/*", "echo/echo", "eu.amazon.z", "gpt-z", "ollama/*"]
    assert entries["gpt-z"] == flat(2e-6, "openai", mode="chat", source="u")
    assert "cache_creation_input_token_cost" not in entries["deepseek-z"]
    book = PriceBook.parse(out, source="out")
    assert book.find("bedrock", "global.amazon.z") == book.find("bedrock", "amazon.z")
