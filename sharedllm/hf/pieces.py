"""What stands between a layer's matrix products in two compiled kernels instead of a dozen.

transformers writes a rotation out in five operations and an MLP's gate in two, each of which reads
and writes all of its numbers. ``torch.compile`` makes one kernel of each: a quarter to a third of
what ingest moves beside its matrix products. The products stay outside, so that adapters' hooks and
quantised weights are what they were.

Shapes: B batch, T tokens, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LONG = (
    4096  # tokens: a shorter pass is bound by launches, and a compiled call takes longer to launch
)
PLAIN = ("LlamaAttention", "MistralAttention", "Qwen2Attention")  # whose forward is _attention's
SILU = (nn.SiLU, SiLUActivation)


@contextmanager
def compiled_pieces(model: Any, backend: str = "inductor") -> Iterator[int]:
    """Long passes of `model` without gradients run compiled pieces; afterwards all is as before.

    Parameters
    ----------
    backend : of ``torch.compile``, which compiles when a form of pass first comes

    Yields
    ------
    How many modules have such pieces. Those that are built otherwise are left alone.
    """
    rotated, gated = _kernels(backend)
    changed: list[Any] = []
    for module in model.get_decoder().modules():
        if type(module).__name__ in PLAIN:
            short: Any = module.forward
            module.forward = partial(_attention, module, short, rotated)
        elif _is_gated(module):
            short = module.forward
            module.forward = partial(_mlp, module, short, gated)
        else:
            continue
        changed.append(module)
    try:
        yield len(changed)
    finally:
        for module in changed:
            del module.forward


@cache
def _kernels(backend: str) -> tuple[Any, Any]:
    """Compiled once a process, for each form of pass that comes."""
    return torch.compile(_rotated, backend=backend), torch.compile(_gated, backend=backend)


def _is_gated(module: Any) -> bool:
    names = ("gate_proj", "up_proj", "down_proj")
    return all(hasattr(module, x) for x in names) and isinstance(
        getattr(module, "act_fn", None), SILU
    )


def _is_short(x: Tensor) -> bool:
    return x.shape[0] * x.shape[1] < LONG or torch.is_grad_enabled()


def _rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Query and key, (B, T, H, D), turned by their positions, (B, T, D)."""
    cos, sin = cos[:, :, None], sin[:, :, None]
    half = cos.shape[-1] // 2

    def turned(x: Tensor) -> Tensor:
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    return turned(query), turned(key)


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return nn.functional.silu(gate) * up


def _mlp(mlp: Any, short: Callable[..., Tensor], gated: Callable[..., Tensor], x: Tensor) -> Tensor:
    if _is_short(x):
        return short(x)
    down: Tensor = mlp.down_proj(gated(mlp.gate_proj(x), mlp.up_proj(x)))
    return down


def _attention(
    attention: Any,
    short: Callable[..., Any],
    rotated: Callable[..., tuple[Tensor, Tensor]],
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **more: Any,
) -> tuple[Tensor, Any]:
    """As transformers' own, but for the rotation, which finds heads beside each other."""
    if _is_short(hidden_states):
        return short(  # type: ignore[no-any-return]
            hidden_states=hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **more,
        )
    query, key, value = (
        project(hidden_states).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = rotated(query, key, *position_embeddings)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, attention.layer_idx)
    if type(attention).__name__ != "LlamaAttention":
        window = getattr(attention.config, "sliding_window", None)  # Mistral's, of all layers
        more["sliding_window"] = getattr(attention, "sliding_window", window)
    attend = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation]
    out, weights = attend(
        attention, query, key, value, attention_mask, dropout=0.0, scaling=attention.scaling, **more
    )
    return attention.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights
