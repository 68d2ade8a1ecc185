"""{{ cookiecutter.__title }}: {{ cookiecutter.description.rstrip('.') }}.

Providers cache prompts for each deployment, so a caller who stays in one place pays less.

Docs: https://docs.{{ cookiecutter.__folder }}.example/routing
"""

import hashlib
from collections.abc import Sequence

from tianji import Call, Deployment, PluginSettings, Strategy


class {{ cookiecutter.__class }}(Strategy):
    name = "{{ cookiecutter.name }}"

    class Settings(PluginSettings, frozen=True):
        salt: str = ""
        """Another salt spreads the callers in another way."""

    async def rank(self, call: Call, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Rendezvous hashing: when a deployment goes away, only its own callers move.

        Nothing is taken here. What a strategy takes (a slot, a count) it takes in `begin`, which returns its release.
        """
        caller = f"{self.settings.salt}/{call.principal.key_id}"
        return sorted(candidates, key=lambda one: hashlib.sha256(f"{caller}/{one.id}".encode()).digest())
