"""References into values: environment variables are put in, secrets become `Secret`."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec

from tianji.config.convert import to_map, to_str
from tianji.config.document import NAMED, Map, Mark, Seq, plain, words
from tianji.config.schema import ConfigWarning, SecretReference
from tianji.model import Secret
from tianji.secrets import Unresolved, expand, holds_secret

_REFUSED = words(
    "PATH IFS ENV BASH_ENV SHELLOPTS LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT GCONV_PATH NODE_OPTIONS PERL5OPT RUBYOPT "
    "PYTHONPATH PYTHONSTARTUP PYTHONHOME PYTHONINSPECT PYTHONUSERBASE PYTHONEXECUTABLE PYTHONPLATLIBDIR "
    "PYTHONBREAKPOINT PYTHONWARNINGS PYTHONPYCACHEPREFIX"
)
"""Variables that change which code runs; `environment_variables` may not set them."""


class Resolver:
    """Resolves every value of a document; gathers what could not be resolved."""

    def __init__(self, environ: MutableMapping[str, str], fetched: Mapping[str, str]) -> None:
        self.environ = environ
        self.fetched = fetched
        self.warnings: list[ConfigWarning] = []
        self.references: list[SecretReference] = []

    def export(self, root: Map) -> None:
        """Put `environment_variables` into the environment, over what is there, and take them out of the document."""
        section = root.pop("environment_variables", None)
        if section is None:
            return
        for name, raw in to_map(section, root.at("environment_variables")).items():
            mark = section.at(name)
            if name.upper() in _REFUSED or name.upper().startswith("DYLD_"):
                self._warn("refused", mark, "not set: this variable decides which code runs", "Set it outside the file")
                continue
            value = self._text(raw, mark)[0] if isinstance(raw, str) else raw
            if value is None or isinstance(value, Unresolved):
                continue
            if isinstance(value, Secret):
                value = value.reveal()
            try:
                self.environ[name] = json.dumps(value) if isinstance(value, bool) else to_str(value, mark) or ""
            except (ValueError, OSError):
                raise mark.error("not a name and value that an environment can hold") from None

    def resolve(self, value: Any, mark: Mark, *, secret: bool = False, named: bool = False) -> tuple[Any, Mark]:
        """The value with its references resolved, and its mark. `secret`: its key says that it holds a secret."""
        if isinstance(value, Map):
            return self._map(value, named), mark
        if isinstance(value, Seq):
            built = Seq(value.mark)
            for item, place in value.pairs():
                built.add(*self.resolve(item, place, secret=secret, named=named))
            return built, mark
        if isinstance(value, str):
            value, mark = self._text(value, mark, secret=secret)
        if secret and isinstance(value, (str, int)) and not isinstance(value, bool):
            value = Secret(str(value))
        return value, mark

    def _map(self, value: Map, named: bool) -> Map:
        built = Map(value.mark)
        for key, item in value.items():
            secret = not named and holds_secret(key)
            resolved, mark = self.resolve(item, value.at(key), secret=secret, named=named or key in NAMED)
            if secret and isinstance(resolved, Map) and key.endswith("credentials"):
                # Google's service accounts come as a file name, as JSON text, or as the same JSON written in YAML.
                resolved = Secret(json.dumps(plain(resolved), default=_reveal))
            built.put(key, resolved, mark)
        return built

    def _text(self, text: str, mark: Mark, *, secret: bool = False) -> tuple[str | Unresolved | None, Mark]:
        found = expand(text, self.environ, self.fetched)
        if found.reference is not None:
            mark = msgspec.structs.replace(mark, reference=found.reference[:100])
        if isinstance(found.value, Unresolved):
            self.references.append(SecretReference(text.partition("://")[0], text, str(mark)))
        for name in found.unset:
            effect = "the value is empty" if found.value is None else "the text stays as it is"
            self._warn("unset-variable", mark, f"the variable {name} is not set; {effect}", f"Set {name}")
        if secret and found.value == "" and found.reference is not None:
            self._warn("unset-variable", mark, f"{found.reference} is set to an empty text", "Set it")
        return found.value, mark

    def _warn(self, code: str, mark: Mark, message: str, mend: str) -> None:
        self.warnings.append(ConfigWarning(code, str(mark), message, mend))


def _reveal(value: object) -> str:
    return value.reveal() if isinstance(value, Secret) else str(value)
