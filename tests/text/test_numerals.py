"""Numbers of headings, in digits, Roman numerals and words of several languages."""

from __future__ import annotations

import pytest

from sharedllm.text.numerals import Label, label_of, number_of, roman


@pytest.mark.parametrize(
    ("title", "kind", "number", "rest"),
    [
        ("CHAPTER IV. The Storm", "chapter", "4", "The Storm"),
        ("chapter iii", "chapter", "3", ""),
        ("Chapter the First", "chapter", "1", ""),
        ("Chapter Twenty-One: Dawn", "chapter", "21", "Dawn"),
        ("BOOK XIX", "book", "19", ""),
        ("Part Two \u2014 Ashore", "part", "2", "Ashore"),
        ("Kapitel 7: Der Sturm", "chapter", "7", "Der Sturm"),
        ("Chapitre XII", "chapter", "12", ""),
        ("Cap\u00edtulo 3", "chapter", "3", ""),
        ("\u0413\u043b\u0430\u0432\u0430 5", "chapter", "5", ""),
        ("\u7b2c\u4e09\u5341\u4e8c\u7ae0 \u98ce", "chapter", "32", "\u98ce"),
        ("\u7b2c10\u8282", "section", "10", ""),
        ("\u00a7 5 Zweck", "section", "5", "Zweck"),
        ("\u00a712", "section", "12", ""),
        ("Art. 12", "article", "12", ""),
        ("Section 2.1. Delivery", "section", "2.1", "Delivery"),
        ("Appendix C", "appendix", "C", ""),
        ("ACT I", "act", "1", ""),
        ("3.2 Results", "", "3.2", "Results"),
        ("3.02 Results", "", "3.2", "Results"),
        ("10. Ends.", "", "10", "Ends."),
        ("III", "", "3", ""),
        ("XL. Late", "", "40", "Late"),
        ("A. Details", "", "A", "Details"),
    ],
)
def test_labels(title: str, kind: str, number: str, rest: str) -> None:
    assert label_of(title) == Label(kind, number, rest)
    assert number_of(title) == number


@pytest.mark.parametrize(
    "title", ["Introduction", "Chapter's end", "Dive in", "Civil War", "Letter to Bob", "", "?"]
)
def test_titles_without_a_number(title: str) -> None:
    assert label_of(title) is None
    assert number_of(title) == ""


@pytest.mark.parametrize("title", ["I am born", "A visit", "V is for vendetta"])
def test_a_word_is_no_number(title: str) -> None:
    assert number_of(title) == ""


@pytest.mark.parametrize("number", [1, 4, 9, 14, 40, 90, 399, 444, 1989, 3999])
def test_roman_numerals(number: int) -> None:
    assert number_of(f"Chapter {roman(number)}") == str(number)
