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


def _rotate(model: Any, index: int, x: Tensor, positions: Tensor) -> Tensor:
    """`x` (1, heads, S, D) rotated by the model's own function, as layer `index` does."""
    decoder, kind = model.model, _kinds(model)[index]
    if not getattr(decoder.layers[index].self_attn, "use_rope", True):
        return x
    own = (kind,) if isinstance(decoder.rotary_emb.rope_type, dict) else ()
    cos, sin = decoder.rotary_emb(x, positions[None], *own)
    function = sys.modules[type(decoder).__module__].apply_rotary_pos_emb
    return function(x, x, cos, sin)[1]


def _rotated_query(model: Any, index: int, q: Tensor, positions: Tensor) -> Tensor:
    """Rotated, and in Ministral 3 the larger the farther it is beyond the original window."""
    q, rope = _rotate(model, index, q, positions), model.config.rope_parameters
    beta = rope.get("llama_4_scaling_beta")
    if not beta:
        return q
    times = 1 + (positions / rope["original_max_position_embeddings"]).floor()
    return q * (1 + beta * times.log())[:, None]


def _raw_qkv(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (1, heads, S, D) before any rotation."""
    attention, config = layer.self_attn, layer.self_attn.config
    d = attention.head_dim
    if hasattr(attention, "qkv_proj"):
        sizes = [config.num_attention_heads * d] + [config.num_key_value_heads * d] * 2
        q, k, v = attention.qkv_proj(x).split(sizes, dim=-1)
    else:
        q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    normed = hasattr(attention, "q_norm")
    whole = normed and len(attention.q_norm.weight) > d
    if whole:
        q, k = attention.q_norm(q), attention.k_norm(k)
    q, k, v = (part.view(1, x.shape[1], -1, d) for part in (q, k, v))
    if normed and not whole:
        q, k = attention.q_norm(q), attention.k_norm(k)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _attend(layer: Any, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """(1, T, heads * D); a query without a visible key gets zeros."""
    group, out, attention = q.shape[1] // k.shape[1], torch.zeros_like(q), layer.self_attn
    cap = getattr(attention, "attn_logit_softcapping", None)
    sinks = getattr(attention, "sinks", None)
    for head in range(q.shape[1]):
        scores = q[0, head] @ k[0, head // group].T * attention.scaling
        if cap:
            scores = cap * (scores / cap).tanh()
        for t in range(q.shape[2]):
            seen = visible[t].nonzero()[:, 0]
            if len(seen):
                some = scores[t, seen]
                if sinks is not None:
                    some = torch.cat([some, sinks[head : head + 1]])
                out[0, head, t] = some.softmax(-1)[: len(seen)] @ v[0, head // group, seen]
    return out.transpose(1, 2).flatten(2)


def _embedded(model: Any, ids: Sequence[int]) -> Tensor:
    h = model.model.embed_tokens(torch.tensor([ids]))
    return h * getattr(model.config, "embedding_multiplier", 1.0)


def _attention_input(layer: Any, h: Tensor) -> Tensor:
    """Normed, but in OLMo, which norms what attention gives."""
    return layer.input_layernorm(h) if hasattr(layer, "input_layernorm") else h


def _after_attention(layer: Any, h: Tensor, attended: Tensor) -> Tensor:
    out = layer.self_attn.o_proj(attended)
    if hasattr(layer, "post_feedforward_layernorm"):  # Gemma, OLMo
        out = layer.post_attention_layernorm(out)
    return h + out * getattr(layer, "residual_multiplier", 1.0)


def _after_mlp(layer: Any, h: Tensor) -> Tensor:
    """Gemma norms before and after, OLMo after, all others before; gpt-oss gives routes too."""
    after = getattr(layer, "post_feedforward_layernorm", None)
    before = layer.post_attention_layernorm if after is None else None
    before = getattr(layer, "pre_feedforward_layernorm", before)
    out = layer.mlp(h if before is None else before(h))
    out = out[0] if isinstance(out, tuple) else out
    out = out if after is None else after(out)
    return h + out * getattr(layer, "residual_multiplier", 1.0)


def _logits(model: Any, h: Tensor) -> Tensor:
    out: Tensor = model.lm_head(model.model.norm(h))[0]
    out = out / getattr(model.config, "logits_scaling", 1.0)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return cap * (out / cap).tanh() if cap else out


def _kinds(model: Any) -> list[str | None]:
    """The type of each layer."""
    config = model.config
    return getattr(config, "layer_types", None) or [None] * config.num_hidden_layers


def _windows(model: Any) -> list[int | None]:
    """The sliding window of each layer."""
    window = getattr(model.config, "sliding_window", None)
    return [None if kind == "full_attention" else window for kind in _kinds(model)]


def _inside(q: Tensor, k: Tensor, window: int | None) -> Tensor:
    return q[:, None] - k[None, :] < (window or 10**9)


def _encode(model: Any, node: Node, layers: int) -> list[tuple[Tensor, Tensor]]:
    """Unrotated keys, and values, of the kept tokens in the first `layers` layers."""
    h = _embedded(model, node.ids)
    at = torch.arange(len(node.ids))
    kept, out = list(node.kept), []
    for index in range(layers):
        layer, window = model.model.layers[index], _windows(model)[index]
        q, k, v = _raw_qkv(layer, _attention_input(layer, h))
        out.append((k[:, :, kept], v[:, :, kept]))
        visible = (at[None] <= at[:, None]) & _inside(at, at, window)
        q, k = _rotated_query(model, index, q, at), _rotate(model, index, k, at)
        h = _after_mlp(layer, _after_attention(layer, h, _attend(layer, q, k, v, visible)))
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
    mixed = None in _windows(model)[:layers]  # then memory is hidden beyond a window, as text is
    h = _embedded(model, place.ids)
    for index, (layer, window) in enumerate(zip(model.model.layers, _windows(model), strict=True)):
        q, k, v = _raw_qkv(layer, _attention_input(layer, h))
        q = _rotated_query(model, index, q, place.text_position)
        k = _rotate(model, index, k, place.text_position)
        visible = (order[None] <= order[:, None]) & _inside(
            place.text_position, place.text_position, window
        )
        has_memory = bool(nodes) and index < layers
        if has_memory:
            memory_k = torch.cat([node[index][0] for node in encoded], dim=2)
            memory_v = torch.cat([node[index][1] for node in encoded], dim=2)
            memory_k = _rotate(model, index, memory_k, place.memory_position)
        if has_memory and mode == "joint":
            k, v = torch.cat([memory_k, k], dim=2), torch.cat([memory_v, v], dim=2)
            near = _inside(place.text_position, place.memory_position, window if mixed else None)
            visible = torch.cat([before & near, visible], dim=1)
        h = _after_attention(layer, h, _attend(layer, q, k, v, visible))
        if has_memory and mode == "cross":
            q = _raw_qkv(layer, layer.input_layernorm(h))[0]
            q = _rotate(model, index, q, place.query_position)
            crossed = layer.self_attn.o_proj(_attend(layer, q, memory_k, memory_v, before))
            h = h + crossed * before.any(dim=1)[None, :, None]
        h = _after_mlp(layer, h)
    return _logits(model, h)
