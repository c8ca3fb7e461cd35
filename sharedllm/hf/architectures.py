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

from sharedllm.attention.backends import Softmax
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
LAYER_TYPES = ("full_attention", "sliding_attention")
# Models of text and pictures whose text model is one of FAMILIES
WRAPPERS = ("gemma3", "mistral3")
# Everything with weights that our attention, keys and values know of
PARTS = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "q_norm", "k_norm", "sinks"}


def _keys_values(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute unrotated keys and values, each (T, G, D), of a layer's input `x` (T, hidden)."""
    attention, x = layer.self_attn, layer.input_layernorm(x)
    keys, values = (
        project(x).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.k_proj, attention.v_proj)
    )
    norm = getattr(attention, "k_norm", None)  # Qwen3, Gemma 3
    return keys if norm is None else norm(keys), values


def _fused_keys_values(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`_keys_values` with a fused query-key-value projection (Phi-3)."""
    attention, x = layer.self_attn, layer.input_layernorm(x)
    config = attention.config
    both = attention.qkv_proj(x)[:, config.num_attention_heads * attention.head_dim :]
    keys, values = both.unflatten(-1, (2, -1, attention.head_dim)).unbind(-3)
    return keys, values


def _post_normed_keys_values(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`_keys_values` where only the projected keys are normed, as a whole (OLMo)."""
    attention = layer.self_attn
    keys, values = attention.k_norm(attention.k_proj(x)), attention.v_proj(x)
    keys, values = (y.unflatten(-1, (-1, attention.head_dim)) for y in (keys, values))
    return keys, values


def _separate_query(attention: Any) -> nn.Module:
    query: nn.Module = copy.deepcopy(attention.q_proj)
    return query


def _fused_query(attention: Any) -> nn.Module:
    """Copy the query rows of a fused query-key-value projection (Phi-3)."""
    fused = attention.qkv_proj
    if type(fused) is not nn.Linear:
        raise UnsupportedModelError(
            "cross injection needs unquantised query weights for model type 'phi3'; "
            f"these are {type(fused).__name__}. Use injection mode 'joint'"
        )
    rows = attention.config.num_attention_heads * attention.head_dim
    query = nn.Linear(fused.in_features, rows, bias=False)
    query.weight = nn.Parameter(fused.weight.detach()[:rows].clone())
    return query


def _one_rotation(config: Any, layer: int) -> str | None:
    return ""


def _rotation_by_type(config: Any, layer: int) -> str | None:
    """Name the rotation of a layer by its type: each has a base of its own."""
    kind: str = config.layer_types[layer]
    return kind


def _rotation_in_some(config: Any, layer: int) -> str | None:
    """Return None for the layers that leave the rotation out (SmolLM3)."""
    return "" if config.no_rope_layers[layer] else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The functions in which one model type differs from others.

    Attributes
    ----------
    keys_values : computes a layer's keys, not rotated, and values, from the layer's input
    rotation : names the rotation of a layer; see :class:`sharedllm.hf.rope.Rotation`
    softmax : what attention does beside scores, scale and softmax; not every backend can
    copy_query : copies a layer's query projection for cross injection
    cross : False if layers scale, norm or add their attention otherwise than cross injection does
    """

    keys_values: Callable[[Any, Tensor], tuple[Tensor, Tensor]] = _keys_values
    rotation: Callable[[Any, int], str | None] = _one_rotation
    softmax: tuple[Softmax, ...] = ()
    copy_query: Callable[[Any], nn.Module] = _separate_query
    cross: bool = True


FAMILIES: dict[str, Family] = {
    "llama": Family(),  # SmolLM2 too
    "mistral": Family(),
    "ministral": Family(),
    "ministral3": Family(cross=False),
    "mixtral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(),
    "phi3": Family(keys_values=_fused_keys_values, copy_query=_fused_query),
    "gemma2": Family(softmax=("softcap",), cross=False),
    "gemma3_text": Family(rotation=_rotation_by_type, cross=False),
    "granite": Family(cross=False),
    "smollm3": Family(rotation=_rotation_in_some),
    "olmo2": Family(keys_values=_post_normed_keys_values, cross=False),
    "olmo3": Family(keys_values=_post_normed_keys_values, rotation=_rotation_by_type, cross=False),
    "gpt_oss": Family(softmax=("sinks",), cross=False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The sizes of a supported model.

    Attributes
    ----------
    kind : model type
    layers, heads, kv_heads, head_dim, hidden : int
    window : int
        Positions that the model was trained on. For longrope the original window, within which the
        rotation frequencies do not depend on the length.
    rotations : one a layer; see :class:`sharedllm.hf.rope.Rotation`
    sliding : one a layer: its sliding window in tokens, None if it sees everything
    experts : True for a mixture of experts
    """

    kind: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    window: int
    rotations: tuple[str | None, ...]
    sliding: tuple[int | None, ...]
    experts: bool

    @property
    def family(self) -> Family:
        return FAMILIES[self.kind]

    def mixes_windows(self, layers: int) -> bool:
        """Return True if some of the first `layers` layers have a sliding window and some not.

        The others see injected KV at any distance; those with a window then hide what lies beyond
        it, as they do with text.
        """
        some = self.sliding[:layers]
        return None in some and any(some)

    def injected(self, injection: InjectionConfig, tree: TreeConfig) -> int:
        """Number of layers that `injection` injects into.

        Raises
        ------
        ConfigError
            If the model has not as many, cannot read a chunk of `tree` at once, or has layers that
            cross injection does not know.
        """
        layers = injection.layers or self.layers
        if layers > self.layers:
            raise ConfigError(f"injection.layers is {layers}; this model has {self.layers} layers")
        if injection.mode == "cross" and not self.family.cross:
            able = ", ".join(kind for kind, family in FAMILIES.items() if family.cross)
            raise ConfigError(
                f"injection.mode is 'cross'; layers of model type {self.kind!r} norm, scale or add "
                f"their attention in other ways than cross-attention does, which is for {able}: "
                "use 'joint'"
            )
        if tree.chunk > self.window:
            raise ConfigError(
                f"tree.chunk is {tree.chunk}; this model was trained on {self.window} "
                "positions, and a chunk is read at once: make it smaller"
            )
        return layers


def text_config(config: Any) -> Any:
    """Return the configuration of the language model in models of text and pictures."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def why_not(config: Any) -> str:
    """Say why KV cannot be injected into models of a configuration; empty if it can.

    Such a model reads evidence as text (:mod:`sharedllm.readers.stock`).
    """
    reason = _reason(config)
    return reason and (
        f"{reason}. It can answer from text: load it with SharedLLM.from_pretrained or ask "
        "--model, while the embedded model reads the documents and makes the memories"
    )


def _reason(config: Any) -> str:
    """Say in one sentence what injection does not know in a configuration; empty if nothing."""
    kind, text = getattr(config, "model_type", None), text_config(config)
    inner = getattr(text, "model_type", None)
    odd = sorted(set(getattr(text, "layer_types", None) or ()) - set(LAYER_TYPES))
    if odd and inner not in FAMILIES:
        return (
            f"model type {kind!r} has layers of type {', '.join(odd)}: what they carry from token "
            "to token cannot be injected, so that injected KV would not be what was read"
        )
    if inner not in FAMILIES or (kind != inner and kind not in WRAPPERS):
        return (
            f"model type {kind!r} is not supported; supported: {', '.join((*FAMILIES, *WRAPPERS))} "
            "(decoders with rotary positions, a public attention interface and a KV cache)"
        )
    if odd:
        return (
            f"layer type {odd[0]!r} is not supported in model type {kind!r}; "
            f"supported: {', '.join(LAYER_TYPES)}"
        )
    if getattr(text, "use_bidirectional_attention", None):
        return (
            "use_bidirectional_attention is set: tokens of this model see those after them, and "
            "injected KV is that of a causal model"
        )
    for rope_type in _rope_types(text):
        if rope_type not in ROPE_TYPES:
            return f"rope type {rope_type!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
    return ""


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Return the rotary settings of a model, one for each layer type that has its own."""
    rope = getattr(config, "rope_parameters", None) or {}
    own = [value for value in rope.values() if isinstance(value, dict)]
    return own or [rope]


def _rope_types(config: Any) -> list[str]:
    return [rope.get("rope_type", "default") for rope in _ropes(config)]


def _window(config: Any) -> int:
    """Return the positions within which a model's rotations do not change."""
    windows = [int(config.max_position_embeddings)]
    for rope in _ropes(config):
        if rope.get("rope_type") == "longrope":
            original = rope.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            windows += [int(original)] if original else []
    return min(windows)


def declared_window(config: Any, tokenizer: Any) -> int | None:
    """Return the positions that a model of any architecture was trained on; None if it says none.

    Recurrent models and those with linear biases have no such number.
    """
    text = text_config(config)
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
        If the model type, a module of the decoder or of its attention, a layer type or the rope
        type is not supported.
    """
    problem = why_not(model.config)
    if problem:
        raise UnsupportedModelError(problem)
    config = text_config(model.config)
    kind = config.model_type
    base = model.get_decoder() if hasattr(model, "get_decoder") else None
    missing = [
        name for name in ("layers", "norm", "rotary_emb", "embed_tokens") if not hasattr(base, name)
    ]
    if base is None or missing or model.get_output_embeddings() is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a causal language model of type {config.model_type!r}: "
            f"it has no {', '.join(missing) or 'output embeddings'}"
        )
    unknown = sorted(
        {
            n.partition(".")[0]
            for layer in base.layers
            for n, _ in layer.self_attn.named_parameters()
        }
        - PARTS
    )
    if unknown:
        raise UnsupportedModelError(
            f"the attention of {type(model).__name__} has weights that are not known: "
            f"{', '.join(unknown)}; known: {', '.join(sorted(PARTS))}. Use another version of "
            "transformers"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(
        kind=kind,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        hidden=config.hidden_size,
        window=_window(config),
        rotations=tuple(
            FAMILIES[kind].rotation(config, i) for i in range(config.num_hidden_layers)
        ),
        sliding=tuple(_sliding(layer.self_attn, config) for layer in base.layers),
        experts=has_experts(base),
    )


def _sliding(attention: Any, config: Any) -> int | None:
    """Return the sliding window of a layer; layers without one of their own take the model's."""
    own: int | None = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
    return own


def has_experts(decoder: Any) -> bool:
    """Return True for a mixture of experts."""
    return any(hasattr(layer.mlp, "experts") for layer in decoder.layers)


def parameter_device(model: Any) -> torch.device:
    """Return the device of the input embeddings, where token ids have to be."""
    device: torch.device = next(model.get_input_embeddings().parameters()).device
    return device


class WeightsState:
    """Tells when the weights of a model have changed.

    The tree of modules is walked again only when a module was added, removed or replaced: a walk
    takes milliseconds with an adapter, and a question asks several times.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._owned: list[dict[str, Any]] = []
        self._below: list[dict[str, Any]] = []
        self._children: list[int] = []

    def __call__(self) -> int:
        """Return a number that changes when weights are changed in place, replaced or moved.

        It also changes with the attention implementation. Changes in place are read from torch's
        version counters, which tensors made in inference mode lack; no value is read.
        """
        weights = self._weights()
        places = [p.data_ptr() for p in weights]
        versions = [0 if p.is_inference() else p._version for p in weights]
        return hash((*places, *versions, self._model.config._attn_implementation))

    def devices(self) -> set[torch.device]:
        """Return the devices that hold weights."""
        return {p.device for p in self._weights()}

    def _weights(self) -> list[Tensor]:
        if not self._owned or self._children != self._ids():
            modules = list(self._model.modules())
            # the modules' own dicts, which hold what replaces a weight or a module
            self._owned = [m._parameters for m in modules if m._parameters]
            self._below = [m._modules for m in modules if m._modules]
            self._children = self._ids()
        return [p for owned in self._owned for p in owned.values() if p is not None]

    def _ids(self) -> list[int]:
        return [id(child) for below in self._below for child in below.values()]
