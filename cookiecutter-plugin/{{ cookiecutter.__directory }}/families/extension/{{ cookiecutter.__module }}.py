"""{{ cookiecutter.__title }}: {{ cookiecutter.description.rstrip('.') }}.

Docs: https://docs.{{ cookiecutter.__folder }}.example/pausing
"""

from typing import Any

from tianji import Call, Extension, Forbidden, PluginSettings, Reply, hookimpl


class {{ cookiecutter.__class }}(Extension):
    name = "{{ cookiecutter.name }}"
    order = 200  # with the limits: before guardrails and the cache do any work

    class Settings(PluginSettings, frozen=True):
        models: tuple[str, ...] = ()
        """Model groups that are paused."""
        message: str = "The model is paused."
        """What the client is told."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.paused = frozenset(self.settings.models)

    @hookimpl
    async def pre_call(self, call: Call) -> Reply | None:
        """Raise a Failure to end the call, return a Reply to answer it, or None to let it go on."""
        if call.model in self.paused:
            raise Forbidden(self.settings.message)
        return None
