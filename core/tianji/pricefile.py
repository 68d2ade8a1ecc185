"""One entry of a price file: what its fields mean, whether they are sound, and the exact `Price` they make.

The format is LiteLLM's `model_prices_and_context_window.json`
(https://docs.litellm.ai/docs/provider_registration/add_model_pricing). Rates are US dollars there, as floats or
numeric strings; here they are integer femto-dollars (1e-15 USD), fine enough for every published per-token price.
Batch, flex, priority and off-peak rates are fields that nothing reads: see `tianji.pricing`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from tianji.errors import ConfigError

MAX_PER_TOKEN = 1.0
MAX_PER_UNIT = 1_000.0
"""USD. A rate above these is a slip of units (dollars per million tokens in a per-token field), and an error."""

TOKEN_FIELDS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
    "input_cost_per_image_token": "input_image",
    "output_cost_per_image_token": "output_image",
}
_CACHE_HIT = "input_cost_per_token_cache_hit"  # older spelling of the price of a cached read
_SEARCH = "search_context_cost_per_query"
_TIERED = "tiered_pricing"
_REQUEST = ("input_cost_per_query", "input_cost_per_request")
_TIER = re.compile(r"(.+)_above_(\d{1,6})k_tokens")
_UNIT = re.compile(r"\w*cost_per_(?:image|pixel|character|page|session|(?:audio_per_|video_per_)?second)")


class Tier(msgspec.Struct, frozen=True):
    """The rates of a call whose whole prompt has more than `above` input tokens."""

    above: int
    price: Price
    """Complete: the classes that the tier does not name have the base rate. Its own `tiers` is empty."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Rates in femto-dollars per token. None: no rate of its own, and what that means is said at each class."""

    input: int | None = None
    """None: unknown, unless `units` or `request` is all there is to pay."""
    output: int | None = None
    """None: unknown, as for `input`; harmless where no output token is ever reported (embeddings)."""
    cache_read: int | None = None
    """None: as `input`."""
    cache_write: int | None = None
    """Five-minute lifetime. None: as `input`."""
    cache_write_1h: int | None = None
    """None: twice `input` where `cache_write` costs more than `input` (such a provider bills lifetimes at 1.25 and
    2 times the input rate), else as `cache_write`."""
    reasoning: int | None = None
    """None, as for the next four: the rate of plain input or output."""
    input_audio: int | None = None
    output_audio: int | None = None
    input_image: int | None = None
    output_image: int | None = None
    search: int | None = None
    """Femto-dollars per web search. None: unknown."""
    request: int = 0
    """Femto-dollars per answered call, whatever its size."""
    units: Mapping[str, int] = {}
    """Femto-dollars per image, second, character, page or session, by the format's field name."""
    tiers: tuple[Tier, ...] = ()
    """By ascending threshold."""
    version: str = ""
    """`<content hash of the price file>:<entry>`: what is needed to compute the same number again."""

    @property
    def units_only(self) -> bool:
        """Tokens are not what this model is billed by."""
        return self.input is None and self.output is None

    def at(self, input_tokens: int) -> Price:
        """The rates for a prompt of that many tokens. The threshold itself still has the lower tier's."""
        price = self
        for tier in self.tiers:
            if input_tokens <= tier.above:
                break
            price = tier.price
        return price

    def write_1h(self) -> int | None:
        """The rate of one-hour cache writes, with its fallback."""
        if self.cache_write_1h is not None:
            return self.cache_write_1h
        if self.cache_write is None or self.input is None:
            return self.cache_write if self.cache_write is not None else self.input
        return 2 * self.input if self.cache_write > self.input else self.cache_write


PRICE_KINDS = frozenset({"token", "unit", "search", "tiered"})


def _kind_of(field: str) -> str:
    tier = _TIER.fullmatch(field)
    if (tier[1] if tier else field) in TOKEN_FIELDS or field == _CACHE_HIT:
        return "token"
    if field in _REQUEST or _UNIT.fullmatch(field):
        return "unit"
    if field.startswith("max_") and field.endswith("tokens"):
        return "count"
    if field in ("litellm_provider", "mode"):
        return "text"
    return {_SEARCH: "search", _TIERED: "tiered"}.get(field, "")


class _Kinds(dict[str, str]):
    """How each field is read; empty for a field that is only kept. Filled as names are met, and bounded."""

    def __missing__(self, field: str) -> str:
        if len(self) > 4096:
            self.clear()
        kind = self[field] = _kind_of(field)
        return kind


KINDS = _Kinds()


