"""Visibility: the keys that each query may see, over a cache and in packed sequences.

Shapes: B batch, T queries, S keys; N packed sequences.

Over a cache every token and injected KV entry has an *order*, its place in the prompt. A query sees
 the keys whose order is at most its own. Slots of a cache may be padded or (in the keyword
path) be in another sequence than the prompt, so the order is kept beside them. Injected entries of
one document share one order. Tokens are hidden from sliding-window layers beyond their window.
Injected entries are hidden there too if other layers see everything; if all layers slide, injected
entries are visible at any distance.

Packed sequences follow each other without padding and see only themselves, so their lengths define
the visibility.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int32).max  # the order of padding: no query reaches it
ALWAYS = torch.iinfo(torch.int32).max  # a position inside every sliding window


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Order and position of every key slot; both int32 of shape (B, S)."""

    order: Tensor
    position: Tensor


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """The keys that each query of one forward pass sees.

    Attributes
    ----------
    query_order, query_position : int32 tensors, shape (B, T)
        The order is -1 for padding, which sees nothing.
    keys : Keys
    in_order : bool
        No padding, and slots in prompt order: visibility is lower-right causal.
    last : int or None
        Highest position of any query; None reads it from the device, which synchronises.
    used : int32 tensor (B,), or None
        For one query a row: the number of slots, from the first on, that it sees.
    """

    query_order: Tensor
    query_position: Tensor
    keys: Keys
    in_order: bool
    last: int | None = None
    used: Tensor | None = None
    _masks: dict[int | None, Tensor] = field(default_factory=dict, repr=False)

    def mask(self, window: int | None) -> Tensor | None:
        """Return the mask of a layer with this sliding `window`: bool (B, T, S), True = visible.

        None means lower-right causal, which backends compute without a dense mask.
        """
        if self.whole(window):
            window = None
        if self.in_order and window is None:
            return None
        if window not in self._masks:
            mask = self.keys.order[:, None, :] <= self.query_order[:, :, None]
            if window is not None:
                oldest = self.query_position[:, :, None] - window
                mask &= self.keys.position[:, None, :] > oldest
            self._masks[window] = mask
        return self._masks[window]

    def whole(self, window: int | None) -> bool:
        """Return True if no text token lies beyond a sliding `window`; positions start at 0."""
        return window is None or self._last_position < window

    @cached_property
    def _last_position(self) -> int:
        return int(self.query_position.max()) if self.last is None else self.last


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """Lengths of N packed sequences.

    Attributes
    ----------
    lengths : tuple of int
        Each at least 1. On the host, so that reading them does not wait for the device.
    bounds : int32 tensor (N + 1,)
        Cumulative lengths from 0 (``cu_seqlens`` of FlashAttention).
    """

    lengths: tuple[int, ...]
    bounds: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        """Describe packed sequences of these `lengths`.

        Raises
        ------
        ValueError
            If there are no sequences, or one is empty.
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
        """Yield runs of equal length, which form a batch: (first token, sequences, length)."""
        at = 0
        for length, group in groupby(self.lengths):
            count = len(list(group))
            yield at, count, length
            at += count * length
