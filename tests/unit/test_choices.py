"""Every policy, search, finest level and rest, in one test on the tiny model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from sharedllm import Document, SharedLLM, TreeConfig
from sharedllm.config import FINEST, POLICIES, RESTS, SEARCHES
from tests.models import shared
from tests.texts import FERRY, STORY

CHOICES = list(itertools.product(POLICIES, SEARCHES, FINEST, RESTS))


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


@pytest.mark.parametrize(("policy", "search", "finest", "rest"), CHOICES)
def test_every_choice_answers_from_what_it_cites(
    llm: SharedLLM, documents: list[Document], policy: str, search: str, finest: str, rest: str
) -> None:
    budget = 150
    answer = llm.answer(
        "When does the ferry leave?",
        documents,
        policy=policy,
        search=search,
        finest=finest,
        rest=rest,
        budget=budget,
        max_new_tokens=3,
    )
    usage = answer.usage
    assert usage.injected_tokens + usage.evidence_tokens <= budget
    assert (usage.evidence_tokens > 0) == (finest == "text")
    if finest == "text" and rest == "none":
        assert usage.injected_tokens == 0
    if finest == "kv" or rest == "all":
        assert usage.injected_tokens > 0
    assert usage.context_tokens == sum(map(len, documents))
    assert 0 <= usage.left_out_chunks < sum(len(d.forest.roots) for d in documents)
    assert (usage.coarse_ratio is None) == (rest == "none")
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


@pytest.mark.parametrize("policy", ["bm25", "hybrid"])
@pytest.mark.parametrize("search", SEARCHES)
def test_what_stands_in_the_text_word_by_word_is_found(policy: str, search: str) -> None:
    tree = TreeConfig(chunk=128, height=2, ratios=(4, 1), root_ratio=8)
    llm = shared("llama", tree=tree)
    document = llm.remember(FERRY + "\n" + STORY)
    options = {"policy": policy, "search": search, "budget": 80, "max_new_tokens": 1}
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
        llm.answer("When?", document, policy="embedding")


def test_an_embedder_decides(documents: list[Document]) -> None:
    """Distance to a text full of x: only the leaves with x come near."""
    llm = shared("llama")
    llm._embedder = lambda texts: np.asarray(
        [[t.count("x") + 0.01, t.count("o") + 0.01] for t in texts], dtype=np.float32
    )
    document = llm.remember("o" * 80 + "x" * 16 + "o" * 80)
    answer = llm.answer(
        "xxx", document, policy="embedding", neighbours=(), budget=30, max_new_tokens=1
    )
    assert [c.text for c in answer.citations] == ["x" * 16]
