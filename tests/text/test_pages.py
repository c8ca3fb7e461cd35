"""Pages become one text, and a place in it its page."""

from __future__ import annotations

import time

import pytest

from sharedllm import Document, SharedLLM
from sharedllm.text.pages import (
    BREAK,
    as_read,
    join_broken_words,
    join_pages,
    page_of,
    page_starts,
    remove_running_titles,
)
from sharedllm.text.tokens import tokenize
from tests.texts import STORY


def numbered(pages: int) -> list[str]:
    """Pages as a printer sets them: alternating titles, a sentence that goes on, a number."""
    heads = ("THE FERRY", "A. Writer\nDraft of May")
    return [
        f"{heads[n % 2]}\nOn day {n * n} she rowed and\nPage {n + 1} of {pages}"
        for n in range(pages)
    ]


def test_running_lines_are_left_out_but_for_the_first() -> None:
    text = join_pages(numbered(6))
    assert text.count("THE FERRY") == text.count("Draft of May") == text.count("of 6") == 1
    assert [page.strip().split("\n")[-1] for page in text.split("\f")][1:] == [
        f"On day {n * n} she rowed and" for n in range(1, 6)
    ]


def test_bare_page_numbers_go_everywhere_and_other_numbers_stay() -> None:
    assert "".join(join_pages([f"day {n * n}.\n{n + 7}" for n in range(9)])).split() == [
        word for n in range(9) for word in ("day", f"{n * n}.")
    ]
    only = [["Slide", str(n)] for n in range(5)]
    assert remove_running_titles(only) == only
    table = [f"{1900 + 3 * n} {5 * n} {7 * n}" for n in range(30)]
    pages = [table[at : at + 5] for at in range(0, 30, 5)]
    assert remove_running_titles(pages) == pages


def test_what_stands_twice_or_far_apart_stays() -> None:
    for marked in ((0, 1), (0, 9, 18)):
        pages = [["Yes." if n in marked else f"Number {n * n}", f"of {n**3}"] for n in range(20)]
        assert remove_running_titles(pages) == pages


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("an inter-\nesting day", "an\ninteresting day"),
        ("a well-\nknown, well-known man", "a\nwell-known, well-known man"),
        ("Anglo-\nSaxon", "\nAnglo-Saxon"),
        ("no ELE-\nMENT, no element", "no\nELEMENT, no element"),
        ("mo-\n\fment", "\n\fmoment"),
        ("soft\u00ad\nly and soft\u00adly", "\nsoftly and softly"),
        ("1914-\n18, and - \nso", "1914-\n18, and - \nso"),
    ],
)
def test_words_broken_at_line_ends(text: str, whole: str) -> None:
    assert join_broken_words(text) == whole


def test_texts_without_spaces_or_lines_take_no_time() -> None:
    started = time.perf_counter()
    for text in ("a" * 300_000, "1 2 " * 100_000, "\f" * 1000, "a-\n" * 100_000):
        join_pages([text + "-\nb", text])
    assert time.perf_counter() - started < 10


def test_pages_keep_their_numbers() -> None:
    pages = ["", "It was a fine \ufb01sh, she\ud800 said", "", "and went on. \f", "The end."]
    text = join_pages(pages)
    assert text.split("\f")[0] == ""
    assert text.count("\f") == 4
    starts = page_starts(text)
    assert "fine fish" in text
    for words, page in (("It was", 2), ("and went", 4), ("The end", 5)):
        at = text.index(words)
        assert page_of(starts, at, words) == page
        assert page_of(starts, at - 1, text[at - 1 :]) == page  # the end of a page is not its text


def test_form_feeds_without_end_are_no_pages() -> None:
    assert len(page_starts("a\f" * 99)) == 100
    assert page_starts("a\f" * 100_000) == page_starts("a") == ()
    assert page_of((), 0, "a") is None


def test_a_sentence_goes_on_over_a_page() -> None:
    text = join_pages(["she was", "very glad.", "Then"])
    assert text == "she was\n\fvery glad.\n\fThen"
    assert as_read(text) == "she was \nvery glad.\n\nThen"


def test_a_form_feed_is_read_as_a_line_feed(tiny_llm: SharedLLM) -> None:
    text = "One.\f\n\n\f\u00fcber two\n\fOne"
    paged, plain = (tokenize(t, tiny_llm.tokenizer) for t in (text, as_read(text)))
    assert BREAK not in as_read(text)
    assert paged.ids.tolist() == plain.ids.tolist()
    assert paged.spans.tolist() == plain.spans.tolist()


def test_citations_and_pictures_know_their_page(tiny_llm: SharedLLM, story: Document) -> None:
    text = STORY.replace(".\n", ".\f")
    paged = tiny_llm.remember(text, title="The lighthouse")
    answer = tiny_llm.answer("Who rowed out?", paged, budget=120, max_new_tokens=2)
    assert answer.citations
    for cited in answer.citations:
        begins = cited.char_start + len(cited.text) - len(cited.text.lstrip())
        assert cited.page == text.count("\f", 0, begins) + 1
    assert answer.pictures[0].pages == page_starts(text)
    assert answer.to_dict()["citations"][0]["page"] == answer.citations[0].page
    plain = tiny_llm.answer("Who rowed out?", story, budget=120, max_new_tokens=2)
    assert {cited.page for cited in plain.citations} == {None}
