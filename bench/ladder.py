"""The rungs: the gateway with one more thing switched on at each step, as configuration files of its own format.

A rung names the plugins it needs. Where one is not installed the rung is reported as "not in this build" and the rungs
above it go on without it, saying so: nothing is imitated.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from bench.measure import BenchError
from bench.runs import MASTER_KEY, Subject, post

FAMILIES = ("providers", "guardrails", "callbacks", "strategies", "extensions")
MODELS = {"openai": "bench-openai", "anthropic": "bench-anthropic", "gemini": "bench-gemini"}
Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder."""

    name: str
    note: str
    needs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(family, names of which any will do), all of them."""
    apply: Callable[[Config, Path, Mapping[str, str]], None] | None = None
    """Change the configuration, given the scratch directory and, by family, the name that was found."""
    key: Mapping[str, Any] | None = None
    """Ask for a virtual key with these fields, added to those of the rungs below."""
    governed: bool = True
    """Belongs to what the target calls governed."""
    alone: bool = False
    """Stands on the bare gateway alone, and nothing stands on it."""


def _database(config: Config, scratch: Path, found: Mapping[str, str]) -> None:
    config["general_settings"]["database_url"] = f"sqlite:///{scratch}/bench.db"
    config["general_settings"]["disable_spend_logs"] = True


def _ledger(config: Config, scratch: Path, found: Mapping[str, str]) -> None:
    config["general_settings"]["database_url"] = f"sqlite:///{scratch}/bench.db"
    config["general_settings"]["disable_spend_logs"] = False


def _callbacks(count: int) -> Callable[[Config, Path, Mapping[str, str]], None]:
    def apply(config: Config, scratch: Path, found: Mapping[str, str]) -> None:
        name = found["callbacks"]
        config["tianji_settings"] = {
            "callback_configs": [
                {"type": name, "path": str(scratch / f"records-{number}.jsonl")} for number in range(count)
            ]
        }

    return apply


def _guardrail(config: Config, scratch: Path, found: Mapping[str, str]) -> None:
    params = {"guardrail": found["guardrails"], "mode": "pre_call", "default_on": True}
    config["guardrails"] = [{"guardrail_name": "bench-filter", "tianji_params": params}]


def _routing(config: Config, scratch: Path, found: Mapping[str, str]) -> None:
    """Three deployments for each model, and everything that may choose among them."""
    entries = []
    for entry in config["model_list"]:
        for region in ("eu-west1", "us-east1", "eu-central1"):
            params = {**entry["tianji_params"], "region": region, "rpm": 100_000_000, "tpm": 2_000_000_000}
            entries.append({**entry, "tianji_params": {**params, "tags": ["default"], "max_budget": 1e6}})
    config["model_list"] = entries
    config["router_settings"] = {
        "routing_strategy": "latency-based-routing",
        "enable_tag_filtering": True,
        "enable_pre_call_checks": True,
        "optional_pre_call_checks": ["prompt_caching", "enforce_model_rate_limits", "router_budget_limiting"],
        "fallbacks": [{"bench-openai": ["bench-anthropic"]}],
        "retry_policy": {"RateLimitErrorRetries": 3},
        "model_group_retry_policy": {"bench-openai": {"num_retries": 2}},
        "continue_streams": True,
    }


_SQLITE = ("extensions", ("sqlite", "database-sqlite", "db-sqlite"))
_KEYS = ("extensions", ("keys", "management", "virtual-keys"))
_JSONL = ("callbacks", ("jsonl",))

RUNGS = (
    Rung("bare", "one OpenAI deployment; the caller is always authenticated, here by the master key"),
    Rung(
        "routing",
        "three deployments by latency; tags, regions, rate limits, budgets, prompt caches, streams that go on",
        tuple(
            ("strategies", (name,))
            for name in (
                "lowest-latency",
                "tag-filter",
                "region-filter",
                "rate-limits",
                "budget-limiter",
                "prefix-affinity",
            )
        ),
        _routing,
        governed=False,
        alone=True,
    ),
    Rung("+ virtual key", "the caller's key is one of the key store's", (_SQLITE, _KEYS), _database, {}),
    Rung(
        "+ limits",
        "requests and tokens a minute, parallel requests",
        (_KEYS, ("extensions", ("limits", "rate-limits"))),
        None,
        {"rpm_limit": 100_000_000, "tpm_limit": 2_000_000_000, "max_parallel_requests": 10_000},
    ),
    Rung(
        "+ budget", "a hard budget, held before the request and settled after it", (_KEYS,), None, {"max_budget": 1e6}
    ),
    Rung("+ ledger", "every entry is written to SQLite", (_SQLITE,), _ledger),
    Rung("+ log", "every record is written to a file", (_JSONL,), _callbacks(1)),
    Rung(
        "+ 1 guardrail",
        "a content filter reads the prompt",
        (("guardrails", ("content-filter", "content_filter")),),
        _guardrail,
        governed=False,
    ),
    Rung("+ 5 callbacks", "five record files in place of one", (_JSONL,), _callbacks(5), governed=False),
)


@dataclass(slots=True)
class Step:
    """A rung as this build has it."""

    rung: Rung
    subject: Subject | None
    """None: not in this build."""
    note: str
    governed: bool = False
    """Every governed rung up to here is switched on, and this is the last of them."""


@dataclass(slots=True)
class _State:
    applied: list[tuple[Rung, dict[str, str]]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def command() -> Path:
    """The gateway's executable: beside this Python, or what TIANJI_BENCH_COMMAND names."""
    return Path(os.environ.get("TIANJI_BENCH_COMMAND") or Path(sys.executable).parent / "tianji")


