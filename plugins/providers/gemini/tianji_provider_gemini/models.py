"""What a Gemini model's name says about how to ask it, and its place in a URL.

Docs: https://ai.google.dev/gemini-api/docs/models
"""

import re
from urllib.parse import quote

_VERSION = re.compile(r"(?:^|/)gemini-(\d+)")
_LATEST = re.compile(r"(?:^|/)gemini-[a-z-]*latest$")

THREE = 3
"""From this generation on: thinking levels instead of budgets, ids on function calls, signatures that are checked."""


def generation(model: str) -> int:
    """The major version of a Gemini model. The moving `gemini-…-latest` names count as 3, which is what they are.

    0 for what has no version in its name (Gemma, tuned models): those are asked in the oldest way.
    """
    if match := _VERSION.search(model):
        return int(match[1])
    return THREE if _LATEST.search(model) else 0


def resource(model: str) -> str:
    """The model as a resource name, safe in a path: `models/gemini-2.5-flash`, `tunedModels/mine`.

    With a wildcard deployment the name is the client's, so nothing in it may leave its path segment.
    """
    kind, slash, name = model.partition("/")
    if not slash or kind not in ("models", "tunedModels"):
        kind, name = "models", model
    return f"{kind}/{quote(name, safe='')}"
