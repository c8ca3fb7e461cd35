"""Headings found in texts: what is one, and (more of it) what is none."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import find_outline
from sharedllm.errors import ConfigError, InputError
from sharedllm.text.headings import FORMS, find_headings, is_markdown

PROSE = (
    "The coach came up the hill in the evening, and nobody in it had spoken for an hour or more. "
    "The driver knew the road, the horses knew the driver, and the lamps had been lit at four.\n\n"
)
CONTRACT = f"""SUPPLY AGREEMENT

CONTENTS

1. Definitions
2. Supply of Goods
3. Liability
Schedule 1 Products

1. DEFINITIONS

1.1 In this Agreement the words below have the meanings given to them, unless the
context requires otherwise:

(a) "Goods" means the products set out in Schedule 1;

1.2 References to clauses are to the clauses of this Agreement, whatever else they may be taken
to be.

2. Supply of Goods. The Supplier shall supply the Goods that the Buyer orders within ten days of
the order, and if it does not, clause
3.1 applies. Each order shall state:

1. the type of Goods; and
2. the quantity.

{PROSE}3. LIABILITY

3.1 Limits. Nothing limits liability for death or personal injury caused by the negligence of
a party.

SCHEDULE 1
PRODUCTS

{PROSE}"""


def titles(text: str, **options: Any) -> list[str]:
    return [("  " * (s.level - 1)) + s.title for s in find_outline(text, **options)]


# -- chapters --------------------------------------------------------------------------------------


def test_chapters_of_a_novel_and_not_its_contents() -> None:
    contents = "CONTENTS\n\n     PREFACE\n     CHAPTER I.     In Which We Arrive\n"
    contents += "     CHAPTER II.    The Gate\n     CHAPTER III.   A Letter\n\n\n"
    text = (
        contents
        + f"PREFACE\n\n{PROSE}"
        + "".join(
            f"\nCHAPTER {number}.\n\n{title}\n\n\n{PROSE}{PROSE}"
            for number, title in [
                ("I", "In Which We Arrive"),
                ("II", "The Gate"),
                ("III", "A Letter"),
            ]
        )
    )
    assert titles(text) == [
        "PREFACE",
        "CHAPTER I. In Which We Arrive",
        "CHAPTER II. The Gate",
        "CHAPTER III. A Letter",
    ]
    third = find_outline(text)[-1]
    assert text[third.start :].startswith("CHAPTER III.")
    assert third.end == len(text)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["CHAPTER I", "CHAPTER II"], ["CHAPTER I", "CHAPTER II"]),
        (["Chapter 1: Home", "Chapter 2: Away"], ["Chapter 1: Home", "Chapter 2: Away"]),
        (["Chapter One", "Chapter Two"], ["Chapter One", "Chapter Two"]),
        (["CHAPTER 1. I AM BORN", "CHAPTER 2. I OBSERVE"], None),
        (["Kapitel 1", "Kapitel 2"], None),
        (["\u7b2c\u4e00\u7ae0 \u98ce", "\u7b2c\u4e8c\u7ae0 \u96e8"], None),
        (["I", "II", "III"], None),
        (["I. A SCANDAL", "II. THE LEAGUE"], None),
        (["1.", "2.", "3."], ["1", "2", "3"]),
        (["    CHAPTER I.", "    CHAPTER II."], ["CHAPTER I", "CHAPTER II"]),
        (["PART I", "CHAPTER I", "CHAPTER II", "PART II", "CHAPTER I"],
         ["PART I", "  CHAPTER I", "  CHAPTER II", "PART II", "  CHAPTER I"]),
        (["ACT I", "SCENE I. A room.", "SCENE II. The sea.", "ACT II", "SCENE I. A room."],
         ["ACT I", "  SCENE I. A room", "  SCENE II. The sea", "ACT II", "  SCENE I. A room"]),
        (["CHAPTER I\nTHE HOUSE ON\nTHE HILL", "CHAPTER II\nTHE ROAD"],
         ["CHAPTER I. THE HOUSE ON THE HILL", "CHAPTER II. THE ROAD"]),
        (["Chapter 1", "Chapter 2", "Epilogue"], None),
        (["1. Mix", "2. Wait", "3. Bake"], None),
        (["1 Introduction", "1.1 Aims", "1.2 Means", "2 Methods", "2.1 Data", "3 Results"],
         ["1 Introduction", "  1.1 Aims", "  1.2 Means", "2 Methods", "  2.1 Data", "3 Results"]),
        (["Article 1\nPurpose", "Article 2\nScope"], ["Article 1. Purpose", "Article 2. Scope"]),
        (["\u00a7 1 Purpose", "\u00a7 2 Scope"], None),
        (["*CHAPTER I*", "_CHAPTER II_"], ["CHAPTER I", "CHAPTER II"]),
        (["CHAP. I.", "CHAP. II."], ["CHAP. I", "CHAP. II"]),
        (["Chapter I.\u2014Out", "Chapter II.\u2014Home"], None),
        (["BOOK ONE: 1805", "CHAPTER I", "BOOK TWO: 1806"],
         ["BOOK ONE: 1805", "  CHAPTER I", "BOOK TWO: 1806"]),
        (["TITLE I\nRULES", "CHAPTER 1\nAims", "Article 1\nScope", "Article 2\nTerms"],
         ["TITLE I. RULES", "  CHAPTER 1. Aims", "    Article 1. Scope", "    Article 2. Terms"]),
        (["ARTICLE I", "Section 1. All legislative Powers herein granted shall be vested in one "
          "Congress, which shall meet each year", "ARTICLE II"],
         ["ARTICLE I", "  Section 1. All legislative Powers herein granted shall be\u2026",
          "ARTICLE II"]),
        (["1. Scope", "2. Terms", "3. Fees", "Appendix A: Prices"], None),
        (["Abstract", "1 Aims", "2 Means", "3 Ends", "References"], None),
        (["Cap\u00edtulo I", "Cap\u00edtulo II", "Ep\u00edlogo"], None),
    ],
)  # fmt: skip
def test_numbered_lines_are_headings(lines: list[str], found: list[str] | None) -> None:
    text = "A Book\nby Somebody.\n\n" + "".join(f"{line}\n\n{PROSE}" for line in lines)
    assert titles(text) == (lines if found is None else found)


@pytest.mark.parametrize(
    "text",
    [
        "as they say in\nChapter 1 of the book.\n\nOr in\nChapter 2 of it.\n\n" * 3,
        "Chapter 1 of this book was written at sea.\n\nChapter 2 of it was written ashore.\n\n",
        f"{PROSE}1. Bread\n2. Milk\n3. Tea\n\n{PROSE}",
        f"{PROSE}1. Bread\n\n2. Milk\n\n3. Tea\n\n{PROSE}",
        f"{PROSE}1) The first of them\n\n{PROSE}2) The second of them\n\n{PROSE}3) The third\n\n",
        f"{PROSE}4. Later\n\n{PROSE}5. Later still\n\n{PROSE}6. Last\n\n{PROSE}",
        f"CHAPTER I ........ 1\n\n{PROSE}CHAPTER II ....... 9\n\n{PROSE}",
        f"Chapter 1   1\n\n{PROSE}Chapter 2   12\n\n{PROSE}",
        f"I BELIEVE this\n\n{PROSE}V is a letter\n\n{PROSE}",
        f"C. Smith\n\n{PROSE}D. Jones\n\n{PROSE}",
        f"V. Woolf\n\n{PROSE}I. Newton\n\n{PROSE}",
        f"{PROSE}3.5 million people lived there\n\n{PROSE}3.6 million did so later\n\n{PROSE}",
        f"{PROSE}1984\n\n{PROSE}1985\n\n{PROSE}1986\n\n{PROSE}",
        f"1 January\n\n{PROSE}2 January\n\n{PROSE}",  # two are too few
        "1. Redistributions of source code must retain the above copyright notice, this\n"
        "list of conditions and the following disclaimer.\n\n"
        "2. Redistributions in binary form must reproduce the above copyright notice, this\n"
        "list of conditions and the following disclaimer in the documentation.\n\n"
        "3. Neither the name of the copyright holder nor the names of its contributors may\n"
        "be used to endorse or promote products derived from this software.\n\n",
        f"Preface\n\n{PROSE}Introduction\n\n{PROSE}",  # nothing is numbered
    ],
)
def test_lines_that_are_no_headings(text: str) -> None:
    assert titles(text) == []


def test_numbers_of_pages_are_no_chapters() -> None:
    cut = PROSE.strip()[:-20]
    pages = "".join(f"{cut}\n\n{page}\n\nand so on it went. {PROSE}" for page in range(1, 9))
    assert titles(pages) == []


def test_a_running_title_is_one_heading() -> None:
    text = "".join(f"CHAPTER I\n\n{PROSE}" for _ in range(3)) + f"CHAPTER II\n\n{PROSE}"
    assert titles(text) == ["CHAPTER I", "CHAPTER II"]


def test_clauses_of_a_contract() -> None:
    assert titles(CONTRACT) == [
        "1. DEFINITIONS",
        "  1.1 In this Agreement the words below have the\u2026",
        "  1.2 References to clauses are to the clauses of\u2026",
        "2. Supply of Goods",
        "3. LIABILITY",
        "  3.1 Limits",
        "SCHEDULE 1. PRODUCTS",
    ]


def test_paragraphs_may_be_long_lines() -> None:
    long = f"The Supplier shall deliver. {PROSE.strip()} {PROSE.strip()} {PROSE.strip()}"
    text = f"1. TERMS\n\n1.1 {long}\n\n1.2 Price. {long}\n\n2. ENDS\n\n2.1 {long}\n\n3.1 {long}\n\n"
    assert titles(text) == [
        "1. TERMS",
        "  1.1 The Supplier shall deliver",
        "  1.2 Price",
        "2. ENDS",
        "  2.1 The Supplier shall deliver",
    ]
    assert titles(f"Chapter 1 {long}\n\nChapter 2 {long}\n\n") == []


def test_pages_of_a_pdf_have_no_blank_lines() -> None:
    body = ("A line of the text as it stands in the PDF, of which there are many here\n" * 12)[:-1]
    text = "\n".join([
        f"A Report\nContents\n1 Introduction ..... 2\n2 Methods ..... 3\n\f1 Introduction\n{body}.",
        f"\f2 Methods\n2.1 Data\n{body} and\n3 places in town.",
        f"2.2 Models\n{body}.",
        f"\f3 Results\n{body}.\n",
    ])  # fmt: skip
    assert titles(text) == [
        "1 Introduction",
        "2 Methods",
        "  2.1 Data",
        "  2.2 Models",
        "3 Results",
    ]


# -- marked headings -------------------------------------------------------------------------------

MARKDOWN = """---
title: Front matter
# no heading
---

