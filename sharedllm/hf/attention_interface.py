"""Replacements of what transformers runs in a layer: our attention, and one kernel a norm.

Attention is registered with transformers' AttentionInterface. The model's layers call
:func:`shared_attention` with the keyword ``shared``: an
:class:`~sharedllm.attention.context.AttentionContext` for running text with memory, or the
:class:`~sharedllm.attention.visibility.Segments` of one packed row. No mask function is registered,
so that transformers builds no mask: the context says which keys a query sees.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from sharedllm.attention import flash
from sharedllm.attention.backends import Backend, get_backend
from sharedllm.attention.context import AttentionContext
from sharedllm.attention.visibility import Segments
from sharedllm.errors import ModelError
from sharedllm.hf.architectures import parameter_device

PREFIX = "sharedllm"


def _make(backend: Backend) -> Any:
    def shared_attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        shared: AttentionContext | Segments | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if shared is None or attention_mask is not None:
            raise ModelError(
                "this model is under SharedLLM's attention, which needs its own context and takes "
                "no attention_mask; call it through SharedLLM, or give it back its own attention "
                "with model.set_attn_implementation('sdpa')"
            )
        if isinstance(shared, Segments):
            q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
            return backend.varlen(q, k, v, shared, scale=scaling, window=sliding_window)[None], None
        layer = module.layer_idx
        if shared.joined is not None and layer < shared.layers:
            key = torch.cat([shared.joined.keys[layer].to(key.dtype), key], dim=2)
            value = torch.cat([shared.joined.values[layer].to(value.dtype), value], dim=2)
        visible = shared.visibility(layer)
        used = visible.used if backend.step is not None else None
        if used is not None and backend.step is not None and visible.whole(sliding_window):
            return backend.step(query, key, value, used, scale=scaling).transpose(1, 2), None
        mask = visible.mask(sliding_window)
        out = backend.attend(query, key, value, mask, scale=scaling, dropout=dropout)
        return out.transpose(1, 2).contiguous(), None

    return shared_attention


def activate(model: Any, name: str) -> Backend:
    """Make `model` use our attention with the backend called `name`, and return it.

    In half precision on a card its norms become one kernel each, too.
    """
    backend = get_backend(name, device=parameter_device(model), dtype=model.dtype)
    # transformers takes every name with "flash" in it for one of its own and looks for a package.
    registered = f"{PREFIX}_{backend.name.replace('flash', 'fa')}"
    AttentionInterface.register(registered, _make(backend))
    model.set_attn_implementation(registered)
    if flash.runs_on(parameter_device(model), model.dtype):
        fuse_norms(model)
    return backend


def require_active(model: Any, *, cached: bool) -> None:
    """Refuse to run when our attention is not the active one, or would lose a cache.

    Stock attention given longer KV in some layers returns wrong numbers without an error; under
    gradient checkpointing the layers silently drop a cache.

    Parameters
    ----------
    cached : whether the pass goes through a cache

    Raises
    ------
    ModelError
    """
    name = model.config._attn_implementation
    if not str(name).startswith(PREFIX):
        raise ModelError(
            f"the model's attention was changed to {name!r}, which cannot see injected memory; "
            "change it back, or load the model again through SharedLLM.from_pretrained"
        )
    layers = model.get_decoder().layers if cached else ()
    if any(layer.training and layer.gradient_checkpointing for layer in layers):
        raise ModelError(
            "the model is in training mode with gradient checkpointing, under which its layers "
            "drop the cache that holds the memory; call model.eval() before this"
        )


def fuse_norms(model: Any) -> int:
    """Let every RMS norm of `model` run as one operation; return how many there are.

    transformers writes a norm out in seven operations, most of them in float32. On a card they are
    an eighth of what a document's ingest moves; in training every activation is read and written
    again on the way back, and they were about a third.

    Sums are taken in float32 as before; the result differs by rounding. Norms that compute
    something else under that name, such as those that add one to their weights, are left alone.
    """
    norms = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm") and _is_plain(m)]
    for norm in norms:
        norm.forward = partial(_rms_norm, norm)
    return len(norms)


@torch.inference_mode()
def _is_plain(norm: Any) -> bool:
    if not hasattr(norm, "variance_epsilon"):
        return False
    x = torch.linspace(-2, 3, norm.weight.numel(), device=norm.weight.device)[None]
    x = x.to(norm.weight.dtype)
    return torch.allclose(norm(x).float(), _rms_norm(norm, x).float(), rtol=0.05, atol=0.05)


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # which would widen it to float32
        return nn.functional.rms_norm(
            x, norm.weight.shape, norm.weight.to(x.dtype), norm.variance_epsilon
        )
