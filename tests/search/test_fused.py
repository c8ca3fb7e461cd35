"""The fused scorer: what it reads of a question and of leaves, and how it ranks."""

from __future__ import annotations

import numpy as np
import pytest

from sharedllm.encoding.document import Document
from sharedllm.search.bm25 import BM25, Asked, WordIndex
from sharedllm.search.fused import OF_LEAF, OF_QUERY, Fused, features, shipped
from sharedllm.search.maxsim import MaxSim
from tests.search.test_scorers import ask, read

RECORDS = "".join(
    f"Invoice {48000 + 37 * n} of {1 + n % 28}/{1 + n % 12}/2021, part GBS-{60 + n}-{140 + n}: "
    f"{'lamp reef tide ferry'.split()[n % 4]} for Person{chr(65 + n % 26)} of town {n % 7}.\n"
    for n in range(60)
)


def best(question: str, text: str = RECORDS) -> str:
    """Return the leaf that ranks first, with the end of the words that it cuts."""
    document = read(text, 1, chunk=128)
    scores = Fused(MaxSim()).leaf_scores(ask(question), [document])[0]
    leaf = document.forest.leaves[int(scores.argmax())]
    start, end = document.forest.start[leaf], document.forest.end[leaf]
    return document.text_of(int(start), min(int(end) + 24, len(document)))


@pytest.mark.parametrize("n", [3, 17, 42, 58])
def test_a_record_is_found_by_its_number_or_code(n: int) -> None:
    assert str(48000 + 37 * n) in best(f"What is in invoice {48000 + 37 * n}?")
    assert f"GBS-{60 + n}-" in best(f"Who ordered part gbs-{60 + n}-{140 + n}?")


def test_a_question_is_read_word_by_word() -> None:
    asked = Asked.of('Who said "never again" about GBS-65-146 or parse_config in 2021?')
    assert asked.phrases == (("never", "again"),)
    assert asked.exact == {"gbs65\u02d1146", "parseconfig", "2021"}
    assert "who" not in asked.content
    assert "said" not in asked.content
    assert ("never", "again") in asked.pairs
    assert Asked.of("What is it?").content == {"what", "is", "it"}  # there is nothing else


def test_phrases_are_found_word_by_word() -> None:
    document = read("the lamp keeper lit the lamp of the keeper, lamp keeper", 1)
    index = WordIndex.of(document)
    assert index.places_of("lamp").tolist() == [1, 5, 9]
    assert index.places_of_phrase(("lamp", "keeper")).tolist() == [1, 9]
    assert index.places_of_phrase(("keeper", "of")).tolist() == []
    assert index.places_of("zebra").tolist() == []


@pytest.mark.parametrize(
    "question", ["the of and", "что это такое?", "東京はどこですか", "?!", "x", "Who? " * 40]
)
@pytest.mark.parametrize(
    "texts", [("lamp",), (":", "_ ?!"), ("lamp reef.", "The tide of 1871.", RECORDS)]
)
def test_any_question_is_ordered(question: str, texts: tuple[str, ...]) -> None:
    documents = [read(text, seed) for seed, text in enumerate(texts)]
    query = ask(question)
    leaves, asked = features(query, documents, MaxSim())
    assert leaves.shape == (sum(len(d.forest.leaves) for d in documents), len(OF_LEAF))
    assert asked.shape == (len(OF_QUERY),)
    assert np.isfinite(leaves).all()
    assert np.isfinite(asked).all()
    scores = Fused(MaxSim()).leaf_scores(query, documents)
    assert [len(x) for x in scores] == [len(d.forest.leaves) for d in documents]
    assert np.isfinite(np.concatenate(scores)).all()


def test_words_meet_in_any_spelling() -> None:
    documents = [read(text, seed) for seed, text in enumerate(("Zoë Müller-Ost left.", "Zero."))]
    for question in ("ZOE MULLER OST", "zoe muellerost", "\uff3a\uff4f\uff45"):
        scores = BM25().leaf_scores(ask(question), documents)
        assert scores[0].max() > scores[1].max() == 0


def test_the_shipped_network_fits_its_features() -> None:
    network = shipped()
    assert network.linear.shape == (len(OF_LEAF),)
    assert network.inner.shape == (len(OF_LEAF) + len(OF_QUERY), len(network.bias))
    assert network.outer.shape == network.bias.shape


def test_the_order_of_documents_changes_nothing() -> None:
    documents: list[Document] = [read(RECORDS[a : a + 900], a) for a in (0, 900, 1800)]
    scorer, query = Fused(MaxSim()), ask("What is in invoice 48370?")
    forth = scorer.leaf_scores(query, documents)
    back = scorer.leaf_scores(query, documents[::-1])[::-1]
    for one, other in zip(forth, back, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
