"""Names and ids of tools in the alphabet that Bedrock accepts, and back.

Docs: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolSpecification.html
"""

import re
from hashlib import sha256
from typing import Any

from .shapes import an_object, dicts

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_NOT_ID = re.compile(r"[^a-zA-Z0-9_.:-]")


def safe_name(name: str) -> str:
    """The name itself, or a legal one that no other name becomes."""
    return name if _NAME.fullmatch(name) else _safe(name, _NOT_NAME)


def safe_id(id: Any) -> str:
    """The same for the id of a call; other providers' ids may be longer."""
    name = str(id or "call")
    return name if _ID.fullmatch(name) else _safe(name, _NOT_ID)


def _safe(name: str, illegal: re.Pattern[str]) -> str:
    # The digest keeps apart what the substitution makes equal, without a memory of what was sent before.
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{illegal.sub('_', name)[:55]}_{digest}"


def originals(chat: dict[str, Any]) -> dict[str, str]:
    """Legal name → the client's own, for the tools of a request whose names had to be changed."""
    functions = [an_object(tool.get("function")) for tool in dicts(chat.get("tools"))] + dicts(chat.get("functions"))
    names = [function["name"] for function in functions if isinstance(function.get("name"), str)]
    return {safe: name for name in names if (safe := safe_name(name)) != name}
