"""Documents -> the parts that are read one by one: nodes of their trees, in whole sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharedllm.encoding.document import Document
from sharedllm.search.citations import complete_sentences
from sharedllm.search.leaf_scores import Scores

SURE = 4.0  # log-odds of the best part from which a question says by its words what it is about
FAR = 7.0  # behind the best part, so that the part is not read
LEAST = 0.0  # of a part that is read though it is far behind
FEWEST, FINEST = 8, 2  # notes of a short document; the level of what they are taken of, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A node of a document that is read alone.

    Attributes
    ----------
    document : int
        Index among the documents of the question.
    node : int
        Index in its forest.
    chunk : int
        Index of its chunk.
    start, end : int
        Tokens [start, end): its own, and those that complete its first and last sentence.
    score : float
        Of its best leaf.
    """

    document: int
    node: int
    chunk: int
    start: int
    end: int
    score: float


def parts_of(
    documents: Sequence[Document],
    scores: Sequence[Scores] | None,
    levels: Sequence[int],
    sentences: int,
) -> list[Part]:
    """Return all nodes at a level of each document, and the leaves above it, in document order.

    Parameters
    ----------
    scores : of all nodes of each document; None gives each part 0
    levels : of each document
    sentences : tokens by which a part is completed to whole sentences, at most
    """
    out = []
    for index, (document, level) in enumerate(zip(documents, levels, strict=True)):
        forest = document.forest
        chosen = (forest.level == level) | ((forest.left < 0) & (forest.level < level))
        for node in np.flatnonzero(chosen).tolist():
            start, end = complete_sentences(document, node, sentences)
            out.append(
                Part(
                    document=index,
                    node=node,
                    chunk=int(forest.tree[node]),
                    start=start,
                    end=end,
                    score=0.0 if scores is None else float(scores[index][node]),
                )
            )
    return out


def noted_parts(
    documents: Sequence[Document], level: int, sentences: int, *, finer: bool
) -> list[Part]:
    """Return the parts of which notes are taken: chunks, and halves or quarters of a short text.

    They follow from each document alone, so that the notes of one serve questions about several.

    Parameters
    ----------
    level : of the largest nodes that the reader takes
    finer : take more than one note of a document of few chunks
    """
    levels = []
    for document in documents:
        chunks = max(1, len(document.forest.roots))
        wanted = math.ceil(math.log2(max(1, FEWEST / chunks))) if finer else 0
        levels.append(max(level, min(FINEST, wanted)))
    return parts_of(documents, None, levels, sentences)


def near(parts: Sequence[Part]) -> list[Part]:
    """Leave out the parts whose best leaf is far from the question, where its words say enough.

    Scores are log-odds (the scorer "fused"), and the question has a name: "List the characters"
    shares no word with any part, however sure the best one looks.
    """
    best = max((part.score for part in parts), default=0.0)
    if best < SURE:
        return list(parts)
    return [part for part in parts if part.score >= min(best - FAR, LEAST)]


def within(parts: Sequence[Part], most: int | None, *, by_score: bool) -> list[Part]:
    """Keep the parts of at most `most` chunks: those of the best scores, or spread evenly."""
    chunks = list(dict.fromkeys((part.document, part.chunk) for part in parts))
    if most is None or len(chunks) <= most:
        return list(parts)
    if by_score:
        best: dict[tuple[int, int], float] = {}
        for part in parts:
            key = (part.document, part.chunk)
            best[key] = max(best.get(key, -np.inf), part.score)
        kept = set(sorted(chunks, key=lambda key: -best[key])[:most])
    else:
        kept = {chunks[at * len(chunks) // most] for at in range(most)}
    return [part for part in parts if (part.document, part.chunk) in kept]
