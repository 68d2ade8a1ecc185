"""Select the packaged price book from a price file in LiteLLM's format.

    python tools/prices.py path/to/model_prices_and_context_window.json > core/tianji/prices.json

The input is facts: published list prices, context windows and capabilities of models, with the vendor's pricing page
as `source` where the entry names one. LiteLLM keeps them under the MIT licence as
https://github.com/BerriAI/litellm/blob/main/model_prices_and_context_window.json, and inside its wheel as
`litellm/model_prices_and_context_window_backup.json`. Of these facts this script keeps the numbers and flags that
Tianji reads, for the providers below, one model a line and sorted, so that a refresh is a readable diff. Comments and
notes are dropped. The output is validated with the gateway's own parser before a byte of it is printed.

Left out on purpose:
- entries without a price per token, and entries whose token price is zero while something else is charged (music per
  clip, a router that adds the routed model's price): as per-token prices they would say "free";
- a cache-write price of zero beside an input price: it means "not billed apart", which is the fallback anyway;
- Bedrock's single-region and provisioned-throughput keys (`bedrock/us-east-1/...`) and both clouds' government
  regions; an inference profile (`global.anthropic...`) whose prices are those of the plain model, because
  `PriceBook.find` goes from the one to the other;
- Azure's data zones (`azure/eu/...`, some 10 % dearer): such a deployment states its own price;
- query strings of `source` addresses;
- what was shut down before `SHUT_DOWN_BEFORE`.

Two providers are not in the input. `echo`, the built-in one that needs no key, has a made-up price, so that cost
headers and budgets can be tried. `ollama` runs on the operator's own machine and is free, whatever the model.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from tianji.pricing import PriceBook

PROVIDERS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "azure_text": "azure",
    "bedrock": "bedrock",
    "bedrock_converse": "bedrock",
    "deepseek": "deepseek",
    "gemini": "gemini",
    "groq": "groq",
    "mistral": "mistral",
    "openai": "openai",
    "text-completion-openai": "openai",
}
"""`litellm_provider` in the input: the provider's name here."""

MODES = frozenset({"chat", "completion", "embedding", "responses"})
PROFILE = re.compile(r"(?:us|eu|apac|global|au|jp|ca|in)\.")
SHUT_DOWN_BEFORE = "2026-01-01"
MAX_BYTES = 300_000

RATES = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "cache_creation_input_token_cost",
    "cache_creation_input_token_cost_above_1hr",
)
CLASSES = (
    "output_cost_per_reasoning_token",
    "input_cost_per_audio_token",
    "output_cost_per_audio_token",
    "input_cost_per_image_token",
    "output_cost_per_image_token",
    "input_cost_per_image",
    "output_cost_per_image",
)
TIERS = tuple(f"{rate}_above_{size}k_tokens" for rate in RATES for size in (100, 128, 200, 272, 512))
LIMITS = ("max_input_tokens", "max_output_tokens", "output_vector_size")
FLAGS = tuple(
    f"supports_{flag}"
    for flag in (
        "audio_input", "audio_output", "function_calling", "parallel_function_calling", "pdf_input",
        "prompt_caching", "reasoning", "response_schema", "vision", "web_search",
    )
)  # fmt: skip

OWN: dict[str, dict[str, Any]] = {
    f"echo/{name}": {
        "litellm_provider": "echo",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
    }
    for name in ("*", "echo")
} | {
    "ollama/*": {
        "litellm_provider": "ollama",
        "mode": "chat",
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
    }
}


def wanted(key: str, entry: dict[str, Any]) -> bool:
    provider = PROVIDERS.get(entry.get("litellm_provider", ""))
    if provider is None or entry.get("mode") not in MODES or "*" in key:
        return False
    if provider == "bedrock" and key.startswith(("bedrock/", "us-gov.", "claude-")):
        return False
    if provider == "azure" and key.count("/") > 1:
        return False
    if entry.get("deprecation_date", "9") < SHUT_DOWN_BEFORE:
        return False
    given, made = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if given is None or (made is None and entry["mode"] != "embedding"):
        return False
    if entry["mode"] != "embedding" and bool(given) != bool(made):
        return False
    return bool(given) or not any("cost" in name and value for name, value in entry.items())


def select(entry: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"litellm_provider": PROVIDERS[entry["litellm_provider"]], "mode": entry["mode"]}
    for name in (*RATES, *TIERS, *CLASSES, *LIMITS):
        if entry.get(name) is not None:
            kept[name] = entry[name]
    if entry.get("source"):
        kept["source"] = entry["source"].partition("?")[0]
    for name in FLAGS:
        if entry.get(name) is True:
            kept[name] = True
    search = entry.get("search_context_cost_per_query")
    if search:
        kept["search_context_cost_per_query"] = {
            "search_context_size_medium": search.get("search_context_size_medium", max(search.values()))
        }
    if kept.get("output_cost_per_reasoning_token") == kept.get("output_cost_per_token"):
        kept.pop("output_cost_per_reasoning_token", None)
    if kept["input_cost_per_token"]:
        for name in [name for name in kept if name.startswith("cache_creation") and not kept[name]]:
            del kept[name]
    return kept


def rates(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if "cost" in name}


def same_as_plain(key: str, entries: dict[str, dict[str, Any]]) -> bool:
    """A Bedrock inference profile with the prices of the model it stands for."""
    profile = PROFILE.match(key)
    plain = entries.get(key[profile.end() :]) if profile else None
    return plain is not None and rates(plain) == rates(entries[key])


def render(raw: dict[str, dict[str, Any]]) -> bytes:
    entries = {key: select(entry) for key, entry in raw.items() if wanted(key, entry)}
    entries = {key: entry for key, entry in entries.items() if not same_as_plain(key, entries)} | OWN
    lines = [
        msgspec.json.encode(key) + b":" + msgspec.json.encode(entries[key], order="sorted") for key in sorted(entries)
    ]
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} PRICE_FILE > core/tianji/prices.json")
    data = render(msgspec.json.decode(Path(sys.argv[1]).read_bytes()))
    book = PriceBook.parse(data, source="prices.json")
    if len(data) > MAX_BYTES:
        sys.exit(f"{len(data)} bytes are more than {MAX_BYTES}")
    sys.stdout.buffer.write(data)
    print(f"{len(book)} models, {len(data)} bytes, version {book.version}", file=sys.stderr)


if __name__ == "__main__":
    main()
