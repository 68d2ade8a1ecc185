"""The same measurements for other gateways, where an environment has them.

`TIANJI_BENCH_PEERS` names a directory that holds virtual environments or `bin` directories with the executables
`litellm` and `ferrogw`, for example one made by

    python -m venv peers && peers/bin/pip install 'litellm[proxy]' ferrogw

Each gets the same provider, the same master key and the same three models. Telemetry, price-list downloads and request
logs are off, so that what is measured is the gateway's own work. ferrogw has no option for the address it listens on:
measure it on a machine that strangers cannot reach.

https://docs.litellm.ai/docs/proxy/configs
https://github.com/ferro-labs/ai-gateway/blob/main/.env.example
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.runs import MASTER_KEY, Subject

VARIABLE = "TIANJI_BENCH_PEERS"
NOTE = "the same provider, models and master key; nothing logged or stored"


@dataclass(frozen=True, slots=True)
class Peer:
    """One other gateway; `subject` is None, with a reason in `note`, where it cannot be measured here."""

    name: str
    subject: Subject | None
    note: str


def peers(upstream: int) -> list[Peer]:
    """What the environment offers; empty where the variable is not set."""
    root = os.environ.get(VARIABLE)
    if not root:
        return []
    makers: dict[str, Callable[[Path, str, int], Subject]] = {"litellm": _litellm, "ferrogw": _ferrogw}
    result = []
    for name, make in makers.items():
        executable = _find(Path(root), name)
        if executable is None:
            result.append(Peer(name, None, f"not measured: no executable `{name}` under {VARIABLE}"))
            continue
        version = _version(executable, name)
        result.append(Peer(name, make(executable, f"{name} {version}".strip(), upstream), NOTE))
    return result


def _find(root: Path, name: str) -> Path | None:
    places = [root / name, root / "bin" / name, root / name / "bin" / name, *sorted(root.glob(f"*/bin/{name}"))]
    return next((place.absolute() for place in places if place.is_file()), None)


def _version(executable: Path, name: str) -> str:
    """The installed version, from the metadata beside the executable; empty where there is none."""
    found = sorted(executable.parent.parent.glob(f"lib/python*/site-packages/{name}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").partition("-")[2] if found else ""


def _litellm(executable: Path, name: str, upstream: int) -> Subject:
    origin = f"http://127.0.0.1:{upstream}"

    def command(port: int, workers: int, scratch: Path) -> list[str]:
        def deployment(public: str, model: str, base: str) -> dict[str, object]:
            params = {"model": model, "api_base": base, "api_key": "sk-bench"}
            return {"model_name": public, "litellm_params": params}

        config = {
            "model_list": [
                deployment("bench-openai", "openai/gpt-4o-mini", f"{origin}/v1"),
                deployment("bench-anthropic", "anthropic/claude-sonnet-4-5", origin),
            ],
            "litellm_settings": {"telemetry": False},
            "general_settings": {"master_key": MASTER_KEY},
        }
        path = scratch / "litellm.yaml"
        path.write_text(yaml.safe_dump(config))
        where = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers)]
        return [str(executable), "--config", str(path), "--telemetry", "False", *where]

    return Subject(
        name,
        command,
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"},
        models={"openai": "bench-openai", "anthropic": "bench-anthropic"},
        connections=16,
        stream_connections=3,
        warmup=50,
        start_timeout=120.0,
    )


def _ferrogw(executable: Path, name: str, upstream: int) -> Subject:
    origin = f"http://127.0.0.1:{upstream}"

    def command(port: int, workers: int, scratch: Path) -> list[str]:
        # The path of the configuration has to come from the environment, which is fixed before the scratch directory
        # exists; `env` sets it for this one command.
        path = scratch / "ferrogw.yaml"
        targets = [{"virtual_key": provider} for provider in ("openai", "anthropic", "gemini")]
        path.write_text(yaml.safe_dump({"strategy": {"mode": "fallback"}, "targets": targets}))
        return ["/usr/bin/env", f"GATEWAY_CONFIG={path}", str(executable), "serve"]

    return Subject(
        name,
        command,
        env={
            "MASTER_KEY": MASTER_KEY,
            "OPENAI_API_KEY": "sk-bench",
            "OPENAI_BASE_URL": f"{origin}/v1",
            "ANTHROPIC_API_KEY": "sk-bench",
            "ANTHROPIC_BASE_URL": origin,
            "GEMINI_API_KEY": "sk-bench",
            "GEMINI_BASE_URL": f"{origin}/v1beta",
            "FERRO_MODEL_CATALOG_TIMEOUT": "0",
            "RATE_LIMIT_RPS": "1000000",  # its own default refuses after a few hundred requests
            "RATE_LIMIT_BURST": "1000000",
            "LOG_LEVEL": "error",
        },
        port_env="PORT",
        models={"openai": "gpt-4o-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"},
    )