def check(fields: dict[str, Any], path: str) -> bool:
    """Validate one entry; say whether it has a price. `path` goes before the field's name in errors.

    Raises:
        ConfigError: With the field's path.
    """
    priced, kinds = False, KINDS
    for name, value in fields.items():
        kind = kinds[name]
        if not kind or value is None:
            continue
        if kind == "token":
            priced = True
            if type(value) is not float or not 1e-12 <= value <= MAX_PER_TOKEN:  # most pass unconverted
                _femto(value, MAX_PER_TOKEN, path + name)
        elif kind == "count":
            if type(value) is int and value >= 0:
                continue
            if type(value) is not float or value < 0 or not value.is_integer():
                raise ConfigError(f"must be a number of tokens, not {value!r:.80}", path=path + name)
        elif kind == "text":
            if type(value) is not str:
                raise ConfigError(f"must be a string, not {value!r:.80}", path=path + name)
        else:
            priced = True
            _check_other(kind, value, path + name)
    return priced


def _check_other(kind: str, value: Any, path: str) -> None:
    if kind == "unit":
        _femto(value, MAX_PER_UNIT, path)
    elif kind == "search":
        for size, amount in (value if isinstance(value, dict) else {"": value}).items():
            if type(amount) is not float or not 1e-12 <= amount <= MAX_PER_UNIT:
                _femto(amount, MAX_PER_UNIT, f"{path}.{size}" if size else path)
    elif not isinstance(value, list) or not all(isinstance(step, dict) for step in value):
        raise ConfigError("must be a list of objects", path=path)
    else:
        for index, step in enumerate(value):
            check(step, f"{path}[{index}].")
            span = step.get("range")
            start = span[0] if isinstance(span, list) and span else None
            if "range" in step and not (isinstance(start, int | float) and 0 <= start < 1e9):
                raise ConfigError(f"must be [from, to], not {span!r:.80}", path=f"{path}[{index}].range")


def _femto(value: Any, limit: float, path: str) -> int:
    """USD as a float, an integer or a numeric string, in femto-dollars.

    The decimal digits as written are what counts, so 0.00000015 is 150000000 exactly. Digits below a femto-dollar
    (float noise such as 2.9999999999999997e-06) are rounded away; a price that is not zero never becomes zero.
    """
    if type(value) not in (float, int, str):
        raise ConfigError(f"must be a number, not {value!r:.80}", path=path)
    try:
        amount = Decimal(repr(value) if type(value) is float else value)
        if not amount.is_finite() or amount < 0:
            raise ConfigError(f"must be zero or more, not {amount:.6g}", path=path)
        if amount > limit:
            raise ConfigError(f"{amount:.6g} USD is absurd (the limit is {limit:g})", path=path)
        femto = int(amount.scaleb(15).to_integral_value())
    except (ArithmeticError, ValueError):
        raise ConfigError(f"must be a number, not {value!r:.80}", path=path) from None
    if amount and not femto:
        raise ConfigError(f"{amount:.6g} USD is too small to be a price", path=path)
    return femto


def _rates(fields: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    return {
        name: _femto(fields[field + suffix], MAX_PER_TOKEN, field + suffix)
        for field, name in TOKEN_FIELDS.items()
        if fields.get(field + suffix) is not None
    }


def build(fields: Mapping[str, Any], version: str) -> Price | None:
    """A checked entry's price; None when it has no price field."""
    base = _rates(fields)
    if fields.get(_CACHE_HIT) is not None:
        base.setdefault("cache_read", _femto(fields[_CACHE_HIT], MAX_PER_TOKEN, _CACHE_HIT))
    steps: dict[int, dict[str, Any]] = {}
    for field in fields:
        tier = _TIER.fullmatch(field)
        if tier is not None and tier[1] in TOKEN_FIELDS and int(tier[2]) * 1000 not in steps:
            steps[int(tier[2]) * 1000] = _rates(fields, f"_above_{tier[2]}k_tokens")
    for step in fields.get(_TIERED) or ():
        if "range" in step:
            steps[int(step["range"][0])] = _rates(step)
    base |= steps.pop(0, {})
    more: dict[str, Any] = {"version": version}
    units = {f: _femto(v, MAX_PER_UNIT, f) for f, v in fields.items() if v is not None and KINDS[f] == "unit"}
    more["request"] = sum(units.pop(name, 0) for name in _REQUEST)
    more["units"] = units
    search = fields.get(_SEARCH)
    if isinstance(search, dict):  # by the size of the context, which no usage tells
        search = search.get("search_context_size_medium", max(search.values(), default=None))
    if search is not None:
        more["search"] = _femto(search, MAX_PER_UNIT, _SEARCH)
    if not (base or steps or units or more["request"] or "search" in more):
        return None
    tiers, rates = [], base
    for above in sorted(steps):
        rates = rates | steps[above]
        tiers.append(Tier(above, Price(**rates, version=version)))
    return Price(**base, **more, tiers=tuple(tiers))
