"""Pasts of examples as documents that no model has read: tokens and trees, no search vectors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sharedllm.config import TreeConfig
from sharedllm.encoding.document import Document, NodeCache
from sharedllm.text.tokens import Tokenizer, tokenize
from sharedllm.text.tree import cut, grow

NO_VECTORS = torch.empty(0, 1)


def unread(
    text: str,
    tokenizer: Tokenizer,
    tree: TreeConfig,
    *,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Document:
    """`text` as a document; its nodes split at N(l/2, (`noise` l)^2)."""
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
    """Ranks of the leaves that touch the characters [`start`, `end`)."""
    spans = document.tokens.spans
    inside = (spans[:, 0] < end) & (spans[:, 1] > start)
    return np.unique(document.leaf_of_token[inside])
