"""Which keys each query may see.

Shapes: B batch, T queries, S keys.

Every token and every memory entry has an *order*, its place in the prompt; a query sees the keys
whose order is at most its own. Slots in a cache may be padded or (in the keyword path) stand in
another sequence than the prompt's, so the order is kept beside them. Memory entries share one
order, that of their place in the prompt, and are visible at any distance; running text is
hidden from sliding-window layers beyond their window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int32).max  # the order of padding: no query reaches it
ALWAYS = torch.iinfo(torch.int32).max  # the position of memory: inside every sliding window


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Order and position of every key slot; both int32 of shape (B, S)."""

    order: Tensor
    position: Tensor


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """What the queries of one forward pass see among `keys`.

    Attributes
    ----------
    query_order, query_position : int32 tensors, shape (B, T)
        The order is -1 for padding, which sees nothing.
    keys : Keys
    in_order : bool
        No padding, and slots in prompt order: the lower-right causal mask says it all.
    last : int or None
        No query stands behind this position; None looks, which waits for the device.
    used : int32 tensor (B,), or None
        Of a single query a row: it sees exactly the first so many slots, where no window hides any.
    """

    query_order: Tensor
    query_position: Tensor
    keys: Keys
    in_order: bool
    last: int | None = None
    used: Tensor | None = None
    _masks: dict[int | None, Tensor] = field(default_factory=dict, repr=False)

    def mask(self, window: int | None) -> Tensor | None:
        """The mask for a layer with this sliding `window`: bool (B, T, S), True where visible.

        None stands for lower-right causal, which backends compute without a dense mask.
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
        """Whether no running text lies beyond a sliding `window`; positions start at 0."""
        return window is None or self._last_position < window

    @cached_property
    def _last_position(self) -> int:
        return int(self.query_position.max()) if self.last is None else self.last
