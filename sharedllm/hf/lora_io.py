"""Adapters on disk: a manifest and one PEFT folder per role; or merged into the base.

::

    sharedllm.json                   base model, settings, notes on the training
    lower/adapter_config.json        a LoRA of the library PEFT
    lower/adapter_model.safetensors
    upper/...
    cross.safetensors                cross-attention, for injection mode "cross"
    query_projection.safetensors     of a question's search vectors, if it was trained

Matrices in int8 take half the room of bfloat16. PEFT does not read those: beside each lies its
``.scale``, one float16 for each of the ranks.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sharedllm.config import AdapterConfig, InjectionConfig, SearchConfig, TreeConfig
from sharedllm.errors import AdapterError, ConfigError
from sharedllm.hf.loading import DEFAULT_NAME
from sharedllm.hf.lora import Adapter

MANIFEST, CROSS = "sharedllm.json", "cross.safetensors"
QUERY_PROJECTION = "query_projection.safetensors"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
PEFT_NAMES = {"down": "lora_A.weight", "up": "lora_B.weight"}
RANK_AXIS = {"lora_A.weight": 0, "lora_B.weight": 1}
SCALE = ".scale"
SHIPPED = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The base of an adapter and the settings it was trained for.

    Attributes
    ----------
    base : str
        Name of the model it adapts.
    search : fields of SearchConfig that are defaults with this adapter
    notes : anything about the training
    """

    base: str
    adapter: AdapterConfig
    tree: TreeConfig = field(default_factory=TreeConfig)
    injection: InjectionConfig = field(default_factory=InjectionConfig)
    search: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest in `folder`.

        Raises
        ------
        AdapterError
            If it is missing or not well formed.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise AdapterError(
                f"no adapter in {str(folder)!r} ({MANIFEST} is missing); give a folder "
                "that save_pretrained or sharedllm train wrote, or a hub name"
            )
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            SearchConfig.from_dict(given["search"])
            return cls(
                base=given["base"],
                adapter=AdapterConfig.from_dict(given["adapter"]),
                tree=TreeConfig.from_dict(given["tree"]),
                injection=InjectionConfig.from_dict(given["injection"]),
                search=given["search"],
                notes=given["notes"],
            )
        except (json.JSONDecodeError, KeyError, TypeError, ConfigError) as error:
            raise AdapterError(
                f"{path} is not the manifest of an adapter: {type(error).__name__} {error}"
            ) from error


def settings(
    folder: Path | None, tree: TreeConfig | None, injection: InjectionConfig | None
) -> tuple[TreeConfig | None, InjectionConfig | None, SearchConfig | None]:
    """Return tree, injection and search settings, filled in from the adapter in `folder`."""
    if folder is None:
        return tree, injection, None
    manifest = Manifest.read(folder)
    search = SearchConfig.from_dict(manifest.search)
    return tree or manifest.tree, injection or manifest.injection, search


def find(
    name: str | os.PathLike[str] | None, model: object, injection: InjectionConfig | None
) -> Path | None:
    """Return the folder of the adapter called `name`, for the model called `model`.

    "default" is the adapter shipped for the default model (`model` None) and its injection mode;
    for another model or mode the result is None.

    Raises
    ------
    AdapterError
        If neither a folder nor the hub has it.
    """
    if name is None:
        return None
    if name == "default":
        shipped = SHIPPED / DEFAULT_NAME
        if model is not None or not (shipped / MANIFEST).is_file():
            return None
        fits = injection is None or injection.mode == Manifest.read(shipped).injection.mode
        return shipped if fits else None
    path = Path(name)
    try:
        if path.exists():
            return path
        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AdapterError(
            f"adapter is {str(name)!r}, which is neither a folder nor on the hub: {first} "
            "(allowed: 'default', None, a folder or a hub name)"
        ) from error


