"""Training examples: a past, a question about it or none, and the text to be predicted.

Pasts become documents that no model has read: tokens and trees, without search vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sharedllm.config import TreeConfig
from sharedllm.encoding.document import Document, NodeCache
from sharedllm.text.tokens import Tokenizer, tokenize
from sharedllm.text.tree import cut, grow

Span = tuple[int, int]
NO_VECTORS = torch.empty(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training example, as text.

    Attributes
    ----------
    kind : str
        The task, for the log of losses.
    past : str
        The document.
    question : str
        Empty for language modelling; `answer` then continues `past`.
    answer : str
        The text that the loss is taken over.
    evidence : tuple of (start, end)
        Characters of `past` from which the answer follows; empty if all of it may help.
    """

    kind: str
    past: str
    question: str
    answer: str
    evidence: tuple[Span, ...] = ()


class Past:
    """Builds a past: filler text into which passages are put.

    Parameters
    ----------
    filler : str
        Unrelated text.
    gap : str
        Text on either side of a passage.
    """

    def __init__(self, filler: str, gap: str = "\n") -> None:
        self._filler, self._gap = filler, gap
        self._inserts: list[tuple[int, str]] = []

    def put(self, passage: str, where: float) -> None:
        """Put `passage` at the first end of a sentence or line after the share `where`."""
        at = int(where * len(self._filler))
        ends = [self._filler.find(mark, at) for mark in (". ", ".\n", "\n")]
        found = [end for end in ends if end >= 0]
        self._inserts.append((min(found) + 1 if found else len(self._filler), passage))

    def build(self) -> tuple[str, tuple[Span, ...]]:
        """Return the text and each passage's span, in the order in which they were put."""
        spans: dict[int, Span] = {}
        pieces: list[str] = []
        length = before = 0
        for index in sorted(range(len(self._inserts)), key=lambda i: self._inserts[i][0]):
            at, passage = self._inserts[index]
            for piece in (self._filler[before:at], self._gap):
                pieces.append(piece)
                length += len(piece)
            spans[index] = (length, length + len(passage))
            pieces += [passage, self._gap]
            length += len(passage) + len(self._gap)
            before = at
        pieces.append(self._filler[before:])
        return "".join(pieces), tuple(spans[index] for index in range(len(self._inserts)))


def make_document(
    text: str,
    tokenizer: Tokenizer,
    tree: TreeConfig,
    *,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Document:
    """Make a document of `text` without search vectors; nodes split at N(l/2, (`noise` l)^2)."""
    tokens = tokenize(text, tokenizer)
    chunks = cut(len(tokens), tree.chunk)
    return Document(
        id="",
        title="document",
        source="",
        text=text,
        tokens=tokens,
        forest=grow(
            chunks, tree.height, leaf=tree.leaf, context=tree.context, noise=noise, rng=rng
        ),
        vectors=NO_VECTORS,
        nodes=NodeCache(0),
    )


def leaves_of(document: Document, start: int, end: int) -> NDArray[np.int32]:
    """Return the ranks of the leaves that touch the characters [`start`, `end`)."""
    spans = document.tokens.spans
    inside = (spans[:, 0] < end) & (spans[:, 1] > start)
    return np.unique(document.leaf_of_token[inside])
