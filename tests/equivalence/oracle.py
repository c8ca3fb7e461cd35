"""What memory should do, written out with the stock layers: slow, plain, and none of our code.

A prompt is a list of pieces in prompt order: a tuple of token ids is running text, a list of
:class:`Node` is the memory at one place. Nodes are encoded alone by the stock model; their keys are
caught before the rotation and rotated to where the node stands in the prompt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Node:
    """Tokens encoded together, the kept ones by place, and the chunk they belong to."""

    ids: tuple[int, ...]
    kept: tuple[int, ...]
    chunk: int


Piece = tuple[int, ...] | list[Node]


def _rotate(model: Any, x: Tensor, positions: Tensor) -> Tensor:
    """`x` (1, heads, S, D) rotated by the model's own function."""
    cos, sin = model.model.rotary_emb(x, positions[None])
    function = sys.modules[type(model.model).__module__].apply_rotary_pos_emb
    return function(x, x, cos, sin)[1]


def _raw_qkv(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (1, heads, S, D) before any rotation."""
    attention, config = layer.self_attn, layer.self_attn.config
    d = attention.head_dim
    if hasattr(attention, "qkv_proj"):
        sizes = [config.num_attention_heads * d] + [config.num_key_value_heads * d] * 2
        q, k, v = attention.qkv_proj(x).split(sizes, dim=-1)
    else:
        q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    q, k, v = (part.view(1, x.shape[1], -1, d) for part in (q, k, v))
    if hasattr(attention, "q_norm"):
        q, k = attention.q_norm(q), attention.k_norm(k)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _attend(layer: Any, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """(1, T, heads * D); a query without a visible key gets zeros."""
    group = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    for head in range(q.shape[1]):
        scores = q[0, head] @ k[0, head // group].T * layer.self_attn.scaling
        for t in range(q.shape[2]):
            seen = visible[t].nonzero()[:, 0]
            if len(seen):
                out[0, head, t] = scores[t, seen].softmax(-1) @ v[0, head // group, seen]
    return out.transpose(1, 2).flatten(2)


def _windows(model: Any) -> list[int | None]:
    """The sliding window of each layer."""
    config = model.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    return [None if kind == "full_attention" else window for kind in kinds]


def _inside(q: Tensor, k: Tensor, window: int | None) -> Tensor:
    return q[:, None] - k[None, :] < (window or 10**9)


def _encode(model: Any, node: Node, layers: int) -> list[tuple[Tensor, Tensor]]:
    """Unrotated keys, and values, of the kept tokens in the first `layers` layers."""
    h = model.model.embed_tokens(torch.tensor([node.ids]))
    at = torch.arange(len(node.ids))
    kept, out = list(node.kept), []
    for layer, window in zip(model.model.layers[:layers], _windows(model), strict=False):
        q, k, v = _raw_qkv(layer, layer.input_layernorm(h))
        out.append((k[:, :, kept], v[:, :, kept]))
        visible = (at[None] <= at[:, None]) & _inside(at, at, window)
        attended = _attend(layer, _rotate(model, q, at), _rotate(model, k, at), v, visible)
        h = h + layer.self_attn.o_proj(attended)
        h = h + layer.mlp(layer.post_attention_layernorm(h))
    return out


@dataclass(frozen=True)
class _Places:
    """Where everything stands: text tokens and memory entries, each with rank and position."""

    ids: list[int]
    text_position: Tensor
    text_rank: Tensor
    memory_position: Tensor
    memory_rank: Tensor
    query_position: Tensor


def _number(pieces: Sequence[Piece], mode: str, positions: str) -> _Places:
    """Ordinal: counted on in prompt order. Chunk: entries of chunk i at i, text behind them."""
    apart = mode == "cross" and positions == "chunk"
    ids: list[int] = []
    text, memory, query = [], [], []
    at = chunks = 0
    for rank, piece in enumerate(pieces):
        if isinstance(piece, tuple):
            for token in piece:
                ids.append(token)
                text.append((at, rank))
                query.append(chunks if apart else at)
                at += 1
            continue
        first = chunks if apart else at
        for node in piece:
            for _ in node.kept:
                where = first + node.chunk if positions == "chunk" else at
                memory.append((where, rank))
                at += positions == "ordinal"
        extent = max(node.chunk for node in piece) + 1
        chunks += extent if apart else 0
        at += extent if positions == "chunk" and not apart else 0
    t, m = torch.tensor(text), torch.tensor(memory).reshape(-1, 2)
    return _Places(ids, t[:, 0], t[:, 1], m[:, 0], m[:, 1], torch.tensor(query))


@torch.no_grad()
def logits(
    model: Any, pieces: Sequence[Piece], *, mode: str, layers: int, positions: str
) -> Tensor:
    """Logits (T, V) of all running text of one prompt."""
    place = _number(pieces, mode, positions)
    nodes = [node for piece in pieces if isinstance(piece, list) for node in piece]
    encoded = [_encode(model, node, layers) for node in nodes]
    order = torch.arange(len(place.ids))
    before = place.memory_rank[None] < place.text_rank[:, None]
    h = model.model.embed_tokens(torch.tensor([place.ids]))
    for index, (layer, window) in enumerate(zip(model.model.layers, _windows(model), strict=True)):
        q, k, v = _raw_qkv(layer, layer.input_layernorm(h))
        q, k = (_rotate(model, part, place.text_position) for part in (q, k))
        visible = (order[None] <= order[:, None]) & _inside(
            place.text_position, place.text_position, window
        )
        has_memory = bool(nodes) and index < layers
        if has_memory:
            memory_k = torch.cat([node[index][0] for node in encoded], dim=2)
            memory_v = torch.cat([node[index][1] for node in encoded], dim=2)
            memory_k = _rotate(model, memory_k, place.memory_position)
        if has_memory and mode == "joint":
            k, v = torch.cat([memory_k, k], dim=2), torch.cat([memory_v, v], dim=2)
            visible = torch.cat([before, visible], dim=1)
        h = h + layer.self_attn.o_proj(_attend(layer, q, k, v, visible))
        if has_memory and mode == "cross":
            q = _raw_qkv(layer, layer.input_layernorm(h))[0]
            q = _rotate(model, q, place.query_position)
            crossed = layer.self_attn.o_proj(_attend(layer, q, memory_k, memory_v, before))
            h = h + crossed * before.any(dim=1)[None, :, None]
        h = h + layer.mlp(layer.post_attention_layernorm(h))
    out: Tensor = model.lm_head(model.model.norm(h))[0]
    return out
