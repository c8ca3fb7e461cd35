"""Rotary positions (RoPE, rotate-half form): rotation of keys and queries, and its inverse.

Layers of one model may rotate differently: by one of two bases, as their layer type says, or not at
all.

Shapes: M layers, B batch, S tokens, D head dim, R rotated dims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

LAYERS = 4  # rotated at once: float32 temporaries take several times the memory of the input

Tables = tuple[Tensor, Tensor]


class Rotation:
    """A model's rotary embedding as a pair of inverse maps on keys or queries.

    Parameters
    ----------
    module : the decoder's ``rotary_emb``
    kinds : one a layer
        "" for the model's only rotation, a layer type where each type has its own, None for a
        layer that does not rotate.
    """

    def __init__(self, module: Any, kinds: Sequence[str | None]) -> None:
        self._module = module
        self._kinds = tuple(kinds)

    @property
    def fixed(self) -> bool:
        """True if the rotary frequencies do not depend on the length."""
        kinds = self._module.rope_type
        named = kinds.values() if isinstance(kinds, dict) else (kinds,)
        return not {"dynamic", "longrope"}.intersection(named)

    def rotate(self, x: Tensor, positions: Tensor, layer: int) -> Tensor:
        """Rotate `x` (B, heads, S, D) of one layer to `positions` (B, S)."""
        kind = self._kinds[layer]
        return _turned(x, None if kind is None else self._tables(positions, kind))

    def rotate_layers(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate `x` (M, B, heads, S, D) of the first M layers to `positions` (B, S)."""
        tables = self._all_tables(positions, len(x))
        grows = torch.is_grad_enabled()
        parts = (
            (run, _turned(x[run], tables[kind]))
            for run, kind in _runs(self._kinds[: len(x)], len(x) if grows else LAYERS)
        )
        if grows:
            return torch.cat([part for _, part in parts])
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for run, part in parts:
            out[run] = part
        return out

    def unrotation(self, positions: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return a function that undoes :meth:`rotate` at `positions`, its tables computed once."""
        tables = {
            kind: found and (found[0] / self._square(kind), -found[1] / self._square(kind))
            for kind, found in self._all_tables(positions, len(self._kinds)).items()
        }

        return lambda x, layer: _turned(x, tables[self._kinds[layer]])

    def _all_tables(self, positions: Tensor, layers: int) -> dict[str | None, Tables | None]:
        """Compute the tables of each kind among the first `layers`."""
        return {
            kind: None if kind is None else self._tables(positions, kind)
            for kind in dict.fromkeys(self._kinds[:layers])
        }

    def _tables(self, positions: Tensor, kind: str) -> Tables:
        """Return float32 cosine and sine, each (B, S, R)."""
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        cos, sin = self._module(like, positions, *((kind,) if kind else ()))
        frequencies = getattr(self._module, f"{kind}_inv_freq" if kind else "inv_freq")
        if cos.shape[-1] == len(frequencies):  # gpt-oss: one number serves a pair of dims
            cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)
        return cos, sin

    def _square(self, kind: str | None) -> float:
        """Return the square of the scale that yarn and longrope put on the tables."""
        name = f"{kind}_attention_scaling" if kind else "attention_scaling"
        return float(getattr(self._module, name)) ** 2


def _runs(kinds: Sequence[str | None], longest: int) -> Iterator[tuple[slice, str | None]]:
    """Yield runs of consecutive layers of one kind, at most `longest` layers each."""
    start = 0
    for at in range(1, len(kinds) + 1):
        if at == len(kinds) or kinds[at] != kinds[start] or at - start == longest:
            yield slice(start, at), kinds[start]
            start = at


def _turned(x: Tensor, tables: Tables | None) -> Tensor:
    """Compute x cos + rotate_half(x) sin on the first R dims, in float32; others are copied."""
    if tables is None:
        return x
    cos, sin = tables
    rotated = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]  # one for all heads
    turned, passed = x[..., :rotated].float(), x[..., rotated:]
    half = rotated // 2
    swapped = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
    turned = (turned * cos + swapped * sin).to(x.dtype)
    return turned if not passed.shape[-1] else torch.cat([turned, passed], dim=-1)
