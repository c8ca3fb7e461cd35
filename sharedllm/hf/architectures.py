"""Supported model families: how they differ, and the shape of a model.

To add a family, add it to :data:`FAMILIES`.

Shapes: T tokens, G key/value heads, D head dim.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharedllm.config import InjectionConfig, TreeConfig
from sharedllm.errors import ConfigError, UnsupportedModelError

WINDOW_NAMES = (  # under which configurations keep it
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "context_length",
)
UNLIMITED = 1 << 30  # tokenizers without a limit have a larger number
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


def _separate_kv(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute unrotated keys and values, each (T, G, D), of normed states `x` (T, hidden)."""
    keys, values = (
        project(x).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.k_proj, attention.v_proj)
    )
    norm = getattr(attention, "k_norm", None)  # Qwen3
    return keys if norm is None else norm(keys), values


def _fused_kv(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`_separate_kv` with a fused query-key-value projection (Phi-3)."""
    config = attention.config
    both = attention.qkv_proj(x)[:, config.num_attention_heads * attention.head_dim :]
    keys, values = both.unflatten(-1, (2, -1, attention.head_dim)).unbind(-3)
    return keys, values


def _separate_query(attention: Any, config: Any) -> nn.Module:
    query: nn.Module = copy.deepcopy(attention.q_proj)
    return query


def _fused_query(attention: Any, config: Any) -> nn.Module:
    """Copy the query rows of a fused query-key-value projection (Phi-3)."""
    fused = attention.qkv_proj
    if type(fused) is not nn.Linear:
        raise UnsupportedModelError(
            "cross injection needs unquantised query weights for model type 'phi3'; "
            f"these are {type(fused).__name__}. Use injection mode 'joint'"
        )
    rows = config.num_attention_heads * attention.head_dim
    query = nn.Linear(fused.in_features, rows, bias=False)
    query.weight = nn.Parameter(fused.weight.detach()[:rows].clone())
    return query


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The functions in which one model type differs from others.

    Attributes
    ----------
    copy_query : copies a layer's query projection
    keys_values : computes a layer's keys, not rotated, and values
    """

    copy_query: Callable[[Any, Any], nn.Module] = _separate_query
    keys_values: Callable[[Any, Tensor], tuple[Tensor, Tensor]] = _separate_kv


FAMILIES: dict[str, Family] = {
    "llama": Family(),  # SmolLM2 too
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "phi3": Family(copy_query=_fused_query, keys_values=_fused_kv),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The sizes of a supported model.

    Attributes
    ----------
    layers, heads, kv_heads, head_dim, hidden : int
    window : int
        Positions that the model was trained on. For longrope the original window, within which the
        rotation frequencies do not depend on the length.
    """

    family: Family
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    window: int

    def injected(self, injection: InjectionConfig, tree: TreeConfig) -> int:
        """Number of layers that `injection` injects into.

        Raises
        ------
        ConfigError
            If the model has not as many, or cannot read a chunk of `tree` at once.
        """
        layers = injection.layers or self.layers
        if layers > self.layers:
            raise ConfigError(f"injection.layers is {layers}; this model has {self.layers} layers")
        if tree.chunk > self.window:
            raise ConfigError(
                f"tree.chunk is {tree.chunk}; this model was trained on {self.window} "
                "positions, and a chunk is read at once: make it smaller"
            )
        return layers


def why_not(config: Any) -> str:
    """Say why KV cannot be injected into models of a configuration; empty if it can.

    Such a model reads evidence as text (:mod:`sharedllm.readers.stock`).
    """
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        return (
            f"model type {kind!r} is not supported; supported: {', '.join(FAMILIES)} "
            "(decoders with rotary positions, a public attention interface and a KV cache). It can "
            "answer from text: load it with SharedLLM.from_pretrained or ask --model, while the "
            "embedded model reads the documents and makes the memories"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    rope_type = rope.get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        return f"rope type {rope_type!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
    return ""


def declared_window(config: Any, tokenizer: Any) -> int | None:
    """Return the positions that a model of any architecture was trained on; None if it says none.

    Recurrent models and those with linear biases have no such number.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [getattr(text, name, None) for name in WINDOW_NAMES]
    given = next((n for n in found if isinstance(n, int) and n > 0), None)
    longest = getattr(tokenizer, "model_max_length", None)
    if given is None and isinstance(longest, int) and longest < UNLIMITED:
        return longest
    return given


def inspect(model: Any) -> ModelShape:
    """Check that `model` is supported and return its shape.

    Raises
    ------
    UnsupportedModelError
        If the model type, a module of the decoder or the rope type is not supported.
    """
    config = model.config
    problem = why_not(config)
    if problem:
        raise UnsupportedModelError(problem)
    base = model.get_decoder() if hasattr(model, "get_decoder") else None
    missing = [
        name for name in ("layers", "norm", "rotary_emb", "embed_tokens") if not hasattr(base, name)
    ]
    if missing or model.get_output_embeddings() is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a causal language model of type {config.model_type!r}: "
            f"it has no {', '.join(missing) or 'output embeddings'}"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    rope_type = rope.get("rope_type", "default")
    window = int(config.max_position_embeddings)
    if rope_type == "longrope":
        window = int(
            rope.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or window
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        family=FAMILIES[config.model_type],
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        hidden=config.hidden_size,
        window=window,
    )


def parameter_device(model: Any) -> torch.device:
    """Return the device of the input embeddings, where token ids have to be."""
    device: torch.device = next(model.get_input_embeddings().parameters()).device
    return device


def weights_state(model: Any) -> int:
    """Return a number that changes when weights are changed in place, replaced or moved.

    It also changes with the attention implementation. Changes in place are read from torch's
    version counters, which tensors made in inference mode lack; no value is read.
    """
    weights = tuple(
        (p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()
    )
    return hash((weights, model.config._attn_implementation))
