"""Gradient checkpointing: activations are computed again in the backward pass, not kept.

Layer by layer, for both roles. Transformers' own way would do for the upper model; it drops the
cache to which the lower model's layers hand their keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from sharedllm.hf.lora import acting, acting_role


@contextmanager
def layers_recomputed(model: Any) -> Iterator[None]:
    """Checkpoint every layer of `model` that runs in the block, under the role that acts then.

    What is taken out of a layer on the way, keys and values, has gradients as its output has.
    """

    def run(forward: Any, *args: Any, **kwargs: Any) -> Any:
        role = acting_role()

        def contexts() -> tuple[Any, Any]:
            return nullcontext(), acting(role)

        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    layers = model.get_decoder().layers
    before = [layer.__dict__.get("forward") for layer in layers]  # accelerate's, if there is one
    for layer in layers:
        layer.forward = partial(run, layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward  # the class' is there again
            else:
                layer.forward = own
