"""What tokens cost: exact integer money, and the book in which prices are looked up.

Rates are integer femto-dollars (1e-15 USD), fine enough for every published per-token price; a cost is summed in
femto-dollars and divided once, half up, into the nano-dollars (1e-9 USD) of the ledger. A price that is not known is
None all the way and never zero. Nothing is read when this module is imported, and nothing ever from the network.

Price files have the format of LiteLLM's `model_prices_and_context_window.json`
(https://docs.litellm.ai/docs/provider_registration/add_model_pricing); the packaged one is made by `tools/prices.py`.
What the format knows and a `Usage` does not tell is not applied: batch, flex and priority rates, off-peak windows,
regional multipliers, free allowances. All of these but the priority rates and multipliers would only lower the cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from tianji.errors import ConfigError
from tianji.pricefile import KINDS, PRICE_KINDS, Price, Tier, build, check
from tianji.records import UNKNOWN_COST, Cost, Usage

__all__ = ["Price", "PriceBook", "Tier", "bound", "cost", "custom"]

FEMTO_PER_NANO = 1_000_000
_HALF = FEMTO_PER_NANO // 2
_GEO = re.compile(r"(?:us|eu|apac|global|au|jp|ca|in)\.")

# Names under which the format files models of one and the same provider.
_ALIASES = {
    "azure_text": "azure",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "ollama_chat": "ollama",
    "text-completion-codestral": "codestral",
    "text-completion-openai": "openai",
}


def cost(price: Price | None, usage: Usage | None, counts: Mapping[str, float] | None = None) -> Cost:
    """What a finished attempt costs.

    `counts` are the other quantities of the answer by the names of `Price.units` (`{"output_cost_per_image": 2}`).
    They are billed only where tokens are not: no token was reported, or the price has no token rate. A price with
    both (an image model) would be paid twice otherwise.

    `nano` is None when the price or the usage is unknown, or when a class with tokens (or a web search) has no rate.
    `input_nano + output_nano` is the share of the tokens; what `nano` has beyond that are searches and fees.
    """
    if price is None:
        return UNKNOWN_COST
    if usage is None or counts or price.units_only:
        return _unusual(price, usage, counts)
    given, made = usage.input_tokens, usage.output_tokens
    if (
        price.tiers
        or usage.cache_read_tokens
        or usage.cache_write_tokens
        or usage.reasoning_tokens
        or usage.cache_write_1h_tokens
        or usage.input_audio_tokens
        or usage.output_audio_tokens
        or usage.input_image_tokens
        or usage.output_image_tokens
        or usage.web_searches
        or price.request
        or price.output is None
        or price.input is None
        or given < 0
        or made < 0
    ):
        return _itemised(price, usage)
    femto = given * price.input + _HALF
    input_nano = femto // FEMTO_PER_NANO
    nano = (femto + made * price.output) // FEMTO_PER_NANO
    return Cost(nano, input_nano, nano - input_nano, price.version)


def _sum(items: Iterable[tuple[int, int | None]]) -> int | None:
    """Femto-dollars of (quantity, rate) pairs; None when a positive quantity has no rate."""
    femto = 0
    for quantity, rate in items:
        if quantity > 0:
            if rate is None:
                return None
            femto += quantity * rate
    return femto


def _itemised(price: Price, usage: Usage) -> Cost:
    """Every class at its own rate.

    The plain part of a total is what the classes leave of it, and never negative: should a provider report classes
    that together exceed their total, the classes are billed as reported.
    """
    written_1h = max(usage.cache_write_1h_tokens, 0)
    written = max(usage.cache_write_tokens - written_1h, 0)
    read, heard, seen = usage.cache_read_tokens, usage.input_audio_tokens, usage.input_image_tokens
    classed = max(read, 0) + written + written_1h + max(heard, 0) + max(seen, 0)
    rates = price.at(max(usage.input_tokens, classed)) if price.tiers else price
    plain_in, plain_out = rates.input, rates.output
    input_femto = _sum(
        (
            (usage.input_tokens - classed, plain_in),
            (read, plain_in if rates.cache_read is None else rates.cache_read),
            (written, plain_in if rates.cache_write is None else rates.cache_write),
            (written_1h, rates.write_1h()),
            (heard, plain_in if rates.input_audio is None else rates.input_audio),
            (seen, plain_in if rates.input_image is None else rates.input_image),
        )
    )
    thought, spoken, drawn = usage.reasoning_tokens, usage.output_audio_tokens, usage.output_image_tokens
    output_femto = _sum(
        (
            (usage.output_tokens - max(thought, 0) - max(spoken, 0) - max(drawn, 0), plain_out),
            (thought, plain_out if rates.reasoning is None else rates.reasoning),
            (spoken, plain_out if rates.output_audio is None else rates.output_audio),
            (drawn, plain_out if rates.output_image is None else rates.output_image),
        )
    )
    return _total(price, input_femto, output_femto, _sum(((usage.web_searches, price.search),)))


def _total(price: Price, input_femto: int | None, output_femto: int | None, extra_femto: int | None) -> Cost:
    if input_femto is None or output_femto is None or extra_femto is None:
        return Cost(nano=None, price_version=price.version)
    femto = input_femto + output_femto + _HALF
    input_nano = (input_femto + _HALF) // FEMTO_PER_NANO
    tokens_nano = femto // FEMTO_PER_NANO
    nano = (femto + extra_femto + price.request) // FEMTO_PER_NANO
    return Cost(nano, input_nano, tokens_nano - input_nano, price.version)


def _unusual(price: Price, usage: Usage | None, counts: Mapping[str, float] | None) -> Cost:
    """No usage, or a model that is billed by something else than tokens."""
    tokens_reported = usage is not None and (usage.input_tokens > 0 or usage.output_tokens > 0)
    if usage is not None and tokens_reported and not price.units_only:
        return _itemised(price, usage)
    femto, billed = 0, False
    for unit, quantity in (counts or {}).items():
        rate = price.units.get(unit)
        if rate is not None and 0 <= quantity < 1e12:
            femto += rate * quantity if type(quantity) is int else int(rate * Decimal(repr(quantity)))
            billed = True
    if not billed and (usage is None or not price.request):
        return Cost(nano=None, price_version=price.version)
    searches = 0 if usage is None else usage.web_searches
    searched = _sum(((searches, price.search),))
    return _total(price, 0, 0, None if searched is None else femto + searched)


def bound(price: Price | None, input_tokens: int, output_tokens: int) -> int | None:
    """An upper bound in nano-dollars, for a reservation: no usage within these totals costs more.

    Every token is taken at the dearest rate it could have (a cache write, audio, reasoning, any tier that is within
    reach), so a reservation can be several times the cost; settling gives the difference back. Web searches and
    `units` are not included, because nobody knows their number beforehand. None: the price is unknown.
    """
    if price is None:
        return None
    given, made = max(input_tokens, 0), max(output_tokens, 0)
    if price.units_only:
        return None if price.units or not price.request else -(-price.request // FEMTO_PER_NANO)
    if (given and price.input is None) or (made and price.output is None):
        return None
    reach = [price, *(tier.price for tier in price.tiers if given > tier.above)]
    dear_in = max(
        rate or 0
        for p in reach
        for rate in (p.input, p.cache_read, p.cache_write, p.write_1h(), p.input_audio, p.input_image)
    )
    dear_out = max(rate or 0 for p in reach for rate in (p.output, p.reasoning, p.output_audio, p.output_image))
    return -(-(given * dear_in + made * dear_out + price.request) // FEMTO_PER_NANO)


def custom(params: Mapping[str, Any]) -> Price | None:
    """The price that a deployment states itself (`input_cost_per_token: 0.0000025` among its `tianji_params`).

    It takes the place of the book's price as a whole: classes that it does not name follow the fallbacks of `Price`.
    None when no price field is there. Numbers may be strings, because YAML 1.1 reads `1e-6` as one.

    Raises:
        ConfigError: A rate is not a number, negative, or absurd; `path` is the field.
    """
    fields = {name: params[name] for name in params if params[name] is not None and KINDS[name] in PRICE_KINDS}
    if not fields:
        return None
    check(fields, "")
    stated = msgspec.json.encode({name: fields[name] for name in sorted(fields)})
    return build(fields, f"custom:{sha256(stated).hexdigest()[:12]}")


class _Model:
    """One entry of a price file. Its `Price` is made on first use."""

    __slots__ = ("_price", "fields", "key", "version")

    def __init__(self, key: str, fields: dict[str, Any], version: str) -> None:
        self.key = key
        self.fields = fields
        self.version = version
        self._price: Price | None = None

    @property
    def price(self) -> Price | None:
        if self._price is None:
            self._price = build(self.fields, f"{self.version}:{self.key}")
        return self._price


class PriceBook:
    """An immutable set of prices. A reload makes another book; calls that hold this one do not notice."""

    __slots__ = ("_models", "version")

    def __init__(self, models: Mapping[tuple[str, str], _Model], version: str) -> None:
        self._models = models
        self.version = version
        """The first 12 hex digits of the SHA-256 of the file."""

    def __len__(self) -> int:
        return len(self._models)

    @staticmethod
    def packaged() -> PriceBook:
        """The book that comes with this release; read on the first call, the same object ever after."""
        return _packaged()

    @classmethod
    def parse(cls, data: bytes, *, source: str) -> PriceBook:
        """A book from a price file's bytes; `source` names the file in errors and is not opened.

        Entries without a provider and without a price (`sample_spec`) are left out, unknown fields are kept.

        Raises:
            ConfigError: The file is not JSON, or an entry is malformed. `path` names entry and field; nothing of the
                file is used.
        """
        try:
            raw = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"not a JSON file: {error}", path=source) from None
        if not isinstance(raw, dict):
            raise ConfigError("a price file is one JSON object with an entry for each model", path=source)
        version = sha256(data).hexdigest()[:12]
        models: dict[tuple[str, str], _Model] = {}
        for key, fields in raw.items():
            if key == "sample_spec":
                continue
            path = f"{source}[{key!r}]"
            if not isinstance(fields, dict):
                raise ConfigError("an entry must be an object", path=path)
            priced = check(fields, path + ".")
            provider = fields.get("litellm_provider")
            if provider is None:
                provider, slash, _ = key.partition("/")
                if not slash:
                    if priced:
                        raise ConfigError(
                            "which provider is this price of?", path=path, mend="Add litellm_provider to the entry"
                        )
                    continue
            place = _place(provider, key)
            # `deepseek/deepseek-chat` and `deepseek-chat` are one model; the key with the prefix counts.
            if place not in models or key != place[1]:
                models[place] = _Model(key, fields, version)
        return cls(models, version)

    def merge(self, other: PriceBook) -> PriceBook:
        """A new book with the entries of both; an entry of `other` takes the place of the whole entry here."""
        version = sha256(f"{self.version}+{other.version}".encode()).hexdigest()[:12]
        return PriceBook({**self._models, **other._models}, version)

    def find(self, provider: str, model: str, base_model: str | None = None) -> Price | None:
        """The price of a provider's model, or None.

        `base_model` (with or without `provider/`) says what an opaque name, such as an Azure deployment's, stands
        for; given, it alone decides. A name is tried as it is, then:

        - without the provider's own prefix;
        - at Bedrock: the last part of an ARN, without `converse/` or `invoke/`, and, only when the file has no entry
          for the region's name, without `us.`, `eu.`, `apac.`, `global.` and the like;
        - `ft:gpt-4o-2024-08-06:org::id` as `ft:gpt-4o-2024-08-06`;
        - the entry `provider/*`.

        A date is part of a name and is never cut off: snapshots of one model have had different prices
        (gpt-4o-2024-05-13 costs twice what gpt-4o does). State a `base_model` for a snapshot the book does not know.
        """
        found = self._find(provider, model, base_model)
        return None if found is None else found.price

    def info(self, provider: str, model: str, base_model: str | None = None) -> Mapping[str, Any]:
        """The entry's fields as in the file (`mode`, `max_input_tokens`, `supports_vision`, ...); empty if unknown."""
        found = self._find(provider, model, base_model)
        return MappingProxyType({} if found is None else found.fields)

    def models(self, provider: str) -> tuple[str, ...]:
        """The names of a provider's models, as the provider spells them, sorted; without `*` entries."""
        provider = _provider(provider)
        return tuple(sorted(name for owner, name in self._models if owner == provider and "*" not in name))

    def _find(self, provider: str, model: str, base_model: str | None) -> _Model | None:
        models = self._models
        provider = _provider(provider)
        for name in _names(provider, base_model or model):
            found = models.get((provider, name))
            if found is not None:
                return found
        if base_model:  # another provider's model, served under this one's name
            owner, _, name = base_model.partition("/")
            found = models.get((_provider(owner), name))
            return found or next((entry for entry in models.values() if entry.key == base_model), None)
        return models.get((provider, "*"))


@cache
def _packaged() -> PriceBook:
    path = Path(__file__).with_name("prices.json")
    return PriceBook.parse(path.read_bytes(), source=path.name)


def _provider(name: str) -> str:
    if name.startswith("vertex_ai-"):
        return "vertex_ai"
    return _ALIASES.get(name, name)


def _place(provider: str, key: str) -> tuple[str, str]:
    """Where an entry is filed: the provider, and the model's name without the provider's prefix."""
    canonical = _provider(provider)
    prefix, slash, rest = key.partition("/")
    return canonical, rest if slash and prefix in (provider, canonical) else key


def _names(provider: str, model: str) -> Iterator[str]:
    """The names under which a model may be filed, the most exact first. See `PriceBook.find`."""
    yield model
    prefix = provider + "/"
    if model.startswith(prefix):
        model = model[len(prefix) :]
        yield model
    if provider == "bedrock":
        name = model.rpartition("/")[2] if model.startswith("arn:") else model
        name = name.removeprefix("converse/").removeprefix("invoke/")
        yield name
        region = _GEO.match(name)
        if region is not None:
            yield name[region.end() :]
    elif model.startswith("ft:"):
        yield ":".join(model.split(":", 2)[:2])
