"""PyTorch's scaled_dot_product_attention: the default on CPU and CUDA."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from sharedllm.attention import reference
from sharedllm.attention.reference import banded_causal, lower_right_causal
from sharedllm.attention.visibility import Segments

EXTRA = 8  # dims that sinks take; kernels need multiples of it
# cuDNN's kernel is left out: it builds a plan for every new length, tens of ms a decoded token.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


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
    """Compute :func:`sharedllm.attention.reference.attend` with SDPA.

    SDPA cannot cap scores: with `softcap` attention is written out, as the reference is.
    """
    if softcap is not None:
        return reference.attend(
            query, key, value, mask, scale=scale, dropout=dropout, softcap=softcap, sinks=sinks
        )
    if sinks is not None:
        with_sink = _with_sinks(query, key, value, mask, sinks / scale)
        out = attend(*with_sink, scale=scale, dropout=dropout)
        return out[..., : query.shape[-1]]
    b, h, t, d = query.shape
    g, s = key.shape[1], key.shape[2]
    if t == 1 and mask is None:
        # Decoding: the heads of a group become the queries of one head, so no KV is repeated.
        out = _fused(query.view(b, g, h // g, d), key, value, dropout_p=dropout, scale=scale)
        return out.reshape(b, h, 1, d)
    if mask is None:
        bias = None if t == s else _causal_bias(t, s, query.device)
        return _fused(query, key, value, bias, dropout, t == s, scale=scale, enable_gqa=True)
    # A row without a visible key gives NaN in some kernels: let it see all keys, then zero it.
    sees = mask.any(dim=-1)
    mask = (mask | ~sees[..., None])[:, None]
    if t == 1:  # as above; the mask serves all heads of a group
        grouped = query.reshape(b, g, h // g, d)
        out = _fused(grouped, key, value, mask, dropout, scale=scale)
        out = out.reshape(b, h, 1, d)
    else:
        if query.device.type == "cuda":  # the fused kernel with a mask has no GQA
            key, value = (x.repeat_interleave(h // g, dim=1) for x in (key, value))
        out = _fused(query, key, value, mask, dropout, scale=scale, enable_gqa=True)
    return out * sees[:, None, :, None].to(out.dtype)


def _with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, products: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Put a key without a value in front, which every query sees; `products` with it are (H,).

    The product is made in a dim of its own, since heads of a group share their keys.
    """
    b, h, t, _ = query.shape
    pad = torch.nn.functional.pad
    own = products.to(query.dtype).view(1, h, 1, 1).expand(b, h, t, 1)
    query = pad(torch.cat([query, own], dim=-1), (0, EXTRA - 1))
    key, value = (pad(x, (0, EXTRA, 1, 0)) for x in (key, value))
    sink = torch.zeros_like(key[:, :, :1])
    sink[..., -EXTRA] = 1
    key = torch.cat([sink, key[:, :, 1:]], dim=2)
    return query, key, value, None if mask is None else pad(mask, (1, 0), value=True)


def _fused(query: Tensor, *rest: Any, **options: Any) -> Tensor:
    if query.device.type != "cuda":
        return torch.nn.functional.scaled_dot_product_attention(query, *rest, **options)
    with sdpa_kernel(KERNELS):
        return torch.nn.functional.scaled_dot_product_attention(query, *rest, **options)


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
    """Compute :func:`sharedllm.attention.reference.varlen`, one call per run of equal lengths."""
    out = []
    for at, count, length in segments.runs():
        q, k, v = (
            x[at : at + count * length].view(count, length, *x.shape[1:]).transpose(1, 2)
            for x in (query, key, value)
        )
        mask = None
        if window is not None and window < length:
            mask = banded_causal(length, window, query.device).expand(count, -1, -1)
        attended = attend(q, k, v, mask, scale=scale, softcap=softcap, sinks=sinks)
        out.append(attended.transpose(1, 2).flatten(0, 1))
    return out[0] if len(out) == 1 else torch.cat(out)


def _causal_bias(t: int, s: int, device: torch.device) -> Tensor:
    """Return the lower-right causal bias; on CUDA without a dense mask."""
    return causal_lower_right(t, s) if device.type == "cuda" else _dense(t, s, device)


@lru_cache(maxsize=2)  # all layers of a pass share it
def _dense(t: int, s: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may need it after inference made it
        return lower_right_causal(t, s, device)
