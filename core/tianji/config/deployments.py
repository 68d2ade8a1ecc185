"""`model_list` into deployments (https://docs.litellm.ai/docs/proxy/configs documents the same keys)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tianji.config.convert import converters, to_bool, to_dict, to_map, to_seq, to_str, to_strings, wrong
from tianji.config.document import Map, Mark, plain
from tianji.config.known_keys import GATEWAY_PARAMS, SECTIONS, is_price, suggest
from tianji.config.schema import AccessControl, ConfigWarning, DeploymentSpec
from tianji.model import Secret
from tianji.secrets import Unresolved

_TYPED = (
    "api_base", "api_key", "rpm", "tpm", "weight", "order", "timeout", "stream_timeout", "num_retries",
    "cooldown_time", "max_parallel_requests", "region", "additional_drop_params", "extra_headers", "extra_body",
)  # fmt: skip
_READ = converters(DeploymentSpec, *_TYPED)
_TWINS = {"base_url": "api_base", "max_retries": "num_retries", "region_name": "region", "headers": "extra_headers"}
"""Second names; the first of each pair is the weaker one."""
_FROM_INFO = ("cooldown_time",)
_HANDLED = frozenset({*_TYPED, *_TWINS}) | {
    "model", "custom_llm_provider", "tags", "drop_params", "mock_response", "tianji_credential_name",
}  # fmt: skip


class Deployments:
    """Reads the entries one by one; ids are unique over all of them."""

    def __init__(self, credentials: Mapping[str, Map], warnings: list[ConfigWarning]) -> None:
        self.credentials = credentials
        self.warnings = warnings
        self._explicit: dict[str, str] = {}
        self._ids: set[str] = set()

    def read(self, model_list: Any, mark: Mark) -> tuple[DeploymentSpec, ...]:
        entries = [(to_map(entry, place), place) for entry, place in to_seq(model_list, mark).pairs()]
        for entry, place in entries:
            self._claim(entry, place)
        return tuple(self._entry(entry, place, f"model_list[{n}]") for n, (entry, place) in enumerate(entries))

    def _claim(self, entry: Map, place: Mark) -> None:
        info = entry.get("model_info")
        if not isinstance(info, Map) or info.get("id") is None:
            return
        at = info.at("id")
        own = to_str(info["id"], at)
        if own is None:
            return
        if own in self._explicit:
            raise at.error(f"the id {own!r} is taken by {self._explicit[own]}", "Ids of deployments are unique")
        self._explicit[own] = str(place)
        self._ids.add(own)

    def _entry(self, entry: Map, place: Mark, path: str) -> DeploymentSpec:
        name = _required_text(entry, "model_name", "the model group that clients ask for")
        if entry.get("tianji_params") is None:
            raise entry.at("tianji_params").error("missing: a mapping with at least `model`")
        params = self._with_credentials(to_map(entry["tianji_params"], entry.at("tianji_params")))
        info = _optional_map(entry, "model_info")
        self._unknown(entry, params)
        values = _typed(params, info)
        provider, model = _provider(params)
        access = _access(entry)
        split = _split(params)
        pricing = {key: value for source in (info, params) for key, value in _prices(source)}
        if "api_key" in values and not values["api_key"] and params.at("api_key").reference is None:
            self._warn("empty-key", params.at("api_key"), "the key is empty", "Leave it out, or give a key")
        own_id = None if info.get("id") is None else to_str(info["id"], info.at("id"))
        identity = (name, provider, model, values, split, pricing, plain(access), plain(entry.get("tags")))
        return DeploymentSpec(
            id=own_id or self._derived_id(identity),
            model_name=name,
            provider=provider,
            model=model,
            params=split[0],
            extra=split[1],
            pricing=pricing,
            tags=_tags(entry, params),
            access_control=access,
            model_info=plain(info),
            mock_response=plain(params.get("mock_response")),
            credential_name=_optional_text(params, "tianji_credential_name"),
            path=path,
            where=f"{place.position}: {path}" if place.position else path,
            **values,
        )

    def _with_credentials(self, params: Map) -> Map:
        """The parameters and, beneath them, the values of the credential that they name."""
        name = _optional_text(params, "tianji_credential_name")
        if name is None:
            return params
        credential = self.credentials.get(name)
        if credential is None:
            at = params.at("tianji_credential_name")
            self._warn("ignored", at, f"`credential_list` has no credential {name!r}", "Add it, or mend the name")
            return params
        merged = Map(params.mark)
        for source in (credential, params):
            for key, value in source.items():
                if value is not None or key not in merged:
                    merged.put(key, value, source.at(key))
        return merged

    def _derived_id(self, identity: tuple[Any, ...]) -> str:
        text = json.dumps(identity, sort_keys=True, default=_fingerprint)
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        unique, number = digest, 1
        while unique in self._ids:
            number += 1
            unique = f"{digest}-{number}"
        self._ids.add(unique)
        return unique

    def _unknown(self, entry: Map, params: Map) -> None:
        for key in entry:
            if key not in SECTIONS["model_list[]"].known:
                hint = suggest(key, "model_list[]")
                self._warn("unknown-key", entry.at(key), "not a key of a `model_list` entry", hint)
        known = SECTIONS["tianji_params"].known
        for key in params:
            if key not in known and not is_price(key):
                message = "not a setting that is known here: passed on to the provider"
                self._warn("passed-through", params.at(key), message, suggest(key, "tianji_params"))

    def _warn(self, code: str, mark: Mark, message: str, mend: str) -> None:
        self.warnings.append(ConfigWarning(code, str(mark), message, mend))


def credentials(value: Any, mark: Mark) -> dict[str, Map]:
    """`credential_list` as credential values by name."""
    found: dict[str, Map] = {}
    for item, place in to_seq(value, mark).pairs():
        entry = to_map(item, place)
        name = _required_text(entry, "credential_name", "the name that deployments use")
        values = entry.get("credential_values")
        found[name] = Map(place) if values is None else to_map(values, entry.at("credential_values"))
    return found


def _typed(params: Map, info: Map) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for second, first in _TWINS.items():
        if params.get(second) is not None:
            values[first] = _READ[first](params[second], params.at(second))
    for key in _FROM_INFO:
        if info.get(key) is not None:
            values[key] = _READ[key](info[key], info.at(key))
    for key in _TYPED:
        if params.get(key) is not None:
            values[key] = _READ[key](params[key], params.at(key))
    if params.get("headers") is not None and "extra_headers" in values:
        values["extra_headers"] = to_dict(params["headers"], params.at("headers")) | values["extra_headers"]
    if params.get("drop_params") is not None:
        values["drop_params"] = to_bool(params["drop_params"], params.at("drop_params"))
    return {key: value for key, value in values.items() if value is not None}


def _split(params: Map) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the provider may read, and what is the gateway's and not read yet."""
    for_provider: dict[str, Any] = {}
    for_gateway: dict[str, Any] = {}
    for key, value in params.items():
        if key not in _HANDLED and not is_price(key) and value is not None:
            (for_gateway if key in GATEWAY_PARAMS else for_provider)[key] = plain(value)
    return for_provider, for_gateway


