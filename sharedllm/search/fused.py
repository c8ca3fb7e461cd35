"""Fused: MaxSim and words, combined by a small network that was trained for it.

MaxSim finds facts in other words, and cannot tell one number from another; words find numbers,
codes and names. How much each is worth depends on the question and on how far its best leaf is
ahead, so a network of about a thousand weights reads both, and what else words tell about a leaf.
Its inputs are shares and standardised scores, which mean the same for every model, and it is
trained on document sets of all sizes (benchmarks/default_scorer).
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedllm.encoding.document import Document
from sharedllm.search.bm25 import BM25, Asked, Held, Leaves
from sharedllm.search.leaf_scores import LeafScorer, Scores
from sharedllm.search.query import Query
from sharedllm.text.words import parts, words

WEIGHTS = Path(__file__).parents[1] / "checkpoints" / "fused_scorer.json"
LEAST, MOST = -12.0, 16.0  # of a standardised score
Values = NDArray[np.float32]

OF_LEAF = (
    "maxsim",  # standardised over all leaves
    "bm25",
    "maxsim share",  # of the best leaf's
    "bm25 share",
    "maxsim gap",  # to the best leaf's, in standard deviations
    "bm25 gap",
    "words",  # share of the question's idf that the leaf holds
    "words nearby",  # the same, with the leaves before and after
    "words of document",
    "words of title",
    "exact",  # the same of numbers, codes and identifiers
    "rarest",  # idf of the rarest word held, of the rarest there is
    "pairs",  # share of the neighbouring words that stand side by side
    "names",  # the share of words, of names alone
    "whole names",  # share of the names, word by word
    "phrases",  # share of the quoted phrases
    "length",  # logarithm of its words, of the mean
)
OF_QUERY = (
    "leaves",  # logarithms
    "documents",
    "asked words",
    "exact share",  # of the question's idf
    "has exact",
    "has names",
    "has phrases",
    "best maxsim",  # how far the best leaf is ahead of all
    "best bm25",
    "best words",
    "agreement",  # rank correlation of the two scores' best leaves
)


class Fused(LeafScorer):
    """MaxSim and BM25 over leaves, fused with what else words tell.

    Parameters
    ----------
    maxsim : scores leaves by their search vectors
    network : combines; None is the one that is shipped
    """

    def __init__(self, maxsim: LeafScorer, network: Network | None = None) -> None:
        self._maxsim, self._network = maxsim, network or shipped()

    def leaf_scores(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        leaves, asked = features(query, documents, self._maxsim)
        bounds = np.cumsum([len(document.forest.leaves) for document in documents])
        return list(np.split(self._network(leaves, asked), bounds[:-1]))


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Scores a leaf: a linear sum, plus one hidden layer that sees the question, too.

    Attributes
    ----------
    linear : float32 (leaf features,)
    inner : float32 (leaf and query features, hidden)
    bias, outer : float32 (hidden,)
    """

    linear: Values
    inner: Values
    bias: Values
    outer: Values

    def __call__(self, leaves: Values, query: Values) -> Scores:
        """Score leaves (leaves, features) of a question (features,)."""
        own = len(self.linear)
        hidden = np.tanh(leaves @ self.inner[:own] + (query @ self.inner[own:] + self.bias))
        return (leaves @ self.linear + hidden @ self.outer).astype(np.float32)

    @classmethod
    def read(cls, path: Path) -> Network:
        given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: np.array(given[name], np.float32) for name in cls.__slots__})

    def write(self, path: Path) -> None:
        def short(values: Any) -> Any:
            return (
                [short(x) for x in values] if isinstance(values, list) else float(f"{values:.4g}")
            )

        rows = {name: short(getattr(self, name).tolist()) for name in self.__slots__}
        path.write_text(json.dumps(rows, separators=(",", ":")) + "\n", encoding="utf-8")


@functools.cache
def shipped() -> Network:
    return Network.read(WEIGHTS)


