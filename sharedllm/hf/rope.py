"""Rotary positions (RoPE, rotate-half form): rotation of keys and queries, and its inverse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

LAYERS = 4  # rotated at once: float32 temporaries take several times the memory of the input


class Rotation:
    """A model's rotary embedding as a pair of inverse maps on keys or queries.

    Parameters
    ----------
    module : the decoder's ``rotary_emb``
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    @property
    def fixed(self) -> bool:
        """True if the rotary frequencies do not depend on the length."""
        return self._module.rope_type not in ("dynamic", "longrope")

    def tables(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 cosine and sine, each (B, S, R), for positions (B, S); R rotated dims."""
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        cos, sin = self._module(like, positions)
        return cos, sin

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate `x` (..., B, heads, S, D) to `positions` (B, S)."""
        cos, sin = self.tables(positions)
        if x.dim() < 5 or torch.is_grad_enabled():
            return _turn(x, cos, sin)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for layer in range(0, len(x), LAYERS):
            out[layer : layer + LAYERS] = _turn(x[layer : layer + LAYERS], cos, sin)
        return out

    def unrotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Undo :meth:`rotate`."""
        return self.unrotation(positions)(x)

    def unrotation(self, positions: Tensor) -> Callable[[Tensor], Tensor]:
        """Return :meth:`unrotate` for keys at `positions`, with their tables computed once."""
        cos, sin = self.tables(positions)
        square = float(self._module.attention_scaling) ** 2
        return partial(_turn, cos=cos / square, sin=-sin / square)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute x cos + rotate_half(x) sin on the first R dims, in float32; others are copied."""
    rotated = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]  # one for all heads
    turned, passed = x[..., :rotated].float(), x[..., rotated:]
    half = rotated // 2
    swapped = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
    turned = (turned * cos + swapped * sin).to(x.dtype)
    return turned if not passed.shape[-1] else torch.cat([turned, passed], dim=-1)