# The *first* [part](a.md)

Text.

```sh
# a comment

## another
```

Setext `code`
=============

- # in a list

> # quoted

    # indented code

## Second ##

<!-- # hidden -->
Text.
"""


def test_markdown() -> None:
    found = ["The first part", "Setext code", "  Second"]
    assert titles(MARKDOWN) == titles(MARKDOWN, form="markdown") == found
    first = find_outline(MARKDOWN)[0]
    assert MARKDOWN[first.start :].startswith("# The *first*")


@pytest.mark.parametrize(
    "code",
    [
        "#!/bin/sh\n\n# install\nmake\n\n# run\n./x\n",
        "import os\n\n# a comment\nx = 1\n\n# another\ny = 2\n",
        "x = 1\n# a comment\ny = 2\n# another\nz = 3\n",
        "name = value\n\n# comment of a setting\nother = 2\n",
        "a line\n\n# one comment only\n\nand more\n",
    ],
)
def test_comments_are_no_markdown(code: str) -> None:
    assert not is_markdown(code)
    assert find_outline(code) == ()


def test_headings_right_above_their_text_are_markdown() -> None:
    assert titles("# A\ntext\n\n## B\ntext\n") == ["A", "  B"]


def test_underlined_titles() -> None:
    text = f"=====\nGuide\n=====\n\n{PROSE}One\n---\n\n{PROSE}Two\n---\n{PROSE}"
    text += "Deeper\n~~~~~~\n\nx\n"
    assert titles(text) == ["Guide", "  One", "  Two", "    Deeper"]
    table = "a   b\n=== ===\n1   2\n\n+---+\n| a |\n+---+\n\nTotal of all\n--\n"
    assert titles(table) == []


def test_latex() -> None:
    text = (
        "\\documentclass{x}\n\\begin{document}\n\\section*{One \\emph{and} only}\n"
        "text\n\\subsection[short]{Two}\n% \\section{no}\n\\end{document}"
    )
    assert titles(text) == titles(text, form="latex") == ["One and only", "  Two"]


def test_forms_that_are_named() -> None:
    assert titles("= A\n\ntext\n\n== B\n", form="asciidoc") == ["A", "  B"]
    assert titles("* TODO A\n** B :tag:\n*bold*\n", form="org") == ["A", "  B"]
    assert titles("# A\n\n## B\n", form="plain") == []
    with pytest.raises(ConfigError, match="form is 'docx'"):
        find_outline("x", form="docx")
    with pytest.raises(InputError, match="text"):
        find_outline(3)  # type: ignore[arg-type]


# -- any text --------------------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from(
        ["# A", "CHAPTER I", "Chapter 2: B", "1.", "1.1 Aims", "2 Methods", "\n", "\f", "---",
         "===",
         "```", "IV", "PREFACE", "text and more", "  ", "\u7b2c\u4e00\u7ae0", "...... 3", "* x",
         "\\section{A}", "\\begin{document}", "\t1. x", "\u00a7 1", "\ufdd1x\ufdd0"]
    ),
    max_size=25,
).map("\n".join)  # fmt: skip


@given(st.one_of(PIECES, st.text(max_size=60)))
def test_any_text_has_an_outline_in_order(text: str) -> None:
    for form in (None, *FORMS):
        headings = find_headings(text, form=form)
        assert all(0 <= one.start < len(text) for one in headings)
        outline = find_outline(text, form=form)
        assert [one.start for one in outline] == sorted({one.start for one in outline})


@pytest.mark.parametrize(
    "piece",
    [" ", "#", "# a\n", "1.", "1. A\n", "CHAPTER I\n\n", "\\section{", "{", "=", "-\n", "a\n===\n",
     "> ", "- ", "`", "I. ", "\f", ". ", "* ", "[a](", "<", "\u7b2c", "1.1.1.1 A\n"],
)  # fmt: skip
def test_hostile_texts_end_soon(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    begin = time.perf_counter()
    find_outline(text)
    assert time.perf_counter() - begin < 20
