"""What a piece of code asks of the model: operations of its products, passes of its layers, waits.

All three are exact and the same on every machine and release of PyTorch; times are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
TO_HOST = torch.ops.aten._local_scalar_dense.default  # what .item() and bool() of a tensor come to


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """The whole square, as PyTorch counts its other kernels: causal ones need half of it."""
    b, h, t, d = query
    return sdpa_flop_count((b, h, t, d), (b, h, *key[2:]), (b, h, *value[2:]))


@dataclass
class Counted:
    """What was counted.

    Attributes
    ----------
    flops : of matrix products, by operator
    waits : numbers that were copied to the host, for each of which a GPU's queue is waited for
    """

    flops: dict[str, int] = field(default_factory=dict)
    waits: int = 0

    @property
    def linear(self) -> int:
        """Operations of linear layers; some releases of transformers make angles by products."""
        return self.flops.get("mm", 0) + self.flops.get("addmm", 0)

    @property
    def attention(self) -> int:
        """Operations of attention, whole squares."""
        return self.flops.get("_scaled_dot_product_flash_attention_for_cpu", 0)


class _ToHost(TorchDispatchMode):
    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._counted.waits += func is TO_HOST
        return func(*args, **(kwargs or {}))


def count(run: Callable[[], Any]) -> Counted:
    """Run it once and count."""
    counted = Counted()
    flops = FlopCounterMode(display=False, custom_mapping={ATTENTION: _attention_flops})
    with flops, _ToHost(counted):
        run()
    total = flops.get_flop_counts()["Global"]
    counted.flops = {str(op).removeprefix("aten."): int(n) for op, n in total.items()}
    return counted


def passes(model: Any, run: Callable[[], Any]) -> list[int]:
    """How often `run` passes through each layer of `model`."""
    layers: list[nn.Module] = list(model.get_decoder().layers)
    seen = [0] * len(layers)

    def hook(at: int) -> Callable[..., None]:
        def passed(*_: Any) -> None:
            seen[at] += 1

        return passed

    hooks = [layer.register_forward_hook(hook(at)) for at, layer in enumerate(layers)]
    try:
        run()
    finally:
        for handle in hooks:
            handle.remove()
    return seen