def features(
    query: Query, documents: Sequence[Document], maxsim: LeafScorer
) -> tuple[Values, Values]:
    """Compute what the network reads.

    Returns
    -------
    float32 (leaves, len(OF_LEAF)), float32 (len(OF_QUERY),)
    """
    asked, leaves = Asked.of(query.text), Leaves(documents)
    found = {term: leaves.holding((term,)) for term in asked.terms}
    by_vectors = np.concatenate(maxsim.leaf_scores(query, documents)).astype(np.float64)
    by_words = BM25().of(list(found.values()), leaves)
    held = [found[term] for term in asked.terms if term in asked.content]
    exact = [found[term] for term in asked.terms if term in asked.exact]
    pairs = [leaves.holding(pair) for pair in asked.pairs]
    names = [leaves.holding(name) for name in asked.names]
    phrases = [leaves.holding(phrase) for phrase in asked.phrases]

    near, whole = _around(held, leaves)
    total = _total(held)
    z, w = _standardised(by_vectors), _standardised(by_words)
    own = (
        z,
        w,
        by_vectors / max(by_vectors.max(), 1e-9),
        by_words / max(by_words.max(), 1e-9),
        z - z.max(),
        w - w.max(),
        _share(held, leaves),
        near,
        whole,
        _titles(asked, found, documents, leaves) / total,
        _share(exact, leaves),
        _rarest(held, leaves),
        _share(pairs, leaves),
        _share([found[term] for term in dict.fromkeys(itertools.chain(*asked.names))], leaves),
        _share(names, leaves),
        _share(phrases, leaves),
        np.log1p(leaves.lengths) - math.log1p(leaves.lengths.mean()),
    )
    of_query = (
        math.log10(len(leaves)),
        math.log10(len(documents)),
        math.log1p(len(asked.content)),
        _total(exact) / total if exact else 0.0,
        float(any(len(one.leaves) for one in exact)),
        float(any(len(one.leaves) for one in names)),
        float(any(len(one.leaves) for one in phrases)),
        z.max() / 4,
        w.max() / 4,
        own[6].max(),
        float(z[w.argmax()] - z.max()) / 4,
    )
    table = np.stack(own, axis=1).clip(LEAST, MOST)
    return table.astype(np.float32), np.array(of_query, np.float32)


def _standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale to mean 0 and deviation 1; equal scores become 0."""
    deviation = float(scores.std())
    return (scores - scores.mean()) / deviation if deviation > 1e-9 else np.zeros_like(scores)


def _total(held: Sequence[Held]) -> float:
    """Sum up the idf of what is held anywhere."""
    return sum(one.idf for one in held if len(one.leaves)) or 1.0


def _share(held: Sequence[Held], leaves: Leaves) -> NDArray[np.float64]:
    """Return the share of the idf of all of `held` that each leaf has."""
    out = np.zeros(len(leaves))
    for one in held:
        out[one.leaves] += one.idf
    return out / _total(held)


def _rarest(held: Sequence[Held], leaves: Leaves) -> NDArray[np.float64]:
    out = np.zeros(len(leaves))
    for one in held:
        out[one.leaves] = np.maximum(out[one.leaves], one.idf)
    return out / (max((one.idf for one in held if len(one.leaves)), default=0.0) or 1.0)


def _around(
    held: Sequence[Held], leaves: Leaves
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shares that a leaf has with its two neighbours, and that its document has."""
    near, documents = np.zeros(len(leaves)), np.zeros(len(leaves.indexes))
    starts = leaves.bounds[:-1]
    for one in held:
        there = np.zeros(len(leaves), bool)
        there[one.leaves] = True
        before, after = np.roll(there, 1), np.roll(there, -1)
        before[starts] = after[leaves.bounds[1:] - 1] = False
        near[there | before | after] += one.idf
        documents[np.logical_or.reduceat(there, starts)] += one.idf
    total = _total(held)
    return near / total, np.repeat(documents / total, np.diff(leaves.bounds))


def _titles(
    asked: Asked, found: dict[str, Held], documents: Sequence[Document], leaves: Leaves
) -> NDArray[np.float64]:
    """Sum up the idf of the question's words in the title of each leaf's document."""
    held = []
    for document in documents:
        title = document.derived("title words", functools.partial(_words_of_title, document))
        held.append(sum(found[term].idf for term in asked.content & title))
    return np.repeat(np.array(held, np.float64), np.diff(leaves.bounds))


def _words_of_title(document: Document) -> frozenset[str]:
    return frozenset(part for word in words(document.title) for part in parts(word.text))
