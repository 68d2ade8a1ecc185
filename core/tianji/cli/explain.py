"""`tianji explain`: what would happen to a request, without doing it.

From the configuration alone: the gateway is assembled and not started, so nothing is known of cooldowns, of what was
spent, or of keys that a database holds. With `--url` a running gateway is asked (`POST /v1/explain`), which knows.

With `--json`: the document of `POST /v1/explain`; for a request that is refused before it is routed (malformed, or a
key that is not accepted) `{"refused": {by, status, message, type, param, code}}`. Status 0: it would be tried, 1: it
would be refused.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from tianji.cli import COMMANDS
from tianji.cli.common import (
    assemble,
    colored,
    config_arguments,
    config_path,
    counted,
    heading,
    json_argument,
    load_config,
    make_catalogue,
    print_json,
    quiet,
    say,
    table,
    wrong_use,
)
from tianji.errors import ConfigError, Failure

if TYPE_CHECKING:
    from tianji.gateway import Gateway

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
TIMEOUT = 30.0
LONGEST = 64 * 1024 * 1024
"""Bytes of a request, and of an answer."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "explain",
        help=COMMANDS["explain"],
        description="Say what would happen to a request, without doing it: the plugins that it meets, the deployments "
        "that would be tried and in which order, the fallbacks, what it may cost at most.",
    )
    parser.add_argument("request", metavar="REQUEST.json", help="the body of a request; - for standard input")
    config_arguments(parser)
    parser.add_argument("--url", metavar="URL", help="ask the gateway that runs there, in place of the configuration")
    parser.add_argument("--key", metavar="KEY", help="as whom (default: the master key)")
    parser.add_argument("--dialect", metavar="NAME", default="openai-chat", help="of the request; default: openai-chat")
    parser.add_argument("--seed", metavar="N", type=_seed, help="throw the dice of another call: its `seed`")
    json_argument(parser)
    parser.set_defaults(run=run)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError("a seed is a whole number from 0 to 2^64 - 1")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    body = _body(arguments.request)
    document = _ask(arguments, body) if arguments.url else _offline(arguments, body)
    if arguments.json:
        print_json(document)
    else:
        show_document(_printable(document))
    return 1 if document["refused"] else 0


def _body(name: str) -> bytes:
    try:
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:
            body = file.read(LONGEST + 1)
    except OSError as error:
        raise wrong_use(f"{name} cannot be read: {error.strerror or error}") from error
    if len(body) > LONGEST:
        raise wrong_use(f"{name} is longer than {LONGEST} bytes")
    return body


# -- where the document comes from -------------------------------------------------------------------------------------


def _offline(arguments: argparse.Namespace, body: bytes) -> dict[str, Any]:
    config = load_config(config_path(arguments.config))
    gateway = assemble(config, make_catalogue(config, arguments.plugin))
    key = arguments.key
    if key is None and config.general_settings.master_key is not None:
        key = config.general_settings.master_key.reveal()
    try:
        with quiet():
            return asyncio.run(_explained(gateway, arguments, body, key or ""))
    except Failure as failure:
        return {"refused": {"by": "kernel", "status": failure.status, **failure.body()}}


async def _explained(gateway: Gateway, arguments: argparse.Namespace, body: bytes, key: str) -> dict[str, Any]:
    from tianji import dialects
    from tianji.explain import explain
    from tianji.explanation import plain
    from tianji.model import Ingress
    from tianji.server.ingress import make_call

    if arguments.dialect not in dialects.NAMES:
        known = ", ".join(dialects.NAMES)
        raise wrong_use(f"there is no dialect {arguments.dialect!r}", f"The dialects are {known}")
    bearer = {b"authorization": b"Bearer " + key.encode()}
    principal = await gateway.pipeline.identify(Ingress("POST", "/v1/explain", bearer, ""))
    names = gateway.sealed.guardrail_names
    ingress = Ingress("POST", "/v1/explain", {}, "")
    dialect = dialects.get(arguments.dialect)
    call = make_call(ingress, principal, dialect, body, path_model=None, guardrails=names)
    call.seed = arguments.seed
    return plain(await explain(gateway.sealed, gateway.catalogue, call))


