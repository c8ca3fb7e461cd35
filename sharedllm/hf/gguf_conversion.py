"""Conversion of a GGUF file into a folder of transformers: configuration, weights, tokenizer.

The file is parsed once, by gguf's own reader; transformers (5.23) parses it three times at every
start. Weights are dequantised and written a few gigabytes at a time, so that a large model need not
fit into RAM. Unknown contents are refused: a model with wrong rotary frequencies still answers
fluently.

Shapes: H heads, D head dim, O outputs, I inputs.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from sharedllm.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from sharedllm.hf.gguf_tokenizer import make_tokenizer

SHARD_BYTES = 4 << 30
INDEX = "model.safetensors.index.json"

OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_3_FACTORS = "rope_freqs"  # tensors in GGUF that are configuration in transformers
PHI_3_FACTORS = {"long_factor": "rope_factors_long", "short_factor": "rope_factors_short"}
LLAMA_3 = {  # the same in Llama 3.1 to 3.3; files hold only the factors computed from these
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Names and layout of one GGUF architecture.

    Attributes
    ----------
    model_type : the name in transformers
    in_a_layer : GGUF's names of a layer's modules -> those of transformers
    permuted : rows of queries and keys are stored in pairs of rotated dims
    """

    model_type: str
    in_a_layer: dict[str, str]
    permuted: bool = False


ARCHITECTURES = {
    # Mistral's files call themselves llama, too; they differ only in a window that they do not name
    "llama": Architecture(model_type="llama", in_a_layer=IN_A_LAYER, permuted=True),
    "qwen2": Architecture(model_type="qwen2", in_a_layer=IN_A_LAYER),
    "qwen3": Architecture(
        model_type="qwen3",
        in_a_layer=IN_A_LAYER
        | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
    ),
    "phi3": Architecture(
        model_type="phi3",
        in_a_layer=IN_A_LAYER | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    ),
}


class PlainReader(gguf.GGUFReader):
    """gguf's reader on a plain array: slicing its memmap costs ten times more (gguf 0.19)."""

    @property
    def data(self) -> Any:
        """The file's bytes, still mapped."""
        return self._plain

    @data.setter
    def data(self, mapped: Any) -> None:
        self._plain = mapped.view(np.ndarray)


