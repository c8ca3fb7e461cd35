"""Every scorer, selection, form of leaves and coarse level, in one test on the tiny model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sharedllm import Document, SearchConfig, SharedLLM, TreeConfig
from sharedllm.config import COARSE_LEVELS, LEAVES, SCORERS, SELECTIONS
from sharedllm.errors import ConfigError, InputError
from sharedllm.search.leaf_scores import Scores
from sharedllm.search.query import Query
from sharedllm.search.scorers import Recency
from tests.models import shared
from tests.texts import FERRY, STORY

CHOICES = list(itertools.product(SCORERS, SELECTIONS, LEAVES, COARSE_LEVELS))


def letters(texts: list[str]) -> NDArray[np.float32]:
    """A bag of letters: an embedder that is quick."""
    rows = [[text.lower().count(c) for c in "aeiounrst"] for text in texts]
    return np.asarray(rows, dtype=np.float32) + 0.1


@pytest.fixture(scope="module")
def llm() -> SharedLLM:
    made = shared("llama")
    made._embedder = letters
    return made


@pytest.fixture(scope="module")
def documents(llm: SharedLLM) -> list[Document]:
    """Two documents; the coarse level of the first is encoded."""
    both = [llm.remember(STORY, title="Story", source="story.txt"), llm.remember(FERRY)]
    llm.encode(both[0])
    return both


@pytest.mark.parametrize(("scorer", "selection", "leaves", "coarse"), CHOICES)
def test_every_choice_answers_from_what_it_cites(
    llm: SharedLLM, documents: list[Document], scorer: str, selection: str, leaves: str, coarse: str
) -> None:
    budget = 150
    answer = llm.answer(
        "When does the ferry leave?",
        documents,
        scorer=scorer,
        selection=selection,
        leaves=leaves,
        coarse=coarse,
        budget=budget,
        max_new_tokens=3,
    )
    usage = answer.usage
    assert usage.injected_tokens + usage.evidence_tokens <= budget
    assert (usage.evidence_tokens > 0) == (leaves != "kv")  # "auto": no memory stores these
    if leaves != "kv" and coarse == "none":
        assert usage.injected_tokens == 0
    if leaves == "kv" or coarse == "all":
        assert usage.injected_tokens > 0
    assert usage.context_tokens == sum(map(len, documents))
    assert 0 <= usage.left_out_chunks < sum(len(d.forest.roots) for d in documents)
    assert (usage.coarse_ratio is None) == (coarse == "none")
    assert usage.new_tokens <= 3
    assert usage.prompt_tokens > usage.evidence_tokens
    texts = {"story.txt": STORY, "document": FERRY}
    assert answer.citations
    for citation in answer.citations:
        found = texts[citation.source][citation.char_start : citation.char_end]
        assert citation.text == found != ""
        assert 0 <= citation.level <= llm.tree.height
    scores = [citation.score for citation in answer.citations]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("scorer", ["fused", "bm25"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_stands_in_the_text_word_by_word_is_found(scorer: str, selection: str) -> None:
    tree = TreeConfig(chunk=128, height=2, ratios=(4, 1), root_ratio=8)
    llm = shared("llama", tree=tree)
    document = llm.remember(FERRY + "\n" + STORY)
    options = {"scorer": scorer, "selection": selection, "budget": 80, "max_new_tokens": 1}
    answer = llm.answer("The owner's daughter, Mirelle, later sent", document, **options)
    assert sum(len(citation.text) for citation in answer.citations) <= 80
    at = document.text.index("Mirelle")
    assert any(c.char_start < at + 7 and at < c.char_end for c in answer.citations)


@pytest.mark.parametrize("broken", [lambda t: [[1.0]] * 99, lambda t: np.full((len(t), 2), np.nan)])
def test_an_embedder_that_returns_something_else(documents: list[Document], broken: object) -> None:
    llm = shared("llama")
    llm._embedder = broken  # type: ignore[assignment]
    document = llm.remember(FERRY)
    with pytest.raises(ValueError, match=r"embedder returned.*rows of finite numbers"):
        llm.answer("When?", document, scorer="embedding")


def test_an_embedder_decides(documents: list[Document]) -> None:
    """Distance to a text full of x: only the leaves with x come near."""
    llm = shared("llama")
    llm._embedder = lambda texts: np.asarray(
        [[t.count("x") + 0.01, t.count("o") + 0.01] for t in texts], dtype=np.float32
    )
    document = llm.remember("o" * 80 + "x" * 16 + "o" * 80)
    answer = llm.answer(
        "xxx", document, scorer="embedding", neighbours=(), budget=30, max_new_tokens=1
    )
    assert [c.text for c in answer.citations] == ["x" * 16]


class Longest:
    """A user's own scorer: the longer a leaf, the better."""

    def score(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        out = []
        for document in documents:
            forest = document.forest
            lengths = forest.end[forest.leaves] - forest.start[forest.leaves]
            out.append(forest.from_leaves(lengths.astype(np.float32)))
        return out


def test_an_object_may_score(llm: SharedLLM, documents: list[Document], tmp_path: Path) -> None:
    answer = llm.answer("Who?", documents, scorer=Longest(), budget=150, max_new_tokens=1)
    assert answer.citations
    assert answer.citations[0].score == llm.score("Who?", documents, scorer=Longest())[0].max()
    with pytest.raises(ConfigError, match="scorer is 'shortest'; allowed: 'fused'"):
        llm.answer("Who?", documents, scorer="shortest")
    with pytest.raises(ConfigError, match="scorer is the class Longest; give an instance"):
        llm.answer("Who?", documents, scorer=Longest)
    with pytest.raises(InputError, match="scores has 1 arrays for 2 documents"):
        llm.select("Who?", documents, scores=[np.zeros(3, np.float32)])
    short = [np.zeros(3, np.float32)] * 2
    with pytest.raises(InputError, match=r"shape \(3,\) for 'Story'; it must be an array of shape"):
        llm.select("Who?", documents, scores=short)
    own = SharedLLM(llm.encoder, search=SearchConfig(scorer=Longest()))
    with pytest.raises(ConfigError, match="cannot be saved"):
        own.save_pretrained(tmp_path)


def test_a_scorer_by_name_and_as_an_object_selects_the_same(
    llm: SharedLLM, documents: list[Document]
) -> None:
    by_name = llm.select("When?", documents, scorer="recency", budget=150)
    as_object = llm.select("When?", documents, scorer=Recency(), budget=150)
    assert by_name.nodes == as_object.nodes
