"""Our attention and a fused norm in the layers of transformers' models.

Attention is registered with transformers' AttentionInterface. The model's layers call
:func:`shared_attention` with the keyword ``shared``: an
:class:`~sharedllm.attention.context.AttentionContext` for a prompt with injected KV, or the
:class:`~sharedllm.attention.visibility.Segments` of one packed row. No mask function is registered,
so transformers builds no mask; the context holds the visibility.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from sharedllm.attention import flash
from sharedllm.attention.backends import Backend, Softmax, get_backend
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
        softcap: float | None = None,
        s_aux: Tensor | None = None,
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
            packed = backend.varlen(
                q,
                k,
                v,
                shared,
                scale=scaling,
                window=sliding_window,
                softcap=softcap,
                sinks=s_aux,
            )
            return packed[None], None
        layer = module.layer_idx
        if shared.joined is not None and layer < shared.layers:
            key = torch.cat([shared.joined.keys[layer].to(key.dtype), key], dim=2)
            value = torch.cat([shared.joined.values[layer].to(value.dtype), value], dim=2)
        visible = shared.visibility(layer)
        used = visible.used if backend.step is not None else None
        if used is not None and backend.step is not None and visible.whole(sliding_window):
            return backend.step(query, key, value, used, scale=scaling).transpose(1, 2), None
        mask = visible.mask(sliding_window)
        out = backend.attend(
            query,
            key,
            value,
            mask,
            scale=scaling,
            dropout=dropout,
            softcap=softcap,
            sinks=s_aux,
        )
        return out.transpose(1, 2).contiguous(), None

    return shared_attention


def activate(model: Any, name: str, softmax: Sequence[Softmax] = ()) -> Backend:
    """Make `model` use our attention with the backend called `name`; return the backend.

    In half precision on CUDA its norms are fused as well.
    """
    backend = get_backend(name, device=parameter_device(model), dtype=model.dtype, softmax=softmax)
    # transformers (5.23) takes every name with "flash" or "sdpa" in it for its own: it looks for a
    # package, or refuses it for models with capped scores or sinks
    name = backend.name.replace("flash", "fa").replace("sdpa", "sdp")
    registered = f"{PREFIX}_{name}"
    AttentionInterface.register(registered, _make(backend))
    model.set_attn_implementation(registered)
    if flash.runs_on(parameter_device(model), model.dtype):
        fuse_norms(model)
    return backend


def require_active(model: Any, *, cached: bool) -> None:
    """Refuse to run if our attention is not active, or if the layers would drop a cache.

    Stock attention with longer KV in some layers returns wrong numbers without an error. Under
    gradient checkpointing in training mode, transformers' layers drop a cache without an error.

    Parameters
    ----------
    cached : True if the pass uses a cache

    Raises
    ------
    ModelError
    """
    name = model.config._attn_implementation
    if not str(name).startswith(PREFIX):
        raise ModelError(
            f"the model's attention was changed to {name!r}, which cannot see injected KV; "
            "change it back, or load the model again through SharedLLM.from_pretrained"
        )
    layers = model.get_decoder().layers if cached else ()
    if any(layer.training and layer.gradient_checkpointing for layer in layers):
        raise ModelError(
            "the model is in training mode with gradient checkpointing, under which its layers "
            "drop the cache that holds the injected KV; call model.eval() before this"
        )


def fuse_norms(model: Any) -> int:
    """Run every RMS norm of `model` as one operation; return their number.

    transformers (5.x) writes a norm out in seven operations, most of them in float32: on CUDA an
    eighth of the memory traffic of ingestion, and about a third of that of training.

    Sums are taken in float32 as before; results differ by rounding. Norms of another formula under
    that name, such as those that add one to their weights, are left alone.
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
    with torch.autocast(x.device.type, enabled=False):  # autocast would run it in float32
        return nn.functional.rms_norm(
            x, norm.weight.shape, norm.weight.to(x.dtype), norm.variance_epsilon
        )
