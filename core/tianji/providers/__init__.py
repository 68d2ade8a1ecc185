"""The two base classes that nearly every provider subclasses. Both are sans-I/O: pure functions in and out."""

from tianji.providers.http import HTTPProvider
from tianji.providers.openai import OpenAICompatible

__all__ = ["HTTPProvider", "OpenAICompatible"]
