"""Groq: OpenAI-compatible chat on LPU hardware.

Docs: https://console.groq.com/docs/api-reference
"""

from tianji import Op, OpenAICompatible


class Groq(OpenAICompatible):
    name = "groq"
    base_url = "https://api.groq.com/openai/v1"
    api_key_env = ("GROQ_API_KEY",)
    api_base_env = ("GROQ_API_BASE",)
    ops = frozenset({Op.CHAT})
    drop = frozenset({"logprobs", "logit_bias", "top_logprobs"})  # Groq answers 400 to these
