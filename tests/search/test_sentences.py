"""Text that is pasted holds whole sentences where they are near, else whole lines, else words."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import SharedLLM, TreeConfig
from sharedllm.encoding.document import Document
from sharedllm.search.citations import complete_sentences
from sharedllm.training.examples import make_document
from tests.models import make_tokenizer

TOKENIZER = make_tokenizer()  # a token a byte
LEAF = TreeConfig(chunk=16, height=0, ratios=())


def cut(text: str, leaf: int = 16) -> Document:
    return make_document(text, TOKENIZER, dataclasses.replace(LEAF, chunk=leaf))


def pasted(text: str, rank: int, reach: int) -> str:
    document = cut(text)
    return document.text_of(*complete_sentences(document, int(document.forest.leaves[rank]), reach))


NAMES = "Soon Ann goes home now. Bob stays. Eve lies."
TITLES = "One two. Mr. Hale goes home. Bob stays. Eve."
LINES = "one two three\nfour five six seven eight\n" + "nine " * 9
WORDS = "alpha beta gamma delta epsilon zeta " + "eta " * 9
NUMBERS = "Ann paid 3.14 or so. Bob paid 2.71 then. Ann left."


@pytest.mark.parametrize(
    ("text", "rank", "reach", "expected"),
    [
        (NAMES, 1, 0, "me now. Bob stay"),
        (NAMES, 1, 16, "Soon Ann goes home now. Bob stays. "),
        (TITLES, 1, 16, "Mr. Hale goes home. Bob stays. "),
        (LINES, 1, 12, "four five six seven eight\n"),
        (WORDS, 1, 8, " delta epsilon zeta "),
        ("a" * 48, 1, 8, "a" * 16),  # nothing ends there
        ("Ann goes home. Bob stays.", 0, 64, "Ann goes home. Bob stays."),  # to the ends
        (NUMBERS, 1, 16, "Ann paid 3.14 or so. Bob paid 2.71 then. "),
    ],
)
def test_edges_move_to_what_ends_near_them(text: str, rank: int, reach: int, expected: str) -> None:
    assert pasted(text, rank, reach) == expected


@given(
    st.text(alphabet="ab. \n!é", min_size=1, max_size=120).filter(lambda text: text.strip()),
    st.integers(1, 40),
    st.integers(0, 40),
)
def test_a_leaf_stays_whole_and_grows_by_no_more_than_was_allowed(
    text: str, leaf: int, reach: int
) -> None:
    document = cut(text, leaf)
    forest = document.forest
    for node in forest.leaves.tolist():
        start, end = complete_sentences(document, node, reach)
        own = int(forest.start[node]), int(forest.end[node])
        assert max(0, own[0] - reach) <= start <= own[0]
        assert own[1] <= end <= min(len(document), own[1] + reach)


def test_what_is_cited_is_whole_and_within_the_budget(tiny_llm: SharedLLM) -> None:
    sentences = [f"Witness {i} saw the ferry leave at {i} o'clock." for i in range(40)]
    document = tiny_llm.remember(" ".join(sentences))
    made = tiny_llm.prepare("Who saw the ferry at 17?", document, budget=300, sentences=64)
    assert made.evidence_tokens <= 300
    for citation in made.citations:
        assert citation.text[0] == "W"
        assert citation.text.rstrip()[-1] == "."


def test_a_budget_too_small_for_sentences_takes_the_leaf(tiny_llm: SharedLLM) -> None:
    document = tiny_llm.remember("Anna and Bella went over the long bridge to the market. " * 6)
    own = tiny_llm.select("bridge", document, budget=24, sentences=0)
    assert tiny_llm.select("bridge", document, budget=24, sentences=64) == own
