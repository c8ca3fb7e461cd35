"""The base's matrices divided among processes, each of which keeps a part of every one.

A matrix is gathered for the moment in which it is multiplied, forward and again backward, so that
all processes must multiply the same matrices in the same order (training/batch.py sees to it).

This is the idea of FSDP for weights that are not trained. Torch's ``fully_shard`` gathers in hooks
around a layer's own forward; here the lower model takes keys and values out of a layer that it
does not run.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from sharedllm.errors import UnsupportedModelError

# older versions of torch have the second name alone
_gather: Any = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor


def divide(model: Any, device: torch.device) -> None:
    """Keep this process' part of every matrix of `model`, on `device`, and all else whole there.

    The process group must be there. Gradients flow through the matrices, not to them.

    Raises
    ------
    UnsupportedModelError
        If the model is quantised.
    """
    if getattr(model, "is_quantized", False):
        raise UnsupportedModelError(
            "quantised weights cannot be divided among processes; load the model unquantised, or "
            "leave out shard"
        )
    users: dict[Tensor, list[Any]] = {}  # embeddings and head may share one matrix
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            users.setdefault(module.weight, []).append(module)
    for weight, modules in users.items():
        part = nn.Parameter(_part(weight, device), requires_grad=False)
        for module in modules:
            forward = _linear if isinstance(module, nn.Linear) else _embedding
            module.forward = partial(forward, module, weight.shape)
            module.weight = part
        weight.data = weight.new_empty(0)  # `users` still holds it
    model.to(device)


def _part(weight: Tensor, device: torch.device) -> Tensor:
    """This process' share of the elements of `weight`, all shares being of one size."""
    flat = weight.detach().flatten()
    size = math.ceil(len(flat) / distributed.get_world_size())
    own = flat[size * distributed.get_rank() :][:size]
    out = torch.zeros(size, dtype=flat.dtype, device=device)
    out[: len(own)] = own
    return out


def _gathered(part: Tensor, shape: torch.Size) -> Tensor:
    """The whole matrix, of which every process gives its `part`."""
    whole = part.new_empty(len(part) * distributed.get_world_size())
    _gather(whole, part)
    return whole[: shape.numel()].view(shape)


def _linear(linear: Any, shape: torch.Size, x: Tensor) -> Tensor:
    multiply: Any = _Product.apply
    out: Tensor = multiply(x, linear.weight, linear.bias, shape)
    return out


def _embedding(embedding: Any, shape: torch.Size, ids: Tensor) -> Tensor:
    whole = _gathered(embedding.weight, shape)
    out = nn.functional.embedding(ids, whole, embedding.padding_idx)
    # From here on everything has gradients, in every process, whatever a batch trains.
    return out.requires_grad_() if torch.is_grad_enabled() else out


class _Product(torch.autograd.Function):
    """``x @ weight.T + bias``, which keeps neither the whole weight nor `x`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, part: Tensor, bias: Tensor | None, shape: torch.Size
    ) -> Tensor:
        ctx.part, ctx.shape, ctx.dtype = part, shape, x.dtype
        return nn.functional.linear(x, _gathered(part, shape), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        weight = _gathered(ctx.part, ctx.shape).to(grad.dtype)  # (O, I)
        return (grad @ weight).to(ctx.dtype), None, None, None
