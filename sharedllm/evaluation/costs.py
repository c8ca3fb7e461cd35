"""What answering costs: the lower bounds of the design, from a model's own sizes.

A multiply-add counts as two operations; causal attention sees half of its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sharedllm.hf.architectures import ModelShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The numbers that the formulas need.

    Attributes
    ----------
    layers : int
    layer : int
        Matrix parameters of one layer.
    attention : int
        Width of all query heads together.
    output : int
        Parameters of the output matrix.
    kv_bytes : int
        Bytes of one token's keys and values in one layer.
    """

    layers: int
    layer: int
    attention: int
    output: int
    kv_bytes: int

    @classmethod
    def of(cls, model: Any, shape: ModelShape) -> Size:
        config = model.config
        attention, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        return cls(
            layers=shape.layers,
            layer=shape.hidden * (2 * attention + 2 * kv + 3 * int(config.intermediate_size)),
            attention=attention,
            output=shape.hidden * int(config.vocab_size),
            kv_bytes=2 * kv * model.dtype.itemsize,
        )

    def prefill(self, running: int, injected: int = 0, injection_layers: int = 0) -> float:
        """Operations of a prompt of `running` tokens over `injected` entries."""
        tokens = self.layers * (2 * self.layer * running + 2 * self.attention * running**2)
        memory = 4 * self.attention * running * injected * injection_layers
        return float(tokens + memory + 2 * self.output)

    def windowed(self, tokens: int, window: int) -> float:
        """Operations of `tokens` that see at most `window` entries each, themselves included."""
        seen = min(tokens, window) ** 2 / 2 + max(0, tokens - window) * window
        return float(
            self.layers * (2 * self.layer * tokens + 4 * self.attention * seen) + 2 * self.output
        )

    def chunks(self, tokens: int, chunk: int, layers: int) -> float:
        """Operations of `layers` layers over `tokens` read in chunks, each alone."""
        span = min(chunk, tokens)
        return float(layers * tokens * (2 * self.layer + 2 * self.attention * span))

    def kv(self, tokens: int, layers: int | None = None) -> int:
        """Bytes of the keys and values of `tokens` in `layers` layers (None: all)."""
        return self.kv_bytes * tokens * (self.layers if layers is None else layers)
