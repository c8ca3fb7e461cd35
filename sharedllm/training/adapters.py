"""Two low-rank adapters on one base: one for the lower model's role, one for the upper's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from sharedllm.errors import ModelNotFoundError
from sharedllm.shared_llm import SharedLLM
from sharedllm.training.config import AdapterConfig

WEIGHTS, SETTINGS = "adapter.safetensors", "adapter.json"
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED = ("qkv_proj", "gate_up_proj")


class Roles:
    """Puts the adapters on a model and switches between them.

    Each role's passes run under its own adapter alone; a role without one runs the base.
    """

    def __init__(self, llm: SharedLLM, config: AdapterConfig) -> None:
        self._model, self.config = llm.model, config
        for parameter in llm.model.parameters():
            parameter.requires_grad_(False)
        for role in config.roles:
            lora = LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=[*LINEARS, *FUSED],
            )
            inject_adapter_in_model(lora, llm.model.get_decoder(), adapter_name=role)
        self._layers = [m for m in llm.model.modules() if isinstance(m, LoraLayer)]
        for parameter in self.parameters():
            parameter.data = parameter.data.float()  # small, and summed over many small steps
            parameter.requires_grad_(True)
        llm.lower.acting = self.acting("lower")
        llm.upper.acting = self.acting("upper")

    def acting(self, role: str) -> Callable[[], Any]:
        """A context manager under which the model plays `role`."""
        active = [role] if role in self.config.roles else []

        @contextmanager
        def switched() -> Iterator[None]:
            before = [layer._active_adapter for layer in self._layers]
            self._activate([active] * len(before))
            try:
                yield
            finally:
                self._activate(before)

        return switched

    def _activate(self, names: Sequence[Any]) -> None:
        # set_adapter would also freeze the other role's parameters
        for layer, name in zip(self._layers, names, strict=True):
            layer._active_adapter = name

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapters' parameters, and cross-attentions, by name."""
        return {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if "lora_" in name or "cross_injection" in name
        }

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.named_parameters().values())

    def save(self, folder: Path, **notes: object) -> None:
        """Write weights (safetensors) and settings (JSON)."""
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f"{WEIGHTS}.tmp"  # a run that is killed leaves the last whole one
        save_file(self.weights(), scratch)
        scratch.rename(folder / WEIGHTS)
        settings = {"adapter": self.config.model_dump(), **notes}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapters' weights on the CPU, by name."""
        return {n: p.detach().cpu().contiguous() for n, p in self.named_parameters().items()}

    def load(self, folder: Path) -> None:
        """Take the weights that :meth:`save` wrote.

        Raises
        ------
        ModelNotFoundError
            If they are not there, or are another adapter's.
        """
        if not (folder / WEIGHTS).is_file():
            raise ModelNotFoundError(f"there is no adapter in {str(folder)!r} ({WEIGHTS})")
        self.set(load_file(folder / WEIGHTS), folder)

    def set(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        """Take `weights`, which come from `folder`."""
        own = self.named_parameters()
        if set(weights) != set(own):
            odd = sorted(set(weights) ^ set(own))
            raise ModelNotFoundError(
                f"the adapter in {str(folder)!r} does not fit this model: {len(odd)} names differ, "
                f"such as {odd[0]!r}"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])
