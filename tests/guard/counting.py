"""What a piece of code asks of PyTorch: operators, operations of its products, bytes it allocates.

All three are exact and the same on every machine; times are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


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
    calls : of operators that compute or copy; views launch nothing and are left out
    allocated : bytes of new tensors
    """

    flops: dict[str, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    allocated: int = 0

    @property
    def linear(self) -> int:
        """Operations of linear layers; some releases of transformers make angles by products."""
        return self.flops.get("mm", 0) + self.flops.get("addmm", 0)

    @property
    def attention(self) -> int:
        """Operations of attention, whole squares."""
        return self.flops.get("_scaled_dot_product_flash_attention_for_cpu", 0)


class _Operators(TorchDispatchMode):
    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = {
            _storage(x): x.untyped_storage().nbytes()
            for x in tree_leaves(out)
            if isinstance(x, torch.Tensor)
        }
        new = sum(size for place, size in made.items() if place not in given)
        self._counted.allocated += new
        if new or func._schema.is_mutable:
            self._counted.calls[func.overloadpacket.__name__] += 1
        return out


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


def count(run: Callable[[], Any]) -> Counted:
    """Run it once and count."""
    counted = Counted()
    flops = FlopCounterMode(display=False, custom_mapping={ATTENTION: _attention_flops})
    with flops, _Operators(counted):
        run()
    total = flops.get_flop_counts()["Global"]
    counted.flops = {str(op).removeprefix("aten."): int(n) for op, n in total.items()}
    return counted
