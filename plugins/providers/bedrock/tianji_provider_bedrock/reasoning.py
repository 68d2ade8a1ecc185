"""How hard a model is to think: each family on Bedrock has its own words for it, in `additionalModelRequestFields`.

Docs: https://docs.aws.amazon.com/bedrock/latest/userguide/inference-reasoning.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-extended-thinking.html and
https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html
"""

from typing import Any

from tianji import BadRequest

from .models import Model
from .shapes import Body, Drop, an_object

THINKS = (3, 7)
ONE_SAMPLING_FIELD = (4, 1)  # `temperature` or `top_p`, not both
ADAPTIVE = (4, 6)  # thinking without a budget, `output_config.effort`
NO_SAMPLING = (4, 7)  # `temperature`, `top_p`, `top_k` are refused, and thinking is silent unless asked to speak

BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 8192}
_THREE = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_CLAUDE = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}

THINKING_TOKENS = "/usage/output_tokens_details"
"""Where Claude counts its thinking. Bedrock hands it out on demand, and passes over it where a model has no such
field (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html)."""


def reasoning(chat: Body, model: Model, request: Body, drop: Drop) -> Body:
    """The additional fields for `reasoning_effort` or `thinking`. Call it after `toolConfig` is made."""
    thinking, effort = chat.get("thinking"), chat.get("reasoning_effort")
    if isinstance(effort, dict):
        effort = effort.get("effort")
    if effort is not None and effort != "none" and effort not in BUDGETS:
        raise BadRequest(f"Unknown reasoning effort {str(effort)[:50]!r}; known: none, {', '.join(BUDGETS)}.",
                         param="reasoning_effort")  # fmt: skip
    field = "reasoning_effort"
    if isinstance(thinking, dict):
        if model.family in ("claude", "unknown"):
            return {"thinking": thinking}
        effort, field = _effort(thinking), "thinking"
    if effort is None:
        return {}
    made = _claude(effort, model, request) if model.family == "claude" else _others(effort, model.family, model.version)
    if not made and effort != "none":
        drop(field)
    return made


def _effort(thinking: Body) -> str:
    """Anthropic's `thinking` for a model that is not Claude."""
    if thinking.get("type") == "disabled":
        return "none"
    tokens = thinking.get("budget_tokens")
    if not isinstance(tokens, int):
        return "medium"
    return "low" if tokens <= BUDGETS["low"] else "medium" if tokens <= BUDGETS["medium"] else "high"


def _claude(effort: str, model: Model, request: Body) -> Body:
    if effort == "none":
        return {}
    forced = _forced(request)
    if model.version >= ADAPTIVE:
        grade = "high" if effort == "xhigh" and model.version < NO_SAMPLING else _CLAUDE[effort]
        made: Body = {"output_config": {"effort": grade}}
        if not forced:
            made["thinking"] = {"type": "adaptive"}
            if model.version >= NO_SAMPLING:
                made["thinking"]["display"] = "summarized"
        return made
    if (model.version == (0, 0) or model.version >= THINKS) and not forced and _may_think(request.get("messages", [])):
        return {"thinking": {"type": "enabled", "budget_tokens": BUDGETS[effort]}}
    return {}


def _others(effort: str, family: str, version: tuple[int, int]) -> Body:
    if family == "nova" and version >= (2, 0) and effort != "none":
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": _THREE[effort]}}
    if family == "gpt-oss" and effort != "none":
        return {"reasoning_effort": _THREE[effort]}
    if family == "gpt":
        return {"reasoning": {"effort": "low" if effort == "minimal" else effort}}
    if family == "kimi":
        return {"reasoning_effort": effort}
    return {}


def _forced(request: Body) -> bool:
    """A tool must be called, which Claude does not combine with thinking."""
    return not {"any", "tool"}.isdisjoint(an_object(an_object(request.get("toolConfig")).get("toolChoice")))


def _may_think(messages: list[Body]) -> bool:
    """With a budget, a turn that called tools must begin with its thinking, which not every client kept."""
    turns = [message["content"] for message in messages if message["role"] == "assistant"]
    if not turns or not any("toolUse" in block for block in turns[-1]):
        return True
    return "reasoningContent" in turns[-1][0]


# -- what thinking means for the other parameters ----------------------------------------------------------------------


def sampling(values: Body, model: Model, extra: Body) -> set[str]:
    """Which of `temperature`, `top_p`, `top_k` and `max_tokens` the model would refuse."""
    if model.family == "nova" and an_object(extra.get("reasoningConfig")).get("maxReasoningEffort") == "high":
        return values.keys() & {"temperature", "top_p", "max_tokens"}
    if model.family != "claude":
        return set()
    if model.version >= NO_SAMPLING:
        return values.keys() & {"temperature", "top_p", "top_k"}
    if an_object(extra.get("thinking")).get("type") in ("enabled", "adaptive"):
        # temperature must be 1, top_p between 0.95 and 1
        least = {"temperature": 1, "top_p": 0.95}
        return {key for key in least if _below(values.get(key), least[key])} | (values.keys() & {"top_k"})
    if model.version >= ONE_SAMPLING_FIELD and "temperature" in values:
        return values.keys() & {"top_p"}
    return set()


def _below(value: Any, least: float) -> bool:
    return isinstance(value, (int, float)) and value < least


def budget(extra: Body) -> int:
    """Tokens set aside for thinking, which the limit of the answer must exceed."""
    tokens = an_object(extra.get("thinking")).get("budget_tokens")
    return tokens if isinstance(tokens, int) else 0
