"""Scorers: a score for each node of the context trees, by its match with the query.

Higher is better, and scores compare across all documents of one call. ``fused``, ``maxsim``,
``bm25`` and ``recency`` score leaves and give an inner node the best of its leaves, so that
ranking leaves is exact; ``embedding`` and ``last_hidden`` (the paper's) score each node by itself.
To add a scorer, write its class here and add its name to :data:`MAKERS` and to
:data:`sharedllm.config.SCORERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.encoding.lower_model import LowerModel, unit
from sharedllm.errors import ConfigError, InputError
from sharedllm.search.bm25 import BM25
from sharedllm.search.fused import Fused
from sharedllm.search.leaf_scores import LeafScorer, Scores
from sharedllm.search.maxsim import MaxSim
from sharedllm.search.query import Query, make_query
from sharedllm.text.normalise import normalise

Embedder = Callable[[list[str]], NDArray[np.float32]]


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
    "fused": lambda lower, embedder: Fused(MaxSim(lower.query_projection)),
    "maxsim": lambda lower, embedder: MaxSim(lower.query_projection),
    "bm25": lambda lower, embedder: BM25(),
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
