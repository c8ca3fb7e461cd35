"""MaxSim: late interaction of a question's search vectors with those of the documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.encoding.document import Document, SearchVectors
from sharedllm.encoding.lower_model import unit
from sharedllm.search.leaf_scores import LeafScorer, Scores
from sharedllm.search.query import Query

BLOCK = 1 << 24  # values of search vectors that are widened to float32 at once
TOGETHER = 1 << 18  # tokens of documents whose similarities are held at once


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
    ids, places = np.unique(query.ids, return_inverse=True)
    number = np.full(ids[-1] + 2, len(ids), np.int32)  # of a token among those; the last: others
    number[ids] = np.arange(len(ids))
    held = np.zeros(len(ids))
    for document in documents:
        found = number.take(document.tokens.ids, mode="clip")
        at = np.flatnonzero(found < len(ids))
        starts = document.forest.start[document.forest.leaves]
        in_leaf = np.zeros((len(starts), len(ids)), bool)
        in_leaf[np.searchsorted(starts, at, side="right") - 1, found[at]] = True
        held += in_leaf.sum(0)
    leaves = sum(len(d.forest.leaves) for d in documents)
    weights: Scores = np.log1p(leaves / (1 + held[places])) ** 2
    return weights.astype(np.float32)
