"""Low-rank adapters (LoRA) of the two roles: the lower model encodes nodes, the upper reads them.

Each role has matrices of its own beside the base's linear layers; public forward hooks add them
while that role acts. Outside of ``acting(...)`` the model is exactly the base. One set of weights
therefore serves search (the base), lower and upper model, from several threads, quantised or not.
On disk a role is an adapter in PEFT's format (:mod:`sharedllm.hf.lora_io`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sharedllm.config import AdapterConfig
from sharedllm.errors import AdapterError
from sharedllm.hf.architectures import has_experts

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "gate_up_proj")

_acting: ContextVar[str | None] = ContextVar("acting", default=None)


class LowRank(nn.Module):
    """The addition of one role to one linear layer: ``scale * up(down(x))``.

    ``up`` starts at zero, so that a new adapter changes nothing.
    """

    def __init__(self, linear: Any, config: AdapterConfig, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(config.rank, linear.in_features, device=device))
        self.up = nn.Parameter(torch.zeros(linear.out_features, config.rank, device=device))
        self.scale = config.alpha / config.rank
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Return `out` (..., outputs) plus the addition for the input `x` (..., inputs)."""
        down: Tensor = self.down
        up: Tensor = self.up
        if down.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            down, up = (
                down.to(x.dtype),
                up.to(x.dtype),
            )  # float32 on a half-precision base
        low = nn.functional.linear(x, down).flatten(0, -2)
        added = torch.addmm(out.flatten(0, -2), low, up.t(), alpha=self.scale)
        return added.view(out.shape)


class Adapter:
    """The matrices of all roles on one model.

    Parameters
    ----------
    model : the transformers causal LM
    config : AdapterConfig

    Attributes
    ----------
    query_projection : tensor (hidden, hidden) or None
        A trained projection of a question's search vectors; see
        :class:`sharedllm.search.scorers.MaxSim`.

    Raises
    ------
    AdapterError
        If the model already has an adapter.
    """

    query_projection: Tensor | None = None

    def __init__(self, model: Any, config: AdapterConfig) -> None:
        decoder = model.get_decoder()
        if hasattr(decoder, "low_rank"):
            raise AdapterError("this model already has an adapter; load the base again")
        self.config, self._model = config, model
        self._matrices = nn.ModuleDict()
        self._handles = []
        for name, linear in self._linears():
            roles = {
                role: LowRank(linear, config, next(linear.parameters()).device)
                for role in config.roles
            }
            self._matrices[name.replace(".", "/")] = nn.ModuleDict(roles)
            self._handles.append(linear.register_forward_hook(_adding(roles)))
        decoder.low_rank = self._matrices  # moves with the model, and is trained with it

    def _linears(self) -> Iterator[tuple[str, Any]]:
        """Yield the linear layers of the decoder; with experts, those of attention alone.

        The weights of experts are one tensor for all, not linear layers.
        """
        decoder = self._model.get_decoder()
        inside = next(name for name, m in self._model.named_modules() if m is decoder)
        wanted = ATTENTION if has_experts(decoder) else (*ATTENTION, *FEED_FORWARD)
        for name, module in decoder.layers.named_modules():
            if name.rpartition(".")[2] in wanted:
                yield f"{inside}.layers.{name}", module

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return all trainable parameters by name, including those of cross-attention."""
        named = dict(self._matrices.named_parameters())
        crosses = getattr(self._model.get_decoder(), "cross_injection", None)
        if crosses is not None:
            named |= {f"cross/{name}": p for name, p in crosses.named_parameters()}
        return named

    def train(self) -> None:
        """Make only the adapter's parameters trainable, in float32."""
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    @property
    def training(self) -> bool:
        """True if its parameters are trainable."""
        return any(p.requires_grad for p in islice(self._matrices.parameters(), 1))

    def weights(self) -> dict[str, Tensor]:
        """Return all parameters by name, on the CPU."""
        return {name: p.detach().cpu().contiguous() for name, p in self.parameters().items()}

    def set(self, weights: Mapping[str, Tensor]) -> None:
        """Copy `weights` into the parameters.

        Raises
        ------
        AdapterError
            If they belong to another model or other settings.
        """
        own = self.parameters()
        odd = sorted(set(weights) ^ set(own))
        if odd:
            raise AdapterError(
                f"these adapter weights do not fit the model: {len(odd)} names differ, such as "
                f"{odd[0]!r}; use the base and the injection settings that they were trained with, "
                "or no adapter (None)"
            )
        for name, parameter in own.items():
            if parameter.shape != weights[name].shape:
                raise AdapterError(
                    f"these adapter weights do not fit the model: {name!r} is of shape "
                    f"{tuple(weights[name].shape)}, and the model needs {tuple(parameter.shape)}"
                )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])

    def fingerprint(self) -> str:
        """Return a digest of the lower role, whose KV differs from that of other adapters."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights().items()):
            if "/lower" in name or ".lower" in name:
                digest.update(name.encode())
                digest.update(tensor.float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def update(self, role: str, name: str) -> Tensor | None:
        """Return the matrix that `role` adds to the weights called `name`, or None."""
        matrices = dict(self._matrices.named_modules())
        low_rank: Any = matrices.get(f"{name.removesuffix('.weight').replace('.', '/')}.{role}")
        if low_rank is None:
            return None
        change: Tensor = low_rank.scale * (low_rank.up.float() @ low_rank.down.float())
        return change

    def remove(self) -> None:
        """Remove the hooks and the matrices from the model."""
        for handle in self._handles:
            handle.remove()
        del self._model.get_decoder().low_rank


@contextmanager
def acting(role: str | None) -> Iterator[None]:
    """Let models play `role` in this thread until the end of the block; None is the base."""
    before = _acting.set(role)
    try:
        yield
    finally:
        _acting.reset(before)


def acting_role() -> str | None:
    """Return the role that models play in this thread."""
    return _acting.get()


def _adding(roles: Mapping[str, LowRank]) -> Callable[..., Tensor | None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        low_rank = roles.get(_acting.get() or "")
        return None if low_rank is None else low_rank(args[0], output)

    return hook
