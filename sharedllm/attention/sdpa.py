"""PyTorch's scaled_dot_product_attention: the default on CPU and CUDA."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from sharedllm.attention.reference import banded_causal, lower_right_causal
from sharedllm.attention.segments import Segments


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """See :func:`sharedllm.attention.reference.attend`."""
    b, h, t, d = query.shape
    g, s = key.shape[1], key.shape[2]
    if t == 1 and mask is None:
        # Decoding: the heads of a group become the queries of one head, so no KV is repeated.
        out = scaled_dot_product_attention(
            query.view(b, g, h // g, d), key, value, dropout_p=dropout, scale=scale
        )
        return out.view(b, h, 1, d)
    if mask is None:
        bias = None if t == s else _causal_bias(t, s, query.device)
        return scaled_dot_product_attention(
            query, key, value, bias, dropout, t == s, scale=scale, enable_gqa=True
        )
    # A row without a visible key is NaN in some kernels: let it see everything, then zero it.
    sees = mask.any(dim=-1)
    mask = (mask | ~sees[..., None])[:, None]
    if t == 1:  # as above; the mask serves all heads of a group
        grouped = query.reshape(b, g, h // g, d)
        out = scaled_dot_product_attention(grouped, key, value, mask, dropout, scale=scale)
        out = out.reshape(b, h, 1, d)
    else:
        if query.device.type == "cuda":  # the fused kernel that takes a mask knows no groups
            key, value = (x.repeat_interleave(h // g, dim=1) for x in (key, value))
        out = scaled_dot_product_attention(
            query, key, value, mask, dropout, scale=scale, enable_gqa=True
        )
    return out * sees[:, None, :, None].to(out.dtype)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """See :func:`sharedllm.attention.reference.varlen`; one call for neighbours of equal length."""
    out = []
    for at, count, length in segments.runs():
        q, k, v = (
            x[at : at + count * length].view(count, length, *x.shape[1:]).transpose(1, 2)
            for x in (query, key, value)
        )
        mask = None
        if window is not None and window < length:
            mask = banded_causal(length, window, query.device).expand(count, -1, -1)
        out.append(attend(q, k, v, mask, scale=scale).transpose(1, 2).flatten(0, 1))
    return out[0] if len(out) == 1 else torch.cat(out)


def _causal_bias(t: int, s: int, device: torch.device) -> Tensor:
    """Lower-right causal; on CUDA without a dense mask."""
    if device.type == "cuda":
        return causal_lower_right(t, s)
    return lower_right_causal(t, s, device)
