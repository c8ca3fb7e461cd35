"""One forward pass as attention sees it: who sees which keys, and the memory beside them.

Shapes: M injection layers, B batch, T running tokens, G key/value heads, S memory entries, D head
dim.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharedllm.attention.visibility import Visibility


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMemory:
    """Rotated memory handed to the layers directly: the keyword path, and cross-attention.

    Attributes
    ----------
    keys, values : (M, B, G, S, D)
    visibility : Visibility
        Of the memory entries alone, for cross-attention.
    cross_position : int64 (B, T)
        The position of each query in cross-attention.
    """

    keys: Tensor
    values: Tensor
    visibility: Visibility
    cross_position: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionContext:
    """The state of one forward pass that attention needs; travels as the keyword ``shared``.

    Attributes
    ----------
    layers : int
        Injection layers M.
    injected, plain : Visibility
        Of all keys in the first M layers, and in the layers above them.
    joined : LayerMemory or None
        Memory to put in front of the keys (joint injection, keyword path).
    crossed : LayerMemory or None
        Memory for the separate cross-attention.
    """

    layers: int
    injected: Visibility
    plain: Visibility
    joined: LayerMemory | None = None
    crossed: LayerMemory | None = None

    def visibility(self, layer: int) -> Visibility:
        return self.injected if layer < self.layers else self.plain
