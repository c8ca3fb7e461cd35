from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from sharedllm import Document, SharedLLM, TreeConfig
from sharedllm.search.citations import (
    BETWEEN,
    NEAR,
    Window,
    cite,
    complete_sentences,
    heading_of,
    join_windows,
    paste,
    sentences_around_match,
    window_overhead,
)
from sharedllm.search.selection import SelectedNode
from tests.models import make_tokenizer, shared
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
    for citation in citations:
        start, end = citation.char_start, citation.char_end
        assert citation.text == plain.text[start:end] == citation.text.strip()
        assert any(a <= start < end <= b for a, b in spans)
    assert len({c.char_start for c in citations}) == len(citations) <= ranks.count("x")
    assert bool(citations) == bool(spans)
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
    assert (found.match_start is None) == (question == "Quo vadis?")


def test_a_passage_on_one_page_or_without_pages(tiny_llm: SharedLLM) -> None:
    whole = Window(start=0, end=5, level=0, score=1.0, as_text=True)
    for text, page in (("One two three four five six.", None), ("One. Two. Three.\fFour.", 1)):
        (found,) = cite(tiny_llm.remember(text), [whole], "Three?")
        assert (found.page, found.end_page) == (page, None)


LONG = " ".join(f"Witness {n} saw nothing of the ferry that day." for n in range(12))
RECORDS = (
    "id,name,note\n"
    + "\n".join(f'{n},Clerk {n},"Paid. In full, on day {n}."' for n in range(48000, 48020))
    + "\n"
)


@pytest.mark.parametrize(
    ("text", "question", "match"),
    [
        (LONG, "Whom did witness 7 see?", "Witness 7 saw nothing of the ferry that day."),
        (RECORDS, "Who is 48013?", '48013,Clerk 48013,"Paid. In full, on day 48013."'),
        ("今日は晴れ。猫は家にいる。犬は外。" * 3, "猫はどこ", "猫は家にいる。"),
    ],
)
def test_a_citation_is_short_and_says_what_matches(
    tiny_llm: SharedLLM, text: str, question: str, match: str
) -> None:
    document = tiny_llm.remember("\n\n" + text)
    whole = Window(start=0, end=len(document), level=0, score=1.0, as_text=True)
    (found,) = cite(document, [whole], question)
    assert found.match_start is not None
    assert document.text[found.match_start : found.match_end] == match
    assert found.char_start <= found.match_start
    assert len(found.text) <= NEAR + 2 * len(match)
    assert found.text == document.text[found.char_start : found.char_end]
    assert found.text[:1].strip()


def test_every_node_of_a_window_is_cited_once(tiny_llm: SharedLLM) -> None:
    document = tiny_llm.remember(LONG)
    made = tiny_llm.prepare("Whom did witness 7 see?", document, budget=300, sentences=64)
    found = sorted((c.char_start, c.char_end) for c in made.citations)
    assert len(found) > 1
    assert all(end <= start for (_, end), (start, _) in pairwise(found))


@pytest.fixture(scope="module")
def wide() -> SharedLLM:
    """Leaves of 512 characters, a token each."""
    return shared("llama", tree=TreeConfig(chunk=512, height=0, ratios=()))


KEPT = "The keeper of the lamp was Olga."


@pytest.mark.parametrize("at", [0, 5, 11])
def test_only_sentences_around_the_match_are_shown(wide: SharedLLM, at: int) -> None:
    around = [f"It rained on the {n}th hill all day." for n in range(12)]
    text = " ".join([*around[:at], KEPT, *around[at:]])
    document = wide.remember(text)
    [node] = document.forest.leaves
    own = complete_sentences(document, int(node), 32)
    start, end = sentences_around_match(document, own, "Who was keeper of the lamp?")
    shown = document.text_of(start, end).strip()
    assert KEPT in shown
    assert NEAR <= len(shown) < NEAR + 80
    assert shown[0] == "I" if at else shown.startswith(KEPT)
    assert shown.endswith(".")


def test_without_a_match_a_leaf_is_shown_whole(wide: SharedLLM) -> None:
    document = wide.remember("It rained on the hill. " * 12 + KEPT)
    [node] = document.forest.leaves
    own = complete_sentences(document, int(node), 32)
    assert sentences_around_match(document, own, "Why?") == own


def test_without_whole_sentences_a_leaf_is_shown_as_it_was_cut(wide: SharedLLM) -> None:
    document = wide.remember("It rained on the hill. " * 12 + KEPT)
    asked = "List all who were keepers of the lamp."
    [shown] = wide.select(asked, document, sentences=0).nodes
    [node] = document.forest.leaves
    assert (shown.start, shown.end) == (document.forest.start[node], document.forest.end[node])


def test_a_record_is_shown_as_a_whole(wide: SharedLLM) -> None:
    rows = "\n".join(f"{n},lamp {n},Penmor,{n * 7}" for n in range(10, 28))
    document = wide.remember(f"number,thing,town,price\n{rows}\n")
    [node] = document.forest.leaves
    own = complete_sentences(document, int(node), 32)
    start, end = sentences_around_match(document, own, "What is the price of lamp 19?")
    lines = document.text_of(start, end).strip().splitlines()
    assert "19,lamp 19,Penmor,133" in lines
    assert set(lines) <= {"number,thing,town,price", *rows.splitlines()}
