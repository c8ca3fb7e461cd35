"""The first layers of a model once more, on another device."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sharedllm.errors import ConfigError


def first_layers(model: Any, layers: int, device: torch.device) -> Any:
    """A copy of `model` on `device` with its embeddings and first `layers` layers.

    Layers above and the output embeddings are never copied. To be called before anything is hung
    on the model.

    Raises
    ------
    ConfigError
        If the weights are quantised or spread over devices, or something is hung on the layers.
    """
    decoder = model.get_decoder()
    _require_plain(model, decoder.layers[:layers])
    others = [*decoder.layers[layers:], model.get_output_embeddings()]
    memo: dict[int, Any] = {id(module): nn.Identity() for module in others}
    kept: list[Any] = [decoder.get_input_embeddings(), *decoder.layers[:layers]]
    kept += [decoder.norm, decoder.rotary_emb]
    for module in kept:
        for tensor in (*module.parameters(), *module.buffers()):
            memo[id(tensor)] = _moved(tensor, device)
    replica = copy.deepcopy(model, memo)
    own = replica.get_decoder()
    own.layers = own.layers[:layers]
    return replica.eval()


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    there = tensor.detach().to(device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(there, requires_grad=False)
    return there


def _require_plain(model: Any, layers: nn.ModuleList) -> None:
    if getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None):
        raise ConfigError(
            "ingest_devices needs weights that are not quantised and on one device; load the "
            "model without quantization_config and device_map, or without ingest_devices"
        )
    if any(m._forward_hooks or m._forward_pre_hooks for m in layers.modules()):
        raise ConfigError(
            "ingest_devices copies the model, and this one has forward hooks (an adapter, or "
            "cross injection), which copies would share; load it again, or leave ingest_devices out"
        )
