"""`tianji new FAMILY NAME`: a working plugin, baked from the template that the repository's own plugins come from.

The template is the folder `cookiecutter-plugin/` of the repository (https://cookiecutter.readthedocs.io). Inside a
checkout that one is used; elsewhere it has to be named with `--template`, as a folder or as the address of a
repository.

With `--json`: `{"path", "family", "name", "next": [command]}`.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from tianji.cli import COMMANDS
from tianji.cli.common import checkout, json_argument, print_json, say, wrong_use
from tianji.errors import ConfigError
from tianji.plugin import SINGULAR

FAMILIES = ("provider-openai", "provider-custom", "guardrail", "callback", "strategy", "extension")
"""What the template can bake. An OpenAI-compatible provider is a dozen declarative lines; a custom one translates."""
FOLDER = "cookiecutter-plugin"
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "new",
        help=COMMANDS["new"],
        description="Start a plugin from the template: a distribution that works, with its tests, README and licence.",
    )
    parser.add_argument("family", metavar="FAMILY", help=f"{', '.join(FAMILIES)} (provider: provider-openai)")
    parser.add_argument("name", metavar="NAME", help="what operators will write in the configuration, such as acme")
    parser.add_argument("--dir", metavar="PATH", help="folder to put it in (default: here; in a checkout: plugins/…)")
    parser.add_argument("--description", help="one sentence")
    parser.add_argument("--author", help="who wrote it")
    parser.add_argument("--github-username", metavar="NAME", help="for the links in the metadata")
    parser.add_argument("--standalone", action="store_true", help="a repository of its own, even inside a checkout")
    parser.add_argument("--template", metavar="PATH_OR_URL", help=f"the template (default: {FOLDER}/ of the checkout)")
    json_argument(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    family = _family(arguments.family)
    name = _checked(arguments.name)
    try:
        from cookiecutter.exceptions import CookiecutterException
        from cookiecutter.main import cookiecutter
    except ImportError:
        raise wrong_use("this needs cookiecutter", "Install it with: pip install cookiecutter") from None
    root = None if arguments.standalone else _around(Path.cwd())
    template = arguments.template or _template()
    target = Path(arguments.dir or (root / "plugins" / _plural(family) if root is not None else "."))
    asked = {
        "family": family,
        "name": name,
        "description": arguments.description,
        "author": arguments.author,
        "github_username": arguments.github_username,
        "in_monorepo": root is not None and arguments.dir is None,
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        made = cookiecutter(
            str(template),
            no_input=True,
            extra_context=_fitting({key: value for key, value in asked.items() if value is not None}, template),
            output_dir=str(target),
            default_config=True,  # a config file of the user's must not change what is baked
        )
    except CookiecutterException as error:
        raise ConfigError(f"the template was not baked: {error}", path=str(template)) from error
    except OSError as error:
        raise ConfigError(f"cannot write: {error.strerror or error}", path=str(target)) from error
    _tell(arguments, Path(made), family, name)
    return 0


def _tell(arguments: argparse.Namespace, path: Path, family: str, name: str) -> None:
    try:
        shown = str(path.relative_to(Path.cwd()))
    except ValueError:
        shown = str(path)
    steps = [f"pip install -e {shown}", f"pytest {shown}", f"tianji plugins info {_plural(family)}.{name}"]
    if arguments.json:
        print_json({"path": str(path), "family": family, "name": name, "next": steps})
        return
    say(f"Made {shown}")
    say("Next:")
    for step in steps:
        say(f"  {step}")


def _family(given: str) -> str:
    """One of `FAMILIES`; the plural, and `provider` alone, are understood."""
    single = SINGULAR.get(given, given)
    single = "provider-openai" if single == "provider" else single
    if single not in FAMILIES:
        raise wrong_use(f"there is no family {given!r}", f"The template knows {', '.join(FAMILIES)}")
    return single


def _plural(family: str) -> str:
    single = family.partition("-")[0]
    return next(plural for plural, word in SINGULAR.items() if word == single)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-_") or "acme"
        raise wrong_use(
            f"{name!r} cannot name a plugin: small letters and digits, with single dashes or underscores between",
            f"Perhaps {near!r}",
        )
    return name


def _around(folder: Path) -> Path | None:
    """The checkout that `folder` lies in."""
    for one in (folder, *folder.parents):
        if (one / FOLDER / "cookiecutter.json").is_file() and (one / "core" / "tianji").is_dir():
            return one
    return None


def _template() -> Path:
    root = checkout(FOLDER, "cookiecutter.json")
    if root is None:
        raise wrong_use(
            f"the template is the folder {FOLDER}/ of Tianji's repository, and there is no checkout here",
            f"Clone the repository and name the folder with --template, or run: cookiecutter <repository> "
            f"--directory {FOLDER}",
        )
    return root / FOLDER


def _fitting(asked: dict[str, Any], template: Path | str) -> dict[str, Any]:
    """The answers, with yes or no in the way in which the template asks for it."""
    try:
        questions = json.loads((Path(template) / "cookiecutter.json").read_text())
    except (OSError, ValueError):
        return asked
    for key, value in asked.items():
        question = questions.get(key)
        if isinstance(value, bool) and not isinstance(question, bool):
            choices = question if isinstance(question, list) else []
            word = "yes" if value else "no"
            asked[key] = next((one for one in choices if str(one).lower().startswith(word[0])), word)
    return asked
