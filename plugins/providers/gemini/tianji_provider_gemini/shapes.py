"""Reading JSON that an upstream wrote: members may be missing, null or of another type than documented.

Docs: https://ai.google.dev/api/generate-content
"""

from typing import Any


def dicts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; anything else that may be there is passed over."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def an_object(value: Any) -> dict[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
