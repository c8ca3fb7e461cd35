"""Text that is pasted holds whole sentences where they are near, else whole lines, else words."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedllm import SharedLLM, TreeConfig
from sharedllm.encoding.document import Document
from sharedllm.search.citations import complete_sentences
from sharedllm.search.sentences import LONGEST, matching_sentence, sentences
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


ROWS = 'id,name,note\n1,Ann,"Came. Left."\n2,Bob,Ok.\n\nEnd of it. Done.'
PRETTY = '[\n  {\n    "a": "One. Two",\n    "b": 2\n  },\n  {\n    "a": "Three."\n  }\n]'
SECOND = PRETTY.rindex("{")
FIELDS = "invoice: 48000\nnote: Paid. By Ada.\n\ninvoice: 48001\nnote: Unpaid. Late."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Heading\nText of it. More.", ["# Heading\n", "Text of it. ", "More."]),
        (
            ROWS,
            ["id,name,note\n", '1,Ann,"Came. Left."\n', "2,Bob,Ok.\n\n", "End of it. ", "Done."],
        ),
        ('"Why?" said he. "No!" "Yes."', ['"Why?" said he. ', '"No!" ', '"Yes."']),
        ("1\tAnn\tCame. Left.\n2\tBob\tOk. No.", ["1\tAnn\tCame. Left.\n", "2\tBob\tOk. No."]),
        (PRETTY, ["[\n  ", PRETTY[4:SECOND], PRETTY[SECOND:-1], "]"]),
        ('{"a": "x. y"}\n{"a": "z. w"}\n', ['{"a": "x. y"}\n', '{"a": "z. w"}\n']),
        (FIELDS, [FIELDS[:36], FIELDS[36:]]),
        ("第一句。第二句。完", ["第一句。", "第二句。", "完"]),
        ("यह पहला है। दूसरा।", ["यह पहला है। ", "दूसरा।"]),
        ("هل جاء؟ نعم.", ["هل جاء؟ ", "نعم."]),
        (
            "It came, and so,\nhe said, it went.\nYes, no, so.",
            ["It came, and so,\nhe said, it went.\n", "Yes, no, so."],
        ),
    ],
)
def test_records_are_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@given(st.text(alphabet='ab. \n!é,{}":\t|。', max_size=300), st.text(max_size=9))
def test_sentences_cover_the_text(text: str, query: str) -> None:
    found = sentences(text)
    assert "".join(text[start:end] for start, end in found) == text
    match = matching_sentence(text, query)
    assert match is None or 0 <= match[0] < match[1] <= len(text)


def test_what_never_ends_is_cut() -> None:
    for text in ("word " * 900, "x" * 5000, "a line\n" * 900):
        assert max(end - start for start, end in sentences(text)) <= LONGEST
