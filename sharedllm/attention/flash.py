"""The FlashAttention packages: flash-attn 2 and 3, and flash-attn-4, which is pure Python.

None of them is needed: PyTorch's own kernel (``torch-flash``) has the same interface. Import this
file's names through :mod:`sharedllm.attention.select`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from sharedllm.attention import sdpa
from sharedllm.attention.segments import Segments
from sharedllm.errors import MissingExtraError


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One generation of FlashAttention.

    Attributes
    ----------
    distribution : its name in the package index
    interface : the module with ``flash_attn_func`` and ``flash_attn_varlen_func``
    needs : modules that are there only with this generation: 2 and 4 share the name ``flash_attn``
    everything : how it spells a window without an end
    """

    distribution: str
    interface: str
    needs: tuple[str, ...]
    everything: int | None = -1


PACKAGES = {
    "flash2": Package(
        distribution="flash-attn", interface="flash_attn", needs=("flash_attn_2_cuda",)
    ),
    "flash3": Package(
        distribution="flash-attn-3",
        interface="flash_attn_interface",
        needs=("flash_attn_3", "flash_attn_interface"),
    ),
    "flash4": Package(
        distribution="flash-attn-4",
        interface="flash_attn.cute",
        needs=("flash_attn.cute", "cutlass"),
        everything=None,
    ),
}


def has_flash(name: str) -> bool:
    """Whether the package behind ``flash2``, ``flash3`` or ``flash4`` is installed."""
    return all(_found(module) for module in PACKAGES[name].needs)


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that `module` would be in
        return False


@dataclass(frozen=True, slots=True)
class Flash:
    """Attention by one of `PACKAGES`; the tensors are bfloat16 or float16, on CUDA."""

    name: str

    def __post_init__(self) -> None:
        if not has_flash(self.name):
            raise MissingExtraError(PACKAGES[self.name].distribution, "flash")

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        scale: float,
        dropout: float = 0.0,
    ) -> Tensor:
        """See :func:`sharedllm.attention.reference.attend`.

        These kernels know no masks beyond causal ones and windows: with a `mask`, as with
        `dropout`, it is SDPA's.
        """
        if mask is not None or dropout:
            return sdpa.attend(query, key, value, mask, scale=scale, dropout=dropout)
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        out = _tensor(_function(self.name, "")(q, k, v, softmax_scale=scale, causal=True))
        return out.transpose(1, 2)

    def varlen(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Segments,
        *,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        """See :func:`sharedllm.attention.reference.varlen`."""
        everything = PACKAGES[self.name].everything
        near = window is not None and window < segments.longest
        out = _function(self.name, "_varlen")(
            query,
            key,
            value,
            cu_seqlens_q=segments.bounds,
            cu_seqlens_k=segments.bounds,
            max_seqlen_q=segments.longest,
            max_seqlen_k=segments.longest,
            softmax_scale=scale,
            causal=not near,
            window_size=(window - 1, 0) if near and window else (everything, everything),
        )
        return _tensor(out)


@functools.cache
def _function(name: str, kind: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(
        importlib.import_module(PACKAGES[name].interface), f"flash_attn{kind}_func"
    )
    return found


def _tensor(out: Any) -> Tensor:
    """The output alone: some versions return the logarithms of the sums with it."""
    result: Tensor = out[0] if isinstance(out, tuple) else out
    return result
