"""`tianji serve`: run the gateway, until SIGTERM or Ctrl-C.

With `--json`, once the socket is bound, one object on standard output: `{"address", "config", "master_key", "models"}`.
`config` is null without a file; `master_key` is null unless it was made up for this run.
"""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tianji.cli import COMMANDS
from tianji.cli.common import (
    config_arguments,
    config_path,
    counted,
    from_environment,
    json_argument,
    load_config,
    make_catalogue,
    print_json,
    read_by_plugins,
    say,
    unread,
)
from tianji.config import Config, unenforced
from tianji.errors import ConfigError

if TYPE_CHECKING:
    from tianji.gateway import Gateway


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("serve", help=COMMANDS["serve"], description="Run the gateway.")
    config_arguments(parser)
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1, or general_settings.host)")
    parser.add_argument(
        "-p", "--port", type=int, help="port (default 4000, or $PORT, or general_settings.port); 0: any"
    )
    parser.add_argument("-w", "--workers", type=int, help="processes (default 1, or $NUM_WORKERS)")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds for running calls at a stop (default 30)")
    json_argument(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Load everything, then serve. Nothing is bound before the configuration is known to be good."""
    path = config_path(arguments.config)

    def fresh() -> Config:
        config = load_config(path)
        if first is not None and config.generated_master_key:
            raise ConfigError("there is no configuration file to reload")
        return config

    since = time.time_ns()
    first: Config | None = None
    first = config = fresh()
    _log_to_stderr(verbose=config.tianji_settings.set_verbose)
    catalogue = make_catalogue(config, arguments.plugin)
    workers = arguments.workers or from_environment("NUM_WORKERS", 1)
    # The two heavy imports come last, so that a bad configuration is told at once.
    from tianji.gateway import Gateway
    from tianji.sqlite import private_folder

    with private_folder(workers > 1) as shared:
        gateway = Gateway(config, catalogue, shared=shared)
        return _serve(arguments, gateway, workers, fresh, path, since)


def _serve(
    arguments: argparse.Namespace, gateway: Gateway, workers: int, fresh: Callable[[], Config], path: str | None,
    since: int,
) -> int:  # fmt: skip
    from tianji.server.run import serve

    config, catalogue = gateway.config, gateway.catalogue
    general = config.general_settings
    host = arguments.host or general.host
    port = arguments.port if arguments.port is not None else from_environment("PORT", general.port)
    warn = logging.getLogger("tianji.config").warning
    for warning in unread(config, read_by_plugins(config, catalogue, gateway)):
        warn("%s: %s", warning.path, warning.message)
    for finding in unenforced(config):
        warn("%s: %s", finding.path, finding.message)
    # What was made so far lives as long as the process: keep the collector from walking it at every full collection,
    # and (with workers) from touching pages that are shared with the parent.
    gc.collect()
    gc.freeze()
    # A call's objects are freed by their counts; the collector need not look at every seven hundred of them.
    gc.set_threshold(10_000, 20, 20)
    # uvicorn sends itself the signal again when it has stopped; a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, _stopped)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something that can be reloaded
    try:
        return serve(
            gateway,
            host=host,
            port=port,
            workers=workers,
            load=fresh,
            path=path,
            grace=arguments.grace,
            since=since,
            ready=lambda address: _greet(config, gateway.sealed.models, address, path, as_json=arguments.json),
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}") from error


def _stopped(number: int, frame: object) -> None:
    raise SystemExit(0)


def _greet(config: Config, models: tuple[str, ...], address: str, path: str | None, *, as_json: bool) -> None:
    """What a newcomer needs: the address, the key if it was made just now, a first request."""
    master = config.general_settings.master_key
    key = master.reveal() if config.generated_master_key and master else None
    if as_json:
        print_json({"address": address, "config": path, "master_key": key, "models": list(models)})
        sys.stdout.flush()
        return
    say(f"Tianji is listening on {address}")
    if key is not None:
        say(f"Master key (made for this run, shown once; set TIANJI_MASTER_KEY to choose your own): {key}")
        say("No configuration file was given. Try:")
        say(f"  curl {address}/v1/chat/completions -H 'Authorization: Bearer {key}' \\")
        say('    -d \'{"model": "echo/echo", "messages": [{"role": "user", "content": "Hello"}]}\'')
    shown = ", ".join(models[:8]) + (f" and {len(models) - 8} more" if len(models) > 8 else "")
    say(f"{counted(len(models), 'model')}: {shown or 'none'}")
    sys.stdout.flush()


def _log_to_stderr(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("uvicorn", "uvicorn.error", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
