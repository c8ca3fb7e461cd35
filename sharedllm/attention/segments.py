"""Sequences laid end to end without padding: where each begins, on the device and on the host.

Shapes: N sequences, T tokens in all, H query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """The lengths of N packed sequences.

    Attributes
    ----------
    lengths : tuple of int
        Each at least 1. On the host, so that no kernel waits for them.
    bounds : int32 tensor (N + 1,)
        Where each begins, and where the last one ends (``cu_seqlens`` of FlashAttention).
    """

    lengths: tuple[int, ...]
    bounds: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        """Pack sequences of these `lengths`.

        Raises
        ------
        ValueError
            If there is none, or one is empty.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError(f"packed sequences need at least one token each; lengths: {lengths}")
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(lengths=tuple(lengths), bounds=bounds.to(device, non_blocking=True))

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def total(self) -> int:
        return sum(self.lengths)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Neighbours of equal length, which are a batch: (first token, sequences, length)."""
        at = 0
        for length, group in groupby(self.lengths):
            count = len(list(group))
            yield at, count, length
            at += count * length
