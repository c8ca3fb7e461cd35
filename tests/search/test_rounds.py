"""Looking again: what is followed, what is not, and what selections and citations say of it."""

from __future__ import annotations

import dataclasses
import io
import itertools

import numpy as np
import pytest
from rich.console import Console

from sharedllm import MemoryDocument, SharedLLM, TreeConfig, TreeMemory
from sharedllm.encoding.document import Document
from sharedllm.errors import ConfigError
from sharedllm.search.bm25 import BM25
from sharedllm.search.citations import complete_sentences
from sharedllm.search.leaf_scores import LeafScorer, Scores
from sharedllm.search.query import Query
from sharedllm.search.rounds import MOST_FOUND, SURE, look_again
from sharedllm.search.sentences import matching_sentence
from tests.conftest import WIDE, Make
from tests.models import shared
from tests.search.test_scorers import ask, read

FILLER = "The tide was low and the lamps were out, so nobody went down to the reef that evening. "
GAP = FILLER * 4
TEACHER = "The teacher of Anna Lund was Jens Holm. "
BORN = "Jens Holm was born in the town of Ribe. "
QUESTION = "In which town was the teacher of Anna Lund born?"


def found(question: str, *texts: str, most: int = 8) -> list[tuple[int, str, str]]:
    """Return (round, what was searched for, text of the leaf) of all that later rounds find."""
    documents = [read(text, seed, chunk=128, height=1) for seed, text in enumerate(texts)]
    scores = [10 * values for values in BM25().score(ask(question), documents)]

    def own(document: int, node: int) -> tuple[int, int]:
        return complete_sentences(documents[document], node, reach=64)

    followed = look_again(question, documents, scores, most=most, widen=own).followed
    for one in followed:
        best = max(values.max() for values in scores)
        assert one.score < best - SURE
    return [
        (f.round, f.sought, documents[f.document].text_of(*own(f.document, f.node)))
        for f in followed
    ]


def test_the_name_in_the_best_sentence_is_searched_for() -> None:
    [(number, sought, text)] = found(QUESTION, GAP + TEACHER + GAP + BORN + GAP)
    assert (number, sought) == (2, "Jens Holm")
    assert "Ribe" in text


def test_other_documents_are_searched_too() -> None:
    [(number, sought, text)] = found(QUESTION, GAP + TEACHER, GAP + BORN, GAP)
    assert (number, sought) == (2, "Jens Holm")
    assert "Ribe" in text


def test_a_name_may_run_over_a_line_or_end_there() -> None:
    over = GAP + TEACHER.replace("Jens Holm", "Jens\nHolm") + GAP + BORN + GAP
    assert [(n, s) for n, s, _ in found(QUESTION, over)] == [(2, "Jens Holm")]
    ends = GAP + TEACHER.replace("Holm. ", "Holm\nMr. Lamp said nothing. ") + GAP + BORN + GAP
    assert [(n, s) for n, s, _ in found(QUESTION, ends)] == [(2, "Jens Holm")]


def test_a_chain_is_followed_round_by_round() -> None:
    names = ["NOQZC", "CDYEX", "ZOIUQ", "PUPQU", "FJKCK"]
    links = ["VAR NOQZC = 51833"]
    links += [f"VAR {new} = VAR {old}" for old, new in itertools.pairwise(names)]
    text = GAP + "".join(f"\n{link}\n{GAP}" for link in [links[0], *reversed(links[1:])])
    question = "Find all variables that are assigned the value 51833."
    rounds = found(question, text)
    assert [n for n, _, _ in rounds] == [2, 3, 4, 5]
    assert [s for _, s, _ in rounds] == [f"VAR {name}" for name in names[:-1]]
    assert [n for n, _, _ in found(question, text, most=3)] == [2, 3]
    assert found(question, text, most=1) == []


def test_a_link_within_the_leaf_goes_on_from_there() -> None:
    near = GAP + "VAR ABCDE = 51833\nVAR FGHIJ = VAR ABCDE\n" + GAP + "\nVAR KLMNO = VAR FGHIJ\n"
    assert [s for _, s, _ in found("What is assigned 51833?", near + GAP)] == ["VAR FGHIJ"]


