"""The memory that a model needs, and the memory that there is; compared before weights are read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from sharedllm.errors import ModelTooLargeError
from sharedllm.hf.models import gib, weight_bytes

logger = logging.getLogger(__name__)

CGROUP_LIMITS = (  # of a container, version 2 and version 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# With these, parts of a model go elsewhere, or its size is not known
UNSURE = ("device_map", "max_memory", "offload_folder", "quantization_config", "gguf_file")
UNPACKED = ("mxfp4",)  # published forms that transformers (5.23) unpacks on a processor
SHORT = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True, slots=True)
class Weights:
    """Sizes of a model that is not loaded.

    Attributes
    ----------
    parameters : int
    packed : int
        Those of them in linear layers, which quantisation packs.
    """

    parameters: int
    packed: int

    def bytes(self, dtype: torch.dtype, quantize: str | None) -> int:
        """Return the bytes that they take."""
        return weight_bytes(self.parameters, self.packed, dtype.itemsize, quantize or "")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a device's memory, in all and free now."""

    total: int
    free: int


def memory_of(device: torch.device) -> Memory:
    """Return the memory of a GPU, or of this machine, within the limits of its container."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    found = psutil.virtual_memory()
    limits = [int(text) for path in CGROUP_LIMITS if (text := _read(path)).isdecimal()]
    total = min([found.total, *limits])
    return Memory(total, min(found.available, total))


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip() if path.is_file() else ""


def weigh(config: Any, kind: Any = AutoModelForCausalLM) -> Weights:
    """Count the weights of a configuration without making them.

    Parameters
    ----------
    kind : class of transformers that loads it
    """
    with torch.device("meta"):
        model = kind.from_config(config)
    head = model.get_output_embeddings()
    linear = (m for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    return Weights(
        parameters=sum(p.numel() for p in model.parameters()),
        packed=sum(m.weight.numel() for m in linear),
    )


def require_room(
    name: str,
    config: Any,
    weights: Weights,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str | None,
    options: dict[str, Any],
) -> None:
    """Refuse a model whose weights cannot fit; where they fit only just, log a warning.

    Parameters
    ----------
    config : its configuration
    options : of transformers; with some of them the size is not known, and nothing is refused

    Raises
    ------
    ModelTooLargeError
        Naming what is needed, what there is, and the way with fewer bits where it helps.
    """
    if any(options.get(option) is not None for option in UNSURE):
        return
    there = memory_of(device)
    form_given = getattr(config, "quantization_config", None) or {}
    unpacked = device.type == "cpu" and form_given.get("quant_method") in UNPACKED
    published = bool(form_given) and not unpacked
    # how a form that is published quantised is loaded depends on kernels: four bits are the least
    needed = weights.parameters // 2 if published else weights.bytes(dtype, quantize)
    where = f"GPU {device.index or 0}" if device.type == "cuda" else "this machine"
    if needed <= there.total:
        if needed > there.free:
            logger.warning(
                "%s needs %s for its weights, and %s has %s free now: loading may be slow or fail",
                *(name, gib(needed), where, gib(there.free)),
            )
        return
    form = {"4bit": "in 4 bits", "8bit": "in 8 bits"}.get(quantize or "", f"in {SHORT[dtype]}")
    ways = "" if form_given else _ways(weights, dtype, quantize, there.total)
    raise ModelTooLargeError(
        f"{name!r} needs {gib(needed)} for its weights {'at least' if published else form}, and "
        f"{where} has {gib(there.total)}; {ways or 'name a smaller model (sharedllm models)'}"
    )


def _ways(weights: Weights, dtype: torch.dtype, quantize: str | None, total: int) -> str:
    """Name the options with which the weights would fit; empty if there are none."""
    half = torch.bfloat16
    options = (
        ("--dtype bfloat16", half, quantize),
        ("--quantize 8bit", dtype, "8bit"),
        ("--quantize 4bit", dtype, "4bit"),
        ("--quantize 4bit --dtype bfloat16", half, "4bit"),
    )
    fitting = [
        f"{option} ({gib(size)})"
        for option, kind, form in options
        if (kind, form) != (dtype, quantize) and (size := weights.bytes(kind, form)) <= total
    ]
    return f"it fits with {' or '.join(fitting[:2])}" if fitting else ""
