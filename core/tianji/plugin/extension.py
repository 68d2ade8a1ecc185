"""Extensions: everything that is not one of the four named families. Active when installed and not disabled."""

from __future__ import annotations

from typing import ClassVar

from tianji.plugin.base import Plugin


class Extension(Plugin):
    """Implements any hooks of `tianji.hookspecs`, marked with `@hookimpl`, and may provide services.

    Its settings come from the configuration section of its name with dashes as underscores (`section` overrides).
    """

    family: ClassVar[str] = "extensions"
    section: ClassVar[str] = ""
    active: bool = True
    """Extensions are there when they are installed, whether or not anybody wants them. One that the configuration does
    not ask for says so in `configure` (`self.active = False`), and its hooks of calls are left out: they cost nothing.
    """
