"""Systems that score leaves: ours, its parts, their plain fusions, and MiniLM."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality.search.sought import Collection
from sharedllm import SearchConfig, SharedLLM, TreeMemory
from sharedllm.encoding.document import Document
from sharedllm.search.bm25 import BM25
from sharedllm.search.citations import complete_sentences, window_overheads
from sharedllm.search.fused import Fused
from sharedllm.search.leaf_scores import LeafScorer, Scores
from sharedllm.search.maxsim import MaxSim
from sharedllm.search.query import Query, make_query
from sharedllm.search.rounds import Followed, look_again
from sharedllm.search.selection import select

ALL_CHUNKS = 1 << 20  # candidates: nothing is left out before scores are compared
SHIFT = 60  # of reciprocal-rank fusion; the customary value
Flat = NDArray[np.float32]  # a value per leaf of all documents


class Known(LeafScorer):
    """Scores that were computed before."""

    def __init__(self, scores: Flat) -> None:
        self._scores = scores

    def leaf_scores(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        bounds = np.cumsum([len(document.forest.leaves) for document in documents])
        return list(np.split(self._scores, bounds[:-1]))


@dataclass(frozen=True, slots=True)
class Found:
    """What a system found: a score per leaf, and leaves that later rounds added."""

    scores: Flat
    followed: Sequence[Followed] = ()


class Store:
    """A collection as a memory on disk, with the scores that never change.

    Parameters
    ----------
    cache : folder of all collections
    """

    def __init__(self, collection: Collection, llm: SharedLLM, cache: Path) -> None:
        self.llm, self.folder = llm, cache / collection.key
        self.collection = collection
        memory = TreeMemory(self.folder, llm=llm, candidates=ALL_CHUNKS)
        memory.add([d for d in collection.documents if d.id not in memory])
        self.documents = list(memory.documents_for("any", llm))
        memory.close()
        self.bounds = np.cumsum([len(d.forest.leaves) for d in self.documents])
        self._overhead = window_overheads(self.documents, llm.tokenizer)
        self._widened: dict[tuple[int, int], tuple[int, int]] = {}
        self._known: dict[str, Flat] = {}
        self._file = self.folder / "maxsim.npz"
        if self._file.exists():
            with np.load(self._file) as held:
                self._known = {name: held[name] for name in held.files}
        self._new = 0

    def query(self, text: str) -> Query:
        with torch.inference_mode():
            return make_query(text, self.llm.tokenizer, self.llm.encoder.lower)

    def maxsim(self, query: Query) -> Flat:
        """Return the scores of MaxSim, which take most of the time and are kept."""
        name = f"{zlib.crc32(query.text.encode()):08x}"
        if name not in self._known:
            scorer = MaxSim(self.llm.encoder.lower.query_projection)
            with torch.inference_mode():
                self._known[name] = np.concatenate(scorer.leaf_scores(query, self.documents))
            self._new += 1
        return self._known[name]

    def divided(self, scores: Flat) -> list[Flat]:
        return np.split(scores, self.bounds[:-1])

    def document_of(self, leaf: int) -> int:
        return int(np.searchsorted(self.bounds, leaf, side="right"))

    def characters(self, leaf: int) -> tuple[int, int]:
        """Return the characters of a leaf."""
        index = self.document_of(leaf)
        document = self.documents[index]
        node = document.forest.leaves[leaf - (self.bounds[index - 1] if index else 0)]
        return document.tokens.characters(
            int(document.forest.start[node]), int(document.forest.end[node])
        )

    def looked_again(self, query: Query, scores: Flat) -> list[Followed]:
        """Return what later rounds find, as the product does."""
        documents, rounds = self.documents, SearchConfig().rounds
        of_nodes = self._of_nodes(scores)
        found = look_again(query.text, documents, of_nodes, most=rounds, widen=self._widen)
        return found.followed

    def _of_nodes(self, scores: Flat) -> list[Scores]:
        pairs = zip(self.documents, self.divided(scores), strict=True)
        return [document.forest.from_leaves(own) for document, own in pairs]

    def selected(self, found: Found, budget: int) -> dict[str, list[tuple[int, int]]]:
        """Return the characters that the product's selection pastes, by document."""
        documents = self.documents
        chosen = select(
            [d.forest for d in documents],
            self._of_nodes(found.scores),
            SearchConfig(budget=budget),
            self.llm.tree,
            overhead=self._overhead,
            widen=self._widen,
            followed=found.followed,
        )
        spans: dict[str, list[tuple[int, int]]] = {}
        for node in chosen.nodes:
            document = documents[node.document]
            span = document.tokens.characters(node.start, node.end)
            spans.setdefault(document.id, []).append(span)
        return spans

    def _widen(self, index: int, node: int) -> tuple[int, int]:
        if (index, node) not in self._widened:
            reach = SearchConfig().sentences
            edges = complete_sentences(self.documents[index], node, reach)
            self._widened[index, node] = edges
        return self._widened[index, node]

    def save(self) -> None:
        if self._new:
            np.savez(self._file, **self._known)
            self._new = 0

    @cached_property
    def embeddings(self) -> Flat:
        """MiniLM's vectors of all leaves, kept."""
        file = self.folder / "minilm.npy"
        if not file.exists():
            texts = []
            for leaf in range(self.bounds[-1]):
                start, end = self.characters(leaf)
                texts.append(self.documents[self.document_of(leaf)].text[start:end])
            np.save(file, embed(texts).astype(np.float16))
        return np.load(file).astype(np.float32)


_minilm: Any = None


def embed(texts: list[str]) -> Flat:
    global _minilm
    if _minilm is None:
        from sharedllm.hf.minilm import MiniLM

        _minilm = MiniLM()
    with torch.autocast("cpu", torch.bfloat16):
        return _minilm(texts)


def standardised(scores: Flat) -> Flat:
    return (scores - scores.mean()) / (scores.std() or 1.0)


def by_rank(scores: Flat) -> Flat:
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return (1 / (SHIFT + ranks)).astype(np.float32)


def bm25(store: Store, query: Query) -> Flat:
    return np.concatenate(BM25().leaf_scores(query, store.documents))


def hybrid(store: Store, query: Query) -> Flat:
    return standardised(store.maxsim(query)) + standardised(bm25(store, query))


def rrf(store: Store, query: Query) -> Flat:
    return by_rank(store.maxsim(query)) + by_rank(bm25(store, query))


def minilm(store: Store, query: Query) -> Flat:
    return store.embeddings @ embed([query.text])[0]


def fused(store: Store, query: Query) -> Flat:
    scorer = Fused(Known(store.maxsim(query)))
    return np.concatenate(scorer.leaf_scores(query, store.documents))


def rounds(store: Store, query: Query) -> Found:
    scores = fused(store, query)
    return Found(scores, store.looked_again(query, scores))


def once(score: Callable[[Store, Query], Flat]) -> Callable[[Store, Query], Found]:
    return lambda store, query: Found(score(store, query))


SYSTEMS: dict[str, Callable[[Store, Query], Found]] = {
    "maxsim": once(lambda store, query: store.maxsim(query)),
    "bm25": once(bm25),
    "hybrid": once(hybrid),
    "rrf": once(rrf),
    "MiniLM": once(minilm),
    "fused": once(fused),
    "rounds": rounds,
}
