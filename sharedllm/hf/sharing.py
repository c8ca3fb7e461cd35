"""A trained adapter -> a folder or a hub repository, as matrices or merged into the base."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import HfApi

from sharedllm.errors import AdapterError
from sharedllm.hf import lora_io
from sharedllm.hf.lora import Adapter


def save_merged(model: Any, tokenizer: Any, adapter: Adapter, folder: Path) -> None:
    """Write one ordinary transformers model a role, ``folder/lower`` and ``folder/upper``.

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


class Adapted(Protocol):
    """What is saved of a SharedLLM."""

    @property
    def model(self) -> Any:
        """The base."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        ...

    @property
    def adapter(self) -> Adapter | None:
        """The trained roles."""
        ...


def save(
    llm: Adapted, folder: Path, settings: dict[str, Any], *, merged: bool, dtype: torch.dtype
) -> None:
    """Write the adapter with the `settings` of its manifest, or merged into the base.

    Raises
    ------
    AdapterError
        If there is no adapter.
    """
    adapter = llm.adapter
    if adapter is None:
        raise AdapterError(
            "there is no adapter to save: the base alone answers. Train one (sharedllm train), or "
            "load one with from_pretrained(adapter=...)"
        )
    if merged:
        save_merged(llm.model, llm.tokenizer, adapter, folder)
        return
    name = str(getattr(llm.model.config, "_name_or_path", ""))
    base = Path(name).name if Path(name).is_dir() else name
    manifest = lora_io.Manifest(base=base, adapter=adapter.config, **settings)
    lora_io.save(adapter, folder, manifest, dtype)


def push(repo: str, save_to: Any, options: dict[str, Any]) -> str:
    """Upload what ``save_to(folder)`` writes to the hub repository `repo`; return its address."""
    api = HfApi(token=options.pop("token", None))
    private = options.pop("private", None)
    with tempfile.TemporaryDirectory() as scratch:
        save_to(Path(scratch))
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=scratch, **options)
    return str(url)
