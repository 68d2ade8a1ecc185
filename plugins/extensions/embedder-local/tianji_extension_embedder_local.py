"""Local embedder: texts to vectors by the words and letters that they share. No model, no network, nothing learnt.

Word stems and runs of three letters are hashed to places of the vector, each with a sign of its own, so that what
collides cancels out on average. Likeness is lexical: two texts that say the same in other words are far apart.

Docs: https://arxiv.org/abs/0902.2206 (feature hashing)
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from math import log, sqrt
from typing import Annotated, Any
from unicodedata import normalize
from zlib import crc32

from msgspec import Meta

from tianji import Embedder, Extension, PluginSettings, hookimpl

MAX_TEXT = 20_000
"""Characters of a text that are read; what follows is not."""
MAX_WORD = 40
"""Letters of a word that are read. Longer ones are keys and encoded data rather than words."""
TURN = 5_000
"""Characters after which other tasks get their turn: about a millisecond of work."""
LETTERS = 0.5
"""Weight of a word's letters beside its stem's 1."""
COMMON = 0.1
"""Weight of a word that says little about what a text is about."""

COMMON_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a about after all also am an and any are as at be because been before being but by can could did do does
        doing done for from get give go got had has have having he hello her here hey hi him his how i if in
        into is it its just know let like make may me might more most must my need no not now of off on only or
        other our out over please put same shall she should so some such tell than thank thanks that the their
        them then there these they thing this those to too up us very want was way we were what when where which
        while who why will with would yes you your
        """,
    )
)
ENDINGS = ("edly", "ing", "ies", "est", "ed", "es", "er", "ly", "s")
"""Of English words; the first that fits is cut off."""

_BREAK = re.compile(r"[\s\x00-/:-@\[-`{-©«-´¶-¹»-¿،؛؟।॥\u2000-\u206f\u2e00-\u2e7f\u3000-\u303f]+")
"""What stands between words: whitespace and punctuation. Everything else is part of one, marks on letters too."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
"""Where `camelCase` goes on with a new word."""
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Letters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese."""

Feature = tuple[int, float]
"""A hash of 32 bits, and a weight."""


class EmbedderLocal(Extension):
    name = "embedder-local"

    class Settings(PluginSettings, frozen=True):
        dimensions: Annotated[int, Meta(ge=64, le=8192)] = 512
        """Length of the vectors. With more of them fewer words share a place; comparing takes longer."""

    @hookimpl
    def configure(self, app: Any) -> None:
        app.add_section("embedder_local", self.Settings)
        app.provide(Embedder, self)

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector of length 1 for each text; all zeros for one without a word."""
        vectors, size = [], 0
        for text in texts:
            if size > TURN:
                await asyncio.sleep(0)
                size = 0
            vectors.append(vector(text, self.settings.dimensions))
            size += len(text[:MAX_TEXT])
        return vectors


def vector(text: str, dimensions: int) -> list[float]:
    """One text. A word that is said again counts by the logarithm of how often, as in tf-idf."""
    places = [0.0] * dimensions
    for word, times in Counter(words(text)).items():
        factor = 1.0 + log(times)
        for number, weight in features(word):
            sign = factor if number >> 31 else -factor
            places[(number >> 8) % dimensions] += sign * weight
    length = sqrt(sum(value * value for value in places))
    return [value / length for value in places] if length else places


def words(text: str) -> Iterator[str]:
    """The words of a text, in lower case; for scripts without spaces each letter and each pair of neighbours."""
    text = normalize("NFKC", text[:MAX_TEXT])[:MAX_TEXT]
    for run in _BREAK.split(_HUMP.sub(" ", text).casefold()):
        if not run:
            continue
        if run.isascii() or _UNSPACED.search(run) is None:
            yield run[:MAX_WORD]
        else:
            yield from run
            yield from map("".join, pairwise(run))


@lru_cache(maxsize=16_384)
def features(word: str) -> tuple[Feature, ...]:
    """The stem of a word and the runs of three letters in it, weighted."""
    base = stem(word)
    weight = COMMON if word in COMMON_WORDS else min(1.0, 0.4 + 0.2 * len(word))
    framed = f"<{base}>"
    runs = [framed[at : at + 3] for at in range(len(framed) - 2)]
    each = LETTERS * weight / sqrt(len(runs))
    return ((_hash(f"w{base}"), weight), *((_hash(f"g{run}"), each) for run in runs))


def stem(word: str) -> str:
    """An English word without its ending, roughly: `coding`, `codes` and `coded` are all `cod`."""
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + ("y" if ending == "ies" else "")
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
                word = word[:-1]
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _hash(text: str) -> int:
    """32 bits that are the same in every process; the multiplication spreads what a CRC leaves in order."""
    return crc32(text.encode("utf-8", "surrogatepass")) * 0x9E3779B1 & 0xFFFFFFFF
