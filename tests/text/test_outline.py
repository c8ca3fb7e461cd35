"""Outlines: sections of headings, where a place lies, what names a section, how it is kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import Section, find_outline
from sharedllm.errors import DocumentError, SectionError
from sharedllm.text.outline import (
    MOST_SECTIONS,
    Heading,
    Outline,
    absent_section,
    make_outline,
    nearest_titles,
    outline_from_json,
    outline_to_json,
    path_of,
    require_outline,
    section_at,
    sections_named,
)

BOOK = make_outline(
    [
        Heading(0, 1, "PREFACE"),
        Heading(100, 1, "PART I. The Coast"),
        Heading(110, 3, "CHAPTER I. The Gate"),
        Heading(200, 3, "CHAPTER II. Caf\u00e9 \u2018Noir\u2019"),
        Heading(300, 1, "PART II"),
        Heading(310, 3, "CHAPTER I. A Letter"),
        Heading(400, 3, "CHAPTER II. Home > Away"),
        Heading(420, 5, "2.1 The Gate, again"),
        Heading(500, 1, "APPENDIX 2: Maps"),
    ],
    600,
)
HEADINGS = st.lists(
    st.tuples(st.integers(-2, 200), st.integers(1, 9), st.text(max_size=12)).map(
        lambda one: Heading(*one)
    )
)


def titles(sections: list[Section]) -> list[tuple[int, str]]:
    return [(one.start, one.title) for one in sections]


def test_a_section_ends_where_the_next_of_its_level_begins() -> None:
    spans = [(one.level, one.start, one.end) for one in BOOK]
    assert spans == [
        (1, 0, 100),
        (1, 100, 300),
        (2, 110, 200),
        (2, 200, 300),
        (1, 300, 500),
        (2, 310, 400),
        (2, 400, 500),
        (3, 420, 500),
        (1, 500, 600),
    ]
    assert [one.number for one in BOOK] == ["", "1", "1", "2", "2", "1", "2", "2.1", "2"]


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (0, "PREFACE"),
        (105, "PART I. The Coast"),
        (199, "PART I. The Coast > CHAPTER I. The Gate"),
        (599, "APPENDIX 2: Maps"),
        (420, "PART II > CHAPTER II. Home > Away > 2.1 The Gate, again"),
    ],
)
def test_a_place_lies_in_its_deepest_section(place: int, path: str) -> None:
    assert section_at(BOOK, place) == path


def test_nothing_lies_before_the_first_heading() -> None:
    outline = make_outline([Heading(5, 1, "One")], 10)
    assert section_at(outline, 4) == ""
    assert section_at((), 4) == ""


@pytest.mark.parametrize(
    ("wanted", "starts"),
    [
        ("chapter 2", [200, 400]),
        ("Chapter II", [200, 400]),
        ("CHAPTER TWO", [200, 400]),
        ("part ii", [300]),
        ("2", [300]),  # the highest level, and no appendix
        ("II", [300]),
        ("2.1", [420]),
        ("section 2.1", [420]),  # a number without a kind has any
        ("appendix 2", [500]),
        ("preface", [0]),
        ("the gate", [110]),  # a whole title before parts of titles
        ("gate again", [420]),
        ("cafe noir", [200]),
        ("chapter ii cafe noir", [200]),
        ("Part II > Chapter 1", [310]),
        ("part 2>1", [310]),
        ("PART II > a letter", [310]),
        ("Chapter II. Home > Away", [400]),  # the title itself
        ("Part II > The Gate, again", [420]),
        ("letter", [310]),
    ],
)
def test_names_of_sections(wanted: str, starts: list[int]) -> None:
    assert [one.start for one in sections_named(BOOK, wanted)] == starts


@pytest.mark.parametrize(
    "wanted", ["chapter 3", "part 3 > chapter 1", "2.2", "chapter", "", " ", ">", "?!", "harbour"]
)
def test_names_of_no_section(wanted: str) -> None:
    assert sections_named(BOOK, wanted) == []


def test_sections_within_one_another_are_found_once() -> None:
    outline = make_outline([Heading(0, 1, "Results"), Heading(5, 2, "Results")], 10)
    assert titles(sections_named(outline, "results")) == [(0, "Results")]


def test_a_number_means_its_own_kind_before_a_bare_one() -> None:
    outline = make_outline([Heading(0, 1, "Chapter 1"), Heading(5, 2, "1 Introduction")], 10)
    assert titles(sections_named(outline, "chapter 1")) == [(0, "Chapter 1")]
    assert titles(sections_named(outline, "section 1")) == [(5, "1 Introduction")]


def test_the_nearest_are_named() -> None:
    many = make_outline([Heading(n, 1, f"Chapter {n + 1}: Of {n}") for n in range(40)], 50)
    assert nearest_titles(many, "chapter 99")[0] == "Chapter 40: Of 39"
    assert "PART II" in nearest_titles(BOOK, "part 9")
    named = make_outline([Heading(n, 1, word * 2) for n, word in enumerate("abcdefghijklmn")], 20)
    assert nearest_titles(named, "CC!") == ["cc"]
    assert nearest_titles(named, "0123456")[0] == "aa"  # nothing is like it: the first ones


def test_errors_say_what_there_is() -> None:
    assert isinstance(absent_section("x", []), SectionError)
    assert "no document" in str(absent_section("x", []))
    assert "'A' has no outline" in str(absent_section("x", [("A", ())]))
    assert "no document has an outline" in str(absent_section("x", [("A", ()), ("B", ())]))
    assert "'PREFACE'" in str(absent_section("x", [("A", BOOK)]))
    both = str(absent_section("x", [("A", BOOK[:1]), ("B", BOOK[-1:]), ("C", ())]))
    assert "'A' has 'PREFACE'; 'B' has 'APPENDIX 2: Maps'" in both


@given(HEADINGS, st.integers(0, 250))
def test_outlines_are_kept_as_they_are(headings: list[Heading], characters: int) -> None:
    outline = make_outline(headings, characters)
    assert outline_from_json(outline_to_json(outline), characters) == outline
    starts = [one.start for one in outline]
    assert starts == sorted(set(starts))
    assert all(0 <= one.start < one.end <= characters for one in outline)
    assert {one.level for one in outline} == set(range(1, len({o.level for o in outline}) + 1))
    for at, one in enumerate(outline):
        assert path_of(outline, at)[-1] == one.title
        assert section_at(outline, one.start).endswith(one.title)
        for after in outline[at + 1 :]:
            assert after.start >= one.end or after.level > one.level
    assert require_outline(outline, "x" * characters) == outline


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        "[[]]",
        '[["A", 1, 0]]',
        '[["A", 1, 0, 5]]',
        '[["A", 1, 0, 5, 1]]',
        '[["A", 1, 0, 11, ""]]',
        '[["A", 0, 0, 5, ""]]',
        '[["A", 1, 5, 5, ""]]',
        '[["A", 1, true, 5, ""]]',
        '[["A", 1, 3, 5, ""], ["B", 1, 3, 5, ""]]',
        '[["A", 1, -1, 5, ""]]',
        json.dumps([["A" * 1000, 1, 0, 5, ""]]),
        json.dumps([["A", 1, 0, 5, "1" * 1000]]),
        "nothing",
        json.dumps([["A", 1, n, n + 1, ""] for n in range(MOST_SECTIONS + 1)]),
    ],
)
def test_what_is_no_outline_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        outline_from_json(text, 10)


def test_given_outlines_are_checked() -> None:
    section = Section(title="A", level=1, start=0, end=5)
    assert require_outline([section], "abcdefgh")[0].end == 8  # to the end: nothing follows
    for wrong in (
        ["A"],
        "A",
        [Section(title="A", level=0, start=0, end=5)],
        [Section(title="A", level=1, start=0, end=9)],
        [Section(title="A", level=1, start=5, end=5)],
        [Section(title="A", level=1, start=-1, end=5)],
        [Section(title=3, level=1, start=0, end=5)],  # type: ignore[arg-type]
        [Section(title="\ud800", level=1, start=0, end=5)],
        [Section(title="A", level=1, start=0, end=5, number="1" * 1000)],
        [Section(title="A", level=True, start=0, end=5)],
        [Section(title="A", level=1, start="0", end=5)],  # type: ignore[arg-type]
    ):
        with pytest.raises(DocumentError, match=r"outline|section"):
            require_outline(wrong, "abcdefgh")  # type: ignore[arg-type]


def test_long_titles_and_long_outlines_are_bounded() -> None:
    (one,) = make_outline([Heading(0, 1, "word " * 100)], 1000)
    assert one.title.endswith("word\u2026")
    assert len(one.title) <= 161
    rows = [Heading(n, 1, "row") for n in range(MOST_SECTIONS + 1)]
    assert make_outline(rows, 10**6) == ()
    deeper = [Heading(n, 2 if n % 100 else 1, f"s{n}") for n in range(MOST_SECTIONS + 1)]
    assert len(make_outline(deeper, 10**6)) == 101


def test_a_text_without_headings_has_no_outline() -> None:
    empty: Outline = ()
    assert find_outline("") == find_outline("The ferry left at nine.\n\nNobody saw it.") == empty
