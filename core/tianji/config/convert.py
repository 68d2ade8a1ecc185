"""Values of a configuration section into the fields of a struct, with errors that say where and what.

Values that come from the environment are text, so `"5"` is a number and `"true"` a bool wherever one is expected. An
explicit null is the same as a key that is not there. Errors never show a value that a reference stood for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from tianji.config.document import Map, Mark, Seq, plain
from tianji.config.schema import (
    Amount,
    Count,
    Fallbacks,
    ModelAlias,
    Period,
    ProviderBudget,
    RetryPolicies,
    Seconds,
)
from tianji.errors import ConfigError
from tianji.model import Secret
from tianji.secrets import Unresolved

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "mo": 2592000.0}
_LONGEST = 1000 * 366 * 86400.0
_DURATION = re.compile(r"(?:\d{1,15}(?:\.\d{1,9})?(?:ms|mo|s|m|h|d|w))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|mo|s|m|h|d|w)")


def wrong(expected: str, value: Any, mark: Mark) -> ConfigError:
    """The error for a value of the wrong kind."""
    return mark.error(f"expected {expected}, got {_describe(value)}" + _origin(mark))


def _origin(mark: Mark) -> str:
    return f" (from {mark.reference})" if mark.reference else ""


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, Secret):
        return "a secret"
    return {Map: "a mapping", Seq: "a list"}.get(type(value), "text")


def to_bool(value: Any, mark: Mark) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, int)) and str(value).strip().lower() in _BOOLS:
        return _BOOLS[str(value).strip().lower()]
    raise wrong("true or false", value, mark)


def to_number(value: Any, mark: Mark) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise wrong("a number", value, mark)


def to_int(value: Any, mark: Mark) -> int:
    number = to_number(value, mark)
    if not number.is_integer() or abs(number) > 2**53:
        raise mark.error(f"expected a whole number{_origin(mark)}")
    return int(number)


def to_count(value: Any, mark: Mark) -> Count:
    number = to_int(value, mark)
    if number < 0:
        raise mark.error(f"expected a whole number, 0 or more{_origin(mark)}")
    return number


def to_amount(value: Any, mark: Mark) -> Amount:
    number = to_number(value, mark)
    if number < 0:
        raise mark.error(f"expected a number, 0 or more{_origin(mark)}")
    return number


def to_str(value: Any, mark: Mark) -> str | None:
    """Text; numbers are written out. None for a secret that has not been fetched: it is no text yet."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Unresolved):
        return None
    raise wrong("text", value, mark)


def to_secret(value: Any, mark: Mark) -> Secret:
    if isinstance(value, Secret):
        return value
    text = to_str(value, mark)
    assert text is not None
    return Secret(text)


def parse_seconds(text: str) -> float | None:
    """Seconds in `30s`, `1h30m`, `7d`, `1mo` (30 days) or a plain number; None where it is none of these."""
    text = text.strip().lower()
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def to_seconds(value: Any, mark: Mark) -> Seconds:
    number: float | None
    if isinstance(value, str):
        number = parse_seconds(value)
    else:
        number = to_number(value, mark)
    if number is None or not 0 <= number <= _LONGEST:
        shown = f" {value!r}" if isinstance(value, str) and len(value) <= 20 and not mark.reference else ""
        raise mark.error(
            f"not a duration{shown or f': {_describe(value)}'}{_origin(mark)}",
            'Write seconds (30) or a number with its unit: "30s", "5m", "24h", "7d"',
        )
    return number