@pytest.mark.parametrize(
    ("first", "second", "sought"),
    [
        ("Anna Lund ordered part GBS-65-146.", "GBS-65-146 is kept in Ribe.", "GBS-65-146"),
        ("Anna Lund calls parse_config.", "def parse_config(): pass", "parse_config"),
        ("See clause 14.2 about Anna Lund.", "14.2 The town is Ribe.", "14.2"),
        ("Anna Lund chose the word jade-apple.", "For jade-apple it is Ribe.", "jade-apple"),
        ("The house of Anna Lund is Ivyhurst.", "In Ivyhurst it is damp.", "Ivyhurst"),
    ],
)
def test_codes_compounds_and_single_names_are_links(first: str, second: str, sought: str) -> None:
    rounds = found("What about Anna Lund?", f"{GAP}\n{first}\n{GAP}\n{second}\n{GAP}")
    assert [s for _, s, _ in rounds] == [sought]


@pytest.mark.parametrize(
    "text",
    [
        GAP + TEACHER + GAP,  # the name stands nowhere else
        GAP + TEACHER + (GAP + "Jens Holm went home. ") * 6,  # or in too many places
        GAP + "The teacher of Anna Lund was the keeper of the reef. " + GAP,
        GAP + "Anna Lund had 12 lamps. " + GAP + "There were 12 of them. " + GAP,
        GAP + "The house of Anna Lund is Ivyhurst. " + (GAP + "In Ivyhurst it is damp. ") * 2,
        FILLER,
    ],
)
def test_what_is_not_rare_is_not_followed(text: str) -> None:
    assert found(QUESTION, text) == []


def test_a_round_finds_a_few_leaves() -> None:
    names = [f"Jo Li{chr(97 + n)}" for n in range(6)]
    text = f"{GAP}\nAnna Lund met {', '.join(names)}.\n{GAP}"
    text += "".join(f"\n{name} was born in Ribe.\n{GAP}" for name in names)
    assert [n for n, _, _ in found("Whom did Anna Lund meet?", text, most=2)] == [2] * MOST_FOUND


@pytest.mark.parametrize("question", ["?!", "the of and", "東京はどこですか", "Anna Lund " * 40])
@pytest.mark.parametrize("text", [":", "_ ?!", "lamp", GAP + TEACHER + BORN])
def test_any_question_and_text_are_fine(question: str, text: str) -> None:
    assert len(found(question, text)) <= 1


# -- through the product ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm() -> SharedLLM:
    """A tiny Llama whose leaves hold a sentence."""
    return shared("llama", sizes=WIDE, tree=TreeConfig(chunk=256, height=1, ratios=(1,)))


def two_places(llm: SharedLLM) -> Document:
    return llm.remember(f"{GAP * 3}\n{TEACHER}\n{GAP * 6}\n{BORN}\n{GAP * 3}")


def test_an_answer_says_which_round_found_a_passage(llm: SharedLLM) -> None:
    document = two_places(llm)
    options = {"budget": 600, "scorer": "fused", "max_new_tokens": 1}
    once = llm.answer(QUESTION, document, rounds=1, **options)
    assert once.usage.search_rounds == 1
    assert {(c.round, c.sought) for c in once.citations} == {(1, "")}
    again = llm.answer(QUESTION, document, **options)
    assert again.usage.search_rounds == 2
    assert again.selection is not None
    assert again.selection.rounds == 2
    [cited] = [c for c in again.citations if c.round == 2]
    assert cited.sought == "Jens Holm"
    assert cited.match_start is not None
    assert document.text[cited.match_start : cited.match_end] == BORN.strip()
    assert "found by \u201cJens Holm\u201d" in again.to_html()
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(again)
    assert "found by \u201cJens Holm\u201d: " in console.export_text()
    assert llm.answer("Who?", max_new_tokens=1).usage.search_rounds == 0


def test_what_the_first_round_is_sure_of_comes_first(llm: SharedLLM) -> None:
    chosen = llm.select(QUESTION, two_places(llm), budget=800, scorer="fused")
    first = [node for node in chosen.nodes if node.round == 1]
    [later] = [node for node in chosen.nodes if node.round == 2]
    assert max(node.score for node in first) - later.score > SURE
    by_score = sorted(chosen.nodes, key=lambda node: -node.score)
    assert "teacher" in two_places(llm).text_of(by_score[0].start, by_score[0].end)
    assert by_score[1] == later


class ByWords(LeafScorer):
    def leaf_scores(self, query: Query, documents: list[Document]) -> list[Scores]:  # type: ignore[override]
        return BM25().leaf_scores(query, documents)


@pytest.mark.parametrize(
    "options", [{"scorer": "bm25"}, {"scorer": ByWords()}, {"selection": "path"}, {"rounds": 1}]
)
def test_other_scorers_and_selections_look_once(llm: SharedLLM, options: dict[str, object]) -> None:
    chosen = llm.select(QUESTION, two_places(llm), budget=800, **options)
    assert chosen.rounds == 1
    assert {node.round for node in chosen.nodes} == {1}


