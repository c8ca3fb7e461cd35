"""Gradient checkpointing: activations are computed again in the backward pass, not kept.

The lower model's passes are checkpointed whole, since their layers hand KV to a cache, which
transformers drops inside checkpointed layers; the upper model's layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from torch.utils.checkpoint import checkpoint

from sharedllm.hf.adapter import acting, acting_role

T = TypeVar("T")


def recomputed(function: Callable[[], T]) -> T:
    """Call `function`, which sets its own role, keeping only what it gives."""
    out: T = checkpoint(function, use_reentrant=False)
    return out


@contextmanager
def layers_recomputed(model: Any) -> Iterator[None]:
    """Checkpoint every layer of `model` that runs in the block, under the role that acts then."""

    def run(function: Callable[..., Any], *args: Any) -> Any:
        role = acting_role()

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), acting(role)

        return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)

    layers = model.get_decoder().layers
    for layer in layers:
        layer._gradient_checkpointing_func = run
        layer.gradient_checkpointing = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False