def _prices(section: Map) -> list[tuple[str, Any]]:
    prices: list[tuple[str, Any]] = []
    for key, value in section.items():
        if is_price(key) and value is not None:
            price = plain(value) if isinstance(value, (Map, list)) else _READ["weight"](value, section.at(key))
            prices.append((key, price))
    return prices


def _provider(params: Map) -> tuple[str, str]:
    model = _required_text(params, "model", "`provider/model`, for example `openai/gpt-4o`")
    provider = _optional_text(params, "custom_llm_provider")
    if provider:
        return provider, model.removeprefix(f"{provider}/")
    if model == "*":
        return "*", "*"
    prefix, slash, rest = model.partition("/")
    if not slash:
        return "openai", model
    if not prefix or not rest:
        raise params.at("model").error("expected `provider/model`, for example `openai/gpt-4o`")
    return prefix, rest


def _access(entry: Map) -> AccessControl:
    section = _optional_map(entry, "access_control")
    lists = {}
    for key in ("allowed_orgs", "allowed_teams", "allowed_keys"):
        if section.get(key) is not None:
            lists[key] = to_strings(section[key], section.at(key))
    return AccessControl(**lists)


def _tags(entry: Map, params: Map) -> tuple[str, ...]:
    tags: list[str] = []
    for source in (entry, params):
        if source.get("tags") is not None:
            tags += to_strings(source["tags"], source.at("tags"))
    return tuple(dict.fromkeys(tags))


def _optional_map(section: Map, key: str) -> Map:
    value = section.get(key)
    return Map(section.at(key)) if value is None else to_map(value, section.at(key))


def _optional_text(section: Map, key: str) -> str | None:
    value = section.get(key)
    return None if value is None else to_str(value, section.at(key))


def _required_text(section: Map, key: str, what: str) -> str:
    value, at = section.get(key), section.at(key)
    if value is None:
        reason = f"{at.reference} is empty" if at.reference else "missing"
        raise at.error(f"{reason}: {what}")
    text = to_str(value, at)
    if not text:
        raise wrong("a text that is not empty", value, at)
    return text


def _fingerprint(value: object) -> Any:
    if isinstance(value, Secret):
        text = value.reference if isinstance(value, Unresolved) else value.reveal()
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if isinstance(value, Mapping):
        return dict(value)
    return repr(value)
