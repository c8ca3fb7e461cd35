"""Weights in 8 or 4 bits: ``quantize="4bit"``, ``--quantize 4bit``.

bitsandbytes packs the linear layers while they are loaded, on CUDA and on the CPU; embeddings,
norms and the output layer stay in the compute dtype, and so do activations and KV.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from sharedllm.config import QUANTIZE, require_one_of
from sharedllm.errors import ConfigError, MissingExtraError, UnsupportedModelError
from sharedllm.hf.room import Weights

LEAST_PACKED = 0.1  # of all weights; with less, quantising saves nothing


def require_quantize(quantize: str | None) -> None:
    """Refuse another value than those allowed, and a missing package.

    Raises
    ------
    ConfigError, MissingExtraError
    """
    if quantize is None:
        return
    require_one_of("quantize", quantize, QUANTIZE)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quantize")
    # its notices that it has no faster kernel, and of every product whose inputs it rounds
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def keep_odd_layouts(model: Any) -> None:
    """Keep bitsandbytes (0.50) from laying out anew what its kernel for AVX-512 BF16 cannot read.

    In the first pass on such a processor it asserts that the outputs of every layer in 4 bits are a
    multiple of 32, and its inputs one of the block of 64 weights that share a scale.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            odd = module.out_features % 32 or module.in_features % 64
            module.support_avx512bf16_for_cpu = not odd


def quantized(
    name: str,
    config: Any,
    weights: Weights,
    quantize: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return `options` of transformers with those that quantise the model.

    Raises
    ------
    ConfigError
        If they hold another ``quantization_config``.
    UnsupportedModelError
        If the weights are published quantised, or too few of them are in linear layers.
    """
    if options.get("quantization_config") is not None:
        raise ConfigError(
            f"quantize is {quantize!r}, and quantization_config is given as well; give one of them"
        )
    published = getattr(config, "quantization_config", None)
    if published is not None:
        method = published.get("quant_method") if isinstance(published, dict) else published
        raise UnsupportedModelError(
            f"{name!r} is published quantised already ({getattr(method, 'value', method)}); load "
            "it without quantize"
        )
    share = weights.packed / weights.parameters
    if share < LEAST_PACKED:
        raise UnsupportedModelError(
            f"only {share:.0%} of the weights of {name!r} are in linear layers, which quantize "
            "packs; the others, most of them in experts, would stay as they are: load it without "
            "quantize, or name a model that is published quantised"
        )
    if quantize == "4bit":
        form = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
    else:
        form = BitsAndBytesConfig(load_in_8bit=True)
    return {"device_map": {"": device}, **options, "quantization_config": form}