def _ask(arguments: argparse.Namespace, body: bytes) -> dict[str, Any]:
    """The document of a running gateway. Redirects are not followed: they would take the key elsewhere."""
    try:
        parts = urlsplit(arguments.url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        # It is not repeated: there may be a password in it.
        raise wrong_use("--url is no address of a gateway", "Write it like http://127.0.0.1:4000")
    key = arguments.key or os.environ.get("TIANJI_MASTER_KEY") or os.environ.get("LITELLM_MASTER_KEY")
    if not key:
        raise wrong_use("as whom?", "Give --key, or set TIANJI_MASTER_KEY")
    if not (key.isascii() and key.isprintable()):  # http.client would refuse it, and show it
        raise wrong_use("the key has characters that a header cannot carry", "Is there a line end in it?")
    query = {"dialect": arguments.dialect}
    if arguments.seed is not None:
        query["seed"] = arguments.seed
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        connection = connect(host, port, timeout=TIMEOUT)
        try:
            path = f"{parts.path.rstrip('/')}/v1/explain?{urlencode(query)}"
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            status, raw = response.status, response.read(LONGEST)
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConfigError(f"{arguments.url} does not answer: {error}", mend="Is the gateway running there?") from error
    return _understood(arguments.url, status, raw)


def _understood(url: str, status: int, raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except ValueError:
        data = None
    if isinstance(data, dict):
        if status == 200 and "refused" in data:
            return data
        if 400 <= status < 500 and isinstance(data.get("error"), dict) and status != 404:
            return {"refused": {"by": "kernel", "status": status, **data["error"]}}
    raise ConfigError(f"{url} answered with status {status}", mend="Is it a Tianji gateway, of this version?")


def _printable(value: Any) -> Any:
    """A document whose texts leave a terminal alone: clients write names, and control characters can be in them."""
    if isinstance(value, dict):
        return {_printable(key): _printable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_printable(one) for one in value]
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value


# -- tables ------------------------------------------------------------------------------------------------------------


def show_document(document: dict[str, Any]) -> None:
    """Print a document as text and tables."""
    refused = document["refused"]
    if refused:
        heading(f"Refused with {refused['status']} by {refused.get('by', 'the gateway')}")
        say(str(refused.get("message", "")))
    if "call" not in document:
        return
    _call(document)
    say()
    heading("Plugins, in the order in which the call meets them")
    rows = [
        (stage, f"{one['family']}:{one['instance']}", f"{one['distribution']} {one['version']}".strip(), _order(one))
        for stage, acting in document["hooks"].items()
        for one in acting
    ]
    table(("stage", "plugin", "distribution", "order"), rows, whole=("plugin",))
    for label, words in document["plugins"].items():
        say(f"{label}: {', '.join(f'{name}: {_word(value)}' for name, value in words.items())}")
    for route in document["routes"]:
        _route(route, "Route")
    for kinds, chain in _chains(document["fallbacks"]):
        for route in chain["routes"]:
            _route(route, f"Fallback{kinds}")
        if chain["note"]:
            say(f"\nFallbacks{kinds}: {chain['note']}.")
    if document["unknown"]:
        say()
        heading("Not known before it happens")
        for line in document["unknown"]:
            say(f"  {line}")


def _chains(fallbacks: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The chains of fallbacks with the kinds of failure that they are for; equal ones once."""
    found: list[tuple[list[str], dict[str, Any]]] = []
    for kind, chain in fallbacks.items():
        same = next((kinds for kinds, other in found if other == chain), None)
        if same is None:
            found.append(([kind.replace("_", " ")], chain))
        else:
            same.append(kind.replace("_", " "))
    if len(found) == 1:
        return [("", found[0][1])]
    return [(f" ({', '.join(kinds)})", chain) for kinds, chain in found]


def _call(document: dict[str, Any]) -> None:
    call, estimated = document["call"], document["estimated"]
    if document["refused"]:
        say()
    who = call["principal"]["alias"] or call["principal"]["key_id"]
    heading(f"{call['op']} of '{call['model']}' as {who}{', streamed' if call['stream'] else ''}")
    limits = ", ".join(f"{name.replace('_', ' ')} {seconds:g} s" for name, seconds in call["timeouts"].items())
    reserved = estimated["reserved_nano"]
    money = f"at most ${reserved / 1e9:.6f}" if reserved is not None else "at a price that is not known"
    say(f"About {counted(estimated['input_tokens'], 'token')} in, {money}. Time: {limits}. Seed: {document['seed']}.")
    if call["options"]:
        say(f"For the gateway: {', '.join(f'{name}: {_word(value)}' for name, value in call['options'].items())}")


def _route(route: dict[str, Any], title: str) -> None:
    say()
    by = f", chosen by {route['selected_by']}" if route["selected_by"] else ""
    where = f" → group '{route['group']}' ({route['how']}{by}), strategy {route['strategy']}" if route["group"] else by
    heading(f"{title}: '{route['model']}'{where}")
    if route["selected_because"]:
        say(f"Chosen because: {route['selected_because']}")
    if route["refused"]:
        say(f"Not used: {route['refused']}")
    if not route["candidates"]:
        return
    ordered = sorted(route["candidates"], key=lambda one: one["rank"] or len(route["candidates"]) + 1)
    rows = [
        (one["rank"] or "-", one["deployment_id"], f"{one['provider']}/{one['model']}", one["order"], _state(one))
        for one in ordered
    ]
    table(("rank", "deployment", "model", "tier", "state"), rows, whole=("deployment",))


def _state(candidate: dict[str, Any]) -> Any:
    if candidate["dropped"]:
        return colored(f"left out: {candidate['dropped']}", "error")
    if candidate["probe"]:
        return colored("tried first, to see whether it is well again", "warning")
    if candidate["health"] != "healthy":
        return colored(f"put aside ({candidate['health']}), for {candidate['cooling_for']:g} s more", "warning")
    return colored("ready", "ok")


def _order(acting: dict[str, Any]) -> Any:
    return "" if acting["order"] is None else acting["order"]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
