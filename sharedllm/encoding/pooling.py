"""Which tokens of a node keep their KV: uniform downsampling (paper, section 3.2)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def kept_count(length: int, ratio: float) -> int:
    """Entries a node of `length` tokens keeps: ceil(length / ratio)."""
    return math.ceil(length / ratio)


def kept_positions(length: int, ratio: float) -> NDArray[np.int64]:
    """Positions in the node, ascending, that keep their KV; shape (kept_count,).

    The node is cut into groups of `ratio` tokens (rounded to whole ones) and the last token of
    each is kept: under causal attention it is the one that has read its whole group.
    """
    count = kept_count(length, ratio)
    groups = np.arange(1, count + 1)
    ends = np.minimum(np.floor(groups * ratio).astype(np.int64), length - count + groups)
    ends[-1:] = length  # what is left over is a group of its own
    kept: NDArray[np.int64] = ends - 1
    return kept
