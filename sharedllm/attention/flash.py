"""FlashAttention: the kernel that comes with PyTorch, and the packages flash-attn 2, 3 and 4.

PyTorch's operator is called directly: ``torch.nn.attention.varlen`` calls the same one, but
its signature changes from release to release, and SDPA may choose cuDNN's kernel, which
builds a plan for every new length, at tens of milliseconds a token.

Shapes: B batch, H query heads, G key/value heads, T tokens, C slots of a buffer, D head dim, a
multiple of 8 and at most 256.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sharedllm.attention import sdpa
from sharedllm.attention.visibility import Segments
from sharedllm.errors import MissingExtraError

HALF = (torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # the compute capability of the first card that these kernels run on


def runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Return True if the kernels take tensors of `dtype` on `device`."""
    if device.type != "cuda" or dtype not in HALF or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute :func:`sharedllm.attention.reference.attend` with PyTorch's kernel.

    The kernel knows causal masks and windows only: with any other `mask`, or `dropout`, SDPA runs.
    Models with `softcap` or `sinks` are refused (:func:`sharedllm.attention.backends.get_backend`).
    """
    _require_plain(softcap, sinks)
    if mask is not None or dropout:
        return sdpa.attend(query, key, value, mask, scale=scale, dropout=dropout)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    t, s = q.shape[1], k.shape[1]
    out: Tensor = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, t, s, 0.0, True, False, scale=scale
    )[0]
    return out.transpose(1, 2)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute :func:`sharedllm.attention.reference.varlen` with PyTorch's kernel."""
    _require_plain(softcap, sinks)
    longest, bounds = segments.longest, segments.bounds
    near = window is not None and window < longest
    out: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        0.0,
        not near,
        False,
        scale=scale,
        window_size_left=window - 1 if near and window is not None else None,
        window_size_right=0 if near else None,
    )[0]
    return out


def step(query: Tensor, key: Tensor, value: Tensor, used: Tensor, *, scale: float) -> Tensor:
    """Attend from one query a row to the first `used` slots of a buffer, without a mask.

    Parameters
    ----------
    query : (B, H, 1, D)
    key, value : (B, G, C, D), in memory (B, C, G, D)
    used : int32 (B,), at least 1; on the device, so that a captured graph follows it

    Returns
    -------
    (B, H, 1, D)
    """
    b, _, c, _ = key.shape
    k, v = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
    queries, keys = _bounds(b, 1, query.device), _bounds(b, c, query.device)
    out: Tensor = torch.ops.aten._flash_attention_forward(
        query[:, :, 0], k, v, queries, keys, 1, c, 0.0, False, False, scale=scale, seqused_k=used
    )[0]
    return out[:, :, None]


def _require_plain(softcap: float | None, sinks: Tensor | None) -> None:
    if softcap is not None or sinks is not None:
        raise ValueError("FlashAttention has neither capped scores nor sinks; use SDPA")


@functools.lru_cache(maxsize=16)
def _bounds(rows: int, length: int, device: torch.device) -> Tensor:
    """Return the cumulative bounds of `rows` rows of equal length."""
    return torch.arange(0, (rows + 1) * length, length, dtype=torch.int32, device=device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """Attention by one generation of the FlashAttention packages.

    Attributes
    ----------
    name : the backend's name in a model's config
    interface : the module with ``flash_attn_func`` and ``flash_attn_varlen_func``
    needs : modules that come with this generation only: 2 and 4 share the name ``flash_attn``
    everything : its value for a window without an end
    """

    name: str
    interface: str
    needs: tuple[str, ...]
    everything: int | None = -1

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        scale: float,
        dropout: float = 0.0,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Compute :func:`attend` with this package."""
        _require_plain(softcap, sinks)
        if mask is not None or dropout:
            return sdpa.attend(query, key, value, mask, scale=scale, dropout=dropout)
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        run = _function(self.interface, "flash_attn_func")
        return _tensor(run(q, k, v, softmax_scale=scale, causal=True)).transpose(1, 2)

    def varlen(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Segments,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Compute :func:`varlen` with this package."""
        _require_plain(softcap, sinks)
        near = window is not None and window < segments.longest
        out = _function(self.interface, "flash_attn_varlen_func")(
            query,
            key,
            value,
            cu_seqlens_q=segments.bounds,
            cu_seqlens_k=segments.bounds,
            max_seqlen_q=segments.longest,
            max_seqlen_k=segments.longest,
            softmax_scale=scale,
            causal=not near,
            window_size=(window - 1, 0) if near and window else (self.everything,) * 2,
        )
        return _tensor(out)


PACKAGES = (  # newest first
    Package(
        name="flash4",
        interface="flash_attn.cute",
        needs=("flash_attn.cute", "cutlass"),
        everything=None,
    ),
    Package(
        name="flash3",
        interface="flash_attn_interface",
        needs=("flash_attn_3", "flash_attn_interface"),
    ),
    Package(name="flash2", interface="flash_attn", needs=("flash_attn_2_cuda",)),
)


def has_package() -> bool:
    """Return True if one of `PACKAGES` is installed."""
    return any(_is_installed(package) for package in PACKAGES)


def newest_package() -> Package:
    """Return the newest of `PACKAGES` that is installed.

    Raises
    ------
    MissingExtraError
        If no package is installed.
    """
    for package in PACKAGES:
        if _is_installed(package):
            return package
    raise MissingExtraError("flash-attn-4", "flash")


def _is_installed(package: Package) -> bool:
    return all(_is_found(module) for module in package.needs)


def _is_found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # raised for the parent package of a dotted name
        return False


@functools.cache
def _function(module: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _tensor(out: Any) -> Tensor:
    """Return the output alone; some versions return (output, log-sum-exp)."""
    result: Tensor = out[0] if isinstance(out, tuple) else out
    return result
