"""What a model's name says: where it runs, whose it is, how new.

Docs: https://docs.aws.amazon.com/bedrock/latest/userguide/models-supported.html and, for the prefixes of LiteLLM's
configurations, https://docs.litellm.ai/docs/providers/bedrock
"""

import re
from functools import lru_cache
from typing import NamedTuple

from tianji import BadRequest, Deployment

CONVERSE = frozenset({"converse", "converse_like", "nova", "nova-2"})
"""LiteLLM's names for this API; the last two say what a custom model was made from."""
OTHER_ROUTES = frozenset({
    "invoke", "agent", "agentcore", "async_invoke", "openai", "mantle", "chat_completions", "claude_platform", "llama",
    "deepseek_r1", "qwen2", "qwen3", "moonshot",
})  # fmt: skip
"""LiteLLM's names for Bedrock's other APIs."""

_REGION = re.compile(r"[a-z]{2,3}(?:-[a-z]+){1,3}-\d{1,2}")
_CLAUDE = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2})(?!\d))?(?!\d)")
_NOVA = re.compile(r"nova-(\d)")


class Place(NamedTuple):
    """A model's id as Bedrock knows it, and the region that its name mentions."""

    id: str
    region: str | None


@lru_cache(maxsize=1024)
def place(name: str) -> Place:
    """Take a configured name apart. Raises `BadRequest` for one that belongs to another API, or to none."""
    region = None
    while "/" in name and not name.startswith("arn:"):
        head, _, rest = name.partition("/")
        if head in OTHER_ROUTES:
            raise BadRequest(
                f"The route '{head}/' is not offered: this provider speaks Bedrock's Converse API alone. "
                f"Where the model supports Converse, configure it as 'bedrock/{rest}'.",
                param="model",
            )
        if head not in CONVERSE and not _REGION.fullmatch(head):
            break
        region = region if head in CONVERSE else head
        name = rest
    if name.startswith("arn:"):
        # A wildcard takes its name from the client, and the region becomes part of a host name.
        said = (name.split(":") + [""] * 4)[3]
        region = region or (said if _REGION.fullmatch(said) else None)
    if not name.strip("."):
        raise BadRequest("The model has no name.", param="model")  # and one of dots would climb out of its path
    return Place(name, region)


class Model(NamedTuple):
    """The family of a model, as far as requests differ by it. `version` is `(0, 0)` where the name states none."""

    family: str
    """`claude`, `nova`, `gpt-oss`, `gpt`, `kimi`, `other`, or `unknown` for an ARN that does not say."""
    version: tuple[int, int]

    @property
    def caches(self) -> bool:
        """Accepts cache points (https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html)."""
        return self.family in ("claude", "nova", "unknown")


def model_of(deployment: Deployment) -> Model:
    """The family of a deployment's model; `model_info.base_model` says it where the id is an opaque ARN."""
    base = deployment.info.get("base_model")
    return read(base if isinstance(base, str) and base else deployment.model)


@lru_cache(maxsize=1024)
def read(name: str) -> Model:
    if match := _CLAUDE.search(name):
        return Model("claude", (int(match[1]), int(match[2] or 0)))
    if "claude" in name or "anthropic." in name:
        return Model("claude", (0, 0))
    if "nova" in name:
        match = _NOVA.search(name)
        return Model("nova", (int(match[1]) if match else 1, 0))
    for mark, family in (("gpt-oss", "gpt-oss"), ("openai.", "gpt"), ("kimi", "kimi"), ("moonshot", "kimi")):
        if mark in name:
            return Model(family, (0, 0))
    opaque = name.startswith("arn:") and ":foundation-model/" not in name and ":inference-profile/" not in name
    return Model("unknown" if opaque else "other", (0, 0))
