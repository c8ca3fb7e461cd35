"""Token ids -> chunks -> context trees: nested token spans (paper, sections 3.1 and 3.2).

A chunk is a span of consecutive tokens; one binary tree grows over each chunk. The trees of a
document are one :class:`Forest` of parallel arrays, because scorers and selection work on all of
its nodes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sharedllm.config import TreeConfig, require_int, require_number
from sharedllm.displayed import Displayed

Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Tokens [start, end) of a document; the `index`-th chunk of it."""

    index: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def cut(n_tokens: int, chunk: int) -> tuple[Chunk, ...]:
    """Cut `n_tokens` into chunks of `chunk` tokens; the last one holds the remainder."""
    require_int("the number of tokens", n_tokens, least=0)
    require_int("chunk", chunk, least=1)
    starts = range(0, n_tokens, chunk)
    return tuple(
        Chunk(index=i, start=s, end=min(s + chunk, n_tokens)) for i, s in enumerate(starts)
    )


@dataclass(frozen=True, kw_only=True)
class Forest(Displayed):
    """The context trees of one document; a notebook and rich's console draw the first ones.

    Nodes are in depth-first order, tree after tree, a parent before its children and the left
    child before the right one. All arrays have shape (nodes,).

    Attributes
    ----------
    tree : index of the node's chunk
    level : 0 at a root
    start, end : the node's tokens [start, end) in the document
    parent, left, right : node indices; -1 for a root's parent and a leaf's children
    context : int
        Tokens of its chunk before a node that the lower model reads with it; their KV is not kept.
    """

    tree: Ints
    level: Ints
    start: Ints
    end: Ints
    parent: Ints
    left: Ints
    right: Ints
    context: int = 0

    def __len__(self) -> int:
        return len(self.tree)

    @cached_property
    def roots(self) -> Ints:
        """Node indices of the roots, in document order."""
        return np.flatnonzero(self.parent < 0).astype(np.int32)

    @cached_property
    def leaves(self) -> Ints:
        """Node indices of the leaves, in document order; their spans tile the document."""
        return np.flatnonzero(self.left < 0).astype(np.int32)

    @cached_property
    def first_leaf(self) -> Ints:
        """For each node, the rank among :attr:`leaves` of its first leaf."""
        return np.searchsorted(self.start[self.leaves], self.start).astype(np.int32)

    @cached_property
    def last_leaf(self) -> Ints:
        """For each node, one past the rank of its last leaf."""
        return np.searchsorted(self.start[self.leaves], self.end).astype(np.int32)

    def before(self, node: int) -> int:
        """Return the number of tokens before `node` that are read with it."""
        chunk = self.roots[self.tree[node]]
        return min(self.context, int(self.start[node] - self.start[chunk]))

    def from_leaves(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return for each node the maximum over its leaves; `values` has shape (leaves,)."""
        bounds = np.stack([self.first_leaf, self.last_leaf], axis=1).ravel()
        padded = np.append(values, -np.inf).astype(np.float32)  # the last bound is one past the end
        return np.maximum.reduceat(padded, bounds)[::2]

    def nodes_of(self, tree: int) -> range:
        """Return the nodes of the `tree`-th tree, its root first."""
        last = self.roots[tree + 1] if tree + 1 < len(self.roots) else len(self)
        return range(int(self.roots[tree]), int(last))


def grow(
    chunks: Sequence[Chunk],
    height: int,
    *,
    leaf: int = 1,
    context: int = 0,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Forest:
    """Grow one tree of at most `height` levels below the root over each chunk.

    A node of l tokens splits at floor(l/2 - eps) with eps ~ N(0, (noise * l)^2) and eps = 0 without
    noise (paper, section 3.2: sigma = l/5 or l/10 in training). Both children keep at least one
    token. A node of at most `leaf` tokens stays a leaf: a short chunk is not cut into pieces that
    hold too little to be found.

    Raises
    ------
    ConfigError
        If `height` or `noise` is negative, or `leaf` is less than 1.
    """
    require_int("height", height, least=0)
    require_number("noise", noise, least=0)
    require_int("leaf", leaf, least=1)
    rng = rng or np.random.default_rng()
    rows: list[list[int]] = []  # tree, level, start, end, parent, left, right

    def add(tree: int, level: int, start: int, end: int, parent: int) -> int:
        node = len(rows)
        rows.append([tree, level, start, end, parent, -1, -1])
        length = end - start
        if level < height and length > leaf:
            shift = rng.normal(0.0, noise * length) if noise else 0.0
            middle = start + int(np.clip(np.floor(length / 2 - shift), 1, length - 1))
            rows[node][5] = add(tree, level + 1, start, middle, node)
            rows[node][6] = add(tree, level + 1, middle, end, node)
        return node

    for chunk in chunks:
        add(chunk.index, 0, chunk.start, chunk.end, -1)
    columns = np.asarray(rows, dtype=np.int32).reshape(-1, 7).T
    names = ("tree", "level", "start", "end", "parent", "left", "right")
    arrays = {name: np.ascontiguousarray(c) for name, c in zip(names, columns, strict=True)}
    return Forest(**arrays, context=context)


def grow_trees(chunks: Sequence[Chunk], tree: TreeConfig) -> Forest:
    """Grow trees over `chunks` with the settings `tree`, split in the middle."""
    return grow(chunks, tree.height, leaf=tree.leaf, context=tree.context)
