"""FlexAttention on packed sequences: a block mask says which blocks of keys each block reads.

On CUDA it is compiled into one kernel; elsewhere it is computed unfused, for tests, and has no
gradients (PyTorch refuses them there).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from sharedllm.attention import sdpa
from sharedllm.attention.segments import Segments

BLOCK = 128  # tokens a block

attend = sdpa.attend  # of running text, which is no batch of trees


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """See :func:`sharedllm.attention.reference.varlen`; what is shorter than a block is SDPA's.

    PyTorch takes its decoding kernel for those, which finds no size that fits grouped heads.
    """
    if segments.total < BLOCK and query.device.type == "cuda":
        return sdpa.varlen(query, key, value, segments, scale=scale, window=window)
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    run = _compiled() if query.device.type == "cuda" else _unfused
    out: Tensor = run(
        q, k, v, block_mask=block_mask(segments, window), scale=scale, enable_gqa=grouped
    )
    return out[0].transpose(0, 1)


def block_mask(segments: Segments, window: int | None) -> BlockMask:
    """What packed sequences see of each other, block by block.

    Written down from the lengths: a mask of T x T entries, from which it could be made, would be
    larger than the keys.
    """
    device, total = segments.bounds.device, segments.total
    lengths = segments.bounds.diff().long()
    starts = torch.repeat_interleave(segments.bounds[:-1], lengths, output_size=total)
    blocks = -(-total // BLOCK)
    rows = torch.arange(blocks, device=device, dtype=torch.int32)
    oldest = starts[rows.long() * BLOCK]  # the first token of a block reads furthest back
    if window is not None:
        oldest = torch.maximum(oldest, rows * BLOCK - (window - 1))
    first = (oldest // BLOCK).int()
    count = rows - first + 1
    ranks = torch.arange(blocks, device=device, dtype=torch.int32)
    indices = (first[:, None] + ranks).clamp_max(blocks - 1)

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (k <= q) & (k >= starts[q])
        return seen if window is None else seen & (k > q - window)

    return BlockMask.from_kv_blocks(
        count[None, None],
        indices[None, None].contiguous(),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(total, total),
    )


@functools.cache
def _compiled() -> Callable[..., Any]:
    function: Callable[..., Any] = torch.compile(flex_attention, dynamic=True)
    return function


def _unfused(*args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without")
        return flex_attention(*args, **options)
