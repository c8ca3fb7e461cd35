"""Scores of leaves, from which every inner node gets the best of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sharedllm.encoding.document import Document
from sharedllm.search.query import Query

Scores = NDArray[np.float32]


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
