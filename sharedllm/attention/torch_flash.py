"""The FlashAttention kernel that comes with PyTorch, on packed sequences.

``torch.nn.attention.varlen`` calls the same operator, but its signature differs from release to
release; the operator's own does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sharedllm.attention import sdpa
from sharedllm.attention.segments import Segments

HALF = (torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # the compute capability of the first card it runs on

attend = sdpa.attend  # which calls this kernel itself


def runs_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for tensors of `dtype` on `device`."""
    if device.type != "cuda" or dtype not in HALF or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST


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
