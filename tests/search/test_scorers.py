"""Leaf scores against direct loops over the definitions."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedllm.encoding.document import Document, NodeCache
from sharedllm.encoding.lower_model import unit
from sharedllm.search.bm25 import BM25
from sharedllm.search.maxsim import MaxSim
from sharedllm.search.query import Query
from sharedllm.search.scorers import Recency
from sharedllm.text.tokens import tokenize
from sharedllm.text.tree import cut, grow
from sharedllm.text.words import parts, words
from tests.models import make_tokenizer

TOKENIZER = make_tokenizer()
WORDS = st.lists(
    st.sampled_from(["the", "lamp", "Lamp", "keeper", "été", "ship,", "ship.", "1871", "x"]),
    min_size=1,
)
TEXTS = st.lists(WORDS.map(" ".join), min_size=1, max_size=3)


def read(text: str, seed: int, chunk: int = 32, height: int = 2) -> Document:
    """A document with random search vectors."""
    tokens = tokenize(text, TOKENIZER)
    return Document(
        id=str(seed),
        title="",
        source="",
        text=text,
        tokens=tokens,
        forest=grow(cut(len(tokens), chunk), height),
        vectors=vectors(len(tokens), seed).half(),
        nodes=NodeCache(1),
    )


def ask(text: str) -> Query:
    ids = tokenize(text, TOKENIZER).ids
    return Query(text=text, ids=ids, vectors=vectors(len(ids), 99))


def vectors(n: int, seed: int) -> torch.Tensor:
    return unit(torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)))


def leaves(document: Document) -> list[tuple[int, int]]:
    forest = document.forest
    spans = zip(forest.start[forest.leaves], forest.end[forest.leaves], strict=True)
    return [(int(a), int(b)) for a, b in spans]


@given(texts=TEXTS, question=WORDS)
def test_maxsim(texts: list[str], question: list[str]) -> None:
    documents = [read(text, seed) for seed, text in enumerate(texts)]
    query = ask(" ".join(question))
    every = [(d, span) for d in documents for span in leaves(d)]
    for document, found in zip(documents, MaxSim().leaf_scores(query, documents), strict=True):
        asked = query.vectors.numpy()
        held_vectors = document.vectors.float().numpy()
        for (a, b), score in zip(leaves(document), found, strict=True):
            expected = 0.0
            for token, state in zip(query.ids, asked, strict=True):
                held = sum(token in d.tokens.ids[s:e] for d, (s, e) in every)
                cosines = [float(held_vectors[t] @ state) for t in range(a, b)]
                expected += math.log(1 + len(every) / (1 + held)) ** 2 * max(cosines)
            assert math.isclose(score, expected, rel_tol=1e-4, abs_tol=1e-4)


@given(texts=TEXTS, question=WORDS)
def test_bm25(texts: list[str], question: list[str]) -> None:
    documents = [read(text, seed) for seed, text in enumerate(texts)]
    query = ask(" ".join(question))
    bags: list[list[list[str]]] = []
    for document in documents:
        firsts = [int(document.tokens.spans[a, 0]) for a, _ in leaves(document)]
        bag: list[list[str]] = [[] for _ in firsts]
        for word in words(document.text):
            held = bag[max(i for i, at in enumerate(firsts) if at <= word.start)]
            held += parts(word.text)
        bags.append(bag)
    flat = [leaf for bag in bags for leaf in bag]
    mean = max(sum(map(len, flat)) / len(flat), 1.0)
    for bag, found in zip(bags, BM25().leaf_scores(query, documents), strict=True):
        for leaf, score in zip(bag, found, strict=True):
            expected = 0.0
            for word in {part for w in words(query.text) for part in parts(w.text)}:
                n = sum(word in other for other in flat)
                idf = math.log(1 + (len(flat) - n + 0.5) / (n + 0.5))
                f = leaf.count(word)
                expected += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(leaf) / mean))
            assert math.isclose(score, expected, rel_tol=1e-4, abs_tol=1e-5)


@given(texts=TEXTS)
def test_right_prefers_what_comes_later(texts: list[str]) -> None:
    documents = [read(text, seed) for seed, text in enumerate(texts)]
    scores = np.concatenate(Recency().leaf_scores(ask("x"), documents))
    assert (np.diff(scores) > 0).all()
