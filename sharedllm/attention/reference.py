"""Reference attention, written out in float32; every backend is tested against it."""

from __future__ import annotations

import torch
from torch import Tensor

from sharedllm.attention.visibility import Segments

SCORES = 1 << 27  # computed at once, half a gigabyte


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
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute softmax(query key^T scale) value, with grouped heads.

    Parameters
    ----------
    query : (B, H, T, D)
    key, value : (B, G, S, D), H a multiple of G
    mask : bool (B, T, S), True where visible; None is lower-right causal
    scale : float
    dropout : float
    softcap : bounds scores, softly, to this size (Gemma 2)
    sinks : (H,), the score of a key without a value that every query of a head sees (gpt-oss)

    Returns
    -------
    (B, H, T, D), in the dtype of `query`. A query that sees no key gets zeros.
    """
    b, h, t, d = query.shape
    g, s = key.shape[1], key.shape[2]
    grouped = query.float().reshape(b, g, h // g, t, d)
    visible = lower_right_causal(t, s, query.device)[None] if mask is None else mask
    out, rows = [], max(1, SCORES // (b * h * s))
    for at in range(0, t, rows):
        part = slice(at, at + rows)
        scores = torch.einsum("bgrtd,bgsd->bgrts", grouped[:, :, :, part], key.float()) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill(~visible[:, None, None, part], float("-inf"))
        if sinks is not None:
            sink = sinks.float().view(1, g, h // g, 1, 1).expand(*scores.shape[:-1], 1)
            scores = torch.cat([scores, sink], dim=-1)
        # a row of -inf only is a query that sees nothing
        weights = torch.nan_to_num(torch.softmax(scores, dim=-1), nan=0.0)[..., :s]
        weights = torch.nn.functional.dropout(weights, p=dropout)
        out.append(torch.einsum("bgrts,bgsd->bgrtd", weights, value.float()))
    joined = out[0] if len(out) == 1 else torch.cat(out, dim=3)
    return joined.reshape(b, h, t, d).to(query.dtype)


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
    """Compute causal self-attention of packed sequences, each to itself alone.

    Parameters
    ----------
    query : (T, H, D)
    key, value : (T, G, D), H a multiple of G
    segments : the packed sequences, T tokens together
    scale : float
    window : tokens that each token sees, itself included; None means all before it
    softcap, sinks : see :func:`attend`

    Returns
    -------
    (T, H, D), in the dtype of `query`
    """
    out, at = [], 0
    for length in segments.lengths:
        q, k, v = (x[at : at + length].transpose(0, 1)[None] for x in (query, key, value))
        mask = None if window is None else banded_causal(length, window, query.device)[None]
        attended = attend(q.contiguous(), k, v, mask, scale=scale, softcap=softcap, sinks=sinks)
        out.append(attended[0].transpose(0, 1))
        at += length
    return torch.cat(out)
