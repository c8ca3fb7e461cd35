"""Position-free KV of nodes (paper, section 3.2), and of the nodes injected at one place.

Shapes: M injection layers, G key/value heads, K entries kept of a node, S injected KV entries, D
head dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedllm.config import Positions


def kept_count(length: int, ratio: float) -> int:
    """Return the entries that a node of `length` tokens keeps: ceil(length / ratio)."""
    return math.ceil(length / ratio)


def kept_positions(length: int, ratio: float) -> NDArray[np.int64]:
    """Return the positions in a node, ascending, that keep their KV; shape (kept_count,).

    Uniform downsampling: the node is cut into groups of `ratio` tokens (rounded to whole tokens),
    and the last token of each is kept, which under causal attention has read its whole group.
    """
    count = kept_count(length, ratio)
    groups = np.arange(1, count + 1)
    ends = np.minimum(np.floor(groups * ratio).astype(np.int64), length - count + groups)
    ends[-1:] = length  # the remainder is a group of its own
    kept: NDArray[np.int64] = ends - 1
    return kept


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeKV:
    """The kept KV of one node, position-free.

    Attributes
    ----------
    keys, values : (M, G, K, D); keys without rotation
    """

    keys: Tensor
    values: Tensor

    def __len__(self) -> int:
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def every(self, step: int) -> NodeKV:
        """Keep every `step`-th entry, and the last: a view, unless entries are left over."""

        def kept(states: Tensor) -> Tensor:
            own = states[:, :, step - 1 :: step]
            return own if len(self) % step == 0 else torch.cat([own, states[:, :, -1:]], dim=2)

        return NodeKV(keys=kept(self.keys), values=kept(self.values))


@dataclass(frozen=True, kw_only=True, slots=True)
class InjectedKV:
    """The KV injected at one place of one prompt: the entries of its nodes, in document order.

    Attributes
    ----------
    keys, values : (M, G, S, D); keys without rotation, which is applied once the place is known
    chunk : int64 (S,)
        The ordinal of each entry's chunk at this place.
    n_chunks : int
        Chunks of the document at this place, also those without an entry.
    """

    keys: Tensor
    values: Tensor
    chunk: Tensor
    n_chunks: int

    def __len__(self) -> int:
        return self.keys.shape[2]

    def positions(self, scheme: Positions) -> Tensor:
        """Return int64 (S,): the position of each key, counted from the first of this place."""
        if scheme == "chunk":
            return self.chunk
        return torch.arange(len(self), device=self.keys.device)

    def extent(self, scheme: Positions) -> int:
        """Return the number of positions taken; the text after this place goes on behind them."""
        return self.n_chunks if scheme == "chunk" else len(self)


def gather(nodes: Sequence[NodeKV], chunks: Sequence[int], n_chunks: int) -> InjectedKV:
    """Concatenate the KV of `nodes`; `chunks` gives each node's chunk ordinal.

    Raises
    ------
    ValueError
        If `nodes` is empty.
    """
    if not nodes:
        raise ValueError("gather needs at least one node")
    ordinals = np.repeat(np.asarray(chunks, np.int64), [len(node) for node in nodes])
    return InjectedKV(
        keys=torch.cat([node.keys for node in nodes], dim=2),
        values=torch.cat([node.values for node in nodes], dim=2),
        chunk=torch.from_numpy(ordinals).to(nodes[0].keys.device),
        n_chunks=n_chunks,
    )