def installed() -> dict[str, set[str]]:
    """Names of the installed plugins by family, read from entry points without importing anything."""
    return {family: {entry.name for entry in entry_points(group=f"tianji.{family}")} for family in FAMILIES}


def steps(upstream: int) -> list[Step]:
    """The ladder for the plugins that are installed, against a provider on that port."""
    plugins = installed()
    state = _State()
    result = []
    for rung in RUNGS:
        found, lacking = _find(rung, plugins)
        if lacking or not command().exists():
            if not rung.alone:
                state.missing.append(rung.name.removeprefix("+ "))
            result.append(Step(rung, None, f"needs {', '.join(lacking) or 'the gateway itself'}"))
            continue
        if rung.alone:
            result.append(Step(rung, _subject(rung.name, upstream, [*state.applied[:1], (rung, found)]), rung.note))
            continue
        state.applied.append((rung, found))
        absent = f"; without: {', '.join(state.missing)}" if state.missing else ""
        subject = _subject(rung.name, upstream, list(state.applied))
        result.append(Step(rung, subject, rung.note + absent))
    _mark_governed(result)
    return result


def _mark_governed(result: Sequence[Step]) -> None:
    governed = [step for step in result if step.rung.governed]
    governed[-1].governed = all(step.subject for step in governed)


def _find(rung: Rung, plugins: Mapping[str, set[str]]) -> tuple[dict[str, str], list[str]]:
    """By family the name that serves a rung, and what none serves."""
    found, lacking = {}, []
    for family, names in rung.needs:
        name = next((name for name in names if name in plugins[family]), None)
        if name is None:
            lacking.append(f"{family.removesuffix('s')} {names[0]}")
        else:
            found[family] = name
    return found, lacking


def base_config(upstream: int) -> Config:
    """Three deployments, one for each provider dialect, and the master key."""
    origin = f"http://127.0.0.1:{upstream}"
    deployments = {
        "openai": ("openai/gpt-4o-mini", f"{origin}/v1"),
        "anthropic": ("anthropic/claude-sonnet-4-5", origin),
        "gemini": ("gemini/gemini-2.5-flash", f"{origin}/v1beta"),
    }
    providers = installed()["providers"]
    return {
        "model_list": [
            {"model_name": MODELS[name], "tianji_params": {"model": model, "api_base": base, "api_key": "sk-bench"}}
            for name, (model, base) in deployments.items()
            if name in providers
        ],
        "general_settings": {"master_key": MASTER_KEY},
    }


def dialects() -> list[str]:
    """The provider dialects that this build can reach."""
    return [name for name in MODELS if name in installed()["providers"]]


def _subject(name: str, upstream: int, applied: Sequence[tuple[Rung, dict[str, str]]]) -> Subject:
    fields: dict[str, Any] = {}
    wants_key = False
    for rung, _ in applied:
        if rung.key is not None:
            wants_key = True
            fields.update(rung.key)

    def command_line(port: int, workers: int, scratch: Path) -> list[str]:
        config = base_config(upstream)
        for rung, found in applied:
            if rung.apply is not None:
                rung.apply(config, scratch, found)
        path = scratch / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        options = ["--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
        return [str(command()), "serve", *options]

    def make_key(port: int, token: str) -> str:
        answer = post(port, "/key/generate", token, json.dumps(fields).encode())
        try:
            return str(json.loads(answer.partition("\r\n\r\n")[2])["key"])
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"no virtual key: {answer[:200]!r}") from error

    return Subject(name, command_line, models=MODELS, prepare=make_key if wants_key else None)
