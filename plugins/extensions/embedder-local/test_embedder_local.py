"""The conformance suite, and what makes two texts alike."""

import asyncio
import subprocess
import sys
from math import isclose, isfinite
from operator import mul

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tianji_extension_embedder_local import COMMON_WORDS, MAX_TEXT, EmbedderLocal, features, stem, vector, words

from tianji import ConfigError, Embedder
from tianji.testing import ExtensionSuite, FakeAssembly, make_plugin


class TestEmbedderLocal(ExtensionSuite):
    plugin = EmbedderLocal
    settings = {"dimensions": 256}


def alike(one: str, other: str) -> float:
    return float(sum(map(mul, vector(one, 512), vector(other, 512))))


async def test_one_vector_for_each_text() -> None:
    embedder = make_plugin(EmbedderLocal, {"dimensions": "128"})
    found = await embedder.embed(["one", "", "two words"])
    assert [len(one) for one in found] == [128] * 3
    assert [isclose(sum(map(mul, one, one)), 1.0) for one in found] == [True, False, True]
    assert not any(found[1]), "no word, no direction"
    assert await embedder.embed([]) == []


def test_it_offers_the_service() -> None:
    app, embedder = FakeAssembly(), make_plugin(EmbedderLocal)
    embedder.configure(app)
    assert app.provided == {Embedder: embedder}
    assert list(app.sections) == ["embedder_local"]


@pytest.mark.parametrize("dimensions", [0, 63, 8193, "many"])
def test_dimensions_have_bounds(dimensions: object) -> None:
    with pytest.raises(ConfigError, match="dimensions"):
        make_plugin(EmbedderLocal, {"dimensions": dimensions})


def test_words_of_one_stem_are_alike() -> None:
    assert alike("debugging the functions", "debug a function") > 0.9
    assert alike("Write CODE", "write code") == pytest.approx(1.0)
    assert alike("getUserName", "get user name") == pytest.approx(1.0)
    assert alike("colour", "colours") > alike("colour", "coloration") > alike("colour", "invoice")


def test_words_that_say_little_count_for_little() -> None:
    assert alike("what is the weather", "weather") > 0.9
    assert alike("what is the weather", "what is the contract") < 0.2
    assert all(stem(word) and word == word.lower() for word in COMMON_WORDS)


def test_it_is_lexical_and_not_semantic() -> None:
    assert alike("the car is broken", "my automobile needs repair") < 0.15, "as the README says"


@pytest.mark.parametrize(
    ("near", "far"),
    [
        (("写一个排序函数", "请写排序函数"), ("写一个排序函数", "今天天气怎么样")),
        (("今日の天気は？", "明日の天気"), ("今日の天気は？", "契約書を確認してください")),
        (("คืนเงิน", "ขอคืนเงินค่าสินค้า"), ("คืนเงิน", "สวัสดีตอนเช้า")),
        (("напиши функцию", "напишите функцию сортировки"), ("напиши функцию", "какая сегодня погода")),
        (("मौसम कैसा है", "आज मौसम"), ("मौसम कैसा है", "अनुबंध की समीक्षा")),
        (("اكتب دالة", "اكتب دالة ترتيب"), ("اكتب دالة", "ما هو الطقس")),
    ],
)
def test_other_scripts(near: tuple[str, str], far: tuple[str, str]) -> None:
    assert alike(*near) > alike(*far) + 0.2


def test_forms_of_a_letter_are_one() -> None:
    assert alike("Ｃａｆé", "cafe\u0301") == pytest.approx(1.0)
    assert list(words("STRASSE straße don't stop_it ,;!")) == ["strasse", "strasse", "don", "t", "stop", "it"]


def test_stems() -> None:
    assert {stem(word) for word in ("code", "codes", "coded", "coding")} == {"cod"}
    assert [stem(word) for word in ("stories", "class", "bigger", "is", "naïve", "x1s")] == [
        "story", "class", "big", "is", "naïve", "x1s"
    ]  # fmt: skip


def test_the_same_in_every_process() -> None:
    script = "from tianji_extension_embedder_local import vector; print(vector('write a function', 64))"
    said = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{vector('write a function', 64)}\n"}


def test_what_is_long_is_cut() -> None:
    assert vector("word " * MAX_TEXT, 64) == vector("word " * MAX_TEXT + "other", 64)
    assert len(features("x" * 5)) < 10
    assert list(words("y" * 1000)) == ["y" * 40]


async def test_others_get_their_turn() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(count())
    await make_plugin(EmbedderLocal).embed(["a long text " * 200] * 20)
    task.cancel()
    assert turns >= 5


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.text(st.characters(codec=None), max_size=200))
def test_any_text(text: str) -> None:
    found = vector(text, 64)
    assert all(map(isfinite, found))
    assert sum(map(mul, found, found)) == pytest.approx(1.0) or not any(found)