class Adapted(Protocol):
    """The parts of a SharedLLM that are saved."""

    @property
    def model(self) -> Any:
        """The transformers model."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        ...

    @property
    def adapter(self) -> Adapter | None:
        """Its adapter."""
        ...


def save_pretrained(
    llm: Adapted, folder: Path, settings: dict[str, Any], *, merged: bool, dtype: torch.dtype
) -> None:
    """Write the adapter of `llm` with the `settings` of its manifest, or merged into the base.

    Raises
    ------
    AdapterError
        If the model has no adapter.
    """
    if llm.adapter is None:
        raise AdapterError(
            "the model has no adapter to save. Train one (sharedllm train), or "
            "load one with from_pretrained(adapter=...)"
        )
    if merged:
        save_merged(llm.model, llm.tokenizer, llm.adapter, folder)
        return
    name = str(getattr(llm.model.config, "_name_or_path", ""))
    base = Path(name).name if Path(name).is_dir() else name
    save(llm.adapter, folder, Manifest(base=base, adapter=llm.adapter.config, **settings), dtype)


def save_merged(model: Any, tokenizer: Any, adapter: Adapter, folder: Path) -> None:
    """Write one ordinary transformers model per role, ``folder/lower`` and ``folder/upper``.

    Raises
    ------
    AdapterError
        If the weights are quantised, or there is cross-attention, which no ordinary model has.
    """
    if getattr(model, "is_quantized", False):
        raise AdapterError(
            "quantised weights cannot be merged; save without merged=True, or load the model "
            "without quantization_config"
        )
    if getattr(model.get_decoder(), "cross_injection", None) is not None:
        raise AdapterError(
            "injection mode 'cross' adds layers that an ordinary model does not have; save "
            "without merged=True"
        )
    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if ".low_rank." not in name and not name.startswith("low_rank.")
    }
    for role in adapter.config.roles:
        merged = dict(own)
        for name, tensor in own.items():
            change = adapter.update(role, name)
            if change is not None:
                merged[name] = (tensor.float() + change).to(tensor.dtype)
        model.save_pretrained(folder / role, state_dict=merged)
        tokenizer.save_pretrained(folder / role)


def save(adapter: Adapter, folder: Path, manifest: Manifest, dtype: torch.dtype) -> None:
    """Write `adapter` to `folder`, weights first: a folder with a manifest is a whole adapter.

    With int8 cross-attention is written in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    whole = torch.float32 if dtype is torch.int8 else dtype
    weights = {name: tensor.to(whole) for name, tensor in adapter.weights().items()}
    for role in adapter.config.roles:
        own = folder / role
        own.mkdir(exist_ok=True)
        matrices = {
            _peft_name(name, role): tensor
            for name, tensor in weights.items()
            if f".{role}." in name
        }
        config = _peft_config(manifest, sorted({n.split(".")[-3] for n in matrices}))
        if dtype is torch.int8:
            matrices = _quantised(matrices)
        save_file(matrices, own / PEFT_WEIGHTS, metadata={"format": "pt"})
        (own / PEFT_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    crosses = {n: t for n, t in weights.items() if n.startswith("cross/")}
    if crosses:
        save_file(crosses, folder / CROSS, metadata={"format": "pt"})
    if adapter.query_projection is None:
        (folder / QUERY_PROJECTION).unlink(missing_ok=True)
    else:
        save_query_projection(adapter.query_projection, folder)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def save_query_projection(query_projection: Tensor, folder: Path) -> None:
    """Write the projection beside the adapter in `folder`, in float16."""
    tensor = query_projection.detach().to("cpu", torch.float16).contiguous()
    scratch = folder / f"{QUERY_PROJECTION}.tmp"  # a crash leaves the older one whole
    save_file({"query_projection": tensor}, scratch, metadata={"format": "pt"})
    scratch.replace(folder / QUERY_PROJECTION)


def _load_query_projection(folder: Path, hidden: int) -> Tensor | None:
    if not (folder / QUERY_PROJECTION).is_file():
        return None
    try:
        found = load_file(folder / QUERY_PROJECTION)["query_projection"]
    except (OSError, SafetensorError, KeyError) as error:
        raise AdapterError(
            f"{QUERY_PROJECTION} in {str(folder)!r} cannot be read: {error}; copy it again"
        ) from error
    if found.shape != (hidden, hidden):
        raise AdapterError(
            f"{QUERY_PROJECTION} in {str(folder)!r} has the shape {tuple(found.shape)}, and the "
            f"model needs {(hidden, hidden)}; use the base that it was trained for"
        )
    return found


def load(model: Any, folder: Path) -> Adapter:
    """Load the adapter in `folder` onto `model`, in the model's dtype.

    Raises
    ------
    AdapterError
        If files are missing, broken or belong to another model.
    """
    manifest = Manifest.read(folder)
    weights: dict[str, Tensor] = {}
    try:
        for role in manifest.adapter.roles:
            for name, tensor in _dequantised(load_file(folder / role / PEFT_WEIGHTS)).items():
                weights[_own_name(name, role)] = tensor
        if manifest.injection.mode == "cross":
            weights |= load_file(folder / CROSS)
    except (OSError, SafetensorError, KeyError) as error:
        raise AdapterError(
            f"the adapter in {str(folder)!r} cannot be read: {error}; copy it again"
        ) from error
    query_projection = _load_query_projection(folder, model.get_input_embeddings().embedding_dim)
    adapter = Adapter(model, manifest.adapter)
    adapter.query_projection = query_projection
    try:
        adapter.set(weights)
    except AdapterError:
        adapter.remove()
        raise
    for parameter in adapter.parameters().values():
        parameter.data = parameter.data.to(model.dtype)
        parameter.requires_grad_(False)
    return adapter


def _quantised(matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round matrices to int8, each rank by a scale of its own."""
    out = {}
    for name, tensor in matrices.items():
        axis = RANK_AXIS[".".join(name.split(".")[-2:])]
        largest = tensor.float().abs().amax(dim=1 - axis, keepdim=True)
        scale = (largest / 127).clamp(min=torch.finfo(torch.float16).tiny).half()
        out[name] = (tensor.float() / scale.float()).round().clamp(-127, 127).to(torch.int8)
        out[name + SCALE] = scale
    return out


def _dequantised(matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `matrices` in floating point; those that are already stay as they are."""
    return {
        name: tensor.float() * matrices[name + SCALE].float()
        if tensor.dtype is torch.int8
        else tensor
        for name, tensor in matrices.items()
        if not name.endswith(SCALE)
    }


def _peft_name(name: str, role: str) -> str:
    """Return PEFT's name of a matrix such as ``model/layers/0/self_attn/q_proj.lower.down``."""
    linear, _, part = name.split(f".{role}.")[0], role, name.rpartition(".")[2]
    return f"{PEFT_PREFIX}{linear.replace('/', '.')}.{PEFT_NAMES[part]}"


def _own_name(name: str, role: str) -> str:
    for part, peft in PEFT_NAMES.items():
        if name.endswith("." + peft):
            linear = name.removeprefix(PEFT_PREFIX).removesuffix("." + peft)
            return f"{linear.replace('.', '/')}.{role}.{part}"
    raise KeyError(name)


def _peft_config(manifest: Manifest, linears: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": manifest.base,
        "r": manifest.adapter.rank,
        "lora_alpha": manifest.adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": linears,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
