"""Reference attention, written out in float32; every backend is tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

from sharedllm.attention.visibility import Segments


def lower_right_causal(t: int, s: int, device: torch.device) -> Tensor:
    """Return bool (T, S): query i of the last `t` slots sees keys 0 .. s - t + i."""
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(diagonal=s - t)


def banded_causal(length: int, window: int, device: torch.device) -> Tensor:
    """Return bool (length, length): each token sees itself and the `window` - 1 before it."""
    return lower_right_causal(length, length, device).triu(diagonal=1 - window)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """Compute softmax(query key^T scale) value, with grouped heads.

    Parameters
    ----------
    query : (B, H, T, D)
    key, value : (B, G, S, D), H a multiple of G
    mask : bool (B, T, S), True where visible; None is lower-right causal
    scale : float
    dropout : float

    Returns
    -------
    (B, H, T, D), in the dtype of `query`. A query that sees no key gets zeros.
    """
    b, h, t, d = query.shape
    g, s = key.shape[1], key.shape[2]
    grouped = query.float().view(b, g, h // g, t, d)
    scores = torch.einsum("bgrtd,bgsd->bgrts", grouped, key.float()) * scale
    visible = lower_right_causal(t, s, query.device) if mask is None else mask[:, None, None]
    weights = torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1)
    weights = torch.nan_to_num(weights, nan=0.0)  # a row of -inf only is a query that sees nothing
    weights = torch.nn.functional.dropout(weights, p=dropout)
    out = torch.einsum("bgrts,bgsd->bgrtd", weights, value.float())
    return out.reshape(b, h, t, d).to(query.dtype)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Compute causal self-attention of packed sequences, each to itself alone.

    Parameters
    ----------
    query : (T, H, D)
    key, value : (T, G, D), H a multiple of G
    segments : the packed sequences, T tokens together
    scale : float
    window : tokens that each token sees, itself included; None means all before it

    Returns
    -------
    (T, H, D), in the dtype of `query`
    """
    out, at = [], 0
    for length in segments.lengths:
        q, k, v = (x[at : at + length].transpose(0, 1)[None] for x in (query, key, value))
        mask = None if window is None else banded_causal(length, window, query.device)[None]
        out.append(attend(q.contiguous(), k, v, mask, scale=scale)[0].transpose(0, 1))
        at += length
    return torch.cat(out)
