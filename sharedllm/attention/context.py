"""AttentionContext: everything about one forward pass that attention needs beside q, k and v.

Shapes: M injection layers, B batch, T text tokens, G key/value heads, S injected KV entries, D head
dim.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharedllm.attention.visibility import Visibility


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMemory:
    """Injected KV, rotated, that travels to the layers by keyword rather than in a cache.

    Used for training (keyword path) and for cross-attention.

    Attributes
    ----------
    keys, values : (M, B, G, S, D)
    visibility : Visibility
        Of these entries alone, for cross-attention.
    cross_position : int64 (B, T)
        The position of each query in cross-attention.
    """

    keys: Tensor
    values: Tensor
    visibility: Visibility
    cross_position: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionContext:
    """Visibility and injected KV of one forward pass; travels as the keyword ``shared``.

    Attributes
    ----------
    layers : int
        Injection layers M.
    injected, plain : Visibility
        Of all keys in the first M layers, and in the layers above them.
    joined : LayerMemory or None
        KV to put in front of a layer's own (joint injection, keyword path).
    crossed : LayerMemory or None
        KV for the separate cross-attention.
    """

    layers: int
    injected: Visibility
    plain: Visibility
    joined: LayerMemory | None = None
    crossed: LayerMemory | None = None

    def visibility(self, layer: int) -> Visibility:
        return self.injected if layer < self.layers else self.plain