class GGUFModel:
    """A parsed GGUF file of a supported architecture.

    Raises
    ------
    ModelNotFoundError
        If it is not a GGUF file, or damaged.
    UnsupportedModelError
        If its architecture, a tensor or a setting is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = PlainReader(path)
            self.metadata = {name: field.contents() for name, field in reader.fields.items()}
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelNotFoundError(
                f"{str(path)!r} cannot be read as a GGUF file ({error}); download it again, or "
                "give a folder with safetensors"
            ) from error
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.kind = str(self.metadata.get("general.architecture"))
        if self.kind not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"{path.name} is a GGUF file of architecture {self.kind!r}; supported: "
                f"{', '.join(ARCHITECTURES)} (Mistral's files are llama). Give the model as a "
                "folder with safetensors, or by its hub name"
            )
        if self.metadata.get("split.count", 1) > 1:
            raise UnsupportedModelError(
                f"{path.name} is one of {self.metadata['split.count']} parts of a model; join them "
                "with llama.cpp's gguf-split --merge"
            )
        self.architecture = ARCHITECTURES[self.kind]
        self.names = {name: self._name(name) for name in self.tensors if not _is_factor(name)}

    def value(self, key: str, default: Any = None) -> Any:
        """Return the value of `key` of this architecture; without a default it is required."""
        found = self.metadata.get(f"{self.kind}.{key}", default)
        if found is None:
            raise UnsupportedModelError(
                f"{self.path.name} does not say {self.kind}.{key}; convert the model to GGUF again"
            )
        return found

    def _name(self, name: str) -> str:
        """Return transformers' name of the tensor called `name`."""
        found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        if found is not None:
            layer, module, kind = found.groups()
            if layer is None and module in OUTSIDE:
                return f"{OUTSIDE[module]}.{kind}"
            if layer is not None and module in self.architecture.in_a_layer:
                return f"model.layers.{layer}.{self.architecture.in_a_layer[module]}.{kind}"
        raise UnsupportedModelError(
            f"{self.path.name} has a tensor {name!r}, which no {self.kind} model that is supported "
            "has; give the model as a folder with safetensors, or by its hub name"
        )

    def config(self) -> PreTrainedConfig:
        """Build the configuration of the model."""
        hidden, heads = self.value("embedding_length"), self.value("attention.head_count")
        head = hidden // heads
        if self.kind != "phi3":  # all dims of the others rotate; older files have no key_length
            head = self.value("rope.dimension_count", head)
        head = self.value("attention.key_length", head)
        rotated = self.value("rope.dimension_count", head)
        if rotated != head and self.kind != "phi3":
            raise UnsupportedModelError(
                f"{self.path.name} rotates {rotated} of the {head} dims of a head, which no "
                f"{self.kind} model that is supported does"
            )
        values: dict[str, Any] = {
            "vocab_size": int(self._tensor("token_embd.weight").shape[-1]),
            "hidden_size": hidden,
            "intermediate_size": self.value("feed_forward_length"),
            "num_hidden_layers": self.value("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.value("attention.head_count_kv", heads),
            "head_dim": head,
            "max_position_embeddings": self.value("context_length"),
            "rms_norm_eps": self.value("attention.layer_norm_rms_epsilon"),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "rope_parameters": self._rope(rotated),
        }
        for name in ("bos", "eos", "padding"):
            key = "pad" if name == "padding" else name
            values[f"{key}_token_id"] = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if self.kind == "phi3":
            values["rope_parameters"]["partial_rotary_factor"] = rotated / head
            values["sliding_window"] = self.value("attention.sliding_window", 0) or None
            values["original_max_position_embeddings"] = self.value(
                "rope.scaling.original_context_length", values["max_position_embeddings"]
            )
        return AutoConfig.for_model(self.architecture.model_type, **values)

    def _rope(self, rotated: int) -> dict[str, Any]:
        theta = float(self.value("rope.freq_base", 10_000.0))
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
        scaling = self.metadata.get(f"{self.kind}.rope.scaling.type", "none")
        if f"{LLAMA_3_FACTORS}.weight" in self.tensors:
            return rope | self._llama_3(self._factors(LLAMA_3_FACTORS), theta, rotated)
        if any(f"{name}.weight" in self.tensors for name in PHI_3_FACTORS.values()):
            original = self.value("rope.scaling.original_context_length")
            rope |= {"rope_type": "longrope", "original_max_position_embeddings": original}
            return rope | {x: self._factors(name).tolist() for x, name in PHI_3_FACTORS.items()}
        if scaling in ("linear", "yarn"):
            rope |= {"rope_type": scaling, "factor": float(self.value("rope.scaling.factor"))}
            if scaling == "yarn":
                original = self.value("rope.scaling.original_context_length")
                rope["original_max_position_embeddings"] = original
        elif scaling != "none":
            raise UnsupportedModelError(
                f"{self.path.name} scales rotary positions by {scaling!r}; supported in GGUF "
                "files: none, linear, yarn, and the factors of Llama 3 and Phi-3"
            )
        return rope

    def _tensor(self, name: str) -> Any:
        """Return the tensor called `name`, which is required."""
        if name not in self.tensors:
            raise UnsupportedModelError(
                f"{self.path.name} has no tensor {name!r}; convert the model to GGUF again"
            )
        return self.tensors[name]

    def _factors(self, name: str) -> NDArray[np.float64]:
        tensor = self._tensor(f"{name}.weight")
        return np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float64)

    def _llama_3(self, factors: NDArray[np.float64], theta: float, rotated: int) -> dict[str, Any]:
        """Return the parameters from which `factors`, one per pair of dims, were computed."""
        largest = float(factors.max())
        turns = LLAMA_3["original_max_position_embeddings"] / (
            2 * np.pi * theta ** (np.arange(0, rotated, 2) / rotated)
        )
        low, high = LLAMA_3["low_freq_factor"], LLAMA_3["high_freq_factor"]
        unscaled = np.clip((turns - low) / (high - low), 0, 1)
        expected = 1 / ((1 - unscaled) / largest + unscaled)
        if expected.shape != factors.shape or not np.allclose(factors, expected, rtol=1e-4):
            raise UnsupportedModelError(
                f"{self.path.name} scales rotary positions by factors that are not those of "
                "Llama 3; give the model as a folder with safetensors, or by its hub name"
            )
        return {"rope_type": "llama3", "factor": largest, **LLAMA_3}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) of every parameter, as transformers names and lays it out.

        Tensors are in the dtype of the file, or in float32 if quantised.
        """
        heads = int(self.value("attention.head_count"))
        pairs = {"attn_q": heads, "attn_k": int(self.value("attention.head_count_kv", heads))}
        for given, name in self.names.items():
            weight = _plain(self.tensors[given], self.path.name)
            part = given.split(".")[-2]
            if self.architecture.permuted and part in pairs:
                weight = _in_halves(weight, pairs[part])
            yield name, weight


def _is_factor(name: str) -> bool:
    return name.removesuffix(".weight") in (LLAMA_3_FACTORS, *PHI_3_FACTORS.values())


def _plain(tensor: Any, name: str) -> Tensor:
    """Return `tensor` as a torch tensor; quantised ones in float32."""
    kinds = gguf.GGMLQuantizationType
    if tensor.tensor_type == kinds.BF16:
        return torch.from_numpy(tensor.data.view(np.int16).copy()).view(torch.bfloat16)
    if tensor.tensor_type in (kinds.F32, kinds.F16):
        return torch.from_numpy(tensor.data.copy())
    try:
        return torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"{name} has tensors of type {tensor.tensor_type.name}, which gguf "
            "cannot dequantise; take another quantisation of the model"
        ) from error


def _in_halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder rows from (H, D/2, 2) to (H, 2, D/2); weights (O, I) or biases (O,).

    llama.cpp rotates neighbouring dims, transformers the halves of a head.
    """
    pairs = weight.view(heads, -1, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def convert(path: Path, folder: Path) -> None:
    """Write the model of the GGUF file at `path` to `folder`, as save_pretrained would.

    Raises
    ------
    ModelNotFoundError, UnsupportedModelError
        If the file cannot be read, or holds a model that is not supported.
    ModelError
        If the converted weights do not fit on the disk.
    """
    model = GGUFModel(path)
    config, tokenizer = model.config(), make_tokenizer(model.metadata, path.name)
    _require_room(model, folder)
    shards = [_save(i, shard, folder) for i, shard in enumerate(_shards(model.weights()))]
    total = sum(size for _, _, size in shards)
    index = {name: file for file, names, _ in shards for name in names}
    (folder / INDEX).write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}), encoding="utf-8"
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _require_room(model: GGUFModel, folder: Path) -> None:
    """Refuse a conversion that would not fit on the disk, before minutes of work."""
    wide = (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16)
    needed = sum(
        int(t.n_elements) * (2 if t.tensor_type in wide else 4) for t in model.tensors.values()
    )
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{model.path.name} takes {needed / 1e9:.1f} GB once it is converted, and there are "
            f"{free / 1e9:.1f} in {str(folder.parent)!r}; set SHAREDLLM_CACHE to a folder with more"
        )


def _shards(weights: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, weight in weights:
        shard[name] = weight
        size += weight.nbytes
        if size >= SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def _save(number: int, shard: dict[str, Tensor], folder: Path) -> tuple[str, list[str], int]:
    """Write one file of weights; return its name, the weights' names, and their bytes."""
    file = f"model-{number + 1:05d}.safetensors"
    save_file(shard, folder / file, metadata={"format": "pt"})
    return file, list(shard), sum(weight.nbytes for weight in shard.values())
