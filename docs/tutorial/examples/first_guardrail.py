"""Code names: keeps the names of secret projects out of prompts and answers.

Docs: https://intranet.example/code-names
"""

import re
from typing import Any

from tianji import Call, Content, Guardrail, PluginSettings, Verdict


class CodeNames(Guardrail):
    name = "code-names"

    class Settings(PluginSettings, frozen=True):
        words: tuple[str, ...]
        """The names, in any case."""
        mask: bool = False
        """Replace the names with `***` instead of refusing the call."""

    settings: Settings

    def __init__(self, settings: Any, *, instance: str, gateway: Any) -> None:
        super().__init__(settings, instance=instance, gateway=gateway)
        self.pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, self.settings.words))})\b", re.IGNORECASE)

    async def check(self, content: Content, call: Call) -> Verdict:
        if not self.pattern.search(content.text):
            return Verdict.allow()
        if self.settings.mask:
            return Verdict.rewrite(content.map(lambda text: self.pattern.sub("***", text)))
        return Verdict.block(f"a code name in the {content.part}")