def to_period(value: Any, mark: Mark) -> Period:
    seconds = to_seconds(value, mark)
    if isinstance(value, str) and _DURATION.fullmatch(value.strip().lower()):
        return value.strip().lower()
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def to_strings(value: Any, mark: Mark) -> tuple[str, ...]:
    """A list of texts; one text alone is a list of one."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Seq):
        raise wrong("a list of texts", value, mark)
    texts = [to_str(item, place) for item, place in value.pairs() if item is not None]
    return tuple(text for text in texts if text is not None)


def to_map(value: Any, mark: Mark) -> Map:
    if not isinstance(value, Map):
        raise wrong("a mapping", value, mark)
    return value


def to_seq(value: Any, mark: Mark) -> Seq:
    if not isinstance(value, Seq):
        raise wrong("a list", value, mark)
    return value


def to_dict(value: Any, mark: Mark) -> dict[str, Any]:
    return cast("dict[str, Any]", plain(to_map(value, mark)))


def to_dicts(value: Any, mark: Mark) -> tuple[dict[str, Any], ...]:
    return tuple(to_dict(item, place) for item, place in to_seq(value, mark).pairs())


def map_of(convert: Callable[[Any, Mark], T]) -> Callable[[Any, Mark], dict[str, T]]:
    """A converter for mappings whose values `convert` reads; nulls are left out."""

    def to_map_of(value: Any, mark: Mark) -> dict[str, T]:
        section = to_map(value, mark)
        return {key: convert(item, section.at(key)) for key, item in section.items() if item is not None}

    return to_map_of


def to_bool_or_str(value: Any, mark: Mark) -> bool | str:
    if isinstance(value, str) and value.strip().lower() not in _BOOLS:
        return value
    return to_bool(value, mark)


def to_alias(value: Any, mark: Mark) -> ModelAlias:
    if isinstance(value, Map):
        model = value.get("model")
        if model is None:
            raise value.at("model").error("missing: the model group that the alias stands for")
        hidden = value.get("hidden")
        at = value.at("hidden")
        return ModelAlias(_text(model, value.at("model")), hidden is not None and to_bool(hidden, at))
    return ModelAlias(_text(value, mark))


def to_budget(value: Any, mark: Mark) -> ProviderBudget:
    section = to_map(value, mark)
    limit_key = "budget_limit" if section.get("budget_limit") is not None else "max_budget"
    limit = section.get(limit_key)
    if limit is None:
        raise section.at("budget_limit").error("missing: dollars that may be spent in the period")
    period_key = "time_period" if section.get("time_period") is not None else "budget_duration"
    period = section.get(period_key)
    return ProviderBudget(
        to_amount(limit, section.at(limit_key)),
        None if period is None else to_period(period, section.at(period_key)),
    )


def to_fallbacks(value: Any, mark: Mark) -> Fallbacks:
    """`[{a: [b, c]}]`, `{a: [b, c]}`, `{a: b}`; a bare text in the list is a fallback of every group (`*`)."""
    parts = list(value.pairs()) if isinstance(value, Seq) else [(value, mark)]
    found: dict[str, tuple[str, ...]] = {}
    for part, place in parts:
        if isinstance(part, str):
            found["*"] = (*found.get("*", ()), part)
        elif isinstance(part, Map):
            for group, targets in part.items():
                found.setdefault(group, _targets(targets, part.at(group)))
        elif part is not None:
            raise wrong("a mapping such as `gpt-4o: [claude]`", part, place)
    return found


def to_policies(value: Any, mark: Mark) -> RetryPolicies:
    """`{group: {num_retries: 5, timeout: 30s, RateLimitErrorRetries: 3}}`; other members are kept as they are."""

    def policy(value: Any, mark: Mark) -> dict[str, Any]:
        section = to_map(value, mark)
        read: dict[str, Any] = {}
        for key, item in section.items():
            place = section.at(key)
            if item is None or isinstance(item, Unresolved):
                continue
            if key == "num_retries" or key.endswith("Retries"):
                read[key] = to_count(item, place)
            elif key in ("timeout", "retry_after"):
                read[key] = to_seconds(item, place)
            else:
                read[key] = plain(item)
        return read

    return map_of(policy)(value, mark)


def _targets(value: Any, mark: Mark) -> tuple[str, ...]:
    if value is None:
        return ()
    items = list(value.pairs()) if isinstance(value, Seq) else [(value, mark)]
    return tuple(
        _text(item.get("model"), item.at("model")) if isinstance(item, Map) else _text(item, place)
        for item, place in items
    )


def _text(value: Any, mark: Mark) -> str:
    text = to_str(value, mark)
    if not text:
        raise wrong("a name", value, mark)
    return text


CONVERTERS: Mapping[Any, Callable[[Any, Mark], Any]] = {
    bool: to_bool,
    int: to_int,
    Count: to_count,
    Amount: to_amount,
    str: to_str,
    Secret: to_secret,
    Seconds: to_seconds,
    Period: to_period,
    bool | str: to_bool_or_str,
    Fallbacks: to_fallbacks,
    tuple[str, ...]: to_strings,
    tuple[dict[str, Any], ...]: to_dicts,
    dict[str, Any]: to_dict,
    dict[str, str]: map_of(to_str),
    dict[str, Count]: map_of(to_count),
    RetryPolicies: to_policies,
    dict[str, ModelAlias]: map_of(to_alias),
    dict[str, ProviderBudget]: map_of(to_budget),
}


def converters(struct: type[msgspec.Struct], *names: str) -> dict[str, Callable[[Any, Mark], Any]]:
    """How to read the fields of a section: those named, else all but `extra`."""
    hints = get_type_hints(struct, include_extras=True)
    wanted = names or [name for name in hints if name != "extra"]
    return {name: _unless_unresolved(CONVERTERS[_without_none(hints[name])]) for name in wanted}


def _unless_unresolved(convert: Callable[[Any, Mark], Any]) -> Callable[[Any, Mark], Any]:
    """A value that a secret manager still keeps counts as not given, until it is fetched and loaded again."""
    if convert is to_secret:
        return convert
    return lambda value, mark: None if isinstance(value, Unresolved) else convert(value, mark)


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        (hint,) = (arm for arm in get_args(hint) if arm is not NoneType)
    return hint


def fill(struct: type[S], section: Map, *, ignore: frozenset[str] = frozenset()) -> S:
    """Read a section into its struct; keys that are no fields go to `extra`, but for those in `ignore`."""
    readers = converters(struct)
    values: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in section.items():
        if key in readers:
            if value is not None and (read := readers[key](value, section.at(key))) is not None:
                values[key] = read
        elif key not in ignore:
            extra[key] = plain(value)
    return struct(**values, extra=extra)
