"""PyTorch's scaled_dot_product_attention: the default on CPU and CUDA."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from sharedllm.attention.reference import lower_right_causal


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
    if query.device.type == "cuda":  # the fused kernel that takes a mask knows no groups
        key, value = (x.repeat_interleave(h // g, dim=1) for x in (key, value))
    # A row without a visible key is NaN in some kernels: let it see everything, then zero it.
    sees = mask.any(dim=-1)
    mask = mask | ~sees[..., None]
    out = scaled_dot_product_attention(
        query, key, value, mask[:, None], dropout, scale=scale, enable_gqa=True
    )
    return out * sees[:, None, :, None].to(out.dtype)


def _causal_bias(t: int, s: int, device: torch.device) -> Tensor:
    """Lower-right causal; on CUDA without a dense mask."""
    if device.type == "cuda":
        return causal_lower_right(t, s)
    return lower_right_causal(t, s, device)
