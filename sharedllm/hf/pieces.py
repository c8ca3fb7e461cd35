"""What stands between a layer's matrix products in two compiled kernels instead of a dozen.

transformers writes a rotation out in five operations and an MLP's gate in two, each of which reads
and writes all of its numbers. ``torch.compile`` makes one kernel of each, and ingest takes a tenth
less (docs/speed.md). The products stay outside, so that adapters' hooks and quantised weights are
what they were.

Shapes: B batch, T tokens, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sharedllm.errors import ConfigError, UnsupportedModelError
from sharedllm.hf.architectures import parameter_device

BACKEND = "inductor"  # of torch.compile
DEVICES = ("cuda",)  # on a CPU no pass is LONG
# tokens: a shorter pass is bound by launches, and a compiled call takes longer to launch
LONG = 4096
PLAIN = ("LlamaAttention", "MistralAttention", "Qwen2Attention")  # whose forward is _attention's
SILU = (nn.SiLU, SiLUActivation)


def require_compiling(device: torch.device) -> None:
    """Refuse a `device` on which nothing would be compiled.

    Raises
    ------
    ConfigError
    """
    if device.type not in DEVICES:
        raise ConfigError(
            f"compile_ingest is True, but the model is on {str(device)!r}, where documents are "
            f"read in passes too short to gain: it is for {', '.join(DEVICES)}; leave it out"
        )


def compile_ingest(*models: Any) -> None:
    """Let long passes of `models`, one of each device, run compiled pieces from now on.

    They are compiled here, which takes seconds in each process.

    Raises
    ------
    ConfigError
        If nothing can be compiled here.
    UnsupportedModelError
        If no module of a model is built as those whose pieces these are.
    """
    for model in models:
        require_compiling(device := parameter_device(model))
        changed = _change(model, BACKEND)
        if not changed:
            raise UnsupportedModelError(
                f"compile_ingest is True, but {type(model).__name__} has no layers of which pieces "
                "are compiled: rotations of Llama, Mistral and Qwen2, and MLPs with gate_proj, "
                "up_proj, down_proj and SiLU; leave it out"
            )
        try:
            warm(changed, device, model.dtype)
        except Exception as error:  # whatever a compiler finds missing
            for module in changed:
                del module.forward
            cause = getattr(error, "inner_exception", error)
            why = next(iter(str(cause).strip().splitlines()), "")
            raise ConfigError(
                "compile_ingest is True, but torch.compile failed here: "
                f"{type(cause).__name__}: {why}; it needs a C compiler and Triton, which torch for "
                "CUDA brings on Linux; leave compile_ingest out"
            ) from error


@torch.inference_mode()
def warm(changed: Sequence[Any], device: torch.device, dtype: torch.dtype) -> None:
    """Compile the pieces of `changed`, unless they are compiled.

    They are run for two lengths: the second time what comes out is for any length.
    """
    some = partial(torch.zeros, 1, device=device, dtype=dtype)
    for module in {type(module): module for module in changed}.values():
        run, width = module.forward.args[2], getattr(module, "head_dim", 0)
        for length in (LONG, 2 * LONG):
            if type(module).__name__ in PLAIN:
                heads = [x.out_features // width for x in (module.q_proj, module.k_proj)]
                run(
                    *(some(length, h, width) for h in heads),
                    some(length, width),
                    some(length, width),
                )
            else:
                run(*(some(length, x.out_features) for x in (module.gate_proj, module.up_proj)))


@contextmanager
def compiled_pieces(model: Any, backend: str = BACKEND) -> Iterator[list[Any]]:
    """As :func:`compile_ingest`, compiled when a form of pass first comes; ends as it began.

    Yields
    ------
    The modules that have such pieces. Those that are built otherwise are left alone.
    """
    changed = _change(model, backend)
    try:
        yield changed
    finally:
        for module in changed:
            del module.forward


def _change(model: Any, backend: str) -> list[Any]:
    """Hang the pieces on the modules of `model` that are built for them, and return these."""
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
    return changed


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
    """Whether `x`, (B, T, hidden), is no document's pass, for which alone pieces are compiled."""
    return x.shape[0] > 1 or x.shape[1] < LONG or torch.is_grad_enabled()


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
