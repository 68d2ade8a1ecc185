"""{{ cookiecutter.__title }}: {{ cookiecutter.description.rstrip('.') }}.

Docs: https://docs.{{ cookiecutter.__folder }}.example/words
"""

import re
from typing import Any

from tianji import Call, Content, Guardrail, PluginSettings, Verdict


class {{ cookiecutter.__class }}(Guardrail):
    name = "{{ cookiecutter.name }}"

    class Settings(PluginSettings, frozen=True):
        words: tuple[str, ...]
        """Words to look for, in any case."""
        mask: bool = False
        """Replace the words with `***` instead of refusing the call."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, self.settings.words))})\b", re.IGNORECASE)

    async def check(self, content: Content, call: Call) -> Verdict:
        """Whatever this raises refuses the call, unless the operator chose `fail_open`: never swallow an error."""
        if not self.pattern.search(content.text):
            return Verdict.allow()
        if self.settings.mask:
            return Verdict.rewrite(content.map(lambda text: self.pattern.sub("***", text)))
        return Verdict.block(f"a banned word in the {content.part}")
