"""`guardrails`, the callback keys and `plugins`: which plugins the configuration names, and how.

Guardrails come in two shapes. LiteLLM's has the type in `guardrail` and the moments in `mode`
(https://docs.litellm.ai/docs/proxy/guardrails/quick_start); TianjiLLM's older one has the type in `mode`. Callbacks
are named in up to five places; here each becomes one `CallbackSpec`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tianji.config.convert import fill, to_bool, to_dict, to_map, to_seq, to_str, to_strings, wrong
from tianji.config.document import Map, Mark, Seq, plain, words
from tianji.config.known_keys import SECTIONS, suggest
from tianji.config.schema import CallbackSpec, ConfigWarning, GuardrailSpec, PluginsSection

MODES = words(
    "pre_call post_call during_call logging_only pre_mcp_call during_mcp_call post_mcp_call "
    "realtime_input_transcription"
)
POLICIES = words("fail_closed fail_open")


def guardrails(value: Any, mark: Mark, warnings: list[ConfigWarning]) -> tuple[GuardrailSpec, ...]:
    found = []
    for index, (item, place) in enumerate(to_seq(value, mark).pairs()):
        found.append(_guardrail(to_map(item, place), place, f"guardrails[{index}]", warnings))
    return tuple(found)


def _guardrail(entry: Map, place: Mark, path: str, warnings: list[ConfigWarning]) -> GuardrailSpec:
    name = _text(entry, "guardrail_name")
    if not name:
        raise entry.at("guardrail_name").error("missing: the name that keys, policies and requests use")
    raw = entry.get("tianji_params")
    params = Map(entry.at("tianji_params")) if raw is None else to_map(raw, entry.at("tianji_params"))
    plugin = _text(params, "guardrail")
    modes, by_tag = _modes(params)
    if not plugin:
        if len(modes) != 1 or modes[0] in MODES:
            raise params.at("guardrail").error(
                "missing: the type of the guardrail", "For example `guardrail: presidio`, with `mode: pre_call`"
            )
        plugin, modes = modes[0], ()
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        message = f"not a moment of a call: {', '.join(unknown)[:100]}"
        mend = f"Known are {', '.join(sorted(MODES))}"
        warnings.append(ConfigWarning("ignored", str(params.at("mode")), message, mend))
    for key in entry:
        if key not in SECTIONS["guardrails[]"].known:
            hint = suggest(key, "guardrails[]")
            warnings.append(ConfigWarning("unknown-key", str(entry.at(key)), "not a key of a guardrail", hint))
    handled = {"guardrail", "mode", "default_on", "failure_policy"}
    info = entry.get("guardrail_info")
    return GuardrailSpec(
        guardrail_name=name,
        plugin=plugin,
        modes=tuple(mode for mode in modes if mode in MODES),
        modes_by_tag=by_tag,
        default_on=any(_flag(section, "default_on") for section in (entry, params)),
        failure_policy=_policy(entry, params, warnings),
        params={key: plain(item) for key, item in params.items() if key not in handled and item is not None},
        info={} if info is None else to_dict(info, entry.at("guardrail_info")),
        path=path,
        where=_where(place, path),
    )


def _modes(params: Map) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    mode, at = params.get("mode"), params.at("mode")
    if mode is None:
        return (), {}
    if not isinstance(mode, Map):
        return to_strings(mode, at), {}
    by_tag = {}
    if mode.get("tags") is not None:
        tags = to_map(mode["tags"], mode.at("tags"))
        by_tag = {tag: to_strings(item, tags.at(tag)) for tag, item in tags.items() if item is not None}
    default = mode.get("default")
    return () if default is None else to_strings(default, mode.at("default")), by_tag


def _policy(entry: Map, params: Map, warnings: list[ConfigWarning]) -> str:
    """Anything that is not plainly `fail_open` protects."""
    for section in (entry, params):
        policy = _text(section, "failure_policy")
        if policy in POLICIES:
            return policy
        if policy is not None:
            at = str(section.at("failure_policy"))
            warnings.append(
                ConfigWarning("ignored", at, "not a failure policy: `fail_closed` is used", "Or write `fail_open`")
            )
            break
    return "fail_closed"


class Callbacks:
    """Gathers what the file says about callbacks. Call in this order: `listed`, `configured`, `settings`."""

    def __init__(self) -> None:
        self._specs: list[CallbackSpec] = []

    @property
    def specs(self) -> tuple[CallbackSpec, ...]:
        return tuple(self._specs)

    def listed(self, section: Map, key: str, when: str) -> None:
        """`callbacks`, `success_callback` or `failure_callback`: names, or mappings of a name to its parameters."""
        value, mark = section.get(key), section.at(key)
        if value is None:
            return
        items = list(value.pairs()) if isinstance(value, Seq) else [(value, mark)]
        for index, (item, place) in enumerate(items):
            path = f"tianji_settings.{key}[{index}]"
            if isinstance(item, str) and item:
                self._add(CallbackSpec(plugin=item, name=item, when=when, path=path, where=_where(place, path)))
            elif isinstance(item, Map) and _type_key(item) is None:
                for name, params in item.items():
                    given = {} if params is None else to_dict(params, item.at(name))
                    where = _where(place, path)
                    self._add(CallbackSpec(plugin=name, name=name, when=when, params=given, path=path, where=where))
            elif isinstance(item, Map):
                self._instance(item, place, path, when)
            elif item is not None:
                raise wrong("the name of a callback", item, place)

    def configured(self, value: Any, mark: Mark) -> None:
        """`callback_configs`: one instance an entry; it runs whether or not a list names it too."""
        for index, (item, place) in enumerate(to_seq(value, mark).pairs()):
            entry = to_map(item, place)
            if _type_key(entry) is None:
                raise entry.at("type").error("missing: the callback that is configured")
            self._instance(entry, place, f"tianji_settings.callback_configs[{index}]", None)

    def settings(self, value: Any, mark: Mark) -> None:
        """`callback_settings`: parameters for callbacks that a list names; alone they start nothing."""
        section = to_map(value, mark)
        for name, item in section.items():
            if item is None:
                continue
            entry = to_map(item, section.at(name))
            kind = _text(entry, "callback_type")
            given = {key: plain(part) for key, part in entry.items() if key != "callback_type"}
            for index, spec in enumerate(self._specs):
                if name in (spec.name, spec.plugin):
                    self._specs[index] = msgspec.structs.replace(
                        spec, plugin=kind or spec.plugin, params=given | spec.params
                    )

    def _instance(self, entry: Map, place: Mark, path: str, when: str | None) -> None:
        type_key = _type_key(entry)
        assert type_key is not None
        plugin = _text(entry, type_key)
        if not plugin:
            raise entry.at(type_key).error("missing: the callback that is configured")
        own = _text(entry, "name")
        said = _text(entry, "when")
        if said is not None and said not in {"all", "success", "failure"}:
            raise entry.at("when").error("expected `all`, `success` or `failure`")
        handled = {type_key, "name", "when", "required"}
        spec = CallbackSpec(
            plugin=plugin,
            name=own or plugin,
            when=said or when or "all",
            params={key: plain(item) for key, item in entry.items() if key not in handled and item is not None},
            required=_flag(entry, "required"),
            path=path,
            where=_where(place, path),
        )
        bare = next((n for n, other in enumerate(self._specs) if other.plugin == plugin and not other.params), None)
        if bare is None:
            self._add(spec)
            return
        known = self._specs[bare].when
        joined = known if when in (None, known) else "all"
        self._specs[bare] = msgspec.structs.replace(spec, when=said or joined)

    def _add(self, spec: CallbackSpec) -> None:
        for index, other in enumerate(self._specs):
            same = other.plugin == spec.plugin and (not spec.params or spec.params == other.params)
            if same and (spec.name in (other.name, spec.plugin)):
                when = other.when if other.when == spec.when else "all"
                required = other.required or spec.required
                self._specs[index] = msgspec.structs.replace(other, when=when, required=required)
                return
        taken = {other.name for other in self._specs}
        name, number = spec.name, 1
        while name in taken:
            number += 1
            name = f"{spec.name}-{number}"
        self._specs.append(msgspec.structs.replace(spec, name=name))


def _type_key(entry: Map) -> str | None:
    return next((key for key in ("type", "callback_type", "callback_name") if entry.get(key) is not None), None)


def plugins(value: Any, mark: Mark, warnings: list[ConfigWarning]) -> PluginsSection:
    section = to_map(value, mark)
    for key in section:
        if key not in SECTIONS["plugins"].known:
            hint = suggest(key, "plugins")
            warnings.append(ConfigWarning("unknown-key", str(section.at(key)), "not a key of `plugins`", hint))
    return fill(PluginsSection, section)


def _text(section: Map, key: str) -> str | None:
    value = section.get(key)
    return None if value is None else to_str(value, section.at(key))


def _flag(section: Map, key: str) -> bool:
    value = section.get(key)
    return value is not None and to_bool(value, section.at(key))


def _where(place: Mark, path: str) -> str:
    return f"{place.position}: {path}" if place.position else path
