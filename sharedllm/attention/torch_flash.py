"""The FlashAttention kernel that comes with PyTorch, on packed sequences.

``torch.nn.attention.varlen`` calls the same operator, but its signature differs from release to
release; the operator's own does not.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from sharedllm.attention import sdpa
from sharedllm.attention.segments import Segments

HALF = (torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # the compute capability of the first card it runs on


def runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for tensors of `dtype` on `device`."""
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
) -> Tensor:
    """See :func:`sharedllm.attention.reference.attend`; with a `mask` it is SDPA's.

    Called by itself and not through SDPA, which may choose cuDNN: that makes a plan for every
    new length, tens of milliseconds a token.
    """
    if mask is not None or dropout:
        return sdpa.attend(query, key, value, mask, scale=scale, dropout=dropout)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    t, s = q.shape[1], k.shape[1]
    out: Tensor = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, t, s, 0.0, True, False, scale=scale
    )[0]
    return out.transpose(1, 2)


def step(query: Tensor, key: Tensor, value: Tensor, used: Tensor, *, scale: float) -> Tensor:
    """Attention of one query a row over the first `used` slots of a buffer, without a mask.

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


@lru_cache(maxsize=16)
def _bounds(rows: int, length: int, device: torch.device) -> Tensor:
    """Where rows of equal length begin and end."""
    return torch.arange(0, (rows + 1) * length, length, dtype=torch.int32, device=device)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """See :func:`sharedllm.attention.reference.varlen`; D a multiple of 8, at most 256."""
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
