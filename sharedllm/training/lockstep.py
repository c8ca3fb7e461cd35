"""What processes that share one base have to do together: agree on passes, average gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, distributed, nn

Most = Callable[[int], int]  # how many passes this process has -> the most that any has


def most_of_all(device: torch.device) -> Most:
    """The most of what all processes give."""

    def most(own: int) -> int:
        number = torch.tensor(int(own), device=device)
        distributed.all_reduce(number, distributed.ReduceOp.MAX)
        return int(number)

    return most


def begin_alike(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the first one's values."""
    for parameter in parameters:
        distributed.broadcast(parameter.data, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Over all processes; a parameter that none has a gradient for keeps none."""
    own = list(parameters)
    have = torch.tensor([p.grad is not None for p in own], dtype=torch.int32, device=own[0].device)
    distributed.all_reduce(have, distributed.ReduceOp.MAX)
    used = [p for p, has in zip(own, have.tolist(), strict=True) if has]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
    if not used:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    means = torch.split(flat, [p.numel() for p in used])
    for parameter, mean in zip(used, means, strict=True):
        parameter.grad = mean.view_as(parameter)


def nothing(tensors: Iterable[Tensor]) -> Tensor | float:
    """0 with a gradient, so that the passes which gave `tensors` run backward too."""
    return sum((0.0 * tensor.float().sum() for tensor in tensors), 0.0)
