"""Words in the spelling in which search compares them."""

from __future__ import annotations

import unicodedata

import pytest

from sharedllm.text.words import is_exact, parts, searchable, wholes, words


def terms(text: str) -> set[str]:
    return {t for word in words(text) for t in (*parts(word.text), *wholes(word.text))}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller", "MULLER"),
        ("Müller", "Mueller"),
        ("\uff2d\u00fc\uff4c\uff4c\uff45\uff52", "muller"),
        (unicodedata.normalize("NFD", "Dvořák"), "dvorak"),
        ("Straße", "STRASSE"),
        ("Łódź", "Lodz"),
        ("Jean\u2011Paul", "jean-paul"),
        ("Jean-Paul", "Jean Paul"),
        ("Jean-Paul", "Jeanpaul"),
        ("O\u2019Brien", "obrien"),
        ("e-mail", "email"),
        ("exam-\nple", "example"),
        ("exam\u00adple", "example"),
        ("48,013", "48013"),
        ("\uff11\uff12\uff13", "123"),
        ("parse_config", "parseConfig"),
        ("parse_config", "parse config"),
        ("HTTPServer", "http server"),
        ("GBS-65-146", "gbs\u201365\u2013146"),
        ("os.path.join", "os.path.join"),
        ("67100,2015-03-03,6.42.286,Farida", "6.42.286"),
        ("67100,2015-03-03,6.42.286,Farida", "2015-03-03"),
        ("id:GBS-65-146", "GBS-65-146"),
        ("src/text/parse_config.py", "parse_config"),
        ("src/text/parse_config.py", "parse_config.py"),
        ("std::vector", "std::vector"),
        ("14:20", "14:20"),
        ("東京タワー", "東京"),
    ],
)
def test_two_spellings_of_one_word_meet(one: str, other: str) -> None:
    wanted = next((w for word in words(other) for w in wholes(word.text)), None)
    common = terms(one) & terms(other)
    assert wanted in common if wanted and "-" not in other else common


@pytest.mark.parametrize(
    ("one", "other"),
    [("3.14", "314"), ("12/2021", "122021"), ("2.1", "21"), ("v2.1", "v2"), ("48,013", "48.013")],
)
def test_numbers_are_told_apart_as_wholes(one: str, other: str) -> None:
    (word,) = words(one)
    assert wholes(word.text)[0] not in terms(other)


def test_words_stand_where_the_text_has_them() -> None:
    text = "The e-mail of Zoë, sent 12/2021: see parse_config()."
    found = list(words(text))
    assert [w.text for w in found] == [
        "The", "e-mail", "of", "Zoë", "sent", "12/2021", "see", "parse_config",
    ]  # fmt: skip
    assert all(text[w.start :].startswith(w.text) for w in found)
    assert searchable("Zoë's e-mail") == "zoe s e mail email"


@pytest.mark.parametrize(
    "word", ["48013", "GBS-65-146", "v2.1", "a_b", "parseIt", "os.path", "x@y.z"]
)
def test_what_must_match_as_a_whole(word: str) -> None:
    assert is_exact(word)


@pytest.mark.parametrize("word", ["lamp", "Müller", "e-mail", "_", "Henchard's", "NATO"])
def test_what_need_not(word: str) -> None:
    assert not is_exact(word)