@pytest.mark.parametrize("options", [{"leaves": "kv"}, {"coarse": "all"}])
def test_leaves_may_enter_as_kv(llm: SharedLLM, options: dict[str, object]) -> None:
    chosen = llm.select(QUESTION, two_places(llm), budget=800, **options)
    assert [node.sought for node in chosen.nodes if node.round == 2] == ["Jens Holm"]


def test_passages_and_hits_look_again(llm: SharedLLM, make: Make) -> None:
    document = two_places(llm)
    hits = llm.passages(QUESTION, document, k=2)
    assert [(hit.round, hit.sought) for hit in hits] == [(1, ""), (2, "Jens Holm")]
    assert hits[0].score > hits[1].score
    assert document.text[hits[1].match_start : hits[1].match_end] == BORN.strip()
    assert [hit.round for hit in llm.passages(QUESTION, document, k=2, scorer="bm25")] == [1, 1]
    memory = make(create=True)
    memory.add([MemoryDocument(id="one", text=GAP + TEACHER), MemoryDocument(id="two", text=BORN)])
    found_there = memory.search(QUESTION, k=2)
    assert {hit.id for hit in found_there} == {"one", "two"}
    assert dataclasses.asdict(found_there[1])["sought"] in ("Jens Holm", "")


@pytest.mark.parametrize("rounds", [0, -1, 1.5, True, "2", None])
def test_rounds_are_a_whole_number(llm: SharedLLM, rounds: object) -> None:
    with pytest.raises(ConfigError, match="rounds is"):
        llm.select("Who?", two_places(llm), rounds=rounds)


def test_scores_stay_those_of_the_scorer(llm: SharedLLM) -> None:
    document = two_places(llm)
    scores = llm.score(QUESTION, document)
    chosen = llm.select(QUESTION, document, scores=scores, budget=800)
    assert np.array_equal(chosen.searched[0].scores, scores[0])


def test_the_sentence_of_a_number_matches_best() -> None:
    text = "We went to find all of them. The number is 27815. To find it took days."
    assert matching_sentence(text, "Find all that are assigned 27815.") == (29, 49)


# -- large memories --------------------------------------------------------------------------------


@pytest.fixture
def large(make: Make, llm: SharedLLM) -> TreeMemory:
    """A memory in whose search only two chunks take part, and four statements that lead on."""
    memory = make(llm=llm, candidates=2)
    memory.add(MemoryDocument(id=f"tide {n}", text=FILLER * 2 + f"Day {n}.") for n in range(12))
    facts = (TEACHER, "Jens Holm worked with Ada Falk. ", "Ada Falk lived in Ribe. ", "Ivo Lind.")
    memory.add(MemoryDocument(id=fact.split()[-2], text=fact) for fact in facts)
    return memory


def test_other_chunks_of_a_large_memory_are_found_by_what_is_named(
    large: TreeMemory, llm: SharedLLM
) -> None:
    question = "Who was the teacher of Anna Lund?"
    assert large.leaves_out()
    assert not large.leaves_out({"id": "Jens"})
    hits = large.search(question, k=3)
    assert [(hit.id, hit.round, hit.sought) for hit in hits] == [
        ("Jens", 1, ""), ("Ada", 2, "Jens Holm"), ("in", 3, "Ada Falk")
    ]  # fmt: skip
    answer = llm.answer(question, large, budget=2000, max_new_tokens=1)
    assert [c.sought for c in answer.citations if c.round > 1] == ["Jens Holm", "Ada Falk"]
    assert answer.usage.search_rounds == 3
    assert llm.answer(question, large, rounds=1, max_new_tokens=1).usage.search_rounds == 1
    passages = llm.passages(question, large, k=3)
    assert [hit.id for hit in passages] == [hit.id for hit in hits]
    chosen = llm.select(question, large, budget=2000)
    assert chosen.rounds == 3


def test_names_that_many_chunks_hold_bring_none(large: TreeMemory, llm: SharedLLM) -> None:
    asked = {"query": "When is the tide low?", "llm": llm}
    before = {part.id for part in large.documents_for(**asked)}
    assert {part.id for part in large.documents_for(**asked, names=["Day"])} == before
    assert {part.id for part in large.documents_for(**asked, names=["Ivo Lind"])} > before
    assert {part.id for part in large.documents_for(**asked, names=["?!", ""])} == before
    filtered = large.documents_for(**asked, filter={"id": {"ne": "Ivo"}}, names=["Ada Falk"])
    assert {part.id for part in filtered} > before
