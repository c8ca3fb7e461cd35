from __future__ import annotations

from dataclasses import replace

import pytest

from sharedllm import Document, SharedLLM
from sharedllm.search.citations import (
    BETWEEN,
    Window,
    cite,
    heading_of,
    join_windows,
    paste,
    window_overhead,
)
from sharedllm.search.selection import SelectedNode
from tests.models import make_tokenizer
from tests.texts import STORY

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def plain(tiny_llm: SharedLLM) -> Document:
    """ASCII, so that a token is a character; leaves of 16."""
    return tiny_llm.remember(STORY.encode("ascii", "ignore").decode(), title="T", source="s")


def chosen(document: Document, ranks: str) -> list[SelectedNode]:
    """A node a leaf: "x" is selected, "o" is the coarse level, "." is left out."""
    forest = document.forest
    return [
        SelectedNode(
            document=0,
            node=int(forest.leaves[rank]),
            start=int(forest.start[forest.leaves[rank]]),
            end=int(forest.end[forest.leaves[rank]]),
            ratio=1.0,
            as_text=mark == "x",
            fine=mark == "x",
            score=float(rank),
        )
        for rank, mark in enumerate(ranks)
        if mark != "."
    ]


@pytest.mark.parametrize(
    ("ranks", "spans"),
    [
        ("", []),
        ("ooo", []),
        ("x", [(0, 16)]),
        (".xx.x", [(16, 48), (64, 80)]),
        ("xoxxo", [(0, 16), (32, 64)]),
        ("xxxxxx", [(0, 96)]),  # across the edge of a chunk
    ],
)
def test_neighbouring_leaves_make_one_window(
    plain: Document, ranks: str, spans: list[tuple[int, int]]
) -> None:
    found = list(join_windows(plain, chosen(plain, ranks)))
    assert [(w.start, w.end) for w in found] == spans
    assert all(w.score == (w.end // 16) - 1 for w in found)  # that of the best leaf
    citations = list(cite(plain, found, "Who?"))
    assert [c.text for c in citations] == [plain.text[a:b] for a, b in spans]
    assert all((c.source, c.level) == ("s", 2) for c in citations)


def test_leaves_that_paste_the_same_sentence_make_one_window(plain: Document) -> None:
    first, second, third = chosen(plain, "x.x..x")
    wide = [replace(first, end=40), replace(second, start=20), replace(third, start=70)]
    found = list(join_windows(plain, wide))
    assert [(w.start, w.end, w.score) for w in found] == [(0, 48, 2.0), (70, 96, 5.0)]


@pytest.mark.parametrize("heading", ["", "[1] T\n"])
def test_what_is_pasted_costs_no_more_than_was_said(plain: Document, heading: str) -> None:
    nodes = chosen(plain, "xx.x.xo")
    ids = paste(plain, list(join_windows(plain, nodes)), heading, TOKENIZER)
    shown = [heading + plain.text[a:b] for a, b in ((0, 32), (48, 64), (80, 96))]
    assert TOKENIZER.decode(ids) == BETWEEN.join(shown)
    assert len(ids) <= sum(16 + window_overhead(heading, TOKENIZER) for n in nodes if n.as_text)


def test_a_single_document_has_no_label(plain: Document) -> None:
    assert heading_of(0, plain, 1) == ""
    assert heading_of(1, plain, 2) == "[2] T\n"


PAGED = (
    "The harbour opens at six. Boats wait outside.\n\fNobody pays on Sunday. The harbour master\n"
    "\fis Captain Rees, who came from Hull.\n\fNothing else stands here."
)


@pytest.mark.parametrize(
    ("question", "pages"),
    [
        ("When does the harbour open?", (1, None)),
        ("Who pays on a Sunday?", (2, None)),
        ("Who is captain and master?", (2, 3)),
        ("What stands here?", (4, None)),
        ("Quo vadis?", (1, 4)),
    ],
)
def test_the_page_is_that_of_the_matching_sentence(
    tiny_llm: SharedLLM, question: str, pages: tuple[int, int | None]
) -> None:
    document = tiny_llm.remember(PAGED)
    window = Window(start=0, end=len(document), level=0, score=1.0, as_text=True)
    (found,) = cite(document, [window], question)
    assert (found.page, found.end_page) == pages
    assert found.text == PAGED


def test_a_passage_on_one_page_or_without_pages(tiny_llm: SharedLLM) -> None:
    whole = Window(start=0, end=5, level=0, score=1.0, as_text=True)
    for text, page in (("One two three four five six.", None), ("One. Two. Three.\fFour.", 1)):
        (found,) = cite(tiny_llm.remember(text), [whole], "Three?")
        assert (found.page, found.end_page) == (page, None)
