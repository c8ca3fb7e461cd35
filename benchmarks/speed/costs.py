"""What each stage must at least compute and move, and the time that takes.

Multiply-adds count as two operations; causal attention sees half of its square. Bytes are what no
implementation can avoid: weights and KV read once, results written once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Floating-point operations and bytes."""

    flops: float = 0.0
    bytes: float = 0.0

    def floor(self, flops_a_second: float, bytes_a_second: float) -> float:
        """Seconds below which no implementation gets: computing and moving may overlap."""
        return max(self.flops / flops_a_second, self.bytes / bytes_a_second)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A decoder's dimensions.

    Attributes
    ----------
    width : of the residual stream
    attention, kv : widths of all query heads, and of all key heads
    inner : of the MLP
    weight : bytes a number
    """

    layers: int
    width: int
    attention: int
    kv: int
    inner: int
    vocabulary: int
    weight: int = 4

    @classmethod
    def of(cls, config: Any, weight: int) -> Size:
        """Read a transformers config."""
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            attention=config.num_attention_heads * head,
            kv=config.num_key_value_heads * head,
            inner=config.intermediate_size,
            vocabulary=config.vocab_size,
            weight=weight,
        )

    @property
    def layer(self) -> int:
        """Matrix parameters of a layer."""
        return self.width * (2 * self.attention + 2 * self.kv + 3 * self.inner)

    @property
    def head(self) -> int:
        """Parameters of the output matrix, which is also the embedding."""
        return self.width * self.vocabulary

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.head


def read_chunks(size: Size, tokens: int, chunk: int, layers: int) -> Cost:
    """`layers` layers over chunks read alone: search states (1 layer), coarse encoding (all)."""
    return Cost(
        flops=layers * tokens * (2 * size.layer + 2 * size.attention * min(chunk, tokens)),
        bytes=size.weight * (layers * size.layer + tokens * size.width),
    )


def compare(width: int, query: int, tokens: int) -> Cost:
    """MaxSim: every token of the query with every token of the document, float16 states."""
    return Cost(flops=2 * query * tokens * width, bytes=2 * tokens * width)


def prefill(size: Size, tokens: int) -> Cost:
    """A prompt through all layers, the last token through the output matrix."""
    attention = 2 * size.attention * tokens**2
    return Cost(
        flops=size.layers * (2 * size.layer * tokens + attention) + 2 * size.head,
        bytes=size.weight * (size.parameters + 2 * size.layers * size.kv * tokens),
    )


def decode(size: Size, tokens: int, seen: int) -> Cost:
    """`tokens` further tokens, one after another, each over `seen` entries."""
    return Cost(
        flops=tokens * (2 * size.parameters + 4 * size.layers * size.attention * seen),
        bytes=tokens * size.weight * (size.parameters + 2 * size.layers * size.kv * seen),
    )
