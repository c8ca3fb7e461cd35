"""Scorers: a score for each node of the context trees, by its match with the query.

Higher is better, and scores compare across all documents of one call. ``maxsim``, ``bm25``,
``hybrid`` and ``recency`` score leaves and give an inner node the best of its leaves, so that
ranking leaves is exact; ``embedding`` and ``last_hidden`` (the paper's) score each node by itself.
To add a scorer, write its class here and add its name to :data:`MAKERS` and to
:data:`sharedllm.config.SCORERS`.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.encoding.document import Document, SearchVectors
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.encoding.lower_model import LowerModel, unit
from sharedllm.errors import ConfigError, InputError
from sharedllm.search.query import Query, make_query
from sharedllm.text.normalise import normalise

Scores = NDArray[np.float32]
Embedder = Callable[[list[str]], NDArray[np.float32]]

WORD = re.compile(r"\w+")
BLOCK = 1 << 24  # values of search vectors that are widened to float32 at once
TOGETHER = 1 << 18  # tokens of documents whose similarities are held at once


def score(
    text: str,
    documents: Sequence[Document],
    encoder: DocumentEncoder,
    scorer: str | Scorer,
    embedder: Embedder | None = None,
) -> list[Scores]:
    """Score every node of `documents` for the question `text`.

    Parameters
    ----------
    scorer : the name of a scorer, or an object with the method of :class:`Scorer`
    embedder : texts -> array (texts, dims), for "embedding"

    Returns
    -------
    list of float32 arrays (nodes,)
        One per document, in the order of its forest.
    """
    with encoder.lock.question(), encoder.lock.forward:
        query = make_query(text, encoder.tokenizer, encoder.lower)
        scores = make_scorer(scorer, encoder.lower, embedder).score(query, documents)
    require_scores(scores, documents, "the scorer returned")
    return scores


def require_scores(scores: Sequence[Scores], documents: Sequence[Document], whose: str) -> None:
    """Raise :class:`InputError` unless there is a finite number for every node of `documents`.

    Parameters
    ----------
    whose : begins the message, such as "the scorer returned"
    """
    if len(scores) != len(documents):
        raise InputError(
            f"{whose} {len(scores)} arrays for {len(documents)} documents; one each is needed"
        )
    for document, array in zip(documents, scores, strict=True):
        nodes = len(document.forest)
        if not isinstance(array, np.ndarray) or array.shape != (nodes,):
            got = f"shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(
                f"{whose} {got} for {document.title!r}; it must be an array of shape ({nodes},), a "
                "number for each node of its forest (forest.from_leaves makes it from leaves)"
            )
        if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
            raise InputError(f"{whose} a score of {document.title!r} that is not a finite number")


def is_by_place(scorer: str | Scorer) -> bool:
    """True for scorers whose scores are an order by place (:class:`LeafScorer`)."""
    return scorer == "recency" or bool(getattr(scorer, "by_place", False))


@runtime_checkable
class Scorer(Protocol):
    """Protocol of scorers: any object with this method, including a user's own.

    Scores need no unit: selection only ranks by them, across all documents of one call. A query
    has ``text``, ``ids`` and ``vectors``; a scorer of leaves derives from :class:`LeafScorer`.
    Values to be computed once per document are kept with
    :meth:`sharedllm.encoding.document.Document.derived`.
    """

    def score(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        """Score the nodes of each document.

        Returns
        -------
        list of float32 arrays (nodes,)
            One per document, in the order of its forest (depth first, a parent before its
            children).
        """
        ...


class LeafScorer(ABC):
    """A scorer that scores leaves; an inner node gets the maximum of its leaves.

    Attributes
    ----------
    by_place : bool
        Scores are an order by place rather than matches: leaves then get no share of their
        neighbours' scores, and are pasted as they were cut.
    """

    by_place = False

    def score(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        leaves = self.leaf_scores(query, documents)
        return [d.forest.from_leaves(x) for d, x in zip(documents, leaves, strict=True)]

    @abstractmethod
    def leaf_scores(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        """Return one array (leaves,) per document."""


class MaxSim(LeafScorer):
    """Late interaction on search vectors: the sum of each query token's best match in a leaf.

    score(leaf) = sum over query tokens of idf(token)^2 * max over the leaf's tokens of the cosine
    of their search vectors. idf(t) = ln(1 + leaves / (1 + leaves that hold t)), squared as in the
    product of two tf-idf vectors.

    Parameters
    ----------
    query_projection : float32 tensor (hidden, hidden) or None
        Multiplies the query's vectors before they are compared. It is trained for an adapter
        (docs/training.md) and leaves the documents' vectors as they are.
    """

    def __init__(self, query_projection: Tensor | None = None) -> None:
        self._projection = query_projection

    def leaf_scores(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        weights = token_weights(query, documents)
        sought = query.vectors
        if self._projection is not None:
            sought = unit(sought @ self._projection.T)
        similarities = _similarities(sought, [d.vectors for d in documents])
        return [
            (weights @ _best(found, d.forest.start[d.forest.leaves])).astype(np.float32)
            for d, found in zip(documents, similarities, strict=True)
        ]


def _best(similarity: Tensor, starts: NDArray[np.int32]) -> Scores:
    """Return the maximum of `similarity` (Q, T) in each leaf; shape (Q, leaves).

    On CUDA it is reduced on the device, which copies one value per leaf, not per token.
    """
    if similarity.device.type == "cpu":
        return np.maximum.reduceat(similarity.numpy(), starts, axis=1)
    bounds = torch.from_numpy(np.append(starts, similarity.shape[1])).to(similarity.device)
    best = torch.segment_reduce(similarity.T.contiguous(), "max", offsets=bounds)
    out: Scores = best.T.cpu().numpy()
    return out


def _similarities(query: Tensor, documents: Sequence[SearchVectors]) -> Iterator[Tensor]:
    """Yield the cosines of all query tokens with all tokens; (Q, T) per document.

    Compact vectors of several documents are compared together: preparing the query's tables takes
    as long as comparing a short document.
    """
    for group in _groups(documents):
        first = group[0]
        joined = None if isinstance(first, Tensor) else first.joined(group[1:])
        if joined is None:
            yield from (_similarity(query, vectors) for vectors in group)
        else:
            lengths = [len(vectors) for vectors in group]
            yield from torch.split(joined.similarities(query), lengths, dim=1)


def _groups(documents: Sequence[SearchVectors]) -> Iterator[list[SearchVectors]]:
    """Group neighbours whose similarities are held at once."""
    group: list[SearchVectors] = []
    held = 0
    for vectors in documents:
        if group and held + len(vectors) > TOGETHER:
            yield group
            group, held = [], 0
        group.append(vectors)
        held += len(vectors)
    if group:
        yield group


def _similarity(query: Tensor, vectors: SearchVectors) -> Tensor:
    """Compute the cosines for one document; float32 (Q, T)."""
    if not isinstance(vectors, Tensor):
        return vectors.similarities(query)
    out = query.new_empty(len(query), len(vectors))
    step = max(1, BLOCK // vectors.shape[1])
    for block in range(0, len(vectors), step):
        part = vectors[block : block + step].float()
        torch.mm(query, part.T, out=out[:, block : block + step])
    return out


def token_weights(query: Query, documents: Sequence[Document]) -> Scores:
    """Compute the squared idf of the query's tokens over all documents' leaves; shape (Q,)."""
    leaves = sum(len(d.forest.leaves) for d in documents)
    held = np.zeros(len(query.ids))
    for document in documents:
        counts = document.derived("token_leaves", partial(_token_leaves, document))
        held += [counts[int(token)] for token in query.ids]
    return (np.log1p(leaves / (1 + held)) ** 2).astype(np.float32)


def _token_leaves(document: Document) -> Counter[int]:
    """Count for each token id the leaves that hold it."""
    pairs = np.unique(np.stack([document.tokens.ids, document.leaf_of_token]), axis=1)
    ids, counts = np.unique(pairs[0], return_counts=True)
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


@dataclass(frozen=True, slots=True)
class WordIndex:
    """Occurrences of words in the leaves of a document.

    Attributes
    ----------
    leaves : word -> leaf rank -> occurrences
    lengths : float (leaves,), words per leaf
    """

    leaves: dict[str, dict[int, int]]
    lengths: NDArray[np.float64]

    @classmethod
    def of(cls, document: Document) -> WordIndex:
        starts = document.tokens.spans[document.forest.start[document.forest.leaves], 0]
        read = normalise(document.text)
        words = [(m.span(), m.group().lower()) for m in WORD.finditer(read.text)]
        spans = np.asarray([span for span, _ in words], dtype=np.int32).reshape(-1, 2)
        where = np.searchsorted(starts, read.original(spans)[:, 0], side="right") - 1
        leaves: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for leaf, (_, word) in zip(np.maximum(where, 0).tolist(), words, strict=True):
            leaves[word][leaf] += 1
        lengths = np.bincount(np.maximum(where, 0), minlength=len(starts)).astype(np.float64)
        return cls(leaves={w: dict(at) for w, at in leaves.items()}, lengths=lengths)


class BM25(LeafScorer):
    """Okapi BM25 over leaves, with statistics pooled over all documents of the call."""

    def __init__(self, k1: float = 1.2, b: float = 0.75) -> None:
        self.k1, self.b = k1, b

    def leaf_scores(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        indexes = [d.derived("words", partial(WordIndex.of, d)) for d in documents]
        leaves = sum(len(index.lengths) for index in indexes)
        mean = max(sum(float(index.lengths.sum()) for index in indexes) / leaves, 1.0)
        out = [np.zeros(len(index.lengths), dtype=np.float64) for index in indexes]
        for word in sorted({m.group().lower() for m in WORD.finditer(query.text)}):
            held = sum(len(index.leaves.get(word, ())) for index in indexes)
            idf = math.log1p((leaves - held + 0.5) / (held + 0.5))
            for index, scores in zip(indexes, out, strict=True):
                at = index.leaves.get(word)
                if not at:
                    continue
                ranks = np.fromiter(at.keys(), dtype=np.int64)
                count = np.fromiter(at.values(), dtype=np.float64)
                norm = self.k1 * (1 - self.b + self.b * index.lengths[ranks] / mean)
                scores[ranks] += idf * count * (self.k1 + 1) / (count + norm)
        return [scores.astype(np.float32) for scores in out]


class Hybrid(LeafScorer):
    """The sum of MaxSim and BM25, each standardised over all leaves of the call.

    Unlike ranks, standardised scores keep the margin between leaves (docs/experiments.md has the
    comparison with reciprocal rank fusion).
    """

    def __init__(self, query_projection: Tensor | None = None) -> None:
        self._parts: tuple[LeafScorer, ...] = (MaxSim(query_projection), BM25())

    def leaf_scores(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        total: list[Scores] = []
        for part in self._parts:
            scores = _standardised(part.leaf_scores(query, documents))
            total = scores if not total else [a + b for a, b in zip(total, scores, strict=True)]
        return total


def _standardised(scores: list[Scores]) -> list[Scores]:
    """Scale to mean 0 and deviation 1 over all arrays together; equal scores become 0."""
    every = np.concatenate(scores)
    deviation = float(every.std()) or 1.0
    return [((x - every.mean()) / deviation).astype(np.float32) for x in scores]


class Recency(LeafScorer):
    """Later leaves score higher: the paper's choice for language modelling, without a query."""

    by_place = True

    def leaf_scores(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        before, out = 0, []
        for document in documents:
            leaves = len(document.forest.leaves)
            out.append(np.arange(before, before + leaves, dtype=np.float32))
            before += leaves
        return out


class Embedding:
    """Cosine of one vector per node with one vector of the query.

    A node's vector is the mean of its search vectors; with an `embedder`, the mean of the embedded
    texts of its leaves.
    """

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder

    def score(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        out = []
        for document in documents:
            # the key keeps the embedder alive, so that its id is not reused by another
            key = ("node vectors", self._embedder)
            nodes = document.derived(key, partial(self._node_vectors, document))
            out.append((nodes @ self._query_vector(query, document)).numpy())
        return out

    def _node_vectors(self, document: Document) -> Tensor:
        """Sum over each node's leaves, scaled to unit length; float32 (nodes, dims)."""
        forest = document.forest
        leaves = self._leaf_vectors(document)
        sums = np.concatenate([np.zeros_like(leaves[:1]), np.cumsum(leaves, axis=0)])
        return unit(torch.from_numpy(sums[forest.last_leaf] - sums[forest.first_leaf])).float()

    def _leaf_vectors(self, document: Document) -> NDArray[np.float64]:
        """Return one vector per leaf; (leaves, dims)."""
        starts = document.forest.start[document.forest.leaves]
        ends = document.forest.end[document.forest.leaves]
        if self._embedder is None:
            vectors = document.vectors.float().cpu().numpy()
            return np.add.reduceat(vectors, starts, axis=0, dtype=np.float64)
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        texts = [normalise(document.text_of(*span)).text for span in spans]
        return _checked(self._embedder(texts), len(starts))

    def _query_vector(self, query: Query, document: Document) -> Tensor:
        if self._embedder is None:
            vector = query.vectors.mean(0)
        else:
            vector = torch.from_numpy(_checked(self._embedder([query.text]), 1)[0])
        return unit(vector.float().cpu())


def _checked(vectors: NDArray[np.float32], rows: int) -> NDArray[np.float64]:
    array = np.asarray(vectors, dtype=np.float64)
    if array.ndim != 2 or len(array) != rows or not np.isfinite(array).all():
        raise ConfigError(
            f"the embedder returned an array of shape {array.shape}; it must return {rows} rows of "
            "finite numbers, one per text"
        )
    return array


class LastHidden:
    """The paper's policy: cosine of the last positions' states after one layer (section 3.2).

    Each node is read alone. Scores compare only between siblings, so a budget selection over them
    is not exact.
    """

    def __init__(self, lower: LowerModel) -> None:
        self._lower = lower

    def score(self, query: Query, documents: Sequence[Document]) -> list[Scores]:
        last = next(self._lower.states(query.ids, [(0, len(query.ids))]))[1][-1]
        target = unit(last.float()).cpu()
        return [(unit(self._ends(d)) @ target).cpu().numpy() for d in documents]

    def _ends(self, document: Document) -> Tensor:
        """Return the last state of every node; (nodes, hidden)."""

        def read() -> Tensor:
            forest = document.forest
            spans = list(zip(forest.start.tolist(), forest.end.tolist(), strict=True))
            ends = torch.empty(len(spans), document.vectors.shape[1])
            for node, states in self._lower.states(document.tokens.ids, spans):
                ends[node] = states[-1].float()
            return ends

        return document.derived("node_ends", read)


MAKERS: dict[str, Callable[[LowerModel, Embedder | None], Scorer]] = {
    "maxsim": lambda lower, embedder: MaxSim(lower.query_projection),
    "bm25": lambda lower, embedder: BM25(),
    "hybrid": lambda lower, embedder: Hybrid(lower.query_projection),
    "embedding": lambda lower, embedder: Embedding(embedder),
    "last_hidden": lambda lower, embedder: LastHidden(lower),
    "recency": lambda lower, embedder: Recency(),
}


def make_scorer(
    scorer: str | Scorer, lower: LowerModel, embedder: Embedder | None = None
) -> Scorer:
    """Return the scorer called `scorer`; an object with the method is returned as it is.

    Raises
    ------
    ConfigError
        If the name is not in :data:`MAKERS`.
    """
    if isinstance(scorer, type):
        raise ConfigError(f"scorer is the class {scorer.__name__}; give an instance of it")
    if not isinstance(scorer, str):
        return scorer
    if scorer not in MAKERS:
        raise ConfigError(f"scorer is {scorer!r}; allowed: {', '.join(MAKERS)}, or an object")
    return MAKERS[scorer](lower, embedder)
