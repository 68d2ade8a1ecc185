"""Reading JSON that somebody else wrote: members may be missing, null or of another type than documented.

Docs: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from collections.abc import Callable
from typing import Any

from tianji import BadRequest

Body = dict[str, Any]
Drop = Callable[..., None]


def dicts(value: Any) -> list[Body]:
    """The objects of a list; anything else that may be there is passed over."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def an_object(value: Any) -> Body:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """The value where it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def need_object(value: Any, path: str) -> Body:
    """A member of the client's request that must be an object, or a `BadRequest` that names it."""
    if not isinstance(value, dict):
        raise BadRequest(f"Invalid type for '{path}': expected an object.", param=path, code="invalid_type")
    return value


def need_text(value: Any, path: str) -> str:
    """A member of the client's request that must be a string, or a `BadRequest` that names it."""
    if not isinstance(value, str):
        raise BadRequest(f"Invalid type for '{path}': expected a string.", param=path, code="invalid_type")
    return value
